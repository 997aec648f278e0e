"""Posting to a webhook on a real server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from fedsweep.errors import RequestError
from fedsweep.notify import webhook
from fedsweep.notify.webhook import Webhook, checked, without_secrets
from tests.listener import Listener


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    listener = Listener()
    yield listener
    listener.close()


def test_notices_arrive_as_json_in_order(listener: Listener) -> None:
    """The path and query are kept; a user and password become a header."""
    address = listener.url.replace("//", "//ann:hunter%202@") + "/hooks/s3cret?key=1"
    hook = Webhook(address)
    for number in range(3):
        hook.post({"n": number})
    hook.close()
    requests = [listener.heard.get_nowait() for _ in range(3)]
    assert [content for _, _, content in requests] == [{"n": 0}, {"n": 1}, {"n": 2}]
    path, headers, _ = requests[0]
    assert path == "/hooks/s3cret?key=1"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Basic YW5uOmh1bnRlciAy"


def test_a_temporary_failure_is_retried_twice(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """503, 429, then 200 logs nothing. Three times 500 logs one line."""
    listener.answers = [(503, {}), (429, {}), (200, {})] + [(500, {})] * 3
    hook = Webhook(f"{listener.url}/s3cret", pauses=(0.0, 0.0))
    hook.post({"n": 1})
    hook.post({"n": 2})
    hook.close()
    assert listener.contents() == [{"n": 1}] * 3 + [{"n": 2}] * 3
    assert caplog.messages == [
        f"a notice could not be sent to {listener.url}/…: it answered 500",
    ]


@pytest.mark.parametrize("code", [400, 403, 404])
def test_a_permanent_failure_is_not_retried(
    code: int, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """The log does not repeat the answer's text, which may contain the address."""
    listener.answers = [(code, {})]
    hook = Webhook(f"{listener.url}/s3cret?token=s3cret", pauses=(0.0, 0.0))
    hook.post({"n": 1})
    hook.close()
    assert listener.contents() == [{"n": 1}]
    assert f"it answered {code}" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_redirect_is_not_followed(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    """The target of a redirect receives nothing."""
    other = Listener()
    listener.answers = [(302, {"Location": f"{other.url}/elsewhere"})]
    hook = Webhook(listener.url, pauses=(0.0, 0.0))
    hook.post({"n": 1})
    hook.close()
    other.close()
    assert other.contents() == []
    assert "it answered 302" in caplog.text


def test_a_refused_connection_logs_one_line(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """No thread raises an exception."""
    listener.close()
    hook = Webhook(f"{listener.url}/s3cret", pauses=(0.0, 0.0))
    hook.post({"n": 1})
    hook.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].endswith("/…: Connection refused")


def test_posting_and_closing_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server never answers."""
    begun, never = threading.Event(), threading.Event()

    def hangs(*_: object) -> str:
        begun.set()
        never.wait()
        return "it hung"

    monkeypatch.setattr(webhook, "_send", hangs)
    hook = Webhook("https://hooks.example.org/x")
    hook.post({})
    assert begun.wait(60)
    hook.close(0.0)
    assert hook._thread.is_alive()
    never.set()
    hook._thread.join()


@pytest.mark.parametrize(
    "url",
    [
        *("", "s3cret", "ftp://s3cret/", "file:///s3cret", "http://", "http://[s3cret"),
        *("http://a:x3/", "https://host/s3cret\nX: y", "https://host/a b"),
    ],
)
def test_an_invalid_address_is_refused(url: str) -> None:
    """The message does not repeat the address."""
    with pytest.raises(
        RequestError, match="is not a web address: write https://host/path"
    ) as caught:
        checked(url)
    assert "s3cret" not in str(caught.value)


def test_an_address_is_without_secrets_without_its_secrets() -> None:
    """Scheme, host and port remain."""
    assert (
        without_secrets(checked("https://ann:pw@host:8443/T0/B0/x?y=z#f")) == "https://host:8443/…"
    )

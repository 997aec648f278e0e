"""Posting JSON to a webhook in a background thread. The caller never waits and never fails.

The address of a webhook is a secret. Only its scheme, host and port may be shown.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlsplit

from fedsweep.errors import RequestError

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
"""Seconds that one try may take."""
PAUSES = (1.0, 4.0)
"""Seconds between two tries. There is one try more than pauses."""
DRAIN_SECONDS = 3 * TIMEOUT_SECONDS + sum(PAUSES)
"""Seconds for which a worker that ends waits for unsent notices: enough for one of them."""


class Webhook:
    """One address, and the queue of notices to send to it."""

    def __init__(self, url: str, *, pauses: tuple[float, ...] = PAUSES) -> None:
        self._url = checked(url)
        self._pauses = pauses
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fedsweep-webhook", daemon=True)
        self._thread.start()

    def post(self, content: Mapping[str, Any]) -> None:
        """Queue a notice, which is sent as JSON."""
        self._waiting.put(json.dumps(content).encode())

    def close(self, seconds: float = DRAIN_SECONDS) -> None:
        """Wait at most `seconds` until the queued notices are sent. Later ones are not sent."""
        self._waiting.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (body := self._waiting.get()) is not None:
            failure = _send(self._url, body, self._pauses)
            if failure is not None:
                address = without_secrets(self._url)
                logger.warning("a notice could not be sent to %s: %s", address, failure)


def checked(url: str) -> SplitResult:
    """Return the parts of a webhook's address.

    Raises:
        RequestError: the address is not a valid http or https URL. The message does not repeat it.

    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        usable = usable and parts.port != 0 and all(33 <= ord(letter) < 127 for letter in url)
    except ValueError:
        usable = False
    if not usable:
        raise RequestError(
            "--notify (or $FEDSWEEP_NOTIFY) is not a web address: write https://host/path"
        )
    return parts


def without_secrets(url: SplitResult) -> str:
    """Return an address without its secret parts: user, password, path and query."""
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.hostname}{port}/…"


def _send(url: SplitResult, body: bytes, pauses: tuple[float, ...]) -> str | None:
    """Send a notice, with retries. Return the reason of the failure, or None if it was sent."""
    failure: str | None = None
    for pause in (*pauses, None):
        failure, retryable = _try(url, body)
        if failure is None or not retryable or pause is None:
            break
        time.sleep(pause)
    return failure


def _try(url: SplitResult, body: bytes) -> tuple[str | None, bool]:
    """Send a notice once. Return the reason of a failure or None, and if a retry makes sense.

    The reason does not repeat the text of an error, because the text may contain the address.
    """
    try:
        with _OPENER.open(_request(url, body), timeout=TIMEOUT_SECONDS):
            return None, False
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}", error.code >= 500 or error.code in (408, 429)
    except urllib.error.URLError as error:
        return _reason(error.reason), True
    except (OSError, http.client.HTTPException) as error:
        return _reason(error), True
    except Exception as error:  # noqa: BLE001  # proxies and odd addresses raise errors of many types
        return _reason(error), False


def _reason(error: object) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return text or type(error).__name__


def _request(url: SplitResult, body: bytes) -> urllib.request.Request:
    """Return a POST request. A user and password in the address become a header."""
    headers = {"Content-Type": "application/json", "User-Agent": "fedsweep"}
    host = url.netloc.rpartition("@")[2]
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    address = url._replace(netloc=host, fragment="").geturl()
    return urllib.request.Request(address, body, headers, method="POST")  # noqa: S310  # checked


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A handler that follows no redirect, because it would send the notice to another address."""

    def redirect_request(
        self,
        req: urllib.request.Request,  # noqa: ARG002  # the base class's signature
        fp: IO[bytes],  # noqa: ARG002
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: Message,  # noqa: ARG002
        newurl: str,  # noqa: ARG002
    ) -> None:
        """Return None, so that urllib treats the answer as an error."""
        return


_OPENER = urllib.request.build_opener(_NoRedirect)

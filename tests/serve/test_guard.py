"""Who may look."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from fedsweep.serve.app import SCREENS
from fedsweep.serve.look import Look
from tests.serve.conftest import PORT, TOKEN, anybody

PATHS = [
    path.replace("{sweep:path}", "s").replace("{trial}", "ab") for path, _, _ in SCREENS.values()
]
MORE = ["/events?screen=overview", "/metrics", "/static/style.css", "/static/live.js"]
MORE += ["/static/plotly.min.js", "/nowhere"]


@pytest.fixture
def stranger(look: Look) -> TestClient:
    return anybody(look)


@pytest.mark.parametrize("path", [*PATHS, *MORE])
def test_nothing_is_shown_without_the_token(stranger: TestClient, path: str) -> None:
    """Each address answers 401 and says how to get in."""
    answer = stranger.get(path)
    assert answer.status_code == 401
    assert "fedsweep serve" in answer.text
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer é"},
        {"cookie": f"fedsweep-{PORT}=wrong"},
        {"cookie": f"fedsweep-{PORT + 1}={TOKEN}"},
        {"cookie": '"=;;=\\'},
    ],
)
def test_a_wrong_token_shows_nothing(stranger: TestClient, headers: dict[str, str]) -> None:
    """Another server's cookie neither."""
    sent = {name: value.encode() for name, value in headers.items()}
    assert stranger.get("/", headers=sent).status_code == 401


def test_a_wrong_token_in_the_address_is_refused_even_with_a_right_cookie(
    stranger: TestClient,
) -> None:
    """Who types an old address is told so."""
    stranger.cookies.set(f"fedsweep-{PORT}", TOKEN)
    assert stranger.get("/").status_code == 200
    assert stranger.get("/?token=wrong").status_code == 401


def test_the_printed_address_sets_a_cookie_and_loses_its_token(stranger: TestClient) -> None:
    """A cookie that scripts and other sites do not get, named after the port."""
    answer = stranger.get(f"/trials?state=failed&token={TOKEN}&alpha=0.1")
    assert answer.status_code == 200
    assert '<a href="/trials?state=failed&amp;alpha=0.1">' in answer.text
    assert 'content="0; url=/trials?state=failed&amp;alpha=0.1"' in answer.text
    assert TOKEN not in answer.text
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"fedsweep-{PORT}={TOKEN};")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert stranger.get("/").status_code == 200


def test_the_way_in_leads_nowhere_else(stranger: TestClient) -> None:
    """A second slash would name another server."""
    answer = stranger.get(f"http://127.0.0.1:{PORT}//evil.example/?token={TOKEN}")
    assert '<a href="/evil.example/">' in answer.text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "169.254.1.1:8000"])
def test_a_name_that_is_not_ours_is_refused(client: TestClient, host: str) -> None:
    """A page elsewhere cannot have its own name lead to us."""
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 400
    assert "--allow-host" in answer.text


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9", "localhost", "LOCALHOST:1", "[::1]:8000", "sweep.example:80"]
)
def test_our_names_are_ours_on_every_port(client: TestClient, host: str) -> None:
    """A tunnel changes the port."""
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_sent(client: TestClient, method: str) -> None:
    """GET and HEAD alone."""
    answer = client.request(method, "/sql", content=b"x")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert client.head("/").status_code == 200


def test_health_needs_no_token_and_tells_nothing(stranger: TestClient) -> None:
    """A load balancer may ask."""
    answer = stranger.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


@pytest.mark.parametrize("path", ["/", "/healthz", "/nowhere", "/static/style.css"])
def test_every_answer_forbids_what_a_page_does_not_need(client: TestClient, path: str) -> None:
    """No inline script, no frame, no referrer, no cache."""
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"

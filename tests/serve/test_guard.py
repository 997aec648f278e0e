"""Who may look."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fedsweep.serve import app
from fedsweep.serve.app import SCREENS, application
from fedsweep.serve.guard import Guard
from fedsweep.serve.read_cache import ReadCache
from tests.serve.pages import PORT, TOKEN, anonymous

PATHS = [
    path.replace("{sweep:path}", "s").replace("{trial}", "ab") for path, _, _ in SCREENS.values()
]
MORE = ["/events?screen=overview", "/metrics", "/static/style.css", "/static/live.js"]
MORE += ["/static/plotly.min.js", "/nowhere"]


@pytest.fixture
def stranger(read_cache: ReadCache) -> TestClient:
    return anonymous(read_cache)


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


def entered(browser: TestClient) -> str:
    """Open the printed address; returns the path that it leads to."""
    answer = browser.get(f"/?token={TOKEN}")
    assert answer.status_code == 200
    found = re.search(r'<a href="(/[0-9a-f]{32}/)">', answer.text)
    assert found
    return found[1]


def test_a_wrong_token_in_the_address_is_refused_even_with_a_right_cookie(
    stranger: TestClient,
) -> None:
    """Who types an old address is told so."""
    inside = entered(stranger)
    assert stranger.get(inside).status_code == 200
    assert stranger.get(f"{inside}?token=wrong").status_code == 401


def test_the_printed_address_sets_a_cookie_and_loses_its_token(stranger: TestClient) -> None:
    """A cookie that scripts and other sites do not get, for the path of this server."""
    answer = stranger.get(f"/trials?state=failed&token={TOKEN}&alpha=0.1")
    assert answer.status_code == 200
    found = re.search(r'<a href="(/[0-9a-f]{32})/trials\?state=failed&amp;alpha=0.1">', answer.text)
    assert found
    assert f'content="0; url={found[1]}/trials?state=failed&amp;alpha=0.1"' in answer.text
    assert TOKEN not in answer.text
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"fedsweep-{PORT}=")
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=strict", f"Path={found[1]}/"} <= set(cookie.split("; "))
    for path in ("/", "/queue", "/trials?state=failed", "/static/style.css", "/metrics"):
        assert stranger.get(found[1] + path).status_code == 200


def test_the_way_in_leads_nowhere_else(stranger: TestClient) -> None:
    """A second slash would name another server."""
    answer = stranger.get(f"http://127.0.0.1:{PORT}//evil.example/?token={TOKEN}")
    assert re.search(r'<a href="/[0-9a-f]{32}/evil.example/">', answer.text)


def test_the_link_to_the_content_leads_nowhere_else(client: TestClient) -> None:
    """Also on the page that says that there is none."""
    page = client.get(f"http://127.0.0.1:{PORT}//evil.example/").text
    assert 'href="/evil.example/#main"' in page
    assert '<base href="/">' in page
    assert 'href="//' not in page


def test_a_session_is_worth_nothing_without_its_path_and_on_no_other_server(
    stranger: TestClient, read_cache: ReadCache
) -> None:
    """A server of another user, on another port, may get cookies of this host: not this one."""
    inside = entered(stranger)
    (cookie,) = stranger.cookies.jar
    stolen = {"cookie": f"{cookie.name}={cookie.value}"}
    assert cookie.value
    assert anonymous(read_cache).get(inside, headers=stolen).status_code == 200
    for path in ("/", "/trials", f"/{'0' * 32}/", inside[:-2] + "/", f"/{cookie.value}/"):
        assert anonymous(read_cache).get(path, headers=stolen).status_code == 401, path
    bearer = {"authorization": f"Bearer {cookie.value}"}
    assert anonymous(read_cache).get("/", headers=bearer).status_code == 401
    assert anonymous(read_cache).get(f"/?token={cookie.value}").status_code == 401
    for token, port in ((TOKEN, PORT + 1), (f"{TOKEN}-2", PORT)):
        app = application(read_cache, token, port)
        other = TestClient(app, base_url=f"http://127.0.0.1:{port}")
        assert other.get(inside, headers=stolen).status_code == 401
        elsewhere = {"cookie": f"fedsweep-{port}={cookie.value}"}
        assert other.get(Guard(app, token, port).root + "/", headers=elsewhere).status_code == 401


def test_a_cookie_of_our_name_from_another_program_shuts_nobody_out(stranger: TestClient) -> None:
    """Each program of this host can set one."""
    inside = entered(stranger)
    (cookie,) = stranger.cookies.jar
    stranger.cookies.clear()
    for others in ("{0}=junk; {0}={1}; x", "{0}={1}; {0}=junk", '"=;;=\\; {0}={1}'):
        header = others.format(cookie.name, cookie.value)
        assert stranger.get(inside, headers={"cookie": header}).status_code == 200


def test_a_server_that_is_started_again_with_its_token_knows_its_sessions(
    stranger: TestClient, read_cache: ReadCache
) -> None:
    """An open page goes on."""
    inside = entered(stranger)
    again = anonymous(read_cache)
    again.cookies = stranger.cookies
    assert again.get(inside).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "127.0.0.1.evil.example",
            "",
            "169.254.1.1:8000",
            ":8000",
            "0.0.0.0:8000",
        ),
        *("[::1", "[::1]evil.example", "[::1].evil.example", "::1", "[::2]:8000", "[::]:8000"),
        *("127.0.0.1:8000:80", "evil.example:[::1]", "localhost@evil.example", "[evil.example]"),
        *("[fe80::1]", "localhost evil.example", "2130706433", "[::1]:x"),
    ],
)
def test_a_name_that_is_not_ours_is_refused(client: TestClient, host: str) -> None:
    """A page elsewhere cannot have its own name lead to us."""
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 400
    assert "--allow-host" in answer.text


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:9", "localhost", "LOCALHOST:1", "[::1]:8000", "sweep.example:80"),
        *("[::1]", "[0:0:0:0:0:0:0:1]:8000", "[0::1]:9", "[::ffff:127.0.0.1]:8000"),
    ],
)
def test_our_names_are_ours_on_every_port(client: TestClient, host: str) -> None:
    """A tunnel changes the port."""
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("address", ["192.168.7.5", "[fd00::5]"])
def test_the_address_that_a_request_came_to_is_ours(read_cache: ReadCache, address: str) -> None:
    """Names can be led to us by others, addresses cannot."""
    app = application(read_cache, TOKEN, PORT)
    client = TestClient(app, base_url=f"http://{address}:{PORT}")
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/metrics", headers=headers).status_code == 200
    for other in ("192.168.7.6", "[fd00::6]", "evil.example"):
        answer = client.get("/metrics", headers={**headers, "host": f"{other}:{PORT}"})
        assert answer.status_code == 400


def test_an_address_is_bounded(client: TestClient) -> None:
    """Before anything is read from it; a statement may be longer than a filter."""
    for path in ("/", "/trials", "/healthz", "/nowhere"):
        answer = client.get(f"{path}?sweep={'x' * 30_000}")
        assert (answer.status_code, answer.headers["connection"]) == (414, "close")
    assert client.get(f"/trials/{'x' * 7_000}").status_code == 404
    assert client.get(f"/sql?q={'x' * 30_000}").status_code == 400
    assert client.get(f"/sql?q={'x' * 60_000}").status_code == 414


def test_a_request_has_no_body(client: TestClient) -> None:
    """It is not even read: the connection ends."""
    for headers in ({"content-length": "10000000000"}, {"transfer-encoding": "chunked"}):
        answer = client.get("/", headers=headers)
        assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    assert client.get("/", headers={"content-length": "0"}).status_code == 200


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


PAGE_FILES = sorted(
    file
    for folder in ("templates", "static")
    for file in (Path(app.__file__).parent / folder).iterdir()
    if file.suffix in (".html", ".js") and "plotly" not in file.name
)


@pytest.mark.parametrize("file", PAGE_FILES, ids=lambda file: file.name)
def test_no_page_leads_past_its_secret_path(file: Path) -> None:
    """A link that begins with "/" would leave the path below which the page and its cookie lie."""
    absolute = r"""(?:\b(?:href|src|action)\s*=\s*|(?:fetch|EventSource|open)\(\s*)["'`]/"""
    assert re.findall(absolute, file.read_text()) == []

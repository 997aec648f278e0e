"""The access control of the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fedsweep.serve import app
from fedsweep.serve.app import SCREENS, application
from fedsweep.serve.guard import Guard
from fedsweep.serve.read_cache import ReadCache
from tests.unit.serve.pages import PORT, TOKEN, anonymous

pytestmark = pytest.mark.quick_on("sqlite")  # no database has a part in it

PATHS = [
    path.replace("{sweep:path}", "s").replace("{trial}", "ab") for path, _, _ in SCREENS.values()
]
MORE = ["/events?screen=overview", "/metrics", "/static/style.css", "/static/live.js"]
MORE += ["/static/plotly.min.js", "/nowhere", "/csv/sweep/accuracy-by-round?sweep=s"]


@pytest.fixture
def stranger(read_cache: ReadCache) -> TestClient:
    return anonymous(read_cache)


@pytest.mark.parametrize("path", [*PATHS, *MORE])
def test_nothing_is_shown_without_the_token(stranger: TestClient, path: str) -> None:
    """Each address answers 401 and explains the token."""
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
    """A cookie of another server does not count."""
    sent = {name: value.encode() for name, value in headers.items()}
    assert stranger.get("/", headers=sent).status_code == 401


def entered(browser: TestClient) -> str:
    """Open the printed address, and return the path to which it forwards."""
    answer = browser.get(f"/?token={TOKEN}")
    assert answer.status_code == 200
    match = re.search(r'<a href="(/[0-9a-f]{32}/)">', answer.text)
    assert match
    return match[1]


def test_a_wrong_token_in_the_address_is_refused_despite_a_valid_cookie(
    stranger: TestClient,
) -> None:
    """An old address is refused, so that the user notices."""
    inside = entered(stranger)
    assert stranger.get(inside).status_code == 200
    assert stranger.get(f"{inside}?token=wrong").status_code == 401


def test_the_printed_address_sets_a_cookie_and_drops_the_token(stranger: TestClient) -> None:
    """Scripts and other sites cannot read the cookie. It is limited to the path of this server."""
    answer = stranger.get(f"/trials?state=failed&token={TOKEN}&alpha=0.1")
    assert answer.status_code == 200
    match = re.search(r'<a href="(/[0-9a-f]{32})/trials\?state=failed&amp;alpha=0.1">', answer.text)
    assert match
    assert f'content="0; url={match[1]}/trials?state=failed&amp;alpha=0.1"' in answer.text
    assert TOKEN not in answer.text
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"fedsweep-{PORT}=")
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=strict", f"Path={match[1]}/"} <= set(cookie.split("; "))
    for path in ("/", "/queue", "/trials?state=failed", "/static/style.css", "/metrics"):
        assert stranger.get(match[1] + path).status_code == 200


def test_the_entry_page_never_forwards_to_another_server(stranger: TestClient) -> None:
    """A path with two slashes would name another server."""
    answer = stranger.get(f"http://127.0.0.1:{PORT}//evil.example/?token={TOKEN}")
    assert re.search(r'<a href="/[0-9a-f]{32}/evil.example/">', answer.text)


def test_the_skip_link_never_leads_to_another_server(client: TestClient) -> None:
    """The page for unknown addresses has a safe link, too."""
    page = client.get(f"http://127.0.0.1:{PORT}//evil.example/").text
    assert 'href="/evil.example/#main"' in page
    assert '<base href="/">' in page
    assert 'href="//' not in page


def test_a_session_is_useless_without_its_path_and_on_other_servers(
    stranger: TestClient, read_cache: ReadCache
) -> None:
    """A server of another user on this host may receive other cookies, but not this one."""
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


def test_a_cookie_of_the_same_name_does_not_block_the_session(stranger: TestClient) -> None:
    """Each program on this host can set such a cookie."""
    inside = entered(stranger)
    (cookie,) = stranger.cookies.jar
    stranger.cookies.clear()
    for others in ("{0}=junk; {0}={1}; x", "{0}={1}; {0}=junk", '"=;;=\\; {0}={1}'):
        header = others.format(cookie.name, cookie.value)
        assert stranger.get(inside, headers={"cookie": header}).status_code == 200


def test_a_restarted_server_with_the_same_token_accepts_old_sessions(
    stranger: TestClient, read_cache: ReadCache
) -> None:
    """An open page continues to work."""
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
def test_an_unknown_host_name_is_refused(client: TestClient, host: str) -> None:
    """Another site cannot use its own name for this server."""
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
def test_a_known_host_name_is_accepted_with_every_port(client: TestClient, host: str) -> None:
    """A tunnel may change the port."""
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("address", ["192.168.7.5", "[fd00::5]"])
def test_the_address_that_received_a_request_is_accepted(
    read_cache: ReadCache, address: str
) -> None:
    """Another site can make its name resolve to this server, but not an address."""
    app = application(read_cache, TOKEN, PORT)
    client = TestClient(app, base_url=f"http://{address}:{PORT}")
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/metrics", headers=headers).status_code == 200
    for other in ("192.168.7.6", "[fd00::6]", "evil.example"):
        answer = client.get("/metrics", headers={**headers, "host": f"{other}:{PORT}"})
        assert answer.status_code == 400


def test_a_long_address_is_refused(client: TestClient) -> None:
    """A statement may be longer than a filter."""
    for path in ("/", "/trials", "/healthz", "/nowhere"):
        answer = client.get(f"{path}?sweep={'x' * 30_000}")
        assert (answer.status_code, answer.headers["connection"]) == (414, "close")
    assert client.get(f"/trials/{'x' * 7_000}").status_code == 404
    assert client.get(f"/sql?q={'x' * 30_000}").status_code == 400
    assert client.get(f"/sql?q={'x' * 60_000}").status_code == 414


def test_a_request_with_a_body_is_refused(client: TestClient) -> None:
    """The body is not read: the connection is closed."""
    for headers in ({"content-length": "10000000000"}, {"transfer-encoding": "chunked"}):
        answer = client.get("/", headers=headers)
        assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    assert client.get("/", headers={"content-length": "0"}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(client: TestClient, method: str) -> None:
    """Only GET and HEAD are allowed."""
    answer = client.request(method, "/sql", content=b"x")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert client.head("/").status_code == 200


def test_the_health_check_needs_no_token_and_reveals_nothing(stranger: TestClient) -> None:
    """A load balancer can use it."""
    answer = stranger.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


@pytest.mark.parametrize("path", ["/", "/healthz", "/nowhere", "/static/style.css"])
def test_every_answer_has_security_headers(client: TestClient, path: str) -> None:
    """They forbid inline scripts, frames, referrers and caches."""
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
def test_no_link_leaves_the_secret_path(file: Path) -> None:
    """A link that begins with "/" would leave the path of the page and its cookie."""
    absolute = r"""(?:\b(?:href|src|action)\s*=\s*|(?:fetch|EventSource|open)\(\s*)["'`]/"""
    assert re.findall(absolute, file.read_text()) == []

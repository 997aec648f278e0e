"""`fedsweep serve` in real processes."""

from __future__ import annotations

import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import pytest

from fedsweep.cli import serve as command
from fedsweep.errors import PackageMissing, RequestError
from fedsweep.serve import server
from tests.acceptance.command import at_once, environment
from tests.unit.serve.pages import TOKEN, served


def get(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urlopen(Request(address, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_it_prints_its_address_and_ends_on_a_signal(sqlite_url: str) -> None:
    """Each start has a new token, which is printed once."""
    tokens = []
    for ending in (signal.SIGINT, signal.SIGTERM):
        with served(sqlite_url) as (address, token, process):
            tokens.append(token)
            assert get(address)[0] == 401
            status, page = get(address, Authorization=f"Bearer {token}")
            assert status == 200
            assert "<h1>Overview</h1>" in page
            assert get(f"{address}/?token=wrong")[0] == 401
            process.send_signal(ending)
            printed, _ = process.communicate(timeout=60)
            assert process.returncode == 0, printed
            assert token not in printed
            assert "Traceback" not in printed
    assert len(set(tokens)) == 2
    assert min(map(len, tokens)) >= 32


def test_an_open_page_does_not_delay_the_end(sqlite_url: str) -> None:
    """Its stream ends, without an error message."""
    with served(sqlite_url, "--token", TOKEN) as (address, token, process):
        assert token == TOKEN
        events = Request(
            f"{address}/events?screen=overview", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urlopen(events) as stream:
            assert stream.readline().startswith(b"event: page")
            process.send_signal(signal.SIGTERM)
            printed, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            assert "ERROR" not in printed


def test_the_token_may_come_from_the_environment(sqlite_url: str) -> None:
    """It is then not visible in the list of processes."""
    with served(sqlite_url, FEDSWEEP_TOKEN=TOKEN) as (_, token, _process):
        assert token == TOKEN


def test_a_port_in_use_is_one_sentence(sqlite_url: str) -> None:
    """The sentence names the remedy; the exit code is 2."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = at_once("serve", "--db", sqlite_url, "--port", port, code=2)
    assert done.stderr.startswith(f"fedsweep: nothing can listen on 127.0.0.1, port {port} (")
    assert "choose another --port" in done.stderr
    assert done.stdout == ""


def test_a_missing_store_is_one_sentence_and_is_not_created(tmp_path: Path) -> None:
    """Every command that only reads behaves so."""
    done = at_once("serve", cwd=tmp_path, code=2)
    assert "there is no database" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "token", ["short", "with a space in it.", "with;semicolon;in;it", "é" * 20]
)
def test_an_invalid_token_is_refused(token: str) -> None:
    """The message does not repeat it."""
    with pytest.raises(RequestError) as refused:
        command.checked(token)
    assert token not in str(refused.value)


def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what to install."""
    find_spec = command.importlib.util.find_spec

    def find(name: str) -> Any:
        return None if name == "uvicorn" else find_spec(name)

    monkeypatch.setattr(command.importlib.util, "find_spec", find)
    with pytest.raises(PackageMissing, match=r"needs uvicorn: pip install 'fedsweep\[serve\]'"):
        command.require()


def test_help_imports_no_heavy_module() -> None:
    """Importing them would take too long."""
    heavy = "starlette, uvicorn, sse_starlette, plotly, jinja2, sqlalchemy, torch, matplotlib"
    program = (
        "import sys; from fedsweep.cli.app import app\n"
        "try: app(['serve', '--help'])\nexcept SystemExit: pass\n"
        f"loaded = {{n for n in '{heavy}'.split(', ') if n in sys.modules}}\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True)


def test_a_browser_is_started_with_a_private_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All users can see its arguments. The file is deleted when the server ends."""
    opened: list[str] = []
    monkeypatch.setattr(server.webbrowser, "open", opened.append)
    with server._shown(f"http://127.0.0.1:8000/?token={TOKEN}"):
        (address,) = opened
        file = Path(urlsplit(address).path)
        assert TOKEN not in address
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert f'content="0; url=http://127.0.0.1:8000/?token={TOKEN}"' in file.read_text()
    assert not file.exists()


@pytest.mark.parametrize("host", ["", " ", "[]"])
def test_an_empty_host_is_refused(sqlite_url: str, host: str) -> None:
    """It would mean every address, which is rarely intended."""
    done = at_once("serve", "--db", sqlite_url, "--port", "0", "--host", host, code=2)
    assert done.stderr.startswith("fedsweep: --host is empty, which would be every address")
    assert done.stdout == ""


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 70, "..", "256.1.1.1"])
def test_an_unknown_host_is_one_sentence(host: str) -> None:
    """The sentence names the remedy."""
    with pytest.raises(RequestError, match="nothing can listen on .* choose another"):
        server.listen(host, 0)


@pytest.mark.parametrize(
    ("host", "in_address", "is_reachable"),
    [
        ("127.0.0.1", "127.0.0.1", False),
        ("localhost", "localhost", False),
        ("127.0.0.2", "127.0.0.2", False),
        ("::1", "[::1]", False),
        ("[::1]", "[::1]", False),
        ("0.0.0.0", "127.0.0.1", True),
        ("0", "127.0.0.1", True),
        ("0x0", "127.0.0.1", True),
        ("::", "[::1]", True),
        ("[0::0]", "[::1]", True),
    ],
)
def test_an_address_that_other_machines_reach_gets_a_warning(
    host: str, in_address: str, is_reachable: bool
) -> None:
    """The address of the socket counts, not the spelling of the host."""
    with server.listen(host, 0) as listening:
        bound = listening.getsockname()[0]
    assert server._in_address(host, bound) == in_address
    reach = server.reach(bound)
    assert (reach is not None) == is_reachable
    assert reach is None or "Other machines can reach this server" in reach


def test_one_external_address_gets_a_warning() -> None:
    """The loopback address gets none, also as an IPv4-mapped one."""
    assert server.reach("192.168.7.5") == (
        "Other machines can reach this server, and HTTP is not encrypted."
    )
    assert server.reach("fe80::1%eth0")
    assert server.reach("::ffff:127.0.0.1") is None


def test_a_server_on_every_address_prints_a_warning(sqlite_url: str) -> None:
    """The warning follows its address."""
    with served(sqlite_url, "--host", "0.0.0.0") as (address, token, process):
        assert address.startswith("http://127.0.0.1:")
        assert process.stdout is not None
        assert process.stdout.readline() == (
            "Other machines can reach this server (0.0.0.0 is every address of this one), "
            "and HTTP is not encrypted.\n"
        )
        assert get(address, Authorization=f"Bearer {token}")[0] == 200


class Listener(BaseHTTPRequestHandler):
    """A server of another user on another port of the same host."""

    cookies: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.cookies.append(self.headers["cookie"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_another_port_of_the_host_gets_no_session(sqlite_url: str) -> None:
    """A browser sends cookies to all ports, but not one that is limited to a secret path."""
    jar = CookieJar()
    browser = build_opener(HTTPCookieProcessor(jar))
    with (
        served(sqlite_url) as (address, token, _),
        HTTPServer(("127.0.0.1", 0), Listener) as other,
    ):
        with browser.open(f"{address}/?token={token}") as answer:
            inside = re.search(r'href="(/\w{32}/)"', answer.read().decode())
        assert inside
        with browser.open(address + inside[1]) as answer:
            assert "<h1>Overview</h1>" in answer.read().decode()
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            for path in ("/", "/trials", "/static/style.css", "/?token=", "//"):
                browser.open(f"http://127.0.0.1:{other.server_port}{path}").close()
        finally:
            other.shutdown()
            thread.join()
        assert Listener.cookies == [None] * 5
        (cookie,) = jar
        assert token not in str(cookie.value)
        assert get(address, Cookie=f"{cookie.name}={cookie.value}")[0] == 401


LONG = "x" * 30_000
SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


LIMIT = """
import sys
if "serve" in sys.orig_argv:
    from fedsweep.serve import sql
    sql.SECONDS = 4.0
"""
"""A `sitecustomize.py` that lets a slow statement take four seconds of the processor, not ten."""


def test_the_health_check_answers_under_load(sqlite_url: str, tmp_path: Path) -> None:
    """Slow statements, long statements, long addresses and long errors do not block it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(LIMIT)
    with (
        served(sqlite_url, PYTHONPATH=str(tmp_path / "site")) as (address, token, _),
        ThreadPoolExecutor(8) as others,
    ):
        bearer = {"Authorization": f"Bearer {token}"}
        slow = [others.submit(get, f"{address}/sql?q={quote(SLOW)}", **bearer) for _ in range(2)]
        for text in (LONG, "://a:" * 6_000, "password" * 3_700, "/*" * 9_000, "'" * 20_000):
            for path in ("/sql?q=", "/trials?sweep=", "/events?screen=", "/", "/sweeps/"):
                others.submit(get, f"{address}{path}{quote(text)}", **bearer)
        for _ in range(5):
            assert get(f"{address}/healthz") == (200, "ok\n")
        assert not all(answer.done() for answer in slow)
        assert {answer.result()[0] for answer in slow} == {400}

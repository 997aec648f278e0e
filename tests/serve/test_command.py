"""`fedsweep serve` as a person starts it: real processes."""

from __future__ import annotations

import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from fedsweep.cli import serve as command
from fedsweep.errors import PackageMissing, RequestError
from fedsweep.serve import server
from tests.acceptance.command import environment, fedsweep, start
from tests.serve.conftest import TOKEN


@contextmanager
def served(url: str, *more: str, **env: str) -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    """A server on a free port: its address, its token, its process."""
    process = start("serve", "--db", url, "--port", "0", *more, **env)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"(http://\S+:\d+)/\?token=(\S+)\n", line)
        assert found, line + process.stdout.read()
        yield found[1], found[2], process
    finally:
        process.kill()
        process.communicate()


def get(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urlopen(Request(address, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_it_prints_its_address_serves_and_ends_when_asked(sqlite_url: str) -> None:
    """With a fresh token each time, of which nothing is printed again."""
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
            said, _ = process.communicate(timeout=60)
            assert process.returncode == 0, said
            assert token not in said
            assert "Traceback" not in said
    assert len(set(tokens)) == 2
    assert min(map(len, tokens)) >= 32


def test_an_open_page_does_not_keep_it_from_ending(sqlite_url: str) -> None:
    """Its stream ends, and nothing is said of it."""
    with served(sqlite_url, "--token", TOKEN) as (address, token, process):
        assert token == TOKEN
        events = Request(
            f"{address}/events?screen=overview", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urlopen(events) as stream:
            assert stream.readline().startswith(b"event: page")
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            assert "ERROR" not in said


def test_the_token_may_come_from_the_environment(sqlite_url: str) -> None:
    """It is then in no list of processes."""
    with served(sqlite_url, FEDSWEEP_TOKEN=TOKEN) as (_, token, _process):
        assert token == TOKEN


def test_a_taken_port_is_a_sentence(sqlite_url: str) -> None:
    """With the remedy; exit 2."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = fedsweep("serve", "--db", sqlite_url, "--port", port, code=2)
    assert done.stderr.startswith(f"fedsweep: nothing can listen on 127.0.0.1, port {port} (")
    assert "choose another --port" in done.stderr
    assert done.stdout == ""


def test_a_missing_store_is_a_sentence_and_is_not_made(tmp_path: Path) -> None:
    """As with every command that only reads."""
    done = fedsweep("serve", cwd=tmp_path, code=2)
    assert "there is no database" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "token", ["short", "with a space in it.", "with;semicolon;in;it", "é" * 20]
)
def test_a_token_that_cannot_be_one_is_refused(token: str) -> None:
    """It is not repeated in the sentence."""
    with pytest.raises(RequestError) as refused:
        command.checked(token)
    assert token not in str(refused.value)


def test_a_missing_extra_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """That says what to install."""
    found = command.importlib.util.find_spec

    def find(name: str) -> Any:
        return None if name == "uvicorn" else found(name)

    monkeypatch.setattr(command.importlib.util, "find_spec", find)
    with pytest.raises(PackageMissing, match=r"needs uvicorn: pip install 'fedsweep\[serve\]'"):
        command.require()


def test_help_imports_nothing_of_it() -> None:
    """So that it stays quick."""
    heavy = "starlette, uvicorn, sse_starlette, plotly, jinja2, sqlalchemy, torch, matplotlib"
    program = (
        "import sys; from fedsweep.cli.app import app\n"
        "try: app(['serve', '--help'])\nexcept SystemExit: pass\n"
        f"found = {{n for n in '{heavy}'.split(', ') if n in sys.modules}}\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True)


def test_a_browser_is_started_with_a_file_that_nobody_else_can_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its arguments are everybody's to see; the file goes when the server does."""
    opened: list[str] = []
    monkeypatch.setattr(server.webbrowser, "open", opened.append)
    with server._shown(f"http://127.0.0.1:8000/?token={TOKEN}"):
        (address,) = opened
        file = Path(urlsplit(address).path)
        assert TOKEN not in address
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert f'content="0; url=http://127.0.0.1:8000/?token={TOKEN}"' in file.read_text()
    assert not file.exists()

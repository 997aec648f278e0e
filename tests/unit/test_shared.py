"""Folders and a Postgres server that the processes of one test run share."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.command import eventually
from tests.postgres import shared_server
from tests.shared import made_once

USER = """
import sys, time
from pathlib import Path
from tests.postgres import shared_server
with shared_server(Path(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(3600)
"""


def test_a_shared_folder_is_filled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A failed attempt does not count."""
    calls = []

    def make(fails: bool) -> Callable[[Path], object]:
        def fill(folder: Path) -> None:
            calls.append(fails)
            (folder / "part").write_text("")
            if fails:
                raise ZeroDivisionError
            (folder / "whole").write_text("")

        return fill

    with pytest.raises(ZeroDivisionError):
        made_once(tmp_path_factory, "test", make(fails=True))
    folders = {made_once(tmp_path_factory, "test", make(fails=False)) for _ in range(2)}
    assert calls == [True, False]
    assert sorted(file.name for file in folders.pop().iterdir()) == ["part", "whole"]


@pytest.mark.slow
def test_the_server_of_a_killed_run_stops(tmp_path: Path) -> None:
    """It runs as long as one process needs it. A later process starts another one."""
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        first = other.stdout.readline().strip()
        with shared_server(tmp_path) as url:
            assert url == first
            other.send_signal(signal.SIGKILL)
            other.wait()
            psycopg.connect(url).close()
    eventually(lambda: not (tmp_path / "postgres.url").exists())
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(first)
    with shared_server(tmp_path) as url:
        assert url != first
        psycopg.connect(url).close()
    eventually(lambda: not (tmp_path / "postgres.url").exists())

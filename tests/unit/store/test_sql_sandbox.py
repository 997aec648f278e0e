"""A statement's own process: it ends with those who ask."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.acceptance.command import environment, eventually

ASKER = """
import sys
from fedsweep.store.sql import ask
from fedsweep.store.engine import make_engine

endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT max(i) FROM n"
ask.ask(make_engine(sys.argv[1]), endless, seconds=3600, room=2**20)
"""


Started = tuple[subprocess.Popen[str], psutil.Process]


@pytest.fixture
def started(sqlite_url: str) -> Iterator[Started]:
    """A process that asks what never ends, and the process that looks for the answer."""
    asker = subprocess.Popen(
        [sys.executable, "-c", ASKER, sqlite_url],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def at_work() -> psutil.Process | None:
        for child in psutil.Process(asker.pid).children():
            if child.cpu_times().user > 0.5:  # past its imports
                return child
        return None

    try:
        yield asker, eventually(at_work)
    finally:
        asker.kill()
        asker.communicate()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_process_of_a_statement_ends_with_the_one_that_asks(
    number: signal.Signals, started: Started
) -> None:
    """Killed, stopped or by Ctrl-C: nobody is left at work for an answer that nobody reads."""
    asker, child = started
    asker.send_signal(number)
    asker.communicate(timeout=60)
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_ctrl_c_ends_the_process_of_a_statement(started: Started) -> None:
    """A terminal sends it to all of its processes."""
    asker, child = started
    child.send_signal(signal.SIGINT)
    _, said = asker.communicate(timeout=60)
    assert "the statement was stopped: try again" in said

"""`fedsweep status --watch` on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path

from fedsweep.plan import read_plan
from fedsweep.store import planning
from fedsweep.store.schema import open_store
from fedsweep.store.transactions import transaction
from tests.acceptance.command import FEDSWEEP, environment

HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"


def test_a_watch_that_is_ended_leaves_the_terminal_as_it_was(sqlite_url: str, tiny: Path) -> None:
    """The cursor is there again, and the exit is a good one."""
    store = open_store(sqlite_url)
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tiny))
    store.dispose()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*FEDSWEEP, "status", "--watch", "--db", sqlite_url],
        env=environment(TERM="xterm"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    while b"tiny" not in said:
        said += os.read(ours, 4096)
    process.send_signal(signal.SIGTERM)  # Ctrl-C may be ignored where tests run in the background
    try:
        while more := os.read(ours, 4096):
            said += more
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    assert said.rfind(SHOWN) > said.rfind(HIDDEN) >= 0
    assert b"Traceback" not in said

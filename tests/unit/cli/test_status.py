"""`fedsweep status --watch` on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path

from fedsweep.plans import read_plan
from fedsweep.store import planning
from fedsweep.store.schema import open_store
from fedsweep.store.transactions import transaction
from tests.acceptance.command import FEDSWEEP, environment

HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"


def test_an_ended_watch_leaves_the_terminal_as_it_was(sqlite_url: str, tiny: Path) -> None:
    """The cursor is shown again, and the exit code is 0."""
    store = open_store(sqlite_url)
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tiny))
    store.dispose()
    main_end, terminal = pty.openpty()
    process = subprocess.Popen(
        [*FEDSWEEP, "status", "--watch", "--db", sqlite_url],
        env=environment(TERM="xterm"),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    output = b""
    while b"tiny" not in output:
        output += os.read(main_end, 4096)
    process.send_signal(signal.SIGTERM)  # Ctrl-C may be ignored where tests run in the background
    try:
        while more := os.read(main_end, 4096):
            output += more
    except OSError:  # Linux reports a closed other end this way
        pass
    os.close(main_end)
    assert process.wait(60) == 0
    assert output.rfind(SHOWN) > output.rfind(HIDDEN) >= 0
    assert b"Traceback" not in output

"""A person's SQL on SQLite in a process of its own, which can be killed and has little memory.

SQLite checks the deadline only between its steps. Planning a statement, or one call of LIKE, instr
or trim, may take hours and gigabytes.

Run as a program, it reads a question from stdin and writes the answer to stdout. It ends with the
process that asks, in every case.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from fedsweep import children
from fedsweep.errors import SqlRefused
from fedsweep.store.deadline import Deadline, within
from fedsweep.store.sql.limits import Found

MEMORY = 512 * 2**20
"""Bytes of address space."""
SPILLED = 256 * 2**20
"""Bytes of a temporary file."""
NO_ROOM = 3
"""The exit code of a statement that took too much memory."""
_SPILLED = ("SQLITE_IOERR_WRITE", "SQLITE_FULL", "SQLITE_NOMEM")
"""Errors of SQLite if its temporary file may not grow. Nothing else is written."""


def ask(question: dict[str, Any], deadline: Deadline) -> Found:
    """Columns and rows; raises what `sqlite.read` raises, TimeoutError, or MemoryError."""
    process = subprocess.Popen(
        children.command(__name__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )

    def answered() -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # its exit code says why
            process.stdin.write(pickle.dumps(question))
        output = process.stdout.read()
        # Stdin stays open until the answer is here: its end is the end of the asker.
        process.stdin.close()
        process.stdout.close()
        process.wait()
        return output

    said = within(deadline, answered, process.kill)
    if process.returncode in (-signal.SIGINT, -signal.SIGTERM):
        raise SqlRefused("the statement was stopped: try again")
    if process.returncode != 0:
        raise MemoryError
    answer, wrong = pickle.loads(said)  # noqa: S301  # of our own program
    if wrong is not None:
        raise wrong
    rows: Found = answer
    return rows


def main() -> None:
    """Answer the question on stdin."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler waits for SQLite
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (SPILLED, SPILLED))
    from fedsweep.store.sql import sqlite

    question = pickle.load(sys.stdin.buffer)  # noqa: S301  # our own question
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    answer: tuple[Any, Exception | None]
    try:
        answer = sqlite.read(**question), None
    except MemoryError:
        sys.exit(NO_ROOM)
    except Exception as error:  # noqa: BLE001  # the asker raises it
        if getattr(error.__cause__, "sqlite_errorname", "") in _SPILLED:
            sys.exit(NO_ROOM)
        answer = None, error
    sys.stdout.buffer.write(pickle.dumps(answer))
    sys.stdout.buffer.flush()
    os._exit(0)  # the thread that reads stdin must not hold up the end


def _end_with_the_asker() -> None:
    """End this process when stdin does: the asker has gone, or needs no answer any more."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(NO_ROOM)

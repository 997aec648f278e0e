"""A person's SQL on SQLite in a process of its own, which can be killed and has little memory.

SQLite asks for the deadline between its steps only: planning a statement, or one call of LIKE,
instr or trim, may take hours and gigabytes. Run as a program: a question on stdin, an answer out.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

from fedsweep.store.bounds import Found

MEMORY = 512 * 2**20
"""Bytes of address space."""
SPILLED = 256 * 2**20
"""Bytes of a temporary file."""
NO_ROOM = 3
"""The exit code of what took too much."""
_SPILLED = ("SQLITE_IOERR_WRITE", "SQLITE_FULL", "SQLITE_NOMEM")
"""What SQLite says where its temporary file may not grow: nothing else is written here."""
GRACE = 2.0
"""Seconds after the deadline until it is killed."""


def ask(question: dict[str, Any]) -> Found:
    """Columns and rows; raises what `reader_sqlite.read` raises, TimeoutError, or MemoryError."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=pickle.dumps(question),
            capture_output=True,
            timeout=question["seconds"] + GRACE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error
    if done.returncode != 0:
        raise MemoryError
    answer, wrong = pickle.loads(done.stdout)  # noqa: S301  # of our own program
    if wrong is not None:
        raise wrong
    found: Found = answer
    return found


def _main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (SPILLED, SPILLED))
    from fedsweep.store import reader_sqlite

    answer: tuple[Any, Exception | None]
    try:
        answer = reader_sqlite.read(**pickle.load(sys.stdin.buffer)), None  # noqa: S301  # our own question
    except MemoryError:
        sys.exit(NO_ROOM)
    except Exception as error:  # noqa: BLE001  # the asker raises it
        if getattr(error.__cause__, "sqlite_errorname", "") in _SPILLED:
            sys.exit(NO_ROOM)
        answer = None, error
    sys.stdout.buffer.write(pickle.dumps(answer))


if __name__ == "__main__":
    _main()

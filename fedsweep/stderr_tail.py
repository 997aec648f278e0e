"""Last words of a process: the lines on stderr before it died, for example in compiled code.

Compiled code writes directly to file descriptor 2. A slot redirects the descriptor to a file, and
its watch reads the file when the slot has died. Python's own output still reaches the terminal.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fedsweep import output
from fedsweep.errors import FedsweepError, hide_secrets

LAST_LINES = 50
"""Lines of last words that are read, at most."""
LAST_BYTES = 64 * 1024
"""Bytes of last words that are read, at most. A longer file is emptied between rounds."""
GIST_LENGTH = 300
"""Characters of the line that says why a process died, at most."""
ASK = signal.SIGUSR1
"""The signal at which a process writes its Python stack."""
ANSWER_SECONDS = 1.0
"""Seconds to wait for the stack of a process, at most. A process that hangs may never write it."""


@contextmanager
def recording(path: Path) -> Iterator[None]:
    """Write this process's last words to a file, from now until it ends.

    The file also gets the Python stack of a crash, and the traceback of an exception that leaves
    this context.
    """
    if sys.stderr is None:  # the parent process closed it: descriptor 2 may be another file
        yield
        return
    sys.stderr.flush()
    output.reopen_stderr(os.dup(2))
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
    kept = os.open(path, flags, 0o600)
    os.dup2(kept, 2)
    os.close(kept)
    faulthandler.enable(2, all_threads=False)
    faulthandler.register(ASK, 2)
    try:
        yield
    except FedsweepError:
        raise  # its message is reported elsewhere
    except Exception:
        os.write(2, traceback.format_exc().encode())
        raise


def trim(path: Path, most: int = 0) -> None:
    """Empty the file if it has more than `most` bytes.

    Lines from before a trial are not about it. Compiled code that warns at every step must not fill
    the disk.
    """
    with suppress(OSError):
        if path.stat().st_size > most:
            os.truncate(path, 0)


def ask(pid: int, path: Path) -> None:
    """Make a hanging process write its Python stack, and wait for it."""
    with suppress(OSError):
        before, deadline = path.stat().st_size, time.monotonic() + ANSWER_SECONDS
        os.kill(pid, ASK)
        while path.stat().st_size == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)  # until the stack is complete


def gist(words: Sequence[str]) -> str:
    """Return the line of a process's last words that gives the reason of its death.

    It is the last line, or the line before the Python stack of a crash; "" without any lines.
    """
    marks = [n for n, line in enumerate(words) if line.startswith("Fatal Python error:")]
    lines = [*words[: marks[-1] + 1]] if marks else list(words)
    if marks and len(lines) > 1:
        lines.pop()
    reason = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return reason if len(reason) <= GIST_LENGTH else f"{reason[:GIST_LENGTH]} …"


def death(code: int | None) -> str:
    """Return how a process ended, by its exit code: a signal's name, or `exit 1`."""
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:  # a real-time signal has no name
            return f"signal {-code}"
    return f"exit {code}"


def last_words(path: Path) -> list[str]:
    """Return the last lines that a process wrote to its file; none if it has no file."""
    try:
        with path.open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - LAST_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    # This line lists every compiled module. It has thousands of characters.
    lines = [line for line in text.splitlines() if not line.startswith("Extension modules:")]
    return [hide_secrets(line) for line in lines if line.strip()][-LAST_LINES:]

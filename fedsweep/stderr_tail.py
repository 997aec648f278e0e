"""The last words of a process that dies where Python cannot say why: a crash in compiled code.

They go past Python, straight to file descriptor 2. A slot turns that to a file, which its watch
reads when the slot has died. What Python itself says goes on reaching the terminal.
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

LINES = 50
"""Last words that are read: of lines."""
BYTES = 64 * 1024
"""The same, of bytes; a longer file is emptied between rounds."""
GIST = 300
"""Characters of the one line that tells why a process died."""
ASK = signal.SIGUSR1
"""Asks a process where in Python it is."""
ANSWER_SECONDS = 1.0


@contextmanager
def recording(path: Path) -> Iterator[None]:
    """Keep this process's last words in a file, from here to its end.

    With the Python stack where it crashes, and the traceback of what leaves this context.
    """
    if sys.stderr is None:  # closed by whoever started us: descriptor 2 may be anything
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
        raise  # it is one sentence, and said elsewhere
    except Exception:
        os.write(2, traceback.format_exc().encode())
        raise


def trim(path: Path, most: int = 0) -> None:
    """Empty the file where it is longer: what was said before a trial is not about it, and
    compiled code that complains at every step must not fill the disk.
    """
    with suppress(OSError):
        if path.stat().st_size > most:
            os.truncate(path, 0)


def ask(pid: int, path: Path) -> None:
    """Let a process that hangs say where, before it is killed."""
    with suppress(OSError):
        before, deadline = path.stat().st_size, time.monotonic() + ANSWER_SECONDS
        os.kill(pid, ASK)
        while path.stat().st_size == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)  # to the end of its sentence


def gist(words: Sequence[str]) -> str:
    """Return the line of a process's last words that tells most; nothing if there are none.

    A crash is followed by where in Python it was: then the line before that tells why.
    """
    marks = [n for n, line in enumerate(words) if line.startswith("Fatal Python error:")]
    lines = [*words[: marks[-1] + 1]] if marks else list(words)
    if marks and len(lines) > 1:
        lines.pop()
    told = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return told if len(told) <= GIST else f"{told[:GIST]} …"


def death(code: int | None) -> str:
    """Return how a process ended, by its exit code: a signal's name, or `exit 1`."""
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:  # a real-time signal has no name
            return f"signal {-code}"
    return f"exit {code}"


def last_words(path: Path) -> list[str]:
    """What a process said at last, a line each; nothing where it kept no file."""
    try:
        with path.open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    # What follows is a list of every compiled module, thousands of characters long.
    said = [line for line in text.splitlines() if not line.startswith("Extension modules:")]
    return [hide_secrets(line) for line in said if line.strip()][-LINES:]

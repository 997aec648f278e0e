"""SQLite's writers wait for their turn in the kernel.

SQLite itself has a writer ask again and again, which starves the unlucky and takes the time of
whoever writes. The turn is a courtesy: SQLite's own lock is what excludes, and who waits too long
for its turn, behind a process that is stopped, goes on without.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedsweep.store.location import sidecar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TURN_SECONDS = 2.0


@contextmanager
def turn(database: Path) -> Iterator[None]:
    """Hold the turn to write to this file; whoever dies lets go of it."""
    taken = None
    with suppress(OSError):  # a folder that cannot be written: SQLite says so better
        taken = _take(sidecar(database, "-turn"))
    try:
        yield
    finally:
        if taken is not None:
            _let_go(taken)


def _take(file: Path) -> int | None:
    """A descriptor that holds the lock, None where somebody else did for too long."""
    if fcntl is None:
        return None
    # A descriptor of this turn alone: a lock belongs to it, and ends with it.
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return descriptor if _wait(descriptor) else None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _wait(descriptor: int) -> bool:
    """Whether the lock came in time; else the descriptor is closed when it does."""
    # The kernel knows no wait for a lock that ends after a while: a thread waits, and we for it.
    came, decided = threading.Lock(), threading.Lock()
    came.acquire()

    def wait() -> None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if decided.acquire(blocking=False):
            came.release()
        else:
            _let_go(descriptor)

    try:
        threading.Thread(target=wait, daemon=True).start()
    except RuntimeError:  # no thread to be had
        os.close(descriptor)
        return False
    if came.acquire(timeout=TURN_SECONDS):
        return True
    if decided.acquire(blocking=False):
        return False
    return came.acquire()


def _let_go(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a fork has it too
    os.close(descriptor)

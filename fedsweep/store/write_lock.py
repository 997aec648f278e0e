"""SQLite's writers wait for their turn in the kernel.

SQLite itself lets a writer retry again and again. That starves some writers and slows down the one
that writes. The turn is only a courtesy, because SQLite's own lock excludes writers. If the turn
does not come in time, because a process that holds it is stopped, the writer continues without it.

Every user who can open a file can lock it. Only users who can write the database can therefore open
the turn file. A turn file that others can open is replaced.
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from fedsweep.files import TEMPORARY
from fedsweep.store.location import sidecar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TURN_SECONDS = 2.0
"""Seconds that a writer waits for its turn before it writes without one."""

RUN_SECONDS = 0.0035
"""Seconds after which a process that writes again and again lets a waiting one run."""

LOOK_SECONDS = 1.0
"""Seconds between two looks at who can write the database. Each write would cost more."""

_yield_processor: Callable[[], None] = getattr(os, "sched_yield", lambda: None)

_FLAGS = (
    os.O_RDWR
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
)


@contextmanager
def hold_write_lock(database: Path) -> Iterator[None]:
    """Hold the turn to write to this file. If the process dies, the turn is free immediately."""
    if fcntl is None:
        yield
        return
    queue = _queue_of(database)
    # One thread of a process waits for the file's lock at a time. The others wait for that thread.
    entrance = queue.entrance
    first = entrance.acquire(blocking=False) or entrance.acquire(timeout=TURN_SECONDS)
    try:
        taken = None
        if first:
            with suppress(OSError):  # a folder that cannot be written: SQLite says so better
                taken = queue.take()
        try:
            yield
        finally:
            if taken is not None:
                _release(taken)
                queue.let_others_run()
    finally:
        if first:
            entrance.release()


class _Wait(NamedTuple):
    """One wait of a writer for the lock of a descriptor."""

    descriptor: int
    came: threading.Lock
    """Free as soon as the descriptor has the lock."""
    decided: threading.Lock
    """Taken by the first of both sides: the lock came, or the writer no longer waits for it."""


class _Queue:
    """The turns of this process to write to one file."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.file = sidecar(database, "-turn")
        self._path = str(self.file)
        self.entrance = threading.Lock()
        self._waits: SimpleQueue[_Wait] | None = None
        """The waits of the thread that waits in the kernel; None before there is one."""
        self._in_kernel = threading.Lock()
        """Taken while that thread waits. It has one descriptor at most."""
        self._modeless = False
        """True on a file system that gives each new file the same mode."""
        self._trusted: tuple[tuple[int, int], int] | None = None
        """Device, inode and mode of the turn file at the latest check."""
        self._trusted_until = 0.0
        self._run_began = 0.0
        """When this process began to write without a wait in between."""

    def take(self) -> int | None:
        """Return a descriptor that holds the lock; None if the lock did not come in time."""
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            came = self._wait(descriptor)
            self._run_began = time.monotonic()
            return descriptor if came else None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def let_others_run(self) -> None:
        """Give up the processor after a run of writes. The caller has released the lock.

        A process that is woken for its turn finds the lock taken again while the previous writer
        keeps the processor.
        """
        now = time.monotonic()
        if now - self._run_began > RUN_SECONDS:
            self._run_began = now
            _yield_processor()

    def _open(self) -> int:
        """Open the turn file, and make or replace it if users who only read can open it too."""
        opened = None
        with suppress(OSError):
            opened = os.open(self._path, _FLAGS)
            if self._is_trusted(opened):
                return opened
        try:
            made = self._make()
        except OSError:
            if opened is None:
                raise
            return opened  # nothing better can be had: no wait for it is long
        if opened is not None:
            os.close(opened)
        return made

    def _is_trusted(self, opened: int) -> bool:
        """Return if only users who can write the database can open the turn file."""
        status = os.fstat(opened)
        inode, now = (status.st_dev, status.st_ino), time.monotonic()
        if self._trusted == (inode, status.st_mode) and now < self._trusted_until:
            return True
        if not self._modeless and not _is_closed(status, _status(self.database)):
            return False
        self._trusted, self._trusted_until = (inode, status.st_mode), now + LOOK_SECONDS
        return True

    def _make(self) -> int:
        """Put a new turn file in place, for the users who can write the database."""
        status = _status(self.database)
        if status is not None and not os.access(self.database, os.W_OK):
            raise PermissionError  # SQLite says so better
        aside = self.file.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        made = os.open(aside, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if status is not None:
                with suppress(OSError):  # only root and the members of the group can
                    os.fchown(made, status.st_uid if os.geteuid() == 0 else -1, status.st_gid)
                os.fchmod(made, _mode(status, os.fstat(made).st_gid))
            aside.replace(self.file)
        except BaseException:
            os.close(made)
            with suppress(OSError):
                aside.unlink()
            raise
        self._modeless = not _is_closed(os.fstat(made), status)
        return made

    def _wait(self, descriptor: int) -> bool:
        """Return whether the lock came in time. If not, the descriptor is closed when it comes.

        The kernel cannot limit a wait for a lock. A thread waits for the lock, and the writer waits
        for the thread. While that thread still waits for an earlier lock, no other writer waits.
        """
        if not self._in_kernel.acquire(blocking=False):
            os.close(descriptor)
            return False
        try:
            if self._waits is None:
                waits: SimpleQueue[_Wait] = SimpleQueue()
                threading.Thread(target=self._wait_in_kernel, args=(waits,), daemon=True).start()
                self._waits = waits
        except RuntimeError:  # no thread can be started
            os.close(descriptor)
            self._in_kernel.release()
            return False
        wait = _Wait(descriptor, threading.Lock(), threading.Lock())
        wait.came.acquire()
        self._waits.put(wait)
        try:
            in_time = wait.came.acquire(timeout=TURN_SECONDS)
        except BaseException:  # Ctrl-C
            if not wait.decided.acquire(blocking=False):
                _release(descriptor)
            raise
        # If the thread has decided in the meantime, the lock is here.
        return in_time or not wait.decided.acquire(blocking=False)

    def _wait_in_kernel(self, waits: SimpleQueue[_Wait]) -> None:
        while True:
            wait = waits.get()
            with suppress(OSError):
                fcntl.flock(wait.descriptor, fcntl.LOCK_EX)
            in_time = wait.decided.acquire(blocking=False)
            if not in_time:
                _release(wait.descriptor)
            self._in_kernel.release()  # before the writer can come again
            wait.came.release()


@lru_cache(maxsize=64)
def _queue_of(database: Path) -> _Queue:
    return _Queue(database)


if hasattr(os, "register_at_fork"):  # the child has none of the parent's threads
    os.register_at_fork(after_in_child=_queue_of.cache_clear)


def _status(database: Path) -> os.stat_result | None:
    """Return the status of a database file, None if there is none yet."""
    with suppress(FileNotFoundError):
        return database.stat()
    return None


def _mode(database: os.stat_result, group: int) -> int:
    """Return the mode that lets only users who can write the database open a file of a group."""
    if database.st_mode & stat.S_IWOTH:
        return 0o666
    if database.st_mode & stat.S_IWGRP and database.st_gid == group:
        return 0o660
    return 0o600


def _is_closed(found: os.stat_result, database: os.stat_result | None) -> bool:
    """Return if a turn file is one that only users who can write the database can open."""
    if database is None:  # it is made next
        return True
    mode = _mode(database, found.st_gid)
    known = found.st_uid in (os.geteuid(), database.st_uid, 0) or bool(mode & 0o060)
    return stat.S_ISREG(found.st_mode) and known and not found.st_mode & 0o066 & ~mode


def _release(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough if a fork has it too
    os.close(descriptor)

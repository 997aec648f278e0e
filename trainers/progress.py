"""The progress of this process's trainers: a number of each that only grows.

Each local step, each evaluated batch and each run of decoded images adds one. Another process may
read the number. If it stays the same for long, the trainer has stalled. No result depends on it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

TICK_SECONDS = 5.0
"""Seconds between two steps of a process that waits."""


class Counter(Protocol):
    """Anything that holds the number: an object of this process, or shared memory."""

    steps: int


@dataclass
class _Unshared:
    """The counter of a process that nobody watches."""

    steps: int = 0


class _OfThread(threading.local):
    """The counter of the current thread, if it has one of its own."""

    counter: Counter | None = None


class Progress:
    """The steps of this process, in a counter that can be replaced.

    A thread that trains a trial at the same time as others has a counter of its own.
    """

    def __init__(self) -> None:
        self.counter: Counter = _Unshared()
        """The counter of all threads without one of their own."""
        self._own = _OfThread()

    @property
    def current(self) -> Counter:
        """The counter of the current thread."""
        own = self._own.counter
        return self.counter if own is None else own

    @contextmanager
    def counting_in(self, counter: Counter) -> Iterator[None]:
        """Count the steps of the current thread in a counter.

        A thread that it starts for its work must do the same, with the `current` of the first one.
        """
        before, self._own.counter = self._own.counter, counter
        try:
            yield
        finally:
            self._own.counter = before

    def step(self) -> None:
        """Count one unit of work, of at most a few seconds."""
        self.current.steps += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count while this thread waits for another thread or process, or for a server.

        The wait must have a limit of its own, because it looks the same as a deadlock.
        """
        over, counter = threading.Event(), self.current

        def tick() -> None:
            while not over.wait(TICK_SECONDS):
                counter.steps += 1

        with suppress(RuntimeError):  # no thread is left: processor time is the only witness then
            threading.Thread(target=tick, daemon=True).start()
        try:
            yield
        finally:
            over.set()


progress = Progress()
"""The only one of a process."""

"""The progress of this process's trainer: a number that only grows.

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


class Progress:
    """The steps that this process has taken, in a counter that can be replaced."""

    def __init__(self) -> None:
        self.counter: Counter = _Unshared()

    def step(self) -> None:
        """Count one unit of work, of at most a few seconds."""
        self.counter.steps += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count while this process waits for another process, or for a server.

        The wait must have a limit of its own, because it looks the same as a deadlock.
        """
        over = threading.Event()

        def tick() -> None:
            while not over.wait(TICK_SECONDS):
                self.step()

        with suppress(RuntimeError):  # no thread is left: processor time is the only witness then
            threading.Thread(target=tick, daemon=True).start()
        try:
            yield
        finally:
            over.set()


progress = Progress()
"""The only one of a process, which trains one trial at a time."""

"""The wait of an idle worker: it is woken when there is something to claim, or after a while.

SQLite has no notification, so there a wait is a short sleep. On Postgres it is LISTEN, on a
connection of its own, as long as the server has many connections left. Listeners must never take
the last connections from workers that train.

The import of psycopg takes long, and only a wait on Postgres needs it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Engine

from fedsweep.store.dialects import dialect_of

if TYPE_CHECKING:
    import psycopg

POLL_SECONDS = (0.2, 1.0)
"""Limits of an idle worker's random wait before it looks again, if no notification wakes it."""
JITTER_SECONDS = 0.5
"""A random addition, so that not all workers look at the same moment."""
SLICE_SECONDS = 0.1
"""How soon it notices that it is to stop."""


class Wakeup:
    """One worker's, on one channel of a store."""

    def __init__(self, engine: Engine, channel: str) -> None:
        self.engine = engine
        self.channel = channel
        self.listening: psycopg.Connection[Any] | None = None

    def wait(self, seconds: float, stopping: Callable[[], bool]) -> None:
        """Wait for a notification, for `seconds` and a little at most. Wait less if none
        can come.
        """
        if self.listening is None:
            self.listening = dialect_of(self.engine).listen(self.engine, self.channel)
            if self.listening is not None:
                return  # what happened before it listened made no sound
            _sleep(random.uniform(*POLL_SECONDS), stopping)
            return
        import psycopg

        until = time.monotonic() + max(seconds, 0.0) + random.uniform(0.0, JITTER_SECONDS)
        try:
            while time.monotonic() < until and not stopping():
                if list(self.listening.notifies(timeout=SLICE_SECONDS, stop_after=1)):
                    return
        except psycopg.Error:  # the server is gone: poll until it is back
            self.close()

    def close(self) -> None:
        """Listen no longer; the next wait does again."""
        if self.listening is not None:
            import psycopg

            with suppress(psycopg.Error):
                self.listening.close()
            self.listening = None


def _sleep(seconds: float, stopping: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopping():
        time.sleep(SLICE_SECONDS / 2)

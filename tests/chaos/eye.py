"""A reader during the run. It notes when attempts are first seen, and states that must not be."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from tests.chaos.stores import reader

POLL_SECONDS = 0.07
LOOKS = 20
"""Reads per connection. On SQLite the last connection that closes deletes the log files.

The reader closes its own often, so that the last one is mostly a worker's.
"""
RECENT = 500
"""Number of the last attempts that are read. All open attempts are read too."""

Key = tuple[str, int]
"""The trial and the fence of an attempt."""

_ATTEMPTS = sa.text(f"""
    SELECT t.trial_id, a.fence, a.pid, a.outcome, a.failure, a.error, a.ended_at, a.rounds_trained,
           a.rounds_new, a.rounds_lost
    FROM attempts a JOIN trials t ON t.id = a.trial
    WHERE a.outcome IS NULL OR a.id > (SELECT max(id) FROM attempts) - {RECENT}
""")
_LEFT = sa.text("SELECT count(*) FROM trials WHERE state IN ('queued', 'running')")


@dataclass
class Seen:
    """An attempt, with times of the harness's own clock, because a worker's clock may be set."""

    pid: int
    at: float
    expired_at: float | None = None
    end: dict[str, Any] | None = None
    """The row at the time when it first had an outcome."""


class Eye:
    """A thread that reads the store, except during an outage."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: dict[Key, Seen] = {}
        self.faults: list[str] = []
        self.left: int | None = None
        """Number of trials that wait or run. None before the first read."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="eye", daemon=True)

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def held_by(self, pids: list[int]) -> list[Key]:
        """Return the open attempts of these trainers."""
        seen = self.seen.copy()  # the thread adds to it
        return [key for key, one in seen.items() if one.pid in pids and one.end is None]

    def overtaken(self, attempt: Key) -> bool:
        """Return True if another attempt has followed."""
        trial, fence = attempt
        return (trial, fence + 1) in self.seen

    def _watch(self) -> None:
        engine = reader(self.url)
        while not self._stop.is_set():
            with suppress(SQLAlchemyError), engine.connect() as connection:
                for _ in range(LOOKS):
                    rows = connection.execute(_ATTEMPTS).mappings().all()
                    self.left = connection.execute(_LEFT).scalar_one()
                    connection.rollback()
                    self.take([dict(row) for row in rows])
                    self._stop.wait(POLL_SECONDS)
            self._stop.wait(POLL_SECONDS)

    def take(self, rows: list[dict[str, Any]]) -> None:
        """Read the attempts in one transaction."""
        now = time.monotonic()
        open_ones = Counter(row["trial_id"] for row in rows if row["outcome"] is None)
        twice = [trial for trial, count in open_ones.items() if count > 1]
        self.faults += [f"trial {trial} had two attempts at once" for trial in twice]
        for row in rows:
            key = (row["trial_id"], row["fence"])
            seen = self.seen.setdefault(key, Seen(row["pid"], now))
            if row["outcome"] is None:
                if seen.end is not None:
                    self.faults.append(f"attempt {key} had ended and runs again")
            elif seen.end is None:
                seen.end = row
                seen.expired_at = now if row["outcome"] == "expired" else None
            elif row != seen.end:
                self.faults.append(f"attempt {key} was written to after its end")
                seen.end = row

"""A cache of database reads, shared by all open pages. Each value is computed once per tick."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep.errors import StoreBusy, StoreError
from fedsweep.store.transactions import reading

T = TypeVar("T")

TICK = 1.0
"""Seconds between two updates of a page. A cache entry is valid for one tick by default."""
REST = 4.0
"""An entry is valid for at least this many times the time that computing it took.

Thus computing one entry takes at most a fifth of a processor from training.
"""
PROGRESS_TICKS = 3
"""Ticks for which an entry is valid if it reads all trials of a sweep."""
PLAN_TICKS = 30
"""Ticks for which an entry is valid if it changes only when a plan is added."""
BUDGET = 0.05
"""Fraction of a tick that may be spent on entries that are valid for several ticks.

After that, their refresh is put off to the next tick. So an update of a page never waits until all
such entries are computed.
"""
MAX_DELAY_TICKS = 3
"""Ticks by which a refresh is put off at most."""
MAX_ENTRIES = 200
"""If there are more entries than this, expired ones are removed. Valid entries stay."""

UNAVAILABLE = (StoreError, StoreBusy, SQLAlchemyError)
"""Errors which mean that the database does not answer for now."""


@dataclass
class _Entry:
    """A cache entry: a value, or the error of computing it, and the time at which it expires."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    expires_at: float = float("-inf")
    value: Any = None
    error: Exception | None = None


class ReadCache:
    """A cache of database reads that many pages share. It may be used from any thread."""

    def __init__(
        self,
        engine: Engine,
        tick: float = TICK,
        rest: float = REST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine, self.tick, self.rest, self.clock = engine, tick, rest, clock
        self.closing = False
        """True when the server is closing. Event streams then end."""
        self.open_streams = 0
        """The number of open event streams, one per page."""
        self._entries: dict[Hashable, _Entry] = {}
        self._tick_ends, self._spent = float("-inf"), 0.0
        """The end of this tick, and its seconds spent on entries valid for several ticks."""
        self._lock = threading.Lock()

    def read(self, read: Callable[..., T], *arguments: Hashable, ticks: int = 1) -> T:
        """Return the result of a read of the store, which is valid for `ticks` ticks.

        The read runs in a transaction of its own. A result that is valid for several ticks may be
        up to MAX_DELAY_TICKS older if the budget of this tick is spent.

        Raises:
            one of UNAVAILABLE: the store does not answer.

        """

        def compute() -> T:
            with reading(self.engine) as connection:
                return read(connection, *arguments)

        return self.get((read, arguments), compute, ticks)

    def get(self, key: Hashable, compute: Callable[[], T], ticks: int = 1) -> T:
        """Return the valid value of a key; compute it if there is none.

        A value is valid for `ticks` ticks. An error is cached for one tick and raised again.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
        with entry.lock:
            now = self.clock()
            if entry.expires_at <= now and not self._is_put_off(entry, now, ticks):
                self._refresh(entry, compute, ticks)
        if entry.error is not None:
            raise entry.error
        return cast("T", entry.value)

    def _is_put_off(self, entry: _Entry, now: float, ticks: int) -> bool:
        """Return if an expired entry may still be used because the tick's budget is spent.

        A new tick begins with the first expired entry after the end of the last tick.
        """
        with self._lock:
            if now >= self._tick_ends:
                self._tick_ends, self._spent = now + self.tick, 0.0
            is_spent = self._spent >= BUDGET * self.tick
        is_late = now >= entry.expires_at + MAX_DELAY_TICKS * self.tick
        return is_spent and ticks > 1 and entry.error is None and not is_late

    def _refresh(self, entry: _Entry, compute: Callable[[], Any], ticks: int) -> None:
        began = self.clock()
        try:
            entry.value, entry.error = compute(), None
        except Exception as error:  # noqa: BLE001  # `get` raises it in each thread that waits
            entry.value, entry.error, ticks = None, error, 1
        ended = self.clock()
        if ticks > 1:
            with self._lock:
                self._spent += ended - began
        entry.expires_at = ended + max(ticks * self.tick, self.rest * (ended - began))
        self._remove_expired(ended)

    def _remove_expired(self, now: float) -> None:
        with self._lock:
            if len(self._entries) > MAX_ENTRIES:
                self._entries = {
                    key: entry for key, entry in self._entries.items() if entry.expires_at > now
                }

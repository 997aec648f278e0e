"""The store as pages see it: whoever looks, each thing is read and made once a tick."""

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
"""Seconds for which what was made is good."""
REST = 4.0
"""What takes long is made anew only after so many times as long: a page takes a fifth of a
processor at most from those who train."""
OFTEN = 3
"""Ticks for which is good what goes through all the trials of a sweep."""
SELDOM = 30
"""Ticks for which is good what changes when somebody plans."""
ENOUGH = 0.05
"""Ticks' share after which, in one tick, nothing more is made anew of what is good for several: it
is made in the next, so that an update of a page never waits for all of it at once."""
LATE = 3
"""Ticks by which something is put off so at most."""
KEPT = 200
"""Things that are kept at once, but for those that are still good."""

AWAY = (StoreError, StoreBusy, SQLAlchemyError)
"""The store does not answer, for now."""


@dataclass
class _Made:
    """Something, or why it could not be made, and until when that is good."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    until: float = float("-inf")
    value: Any = None
    error: Exception | None = None


class Look:
    """Reads of the store that many pages share; to be used from any thread."""

    def __init__(
        self,
        engine: Engine,
        tick: float = TICK,
        rest: float = REST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine, self.tick, self.rest, self.clock = engine, tick, rest, clock
        self.ended = False
        """Whether the server is closing: then streams end."""
        self.streams = 0
        """Open pages."""
        self._made: dict[Hashable, _Made] = {}
        self._tick_ends, self._spent = float("-inf"), 0.0
        """When this tick ends, and the seconds of it that went into what is good for several."""
        self._lock = threading.Lock()

    def read(self, read: Callable[..., T], *arguments: Hashable, keep: int = 1) -> T:
        """What a read of the store gives, in a transaction of its own; good for `keep` ticks.

        Of more than one tick it may be a little older, by LATE at most, where the tick is full.

        Raises:
            one of AWAY: the store does not answer.

        """

        def work() -> T:
            with reading(self.engine) as connection:
                return read(connection, *arguments)

        return self.once((read, arguments), work, keep)

    def once(self, key: Hashable, make: Callable[[], T], keep: int = 1) -> T:
        """What was made under this key less than `keep` ticks ago, else what is made now.

        So is an error that came of it, for one tick.
        """
        with self._lock:
            made = self._made.setdefault(key, _Made())
        with made.lock:
            now = self.clock()
            if made.until <= now and not self._put_off(made, now, keep):
                self._make(made, make, keep)
        if made.error is not None:
            raise made.error
        return cast("T", made.value)

    def _put_off(self, made: _Made, now: float, keep: int) -> bool:
        """Whether something is still good enough, and this tick has done enough.

        A tick begins with the first that is due after the last one's end.
        """
        with self._lock:
            if now >= self._tick_ends:
                self._tick_ends, self._spent = now + self.tick, 0.0
            full = self._spent >= ENOUGH * self.tick
        late = now >= made.until + LATE * self.tick
        return full and keep > 1 and made.error is None and not late

    def _make(self, made: _Made, make: Callable[[], Any], keep: int) -> None:
        began = self.clock()
        try:
            made.value, made.error = make(), None
        except Exception as error:  # noqa: BLE001  # raised by `once`, to each who asks
            made.value, made.error, keep = None, error, 1
        ended = self.clock()
        if keep > 1:
            with self._lock:
                self._spent += ended - began
        made.until = ended + max(keep * self.tick, self.rest * (ended - began))
        self._forget(ended)

    def _forget(self, now: float) -> None:
        with self._lock:
            if len(self._made) > KEPT:
                self._made = {key: made for key, made in self._made.items() if made.until > now}

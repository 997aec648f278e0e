"""The source of a trial's draws: a cache of this process, a helper process, or this thread."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from trainers.draws import Drawn, Indices, Offsets, Sampling, draw, draw_client

if TYPE_CHECKING:
    from trainers.prefetch import Helper

START_SECONDS = 1.0
"""Processor time that a trial spends on draws in its own thread before it starts a helper process.

Short trials start none.
"""

CACHE_BYTES = 64 * 2**20
"""Most memory of the rounds that a process keeps: about 2,000 rounds of 4,000 images."""

ENTRY_BYTES = 512
"""Memory that an entry of the cache takes, without the content of its round."""


class Cache:
    """The contents of the most recently used rounds. Several threads may use it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        """Memory of all entries. It never exceeds the limit."""
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[bytes, int], bytearray] = OrderedDict()

    def get(self, key: bytes, round: int) -> bytearray | None:
        """Return the content of a round of the sampling with this key."""
        with self._lock:
            content = self._entries.get((key, round))
            if content is not None:
                self._entries.move_to_end((key, round))
            return content

    def put(self, key: bytes, round: int, content: bytearray) -> None:
        """Keep the content of a round. Remove the rounds that were not used for longest."""
        with self._lock:
            if (key, round) in self._entries or len(content) + ENTRY_BYTES > self.limit:
                return
            self._entries[key, round] = content
            self.bytes += len(content) + ENTRY_BYTES
            while self.bytes > self.limit:
                _, oldest = self._entries.popitem(last=False)
                self.bytes -= len(oldest) + ENTRY_BYTES

    def clear(self) -> None:
        """Remove all rounds."""
        with self._lock:
            self._entries.clear()
            self.bytes = 0


cache = Cache(CACHE_BYTES)
"""The only one of a process. Trials of equal samplings share their draws."""


class DrawSource:
    """The draws of one trial, round after round. Close it after the last one."""

    def __init__(self, sampling: Sampling, last: int) -> None:
        """`last` is the trial's last round."""
        self.sampling = sampling
        self.last = last
        self.spent = 0.0
        """Processor time of draws in this thread, seconds."""
        self.drawn: Drawn | None = None
        """The latest round."""
        self._may_start = os.name == "posix"
        self._helper: Helper | None = None

    def round(self, number: int) -> Drawn:
        """Return the draws of a round's whole cohort."""
        if self.drawn is None or self.drawn.round != number:
            self.drawn = self._cached(number)
        return self.drawn

    def client(self, round: int, client: int) -> tuple[Indices, Offsets | None]:
        """Return indices [E, B] and offsets [E, 3, B] of a client; see `Drawn.client`.

        A client outside the round's cohort is drawn for this call.
        """
        drawn = self.round(round)
        if client not in drawn.places:
            return draw_client(self.sampling, round, client)
        return drawn.client(client)

    def close(self) -> None:
        """End the helper process. Further rounds are drawn in the thread that asks."""
        self._may_start = False
        if self._helper is not None:
            self._helper.close()
            self._helper = None

    def _cached(self, round: int) -> Drawn:
        content = cache.get(self.sampling.key, round)
        if content is not None:
            return Drawn(self.sampling, round, content)
        drawn = self._prefetched(round) or self._draw(round)
        cache.put(self.sampling.key, round, drawn.content)
        return drawn

    def _prefetched(self, round: int) -> Drawn | None:
        """Return a round of the helper. Close a helper that is of no more use."""
        if self._helper is None:
            return None
        from trainers.prefetch import BadHelper

        try:
            drawn = self._helper.take(round)
        except BadHelper:
            drawn = None
            self.close()
        if round >= self.last:
            self.close()
        return drawn

    def _draw(self, round: int) -> Drawn:
        """Draw a round in this thread. Start a helper after many of them."""
        began = time.thread_time()
        drawn = draw(self.sampling, round)
        self.spent += time.thread_time() - began
        if self._may_start and self.spent >= START_SECONDS and round < self.last:
            self._start(drawn)
        return drawn

    def _start(self, proof: Drawn) -> None:
        """Start the helper. A trial tries it once."""
        self._may_start = False
        from trainers.prefetch import Helper

        try:
            self._helper = Helper(self.sampling, proof, self.last)
        except (OSError, RuntimeError):
            self._helper = None

"""The store, the workers and the clock that disturbances act on."""

from __future__ import annotations

import heapq
import itertools
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import plans
from tests.chaos.command import Errands, run
from tests.chaos.eye import Eye, Key
from tests.chaos.stores import Store
from tests.chaos.workers import Crew


@dataclass(frozen=True)
class Event:
    """A disturbance that happened, on the harness's monotonic clock."""

    at: float
    kind: str
    what: str
    pids: frozenset[int]
    """The trainers it ended, froze or orphaned."""
    everyone: bool
    """True if it met every worker, as an outage of the store does."""


@dataclass
class Stage:
    """The store, the workers, the commands of a person, and the harms with their ends."""

    folder: Path
    store: Store
    crew: Crew
    eye: Eye
    errands: Errands
    clock: Path
    rng: random.Random
    began: float = 0.0
    """Time of the start of the disturbances."""
    copies: int = 0
    """Number of copies of the sweep that are planned."""
    events: list[Event] = field(default_factory=list)
    frozen: list[tuple[float, float, frozenset[int]]] = field(default_factory=list)
    """Start, end and surviving trainers of each freeze."""
    retried: list[Key] = field(default_factory=list)
    """The last attempts of trials that failed as lost, and that a person then retried."""
    mends: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    resting: bool = False
    """True after the last disturbance."""
    _planner: subprocess.Popen[bytes] | None = None
    _count: itertools.count[int] = field(default_factory=itertools.count)

    def later(self, seconds: float, mend: Callable[[], None]) -> None:
        """Mend something after this many seconds, or at the end of the disturbances."""
        heapq.heappush(self.mends, (time.monotonic() + seconds, next(self._count), mend))

    def tick(self) -> None:
        """Mend the harms that are due, replace ended workers, and plan more trials."""
        while self.mends and self.mends[0][0] <= time.monotonic():
            heapq.heappop(self.mends)[2]()
        self.store.tick()
        self.crew.tick()
        self.plan_more()

    def mend_all(self) -> None:
        """End the disturbances, and mend all harms."""
        self.resting = True
        while self.mends:
            heapq.heappop(self.mends)[2]()
        self.store.mend()

    def plan_more(self) -> None:
        """Plan another copy in another process if few trials are left."""
        busy = self._planner is not None and self._planner.poll() is None
        if busy or self.eye.left is None or self.eye.left > self.crew.size:
            return
        if self._planner is None or self._planner.returncode == 0:
            self.copies += 1
        file = plans.write(self.folder, self.copies - 1)
        self._planner = self.errands.start("plan", str(file), "--db", self.store.url)
        self.eye.left = None  # not again before the next count

    def plan_surely(self, copy: int) -> str:
        """Plan a copy again, because its planner may have met an outage. Return the output."""
        file = plans.write(self.folder, copy)
        done = run(self.folder, "plan", str(file), "--db", self.store.url)
        if done.returncode != 0:
            raise RuntimeError(f"copy {copy} cannot be planned: {done.stderr}")
        return done.stdout

    def set_clock(self, offset: int) -> None:
        """Write the clock's offset in place. A reader sees the old or the new offset."""
        with self.clock.open("r+b", buffering=0) as file:
            file.write(b"%+09d" % offset)

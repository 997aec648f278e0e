"""State of one slot, as its watch knows it."""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from fedsweep.plan import Round
from fedsweep.shared import Shared
from fedsweep.store.claim import Claim
from fedsweep.store.stops import Lack


@dataclass
class Slot:
    """State of one slot: its process, its claim, its trainer's progress and its deaths."""

    number: int
    device: str
    name: str = ""
    """The name under which its process claims. Each process has a new name."""
    process: SpawnProcess | None = None
    pipe: Any = None
    claim: Claim | None = None
    vouched: Claim | None = None
    """The last claim that it lost although its worker was alive."""
    last: Round | None = None
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=20))
    """Seconds of the latest rounds."""
    round_seconds: dict[bool, deque[float]] = field(default_factory=dict)
    """Seconds of the latest rounds without (False) and with (True) an evaluation."""
    shared: Shared = field(default_factory=Shared)
    """The memory that its process writes its steps to."""
    steps: int = 0
    """The trainer's steps at the last check."""
    silent: float = 0.0
    """Seconds since the trainer took a step."""
    idle: float = 0.0
    """Seconds since the trainer took a step or used the processor."""
    busy: float = 0.0
    """Processor seconds of the process when it was last seen to use the processor."""
    renewed: float = 0.0
    """Time of the lease's last renewal, on the monotonic clock."""
    granted: bool = False
    """True if it may claim one of --max-trials."""
    deaths: list[Lack | None] = field(default_factory=list)
    """Deaths of its processes since it stored a round. An item is the kind of the trial under
    which a process died, or None if it had no trial."""
    stalled: tuple[Lack, str] | None = None
    """The kind of the stalled trial for which its process was killed, and the reason. The next
    death of the process clears it."""
    closed: bool = False
    """True if no process is started for it again."""
    broken: str | None = None
    """The reason why its process ends for good."""
    blameless: bool = False
    """True if the store or the machine failed. Its trial is then given back uncharged."""
    unwanted: float | None = None
    """Time since when its trial is to be given back or is lost, on the monotonic clock."""
    box: Path = Path()
    """The file that its process's last words are written to."""

    def begin(self, claim: Claim) -> None:
        """Note that its process has claimed a trial."""
        self.claim, self.last, self.granted = claim, None, False
        self.unwanted, self.shared.give_back = None, 0
        self.recent.clear()
        self.round_seconds.clear()
        self.renewed = time.monotonic()

    def add_round(self, row: Round) -> None:
        """Note a round of its trial."""
        self.last = row
        self.recent.append(row.seconds)
        evaluated = row.test_accuracy is not None
        self.round_seconds.setdefault(evaluated, deque(maxlen=100)).append(row.seconds)

    def rate(self) -> float | None:
        """Return the rounds per second, from the latest rounds. Return None before any."""
        return len(self.recent) / total if (total := sum(self.recent)) > 0 else None

    def usual_round(self) -> float:
        """Return the median seconds of a round, of the kind that takes longer; 0 before any."""
        return max(map(statistics.median, self.round_seconds.values()), default=0.0)

    def progressed(self) -> None:
        """Reset the seconds without progress.

        The trainer made progress, or it cannot be blamed for having made none.
        """
        self.silent = self.idle = 0.0

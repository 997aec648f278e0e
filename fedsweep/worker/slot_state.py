"""State of the slots and their processes, as their watch knows it."""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from fedsweep.plans import Round
from fedsweep.shared import Shared
from fedsweep.store.claim import Claim
from fedsweep.store.stops import Lack


@dataclass
class SlotProcess:
    """State of a process of one slot, or of several slots that share a GPU."""

    device: str
    box: Path = Path()
    """The file that its last words are written to."""
    handle: SpawnProcess | None = None
    slots: list[Slot] = field(default_factory=list)
    deaths: list[Lack | None] = field(default_factory=list)
    """Deaths since a round was stored. An item is the kind of the trial under which the process
    died, or None if it had no trial, or several of which each may be at fault."""
    stalled: tuple[Lack | None, str] | None = None
    """The kind of the stalled trial for which it was killed, None for several, and the reason. The
    next start clears it."""
    closed: bool = False
    """True if it is not started again."""
    broken: str | None = None
    """The reason why it ends for good."""
    blameless: bool = False
    """True if the store or the machine failed. Its trials are then given back uncharged."""
    alone: int = 0
    """Attempts that still train one at a time, because this many trials died together."""

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self.handle is not None and self.handle.is_alive()

    def claiming(self) -> list[Slot]:
        """Return the slots that have claimed a trial."""
        return [slot for slot in self.slots if slot.claim is not None]

    def shown(self) -> list[Slot]:
        """Return the slots with a trial, or the first one if none has a trial."""
        return self.claiming() or self.slots[:1]


@dataclass
class Slot:
    """State of one slot: its claim and its trainer's progress."""

    number: int
    process: SlotProcess
    name: str = ""
    """The name under which it claims. It is a new one after each start of its process."""
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
    """The memory that it writes its steps to."""
    steps: int = 0
    """The trainer's steps at the last check."""
    silent: float = 0.0
    """Seconds since the trainer took a step."""
    idle: float = 0.0
    """Seconds since the trainer took a step or used the processor."""
    busy: float = 0.0
    """Processor seconds of the trainer when it was last seen to use the processor."""
    renewed: float = 0.0
    """Time of the lease's last renewal, on the monotonic clock."""
    granted: bool = False
    """True if it may claim one of --max-trials."""
    unwanted: float | None = None
    """Time since when its trial is to be given back or is lost, on the monotonic clock."""

    @property
    def device(self) -> str:
        """The device that it trains on."""
        return self.process.device

    @property
    def closed(self) -> bool:
        """True if its process is not started again."""
        return self.process.closed

    def begin(self, claim: Claim) -> None:
        """Note that it has claimed a trial."""
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

"""When a sweep will be over: an interval from what its rounds have taken so far. Pure.

What is left is W = Σ rounds · seconds a round, by kind of trial. It is worked off by so many slots;
the last trial to begin keeps one of them busy while the others are idle, which takes up to the
longest trial more. W itself is uncertain: trials of one kind differ, a kind may have been measured
once or never, and the machine may grow slower or faster. The errors of kinds are added, not
averaged: what makes one slower than it seemed makes the others slower, too.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Z = 1.64
"""Standard deviations to each side: 90 % of a normal distribution."""
DRIFT = 0.1
"""Relative; by how much a machine's pace changes: ours, from sweeps on shared machines."""
FEW = 0.25
"""Relative spread assumed of the trials of a kind, where they are too few to tell."""
UNKNOWN = 0.6
"""Relative error of a kind that was never measured, taken to be as the mean of the others."""


@dataclass(frozen=True)
class Pace:
    """What trials of one kind have taken so far."""

    trials: int
    rounds: int
    """That they trained themselves; at least 1."""
    seconds: float
    squares: float
    """Sum over trials of seconds² / rounds."""

    @property
    def mean(self) -> float:
        """Seconds a round."""
        return self.seconds / self.rounds

    @property
    def spread(self) -> float:
        """Relative standard deviation of a trial's seconds a round."""
        if not self.seconds:
            return FEW
        variance = max(self.squares / self.rounds - self.mean**2, 0.0)
        seen = math.sqrt(variance) / self.mean
        # One trial shows no spread at all: the fewer there are, the more is assumed.
        return math.sqrt(seen**2 + FEW**2 / self.trials)


@dataclass(frozen=True)
class Work:
    """What is left of the trials of one kind."""

    kind: Hashable
    rounds: int
    longest: int
    """Rounds left of the longest of them."""


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until the last trial is over, with the slots that are at work now."""

    slots: int
    middle: float
    low: float
    high: float
    """[low, high] is to hold the truth nine times in ten, once a twentieth is done."""


def time_left(
    work: Sequence[Work], paces: Mapping[Any, Pace], slots: int, overhead: float = 1.0
) -> TimeLeft | None:
    """How long so many slots will take. None where no round was measured, or nobody is at work.

    `overhead` is the share of time around the rounds: seconds of attempts a second of rounds.
    """
    open_work = [some for some in work if some.rounds > 0]
    if not open_work:
        return TimeLeft(slots, 0.0, 0.0, 0.0)
    if not paces or slots < 1:
        return None
    rounds = sum(pace.rounds for pace in paces.values())
    usual = sum(pace.seconds for pace in paces.values()) / rounds
    total = error = own = longest = 0.0
    for some in open_work:
        pace = paces.get(some.kind)
        mean = pace.mean if pace else usual
        spread = pace.spread if pace else UNKNOWN
        off = spread / math.sqrt(pace.trials) if pace else UNKNOWN
        total += some.rounds * mean
        error += some.rounds * mean * off
        own += (mean * spread) ** 2 * some.rounds * some.longest  # at least Σ of squared rounds
        longest = max(longest, some.longest * mean * (1 + spread))
    off = Z * math.sqrt(error**2 + own + (DRIFT * total) ** 2)
    idle = longest * (slots - 1) / slots
    low, middle, high = max(total - off, 0.0), total, total + off
    return TimeLeft(
        slots,
        overhead * (middle / slots + idle / 2),
        overhead * low / slots,
        overhead * (high / slots + idle),
    )

"""The time left of a sweep: an interval, computed from the seconds of its rounds so far.

The work left is W = Σ rounds · seconds per round, over the kinds of trials. All slots share it. The
last trial to start keeps one slot busy while the others are idle. This adds up to the time of the
longest trial.

W is uncertain for three reasons. Trials of one kind differ. A kind may have been measured once or
never. The machine may become slower or faster. The errors of kinds are added, not averaged, because
one cause makes all kinds slower at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Z = 1.64
"""Standard deviations to each side. They hold 90 % of a normal distribution."""
DRIFT = 0.1
"""Relative change of a machine's pace, as measured in our sweeps on shared machines."""
FEW = 0.25
"""Relative spread that is assumed for a kind with too few trials to measure it."""
UNKNOWN = 0.6
"""Relative error of a kind that was never measured. Its pace is the mean of the others."""


@dataclass(frozen=True)
class Pace:
    """The time that the trials of one kind have taken so far."""

    trials: int
    rounds: int
    """Rounds that they trained themselves; at least 1."""
    seconds: float
    squares: float
    """Sum over trials of seconds² / rounds."""

    @property
    def mean(self) -> float:
        """Seconds per round."""
        return self.seconds / self.rounds

    @property
    def spread(self) -> float:
        """Relative standard deviation of a trial's seconds per round."""
        if not self.seconds:
            return FEW
        variance = max(self.squares / self.rounds - self.mean**2, 0.0)
        seen = math.sqrt(variance) / self.mean
        # One trial shows no spread at all, so a larger spread is assumed for fewer trials.
        return math.sqrt(seen**2 + FEW**2 / self.trials)


@dataclass(frozen=True)
class Work:
    """The rounds that are left of the trials of one kind."""

    kind: Hashable
    rounds: int
    longest: int
    """Rounds left of the longest trial."""


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until the last trial ends, with the slots that run now."""

    slots: int
    middle: float
    low: float
    high: float
    """The interval [low, high] is meant to hold in 90 % of cases, after 5 % of the rounds."""


def time_left(
    work: Sequence[Work], paces: Mapping[Any, Pace], slots: int, overhead: float = 1.0
) -> TimeLeft | None:
    """Return the time left for these slots; None if no round was measured or no slot runs.

    `overhead` is the ratio of the seconds of attempts to the seconds of their rounds.
    """
    open_work = [kind for kind in work if kind.rounds > 0]
    if not open_work:
        return TimeLeft(slots, 0.0, 0.0, 0.0)
    if not paces or slots < 1:
        return None
    rounds = sum(pace.rounds for pace in paces.values())
    usual = sum(pace.seconds for pace in paces.values()) / rounds
    total = error = own = longest = 0.0
    for kind in open_work:
        pace = paces.get(kind.kind)
        mean = pace.mean if pace else usual
        spread = pace.spread if pace else UNKNOWN
        off = spread / math.sqrt(pace.trials) if pace else UNKNOWN
        total += kind.rounds * mean
        error += kind.rounds * mean * off
        own += (mean * spread) ** 2 * kind.rounds * kind.longest  # at least Σ of squared rounds
        longest = max(longest, kind.longest * mean * (1 + spread))
    off = Z * math.sqrt(error**2 + own + (DRIFT * total) ** 2)
    idle = longest * (slots - 1) / slots
    low, middle, high = max(total - off, 0.0), total, total + off
    return TimeLeft(
        slots,
        overhead * (middle / slots + idle / 2),
        overhead * low / slots,
        overhead * (high / slots + idle),
    )

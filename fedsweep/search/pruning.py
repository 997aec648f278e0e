"""Which probes cannot win, told by their curves: off unless a plan asks for it.

A probe that is in its calibration is compared, at the latest round that all its seeds have
measured, with what the finished probes of its arm had there, on the same seeds:

- `median` (Golovin et al. 2017's rule): its mean lies below the median of theirs, of three or more;
- `wilcoxon`: a one-sided signed-rank test over the paired seeds says that it lies below the best of
  them (p < 0.1). Of fewer than four seeds no difference is that sure.

Not in the first quarter of its tail: right after the freeze a curve may dip, and recover.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WARMUP = 0.25
"""Of a tail, in which nothing is cut short."""
FEWEST = 3
"""Finished probes that a median is taken of."""
SURE = 0.1
"""The p-value of the signed-rank test."""

Curve = Mapping[int, float]
"""A metric by round, as far as it was measured."""


@dataclass(frozen=True)
class Progress:
    """A probe's curves by seed."""

    freeze_round: int
    curves: Mapping[int, Curve]
    running: bool
    """Whether it is still to end; else it has finished on all its seeds."""


@dataclass(frozen=True)
class Loser:
    """A probe that is to be given up."""

    freeze_round: int
    round: int
    why: str


def losers(rule: str, rounds: int, probes: Sequence[Progress]) -> list[Loser]:
    """The running probes that cannot win, by a rule (none, median, wilcoxon) and T."""
    finished = [probe for probe in probes if not probe.running and probe.curves]
    found = []
    for probe in probes:
        at = _latest(probe) if probe.running else None
        if at is None or at < probe.freeze_round + WARMUP * (rounds - probe.freeze_round):
            continue
        if at < rounds and (why := _RULES[rule](probe, at, finished)):
            found.append(Loser(probe.freeze_round, at, why))
    return found


def _latest(probe: Progress) -> int | None:
    """The last round that all of a probe's seeds have measured."""
    if not probe.curves:
        return None
    return max(set.intersection(*map(set, probe.curves.values())), default=None)


def _mean(probe: Progress, at: int, seeds: Sequence[int]) -> float | None:
    """Of these seeds in a round; None where one did not measure it."""
    values = [probe.curves.get(seed, {}).get(at) for seed in seeds]
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(seeds) else None


def _never(_probe: Progress, _at: int, _finished: Sequence[Progress]) -> str | None:
    return None


def _median(probe: Progress, at: int, finished: Sequence[Progress]) -> str | None:
    seeds = sorted(probe.curves)
    others = [value for f in finished if (value := _mean(f, at, seeds)) is not None]
    mine = _mean(probe, at, seeds)
    if mine is None or len(others) < FEWEST or mine >= (middle := statistics.median(others)):
        return None
    return f"{100 * mine:.2f} % in round {at}, below the median {100 * middle:.2f} % of others"


def _wilcoxon(probe: Progress, at: int, finished: Sequence[Progress]) -> str | None:
    from scipy.stats import wilcoxon

    seeds = sorted(probe.curves)
    means = [(value, f.freeze_round, f) for f in finished if (value := _mean(f, at, seeds))]
    if not means:
        return None
    _, _, best = max(means, key=lambda some: some[:2])
    apart = [probe.curves[seed][at] - best.curves[seed][at] for seed in seeds]
    if not any(apart):
        return None
    p = float(wilcoxon(apart, alternative="less", method="exact" if all(apart) else "auto").pvalue)
    if p >= SURE:
        return None
    return f"below T* = {best.freeze_round} in round {at} on paired seeds (p = {p:.3f})"


_RULES = {"none": _never, "median": _median, "wilcoxon": _wilcoxon}

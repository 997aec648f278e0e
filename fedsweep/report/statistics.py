"""How surely one number differs from another: intervals, paired tests, correction for many.

Trials of the same seed share partition, cohorts, batches and initial weights, so differences are
taken seed by seed (Student's t of the paired differences; Student 1908), and p values of many
comparisons are adjusted by Holm's step-down method (Holm 1979), which holds under any dependence.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

Unit = TypeVar("Unit", bound=Hashable)
Name = TypeVar("Name", bound=Hashable)

LEVEL = 0.95
"""Of intervals; comparisons are made at 1 - LEVEL."""


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean by Student's t; None where one value says nothing of it."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    half = _quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


@cache
def _quantile(freedom: int) -> float:
    """Student's t within which LEVEL lies, on both sides."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences, mine minus theirs, in the measure's own unit."""

    n: int
    """Pairs."""
    mean: float
    low: float | None
    """The 95 % interval of Student's t, not adjusted for many; None at n = 1."""
    high: float | None
    p: float | None
    """Two-sided, not adjusted; None at n = 1."""
    p_less: float | None
    """One-sided: small where mine is surely less than theirs; None at n = 1."""


def difference(mine: Mapping[Unit, float], theirs: Mapping[Unit, float]) -> Difference | None:
    """The paired difference over what both have; None where they share nothing."""
    apart = [mine[unit] - theirs[unit] for unit in mine if unit in theirs]
    if not apart:
        return None
    mean = math.fsum(apart) / len(apart)
    low, high = mean_interval(apart) or (None, None)
    p, p_less = _p_values(apart, mean)
    return Difference(len(apart), mean, low, high, p, p_less)


def _p_values(apart: Sequence[float], mean: float) -> tuple[float | None, float | None]:
    if len(apart) < 2:
        return None, None
    spread = statistics.stdev(apart)
    if spread == 0:  # all equal: nothing is uncertain, as far as this test can see
        return float(mean == 0), 0.5 if mean == 0 else float(mean > 0)
    from scipy.special import stdtr

    less = float(stdtr(len(apart) - 1, mean / (spread / math.sqrt(len(apart)))))
    return 2 * min(less, 1 - less), less


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: the family-wise error is held by comparing each with 1 - LEVEL."""
    in_order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, before = [0.0] * len(p_values), 0.0
    for passed, i in enumerate(in_order):
        before = max(before, min(1.0, (len(p_values) - passed) * p_values[i]))
        adjusted[i] = before
    return adjusted


def not_worse(best: Mapping[Unit, float], others: Mapping[Name, Mapping[Unit, float]]) -> set[Name]:
    """Those of the others that a paired test does not find below the best.

    One-sided, adjusted for as many as there are. What cannot be tested, for want of two pairs, is
    not among them. `best` and the others are values by what pairs them; larger is better.
    """
    tested = {name: difference(values, best) for name, values in others.items()}
    sound = {name: d.p_less for name, d in tested.items() if d is not None and d.p_less is not None}
    adjusted = holm(list(sound.values()))
    return {name for name, p in zip(sound, adjusted, strict=True) if p >= 1 - LEVEL}

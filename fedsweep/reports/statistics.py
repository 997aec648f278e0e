"""Confidence intervals, paired tests, and their correction for many comparisons.

Trials of the same seed share partition, cohorts, batches and initial weights. So differences are
taken seed by seed, and tested by Student's t of the paired differences (Student 1908). The p values
of many comparisons are adjusted by Holm's step-down method (Holm 1979), which is valid under any
dependence.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

PairT = TypeVar("PairT", bound=Hashable)
NameT = TypeVar("NameT", bound=Hashable)

CONFIDENCE = 0.95
"""The level of intervals. Comparisons are made at 1 - CONFIDENCE."""


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean by Student's t. None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    half = _quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


@cache
def _quantile(freedom: int) -> float:
    """Return the two-sided quantile of Student's t for the level CONFIDENCE."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


@dataclass(frozen=True)
class PairedDifference:
    """The mean of paired differences of two groups, first minus second, in the measure's unit."""

    n: int
    """The number of pairs."""
    mean: float
    low: float | None
    """The 95 % interval of Student's t, not adjusted. None for one pair."""
    high: float | None
    p: float | None
    """Two-sided, not adjusted. None for one pair."""
    p_less: float | None
    """One-sided. Small if the first group is significantly less. None for one pair."""


def paired_difference(
    first: Mapping[PairT, float], second: Mapping[PairT, float]
) -> PairedDifference | None:
    """Return the difference over the pairs that both groups have. None if they have none."""
    differences = [first[pair] - second[pair] for pair in first if pair in second]
    if not differences:
        return None
    mean = math.fsum(differences) / len(differences)
    low, high = mean_interval(differences) or (None, None)
    p, p_less = _p_values(differences, mean)
    return PairedDifference(len(differences), mean, low, high, p, p_less)


def _p_values(differences: Sequence[float], mean: float) -> tuple[float | None, float | None]:
    if len(differences) < 2:
        return None, None
    spread = statistics.stdev(differences)
    if spread == 0:  # All differences are equal, so this test sees no uncertainty.
        return float(mean == 0), 0.5 if mean == 0 else float(mean > 0)
    from scipy.special import stdtr

    less = float(stdtr(len(differences) - 1, mean / (spread / math.sqrt(len(differences)))))
    return 2 * min(less, 1 - less), less


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the adjusted p values, in the given order.

    Comparing each with 1 - CONFIDENCE limits the family-wise error rate.
    """
    in_order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(in_order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def not_worse(
    best: Mapping[PairT, float], others: Mapping[NameT, Mapping[PairT, float]]
) -> set[NameT]:
    """Return the names of the groups that a paired test does not find to be below the best.

    The test is one-sided and adjusted for the number of groups. A group with fewer than two pairs
    cannot be tested and is not returned. Groups are values by pair. A larger value is better.
    """
    differences = {name: paired_difference(values, best) for name, values in others.items()}
    p_values = {n: d.p_less for n, d in differences.items() if d and d.p_less is not None}
    adjusted = holm(list(p_values.values()))
    return {name for name, p in zip(p_values, adjusted, strict=True) if p >= 1 - CONFIDENCE}

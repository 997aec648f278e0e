"""Intervals, paired tests and their correction, compared with scipy and statsmodels."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsweep.reports.statistics import holm, mean_interval, not_worse, paired_difference

FAMILIES = [
    (
        [0.01, 0.04, 0.03, 0.005, 0.2, 0.04, 0.0, 1.0, 0.5],
        [0.07, 0.2, 0.18, 0.04, 0.6, 0.2, 0.0, 1.0, 1.0],
    ),
    ([0.5285954792089683, 0.00028715004181385437], [0.5285954792089683, 0.0005743000836277087]),
]
"""P values, and their adjustment by Holm's method in statsmodels."""

FRACTIONS = st.lists(st.integers(0, 10_000), min_size=2, max_size=12).map(
    lambda counts: [count / 10_000 for count in counts]
)


@settings(max_examples=25, deadline=None)
@given(values=FRACTIONS)
def test_the_interval_of_a_mean_is_that_of_student_s_t(values: list[float]) -> None:
    """It equals that of scipy."""
    interval = mean_interval(values)
    assert interval is not None
    spread = statistics.stdev(values)
    if spread == 0:
        assert interval == (pytest.approx(values[0]), pytest.approx(values[0]))
        return
    error = spread / math.sqrt(len(values))
    expected = stats.t.interval(0.95, len(values) - 1, loc=statistics.fmean(values), scale=error)
    assert interval == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_value_has_no_interval() -> None:
    """It has no p value, either. Without a common seed there is no difference."""
    assert mean_interval([0.5]) is None
    one = paired_difference({0: 0.5, 1: 0.6}, {1: 0.4, 2: 0.9})
    assert one is not None
    assert (one.n, one.low, one.high, one.p, one.p_less) == (1, None, None, None, None)
    assert one.mean == pytest.approx(0.2)
    assert paired_difference({0: 0.5}, {1: 0.5}) is None


@settings(max_examples=25, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=2, max_size=9))
def test_differences_are_tested_in_pairs(pairs: list[tuple[int, int]]) -> None:
    """One-sided and two-sided p values equal those of scipy's paired t-test."""
    first = {seed: a / 1000 for seed, (a, _) in enumerate(pairs)}
    second = {seed: b / 1000 for seed, (_, b) in enumerate(pairs)}
    difference = paired_difference(first, second)
    assert difference is not None
    differences = [first[seed] - second[seed] for seed in first]
    if statistics.stdev(differences) < 1e-12:
        return
    two = stats.ttest_rel(list(first.values()), list(second.values()))
    less = stats.ttest_rel(list(first.values()), list(second.values()), alternative="less")
    assert difference.p == pytest.approx(two.pvalue, rel=1e-6, abs=1e-12)
    assert difference.p_less == pytest.approx(less.pvalue, rel=1e-6, abs=1e-12)
    interval = two.confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx(
        (interval.low, interval.high), abs=1e-9
    )


def test_differences_that_are_all_equal_are_certain() -> None:
    """Without a spread, p is 1 if there is no difference, and 0 otherwise."""
    same = paired_difference({0: 0.5, 1: 0.7}, {0: 0.5, 1: 0.7})
    assert same is not None
    assert (same.p, same.p_less) == (1.0, 0.5)
    below = paired_difference({0: 0.25, 1: 0.5}, {0: 0.5, 1: 0.75})
    assert below is not None
    assert (below.p, below.p_less) == (0.0, 0.0)


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_holm_adjustment_follows_its_definition(p_values: list[float]) -> None:
    """The k-th smallest of m values becomes the largest (m - j + 1) p_j of j <= k, at most 1."""
    ordered = sorted(p_values)
    steps = [(len(ordered) - j) * p for j, p in enumerate(ordered)]
    expected = {p: min(1.0, max(steps[: ordered.index(p) + ordered.count(p)])) for p in ordered}
    assert holm(p_values) == pytest.approx([expected[p] for p in p_values], abs=1e-12)


def test_the_holm_adjustment_equals_that_of_statsmodels() -> None:
    """One of the two families has ties, a zero and a one."""
    for p_values, adjusted in FAMILIES:
        assert holm(p_values) == pytest.approx(adjusted, abs=1e-12)


@pytest.mark.slow
def test_the_table_of_adjusted_values_is_that_of_statsmodels() -> None:
    """It is a table because statsmodels collects garbage at each call."""
    from statsmodels.stats.multitest import multipletests

    for p_values, adjusted in FAMILIES:
        assert adjusted == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-12)


def test_an_empty_family_needs_no_adjustment() -> None:
    """There are no p values to adjust."""
    assert holm([]) == []


def test_groups_that_are_worse_or_cannot_be_tested_are_not_level() -> None:
    """With three seeds, 20 points less each time is worse, and one point more or less is not."""
    best = {0: 0.90, 1: 0.91, 2: 0.92}
    level = {0: 0.89, 1: 0.92, 2: 0.91}
    worse = {0: 0.70, 1: 0.71, 2: 0.73}
    single = {0: 0.90}
    assert not_worse(best, {"level": level, "worse": worse, "single": single}) == {"level"}


def test_a_difference_may_be_significant_alone_but_not_among_many() -> None:
    """A one-sided p of 0.03 is worse alone, but level among ten."""
    best = {0: 0.90, 1: 0.90, 2: 0.90}
    near = {0: 0.88, 1: 0.87, 2: 0.845}
    alone = paired_difference(near, best)
    assert alone is not None
    assert alone.p_less is not None
    assert 0.005 < alone.p_less < 0.05
    assert not_worse(best, {0: near}) == set()
    assert not_worse(best, dict.fromkeys(range(10), near)) == set(range(10))

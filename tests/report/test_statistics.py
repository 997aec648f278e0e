"""Intervals, paired tests and their correction, against scipy and statsmodels."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsweep.report.statistics import difference, holm, mean_interval, not_worse

FAMILIES = [
    (
        [0.01, 0.04, 0.03, 0.005, 0.2, 0.04, 0.0, 1.0, 0.5],
        [0.07, 0.2, 0.18, 0.04, 0.6, 0.2, 0.0, 1.0, 1.0],
    ),
    ([0.5285954792089683, 0.00028715004181385437], [0.5285954792089683, 0.0005743000836277087]),
]
"""P-values, and what statsmodels makes of them by Holm's method."""

SHARES = st.lists(st.integers(0, 10_000), min_size=2, max_size=12).map(
    lambda counts: [count / 10_000 for count in counts]
)


@settings(max_examples=25, deadline=None)
@given(values=SHARES)
def test_the_interval_of_a_mean_is_student_s(values: list[float]) -> None:
    """As scipy has it."""
    found = mean_interval(values)
    assert found is not None
    spread = statistics.stdev(values)
    if spread == 0:
        assert found == (pytest.approx(values[0]), pytest.approx(values[0]))
        return
    error = spread / math.sqrt(len(values))
    wanted = stats.t.interval(0.95, len(values) - 1, loc=statistics.fmean(values), scale=error)
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_one_value_has_no_interval() -> None:
    """And no p; nothing shared is no difference."""
    assert mean_interval([0.5]) is None
    one = difference({0: 0.5, 1: 0.6}, {1: 0.4, 2: 0.9})
    assert one is not None
    assert (one.n, one.low, one.high, one.p, one.p_less) == (1, None, None, None, None)
    assert one.mean == pytest.approx(0.2)
    assert difference({0: 0.5}, {1: 0.5}) is None


@settings(max_examples=25, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=2, max_size=9))
def test_differences_are_tested_in_pairs(pairs: list[tuple[int, int]]) -> None:
    """Both sides and one, as scipy's paired t-test; equal differences leave nothing uncertain."""
    mine = {seed: a / 1000 for seed, (a, _) in enumerate(pairs)}
    theirs = {seed: b / 1000 for seed, (_, b) in enumerate(pairs)}
    found = difference(mine, theirs)
    assert found is not None
    apart = [mine[seed] - theirs[seed] for seed in mine]
    if statistics.stdev(apart) < 1e-12:
        return
    two = stats.ttest_rel(list(mine.values()), list(theirs.values()))
    less = stats.ttest_rel(list(mine.values()), list(theirs.values()), alternative="less")
    assert found.p == pytest.approx(two.pvalue, rel=1e-6, abs=1e-12)
    assert found.p_less == pytest.approx(less.pvalue, rel=1e-6, abs=1e-12)
    interval = two.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_differences_that_are_all_equal_are_certain() -> None:
    """No spread: p is 1 where there is no difference, else 0."""
    same = difference({0: 0.5, 1: 0.7}, {0: 0.5, 1: 0.7})
    assert same is not None
    assert (same.p, same.p_less) == (1.0, 0.5)
    below = difference({0: 0.25, 1: 0.5}, {0: 0.5, 1: 0.75})
    assert below is not None
    assert (below.p, below.p_less) == (0.0, 0.0)


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_holm_adjustment_follows_its_definition(p_values: list[float]) -> None:
    """The k-th smallest of m values becomes the largest (m - j + 1) p_j of j <= k, at most 1."""
    ordered = sorted(p_values)
    steps = [(len(ordered) - j) * p for j, p in enumerate(ordered)]
    wanted = {p: min(1.0, max(steps[: ordered.index(p) + ordered.count(p)])) for p in ordered}
    assert holm(p_values) == pytest.approx([wanted[p] for p in p_values], abs=1e-12)


def test_the_holm_adjustment_equals_that_of_statsmodels() -> None:
    """Two families: one has ties, a zero and a one."""
    for p_values, adjusted in FAMILIES:
        assert holm(p_values) == pytest.approx(adjusted, abs=1e-12)


@pytest.mark.slow
def test_the_table_of_adjusted_values_is_that_of_statsmodels() -> None:
    """It is a table because statsmodels collects garbage at each call."""
    from statsmodels.stats.multitest import multipletests

    for p_values, adjusted in FAMILIES:
        assert adjusted == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-12)


def test_no_comparison_needs_no_adjustment() -> None:
    """An empty family."""
    assert holm([]) == []


def test_what_is_surely_below_the_best_is_worse_and_what_cannot_be_tested_is_not_said_to_be_level(
) -> None:  # fmt: skip
    """Three seeds: 20 points apart each time is worse, a tenth this way and that is not."""
    best = {0: 0.90, 1: 0.91, 2: 0.92}
    level = {0: 0.89, 1: 0.92, 2: 0.91}
    worse = {0: 0.70, 1: 0.71, 2: 0.73}
    single = {0: 0.90}
    assert not_worse(best, {"level": level, "worse": worse, "single": single}) == {"level"}


def test_a_difference_that_is_significant_alone_may_not_be_among_many() -> None:
    """P = 0.03 one-sided: worse alone, level among ten."""
    best = {0: 0.90, 1: 0.90, 2: 0.90}
    near = {0: 0.88, 1: 0.87, 2: 0.845}
    alone = difference(near, best)
    assert alone is not None
    assert alone.p_less is not None
    assert 0.005 < alone.p_less < 0.05
    assert not_worse(best, {0: near}) == set()
    assert not_worse(best, dict.fromkeys(range(10), near)) == set(range(10))

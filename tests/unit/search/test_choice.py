"""The next choice of a search, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsweep.search import AddSeed, Probe, Space, Stop, Try, Wait, estimate, propose
from fedsweep.search.choice import SAMPLERS, _additive, study_of

SPACE = Space(0, 100, 10, 100, (0, 1, 2), probes=12)


def probe(point: int, *values: float, **more: Any) -> Probe:
    """Return a probe with values on seeds 0, 1, 2 …"""
    return Probe(point, dict(enumerate(values)), **more)


def three(**more: Any) -> list[Probe]:
    """Return the first three probes, with a clear rise toward T* = T / 2."""
    return [
        probe(100, 0.60, 0.61, 0.59, **more),
        probe(50, 0.80, 0.81, 0.79, **more),
        probe(80, 0.70, 0.71, 0.69, **more),
    ]


def test_the_trunk_of_all_others_is_tried_first_then_two_cheap_tails() -> None:
    """They are T* = T, T / 2 and 3 T / 4 for every sampler."""
    history: list[Probe] = []
    for point, cost in ((100, 300), (50, 150), (80, 60)):
        choice = propose(SPACE, history, 0)
        assert isinstance(choice, Try)
        assert (choice.freeze_round, choice.cost) == (point, cost)
        history.append(probe(point, 0.5, 0.5, 0.5))


def test_a_trunk_that_bn_trains_anyway_costs_nothing() -> None:
    """T* = T costs no rounds then."""
    space = replace(SPACE, trunk=100)
    first = propose(space, [], 0)
    assert isinstance(first, Try)
    assert (first.freeze_round, first.cost) == (100, 0)


def test_without_shared_trunks_every_try_costs_all_rounds() -> None:
    """It costs T per seed."""
    choice = propose(replace(SPACE, shared=False), three(), 0)
    assert isinstance(choice, Try)
    assert choice.cost == 300
    assert estimate(replace(SPACE, shared=False), three()).spent == 900


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_arguments_give_equal_choices(sampler: str) -> None:
    """The reason names the sampler, the gain and the cost."""
    space = replace(SPACE, sampler=sampler)
    choice = propose(space, three(), 5)
    assert choice == propose(space, three(), 5)
    assert isinstance(choice, Try)
    assert choice.freeze_round in set(space.points) - {100, 50, 80}
    assert choice.gain is not None
    assert f"for {choice.cost:,} rounds" in choice.why
    assert sampler in choice.why


def test_the_search_goes_where_values_rise() -> None:
    """It finds a clear peak between its neighbors."""
    history = three()
    for n in range(3):
        choice = propose(SPACE, history, n)
        assert isinstance(choice, Try)
        height = 0.8 - 0.0001 * (choice.freeze_round - 50) ** 2
        history.append(probe(choice.freeze_round, height, height + 0.01, height - 0.01))
    assert {p.freeze_round for p in history[3:]} & {40, 60}


def test_a_running_freeze_round_is_not_proposed_again() -> None:
    """A second process gets another T*."""
    pending = [*three(), probe(60, pending=frozenset({0, 1, 2}))]
    first = propose(SPACE, three(), 0)
    assert isinstance(first, Try)
    proposed = [*three(), probe(first.freeze_round, pending=frozenset({0, 1, 2}))]
    for history in (pending, proposed):
        second = propose(SPACE, history, 0)
        assert not isinstance(second, Try) or second.freeze_round not in {
            p.freeze_round for p in history
        }


def test_a_search_waits_before_a_trial_has_ended() -> None:
    """Three probes are running, and there is no value yet."""
    waiting = [probe(t, pending=frozenset({0, 1, 2})) for t in (100, 50, 80)]
    assert isinstance(propose(SPACE, waiting, 0), Wait)


def test_a_diverged_seed_counts_as_the_worst_value() -> None:
    """It is not a missing value. The mean of T* = 50 includes it."""
    history = [
        probe(100, 0.60, 0.61, 0.59),
        Probe(50, {0: 0.8, 1: 0.81}, diverged=frozenset({2})),
        probe(80, 0.70, 0.71, 0.69),
    ]
    mean = dict(zip(*_at(history), strict=True))
    assert mean[50] == pytest.approx((0.8 + 0.81 + 0.59) / 3)
    alone = [Probe(50, {}, diverged=frozenset({0, 1, 2}))]
    assert estimate(SPACE, alone).freeze_round == 50


def _at(history: list[Probe]) -> tuple[list[int], list[float]]:
    study = study_of(SPACE, history, 0)
    return (
        [t.params["freeze_round"] for t in study.trials],
        [t.value for t in study.trials if t.value is not None],
    )


def test_other_failures_have_no_value() -> None:
    """Their T* is not tried again, and cannot be the best."""
    history = [*three(), probe(60)]
    assert estimate(SPACE, history).freeze_round == 50
    choice = propose(SPACE, history, 0)
    assert not isinstance(choice, Try) or choice.freeze_round != 60


def test_a_search_ends_at_its_number_of_probes() -> None:
    """It waits while a probe is running."""
    few = replace(SPACE, probes=3)
    ended = propose(few, three(), 0)
    assert isinstance(ended, Stop)
    assert ended.reason == "budget"
    assert isinstance(propose(few, [*three()[:2], probe(80, pending=frozenset({0}))], 0), Wait)


def test_a_search_never_goes_beyond_its_rounds() -> None:
    """It ends if no T* that is left fits the budget. The trunk counts."""
    tight = replace(SPACE, rounds_per_seed=180)  # 100 of the trunk, 50 and 20 of two tails
    assert estimate(tight, three()).spent == 510
    choice = propose(tight, three(), 0)
    assert isinstance(choice, (Try, Stop))
    if isinstance(choice, Try):
        assert choice.cost <= 30
    none = propose(replace(SPACE, rounds_per_seed=171), three(), 0)
    assert isinstance(none, Stop)
    assert none.reason == "budget"


def test_a_search_is_settled_if_no_freeze_round_can_gain_more_than_the_noise() -> None:
    """The values differ by less than their noise."""
    flat = [probe(t, 0.5, 0.54, 0.47) for t in (100, 50)] + [probe(80, 0.53, 0.49, 0.5)]
    ended = propose(SPACE, flat, 0)
    assert isinstance(ended, Stop)
    assert ended.reason == "settled"
    assert "points" in ended.why


def test_a_seed_is_added_if_the_two_best_differ_by_less_than_the_noise() -> None:
    """It is the next integer. After the allowed number of seeds, the search ends."""
    flat = [probe(100, 0.5, 0.54, 0.47), probe(50, 0.5, 0.54, 0.46), probe(80, 0.53, 0.49, 0.5)]
    space = replace(SPACE, extra_seeds=1)
    choice = propose(space, flat, 0)
    assert isinstance(choice, AddSeed)
    assert choice.seed == 3
    assert choice.freeze_rounds == (80, 100)
    assert choice.cost == 100 + 20
    more = [
        replace(p, values={**p.values, 3: 0.5}) if p.freeze_round in (80, 100) else p for p in flat
    ]
    assert isinstance(propose(space, more, 0), Stop)
    running = [replace(flat[0], pending=frozenset({3})), *flat[1:]]
    assert isinstance(propose(space, running, 0), Wait)


def test_trials_that_have_finished_cost_nothing() -> None:
    """Finished trials of another sweep are proposed before others."""
    space = replace(SPACE, finished=frozenset({40}), rounds_per_seed=170)
    choice = propose(space, three(), 0)
    assert isinstance(choice, Try)
    assert (choice.freeze_round, choice.cost) == (40, 0)


def test_a_search_of_one_freeze_round_tries_it_and_ends() -> None:
    """It is the smallest possible search."""
    space = Space(50, 50, 1, 100, (0,))
    first = propose(space, [], 0)
    assert isinstance(first, Try)
    assert first.freeze_round == 50
    ended = propose(space, [Probe(50, {0: 0.5})], 0)
    assert isinstance(ended, Stop)
    assert ended.reason == "tried"


@settings(max_examples=60, deadline=None)
@given(
    values=st.dictionaries(
        st.integers(0, 5),
        st.dictionaries(st.integers(0, 3), st.floats(0, 1), min_size=4, max_size=4),
        min_size=1,
        max_size=6,
    )
)
def test_with_all_seeds_everywhere_means_are_plain_means(
    values: Mapping[int, Mapping[int, float]],
) -> None:
    """The levels of the seeds cancel, and the variance is positive."""
    means, variance = _additive(values, (0, 1, 2, 3))
    for point, row in values.items():
        assert means[point] == pytest.approx(sum(row.values()) / 4, abs=1e-9)
    assert variance > 0


def test_the_level_of_a_seed_is_removed() -> None:
    """A T* with only the easy seed is not better because of it."""
    values = {0: {0: 0.5, 1: 0.9}, 1: {0: 0.6, 1: 1.0}, 2: {1: 0.9}}
    means, _ = _additive(values, (0, 1))
    assert means == pytest.approx({0: 0.7, 1: 0.8, 2: 0.7})


def test_the_estimate_has_an_interval_and_the_spent_rounds() -> None:
    """The interval contains the best T*. The rounds are those of the trunk and the tails."""
    result = estimate(SPACE, three())
    assert result.freeze_round == 50
    assert result.low is not None
    assert result.high is not None
    assert 0 <= result.low <= 50 <= result.high <= 80
    assert result.spent == 3 * (100 + 50 + 20)
    assert result.whole_grid == 11 * 100 * 3
    assert len(result.mean) == len(result.std) == len(result.points) == 11
    assert estimate(SPACE, []).freeze_round is None


def test_the_best_freeze_round_has_ended_on_all_seeds() -> None:
    """A better T* with a running seed is not the best yet."""
    history = three()
    history[1] = replace(history[1], pending=frozenset({2}), values={0: 0.8, 1: 0.81})
    assert estimate(SPACE, history).freeze_round == 80


def test_an_unknown_sampler_is_refused() -> None:
    """A misspelled name does not select another sampler."""
    with pytest.raises(KeyError):
        propose(replace(SPACE, sampler="best"), three(), 0)
    assert isinstance(study_of(SPACE, three(), 0), optuna.Study)

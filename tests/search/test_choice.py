"""What a search does next, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsweep.search import AddSeed, Probe, Space, Stop, Try, Wait, answer, propose
from fedsweep.search.choice import SAMPLERS, _additive, study_of

SPACE = Space(0, 100, 10, 100, (0, 1, 2), probes=12)


def probe(point: int, *values: float, **more: Any) -> Probe:
    """A T* and its values on seeds 0, 1, 2 …"""
    return Probe(point, dict(enumerate(values)), **more)


def three(**more: Any) -> list[Probe]:
    """The first three, with a clear rise towards T* = T / 2."""
    return [
        probe(100, 0.60, 0.61, 0.59, **more),
        probe(50, 0.80, 0.81, 0.79, **more),
        probe(80, 0.70, 0.71, 0.69, **more),
    ]


def test_the_trunk_of_all_others_is_tried_first_then_two_cheap_tails() -> None:
    """T* = T, T / 2, 3 T / 4, whatever the sampler."""
    history: list[Probe] = []
    for wanted, cost in ((100, 300), (50, 150), (80, 60)):
        choice = propose(SPACE, history, 0)
        assert isinstance(choice, Try)
        assert (choice.freeze_round, choice.cost) == (wanted, cost)
        history.append(probe(wanted, 0.5, 0.5, 0.5))


def test_where_bn_trains_the_trunk_anyway_it_costs_nothing() -> None:
    """T* = T takes no round then, and a tail only its own."""
    space = replace(SPACE, trunk=100)
    first = propose(space, [], 0)
    assert isinstance(first, Try)
    assert (first.freeze_round, first.cost) == (100, 0)


def test_without_shared_trunks_every_try_costs_all_rounds() -> None:
    """T of each seed."""
    choice = propose(replace(SPACE, shared=False), three(), 0)
    assert isinstance(choice, Try)
    assert choice.cost == 300
    assert answer(replace(SPACE, shared=False), three()).spent == 900


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_arguments_give_equal_choices_and_say_why(sampler: str) -> None:
    """Of each sampler; the reason names the gain and what it costs."""
    space = replace(SPACE, sampler=sampler)
    choice = propose(space, three(), 5)
    assert choice == propose(space, three(), 5)
    assert isinstance(choice, Try)
    assert choice.freeze_round in set(space.points) - {100, 50, 80}
    assert choice.gain is not None
    assert f"for {choice.cost:,} rounds" in choice.why
    assert sampler in choice.why


def test_the_search_goes_where_values_rise() -> None:
    """With a peak that is plain to see, between its neighbours."""
    history = three()
    for n in range(3):
        choice = propose(SPACE, history, n)
        assert isinstance(choice, Try)
        height = 0.8 - 0.0001 * (choice.freeze_round - 50) ** 2
        history.append(probe(choice.freeze_round, height, height + 0.01, height - 0.01))
    assert {p.freeze_round for p in history[3:]} & {40, 60}


def test_what_runs_counts_as_seen() -> None:
    """Who asks second gets another T*."""
    pending = [*three(), probe(60, pending=frozenset({0, 1, 2}))]
    first = propose(SPACE, three(), 0)
    assert isinstance(first, Try)
    asked = [*three(), probe(first.freeze_round, pending=frozenset({0, 1, 2}))]
    for history in (pending, asked):
        second = propose(SPACE, history, 0)
        assert not isinstance(second, Try) or second.freeze_round not in {
            p.freeze_round for p in history
        }


def test_before_anything_has_ended_it_waits() -> None:
    """No choice is made from nothing; three are under way."""
    waiting = [probe(t, pending=frozenset({0, 1, 2})) for t in (100, 50, 80)]
    assert isinstance(propose(SPACE, waiting, 0), Wait)


def test_a_diverged_seed_is_the_worst_value_seen() -> None:
    """Never a missing one: T* = 50 loses, though its other seeds are the best."""
    history = [
        probe(100, 0.60, 0.61, 0.59),
        Probe(50, {0: 0.8, 1: 0.81}, diverged=frozenset({2})),
        probe(80, 0.70, 0.71, 0.69),
    ]
    mean = dict(zip(*_at(history), strict=True))
    assert mean[50] == pytest.approx((0.8 + 0.81 + 0.59) / 3)
    alone = [Probe(50, {}, diverged=frozenset({0, 1, 2}))]
    assert answer(SPACE, alone).freeze_round == 50


def _at(history: list[Probe]) -> tuple[list[int], list[float]]:
    study = study_of(SPACE, history, 0)
    return (
        [t.params["freeze_round"] for t in study.trials],
        [t.value for t in study.trials if t.value is not None],
    )


def test_what_failed_otherwise_says_nothing() -> None:
    """It is not tried again, and is no candidate for the answer."""
    history = [*three(), probe(60)]
    assert answer(SPACE, history).freeze_round == 50
    choice = propose(SPACE, history, 0)
    assert not isinstance(choice, Try) or choice.freeze_round != 60


def test_a_search_ends_at_its_number_of_probes() -> None:
    """And says so; while one still runs it waits."""
    few = replace(SPACE, probes=3)
    ended = propose(few, three(), 0)
    assert isinstance(ended, Stop)
    assert ended.reason == "budget"
    assert isinstance(propose(few, [*three()[:2], probe(80, pending=frozenset({0}))], 0), Wait)


def test_a_search_never_goes_beyond_its_rounds() -> None:
    """It ends where nothing that is left fits, the trunk counted."""
    tight = replace(SPACE, rounds_per_seed=180)  # 100 of the trunk, 50 and 20 of two tails
    assert answer(tight, three()).spent == 510
    choice = propose(tight, three(), 0)
    assert isinstance(choice, (Try, Stop))
    if isinstance(choice, Try):
        assert choice.cost <= 30
    none = propose(replace(SPACE, rounds_per_seed=171), three(), 0)
    assert isinstance(none, Stop)
    assert none.reason == "budget"


def test_a_search_is_settled_where_nothing_can_gain_more_than_noise() -> None:
    """Flat values, noisier than they differ."""
    flat = [probe(t, 0.5, 0.54, 0.47) for t in (100, 50)] + [probe(80, 0.53, 0.49, 0.5)]
    ended = propose(SPACE, flat, 0)
    assert isinstance(ended, Stop)
    assert ended.reason == "settled"
    assert "points" in ended.why


def test_seeds_are_added_where_two_cannot_be_told_apart() -> None:
    """The next integer, for the two best; no more often than allowed, then it ends."""
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


def test_what_is_there_already_costs_nothing() -> None:
    """Another sweep's finished trials are taken before any that must be trained."""
    space = replace(SPACE, finished=frozenset({40}), rounds_per_seed=170)
    choice = propose(space, three(), 0)
    assert isinstance(choice, Try)
    assert (choice.freeze_round, choice.cost) == (40, 0)


def test_a_whole_lattice_of_one_is_tried_and_done() -> None:
    """The smallest search there is."""
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
    """The seeds' levels cancel, and the variance is that of a two-way layout."""
    means, variance = _additive(values, (0, 1, 2, 3))
    for point, row in values.items():
        assert means[point] == pytest.approx(sum(row.values()) / 4, abs=1e-9)
    assert variance > 0


def test_a_seed_s_own_level_is_taken_out() -> None:
    """A T* that has the easy seed alone is not better for that."""
    values = {0: {0: 0.5, 1: 0.9}, 1: {0: 0.6, 1: 1.0}, 2: {1: 0.9}}
    means, _ = _additive(values, (0, 1))
    assert means == pytest.approx({0: 0.7, 1: 0.8, 2: 0.7})


def test_the_answer_says_where_the_best_may_lie_and_what_was_spent() -> None:
    """An interval around it, within the space; rounds of the trunk and the tails."""
    found = answer(SPACE, three())
    assert found.freeze_round == 50
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= 50 <= found.high <= 80
    assert found.spent == 3 * (100 + 50 + 20)
    assert found.whole_grid == 11 * 100 * 3
    assert len(found.mean) == len(found.std) == len(found.points) == 11
    assert answer(SPACE, []).freeze_round is None


def test_an_answer_waits_for_all_seeds_of_its_freeze_round() -> None:
    """The best of those that have ended."""
    history = three()
    history[1] = replace(history[1], pending=frozenset({2}), values={0: 0.8, 1: 0.81})
    assert answer(SPACE, history).freeze_round == 80


def test_an_unknown_sampler_is_no_sampler() -> None:
    """The plan refuses it before; a misspelled one must not pass for another."""
    with pytest.raises(KeyError):
        propose(replace(SPACE, sampler="best"), three(), 0)
    assert isinstance(study_of(SPACE, three(), 0), optuna.Study)

"""Searches on a recorded grid of real trials."""

from __future__ import annotations

import optuna
import pytest

from tests.unit.search.replay import LIMIT, arms, replay

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_finds_the_best_freeze_round_at_a_third_of_the_cost_of_a_grid(
    sampler: str,
) -> None:
    """There are 200 replays on digits (2 alpha, 2 E), each on three of five seeds."""
    outcomes = [replay(arm, n, sampler) for arm in arms().values() for n in range(50)]
    assert len(outcomes) == 200
    good = sum(outcome.regret <= outcome.allowed + 1e-12 for outcome in outcomes)
    assert good >= 0.95 * len(outcomes)
    assert max(outcome.rounds_per_seed for outcome in outcomes) <= LIMIT


def test_a_replay_can_be_repeated() -> None:
    """The same history and seed give the same choices."""
    arm = arms()[0.1, 5]
    assert replay(arm, 7) == replay(arm, 7)

"""Searches on a recorded grid of real trials."""

from __future__ import annotations

import optuna
import pytest

from tests.unit.search.replay import DIGITS, RECORDINGS, Recording, replay

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_a_search_finds_the_best_freeze_round_at_a_third_of_the_cost_of_a_grid(
    recording: Recording, sampler: str
) -> None:
    """There are 200 replays of each recording, each on three of five seeds."""
    arms = recording.arms.values()
    outcomes = [replay(recording, arm, n, sampler) for arm in arms for n in range(200 // len(arms))]
    assert len(outcomes) == 200
    good = sum(outcome.regret <= outcome.allowed + 1e-12 for outcome in outcomes)
    assert good >= 0.95 * len(outcomes)
    assert max(outcome.rounds_per_seed for outcome in outcomes) <= recording.limit


def test_a_replay_can_be_repeated() -> None:
    """The same history and seed give the same choices."""
    arm = DIGITS.arms[0.1, 5]
    assert replay(DIGITS, arm, 7) == replay(DIGITS, arm, 7)

"""T* that a trial finds itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.unit.trainers.arms import small, trace
from trainers import fedavg
from trainers.config import TrainConfig
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.freeze import SETTLED, WINDOW, AutoFreeze, drift
from trainers.numerics import make_deterministic


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


def auto(**changes: Any) -> TrainConfig:
    """A trial that settles within its twelve rounds: its learning rate falls to nothing."""
    usual = {"rounds": 12, "local_steps": 8, "lr_schedule": "step", "lr_step": 3, "lr_gamma": 1e-3}
    fixed = {"normalizer": "fixbn", "freeze_round": "auto", "participation": 1.0}
    return small(**{**fixed, **usual, **changes})


def test_the_drift_follows_its_formula() -> None:
    """Two layers of one and two channels, by hand."""
    before = {
        "a.running_mean": torch.tensor([1.0]),
        "a.running_var": torch.tensor([4.0]),
        "b.running_mean": torch.tensor([0.0, 0.0]),
        "b.running_var": torch.tensor([1.0, 1.0]),
        "weight": torch.tensor([9.0]),
    }
    after = {
        "a.running_mean": torch.tensor([2.0]),
        "a.running_var": torch.tensor([9.0]),
        "b.running_mean": torch.tensor([0.0, 3.0]),
        "b.running_var": torch.tensor([1.0, 16.0]),
        "weight": torch.tensor([1.0]),
    }
    eps = 1e-5
    first = math.sqrt((1 + 1) / (9 + eps))
    second = math.sqrt((0 + (9 + 9) / (16 + eps)) / 2)
    assert drift(before, after) == pytest.approx((first + second) / 2, rel=1e-12)
    assert drift(after, after) == 0.0
    assert drift({}, {}) == 0.0


def test_it_freezes_when_the_mean_of_three_is_a_tenth_of_the_largest() -> None:
    """Not before three drifts are known, and once for all."""
    rule = AutoFreeze(torch.zeros(1, dtype=torch.float64))
    drifts = [
        0.3,
        0.9,
        0.3,
        0.2,
        0.05,
        0.04,
        0.03,
    ]  # their means of three: .5, .467, .183, .097, .04
    for round, value in enumerate(drifts, 2):
        assert rule.frozen_at is None
        rule.note(round, value)
    assert WINDOW == 3
    assert SETTLED == 0.1
    assert rule.frozen_at == 8


def test_an_auto_trial_is_fixbn_frozen_at_the_round_that_it_found(digits: Dataset) -> None:
    """Bit for bit, save what it remembers of the rule itself."""

    def without_rule(rows: list[Any]) -> list[Any]:
        return [(*row[:-1], {k: v for k, v in row[-1].items() if k != "freeze"}) for row in rows]

    found = trace(auto(), digits)
    phases = [row[1] for row in found]
    at = phases.count("explore")
    assert WINDOW < at < 12
    assert phases == ["explore"] * at + ["calibrate"] * (12 - at)
    given = auto(freeze_round=at)
    assert given.freeze_rule == "given"
    assert without_rule(found) == trace(given, digits)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_a_resumed_trial_freezes_when_a_whole_one_does(dtype: str, digits: Dataset) -> None:
    """Before and after the freeze: what the rule remembers is part of the state."""
    chosen = auto(dtype=dtype)
    states: list[fedavg.State] = []
    whole = trace(chosen, digits, states=states)
    for after in (1, 5, 8, 11):
        assert trace(chosen, digits, states[after - 1]) == whole[after:]


def test_if_nothing_settles_the_trial_is_bn_to_its_end(digits: Dataset) -> None:
    """All rounds explore, and weigh what BN's do."""
    chosen = small(normalizer="fixbn", freeze_round="auto")
    found, bn = trace(chosen, digits), trace(small(normalizer="bn"), digits)
    assert [row[:-1] for row in found] == [row[:-1] for row in bn]
    assert {row[1] for row in found} == {"explore"}


def test_the_rule_has_its_own_identity() -> None:
    """Neither BN's nor that of any T*; it is spelled as a freeze round."""
    chosen = auto()
    assert (chosen.freeze_round, chosen.freeze_rule) == (None, "auto")
    assert chosen == TrainConfig(**chosen.model_dump())
    assert auto(freeze_round=3).freeze_rule == "given"
    assert small(normalizer="bn").freeze_rule is None

"""Diagnostics: against their formulas, and against what they are for."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from tests.unit.trainers.arms import JOINT, NORMALIZERS, small
from trainers import diagnostics, fedavg
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.numerics import make_deterministic

MIXING = ("bn", "fixbn", "fedbn", "silobn")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


def test_the_mismatch_of_statistics_follows_its_formula() -> None:
    """Two clients, two channels, by hand: means 0 and 4, variances 1 and 9, weights 1/4 and 3/4."""
    clients = [
        {"a.running_mean": torch.tensor([0.0, 5.0]), "a.running_var": torch.tensor([1.0, 2.0])},
        {"a.running_mean": torch.tensor([4.0, 5.0]), "a.running_var": torch.tensor([9.0, 2.0])},
    ]
    mean, variance = 3.0, 7.0
    std = math.sqrt(variance)
    apart = 0.25 * ((0 - mean) ** 2 + (1 - std) ** 2) + 0.75 * ((4 - mean) ** 2 + (3 - std) ** 2)
    wanted = math.sqrt((apart / (variance + 1e-5) + 0) / 2)
    found = diagnostics.statistics_mismatch(clients, [0.25, 0.75])
    assert found == {"a": pytest.approx(wanted, rel=1e-12)}


def test_equal_clients_do_not_drift_apart() -> None:
    """And a drift is the root mean square distance to the average, over its norm."""
    x = torch.tensor([3.0, 4.0])
    assert diagnostics.client_drift([x, x], [0.5, 0.5]) == 0
    apart = [torch.tensor([2.0, 4.0]), torch.tensor([4.0, 4.0])]
    assert diagnostics.client_drift(apart, [0.5, 0.5]) == pytest.approx(1 / 5)


def measured(digits: Dataset, **changes: Any) -> list[fedavg.Round]:
    return list(fedavg.run(small(diagnostics=True, **changes), digits))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arm", [*NORMALIZERS, *JOINT], ids=str)
def test_diagnostics_change_nothing_that_is_trained(arm: dict[str, Any], digits: Dataset) -> None:
    """State and measurements, bit for bit."""
    chosen = {**arm, "momentum": "global", "rounds": 3}
    diagnosed = fedavg.run(small(**chosen, diagnostics=True), digits)
    for with_, without in zip(diagnosed, fedavg.run(small(**chosen), digits), strict=True):
        assert (with_.train_loss, with_.test_loss) == (without.train_loss, without.test_loss)
        assert with_.client_drift is not None
        assert without.client_drift is without.gradient_deviation is None
        states = with_.state().tensors, without.state().tensors
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arm", NORMALIZERS, ids=str)
def test_only_mixed_samples_set_local_and_central_gradients_apart(
    arm: dict[str, Any], digits: Dataset
) -> None:
    """Under BN they deviate by a tenth and more on non-IID clients; where no layer mixes samples,
    and where BN is frozen, by rounding alone. Clients with own layers have no common model.
    """
    rounds = measured(digits, **arm, dtype="float64", alpha=0.05)
    for r in rounds:
        if arm["normalizer"] in ("fedbn", "silobn"):
            assert r.gradient_deviation is None
            continue
        assert r.gradient_deviation is not None
        mixes = arm["normalizer"] in MIXING and r.phase == "explore"
        assert r.gradient_deviation > 0.1 if mixes else r.gradient_deviation < 1e-12


@pytest.mark.parametrize("arm", NORMALIZERS, ids=str)
def test_statistics_mismatch_where_there_are_statistics(
    arm: dict[str, Any], digits: Dataset
) -> None:
    """One figure a layer, and their mean; frozen ones agree; GN and its like have none."""
    for r in measured(digits, **arm):
        if arm["normalizer"] not in MIXING:
            assert r.statistics_mismatch is r.statistics_mismatch_layers is None
            continue
        assert r.statistics_mismatch_layers is not None
        assert list(r.statistics_mismatch_layers) == ["norm1", "norm2"]
        mean = sum(r.statistics_mismatch_layers.values()) / 2
        assert r.statistics_mismatch == pytest.approx(mean)
        assert (r.statistics_mismatch > 1e-3) == (r.phase == "explore")


def test_the_mismatch_falls_with_alpha(digits: Dataset) -> None:
    """The more alike the clients, the more alike their statistics."""
    changes = {"local_steps": 10, "rounds": 3, "clients": 10, "participation": 1.0}
    found = [
        measured(digits, alpha=alpha, **changes)[-1].statistics_mismatch
        for alpha in (0.05, 0.5, 100.0)
    ]
    assert all((a or 0) > 1.2 * (b or 1) for a, b in itertools.pairwise(found))


@pytest.mark.slow
@pytest.mark.parametrize("normalizer", ["in", "ws", "gn", "ln", "wn", "none"])
def test_gradients_agree_for_batches_of_one_image_in_the_deepest_model(
    normalizer: str, scenes: Dataset
) -> None:
    """DeepLabv3+, channels-last, one image a client: where torch's own instance_norm errs."""
    make_deterministic(1)
    config = small(
        dataset="camvid", model="deeplabv3plus", partition="natural", participation=1.0,
        batch_size=1, augment=False, rounds=1, local_steps=1, dtype="float64", diagnostics=True,
        normalizer=normalizer,
    )  # fmt: skip
    (only,) = fedavg.run(config, scenes)
    assert only.gradient_deviation is not None
    assert only.gradient_deviation < 1e-12

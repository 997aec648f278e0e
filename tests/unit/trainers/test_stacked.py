"""Stacked training: whole trials in which the clients of a round train at the same time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from tests.triton_interpreter import DEVICE, kernels
from tests.unit.trainers.arms import ARMS, measured, small
from tests.unit.trainers.fake_cuda import FakeCuda
from trainers import fedavg
from trainers.config import TrainConfig
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.engines import Diverged
from trainers.graph import Graphs
from trainers.lane_kernels import Fused
from trainers.lane_operations import Batched, Loop, Operations
from trainers.numerics import make_deterministic

KEPT = ("fedbn", "silobn")
STACKED = [arm for arm in ARMS if arm["normalizer"] not in KEPT]
"""The arms in which clients keep no layers."""


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


def trained(
    chosen: TrainConfig,
    data: Dataset,
    operations: Operations | None,
    state: fedavg.State | None = None,
    graphs: Graphs | None = None,
) -> list[tuple[tuple[object, ...], fedavg.State]]:
    """Return the measurements of each round, and the state after it."""
    rounds = fedavg.run(chosen, data, state, operations=operations, graphs=graphs)
    return [(measured(done), done.state()) for done in rounds]


def bits(rounds: list[tuple[tuple[object, ...], fedavg.State]]) -> list[Any]:
    """Return every bit of the rounds and their states."""
    return [
        (row, {name: t.numpy().tobytes() for name, t in state.tensors.items()})
        for row, state in rounds
    ]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arm", STACKED, ids=str)
def test_a_stacked_trial_equals_one_of_seq_bit_for_bit(
    arm: dict[str, Any], digits: Dataset
) -> None:
    """With torch's own operations, lane by lane: measurements, models and velocities, over T*."""
    chosen = small(**arm)
    assert bits(trained(chosen, digits, Loop())) == bits(trained(chosen, digits, None))


@pytest.mark.parametrize("algorithm", ["fedadam", "fedyogi"])
def test_an_adaptive_server_is_stacked(algorithm: str, digits: Dataset) -> None:
    """Only the server's step differs from FedAvg's."""
    chosen = small(normalizer="fixbn", freeze_round=2, algorithm=algorithm)
    assert bits(trained(chosen, digits, Loop())) == bits(trained(chosen, digits, None))


def test_clients_of_unequal_epochs_rest_when_they_are_done(digits: Dataset) -> None:
    """A client takes as many steps as its samples fill batches."""
    chosen = small(local_steps=None, local_epochs=1, momentum="local")
    trial = fedavg._Federation(chosen, digits, torch.device("cpu"))
    assert len(set(trial.draws.sampling.steps)) > 1
    assert bits(trained(chosen, digits, Loop())) == bits(trained(chosen, digits, None))


@pytest.mark.parametrize("momentum", ["reset", "local", "global"])
def test_a_stacked_trial_resumes_bit_for_bit(momentum: str, digits: Dataset) -> None:
    """After each round, also over T*."""
    chosen = small(normalizer="fixbn", freeze_round=2, momentum=momentum)
    whole = trained(chosen, digits, Batched())
    for after in range(1, chosen.rounds):
        _, state = whole[after - 1]
        assert bits(trained(chosen, digits, Batched(), state)) == bits(whole[after:])


def test_a_stacked_trial_forks_from_the_trunk_of_bn(digits: Dataset) -> None:
    """FIXBN continues from BN's state at T*."""
    trunk = trained(small(normalizer="bn"), digits, Batched())
    fixed = small(normalizer="fixbn", freeze_round=2)
    whole = trained(fixed, digits, Batched())
    assert bits(trained(fixed, digits, Batched(), trunk[1][1])) == bits(whole[2:])


def test_a_state_of_stacked_training_has_the_layout_of_seq(digits: Dataset) -> None:
    """One snapshot format: the names and shapes of all tensors are equal."""
    chosen = small(momentum="local", server_momentum=0.9)
    (_, ours), (_, others) = (trained(chosen, digits, how)[-1] for how in (Batched(), None))
    shapes = [{n: (t.shape, t.dtype) for n, t in s.tensors.items()} for s in (ours, others)]
    assert shapes[0] == shapes[1]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "arm",
    [
        {"normalizer": "fixbn", "freeze_round": 2, "rounds": 6},
        {"normalizer": "fixbn", "freeze_round": 3, "freeze": "layer", "rounds": 6},
        {"normalizer": "gn", "momentum": "local", "lr_schedule": "cosine"},
        {"local_steps": None, "local_epochs": 1, "momentum": "global"},
    ],
    ids=str,
)
def test_graphs_change_no_bit_of_stacked_training(arm: dict[str, Any], digits: Dataset) -> None:
    """Steps are captured once per phase; rates, steps and resting lanes come from the device."""
    chosen = small(**arm)
    device = FakeCuda()
    captured = trained(chosen, digits, Batched(), graphs=Graphs(device))
    eager = trained(chosen, digits, Batched(), graphs=Graphs(FakeCuda(), capture=False))
    assert bits(captured) == bits(eager)
    assert any(event.startswith("replay") for event in device.events)


def test_a_stacked_trial_that_diverges_says_so(digits: Dataset) -> None:
    """One round suffices at this learning rate."""
    chosen = small(lr=1e30, clip_norm=0.0)
    with pytest.raises(Diverged, match="of round 1|after round 1"):
        trained(chosen, digits, Batched())


@pytest.mark.parametrize("normalizer", KEPT)
def test_clients_that_keep_layers_are_not_stacked(normalizer: str, digits: Dataset) -> None:
    """The engine's choice does not come so far."""
    with pytest.raises(ValueError, match=f"clients keep layers of {normalizer}"):
        trained(small(normalizer=normalizer), digits, Loop())


def tiny(**changes: Any) -> TrainConfig:
    """A trial of twelve local steps, because each takes half a second in the interpreter."""
    few = {"clients": 3, "participation": 0.6, "rounds": 3, "local_steps": 1, "batch_size": 4}
    return small(**{**few, "momentum": "local", **changes})


@pytest.mark.slow  # half a second per local step
def test_a_trial_of_our_kernels_resumes_forks_and_has_no_order(digits: Dataset) -> None:
    """In Triton's interpreter, or on a GPU: bit for bit, and near a trial of seq in float64."""

    def backward(members: Iterable[int]) -> list[int]:
        return sorted(members, reverse=True)

    def run(chosen: TrainConfig, state: fedavg.State | None = None, **how: Any) -> Any:
        fused = Fused(kernels, "ieee")
        rounds = fedavg.run(chosen, digits, state, device=DEVICE, operations=fused, **how)
        return [(measured(done), done.state()) for done in rounds]

    fixed = tiny(normalizer="fixbn", freeze_round=1)
    whole = run(fixed)
    assert bits(run(fixed, whole[1][1])) == bits(whole[2:])
    # Every round of the trunk and of its fork, in the other order.
    trunk = run(tiny(normalizer="bn", rounds=1), visit=backward)
    assert bits(trunk) == bits(whole[:1])
    assert bits(run(fixed, trunk[0][1], visit=backward)) == bits(whole[1:])
    exact = trained(tiny(normalizer="fixbn", freeze_round=1, dtype="float64"), digits, None)
    start = fedavg._Federation(fixed, digits, torch.device("cpu")).server.double()
    wanted, got = (r[-1][1].tensors["server"].double() for r in (exact, whole))
    assert (got - wanted).norm() < 1e-4 * (wanted - start).norm()

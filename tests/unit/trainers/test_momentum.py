"""Momentum across rounds: the identities that a mathematician would ask for, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainers.arms import JOINT, MOMENTA, NORMALIZERS, small
from trainers import fedavg, models
from trainers.config import TrainConfig
from trainers.data import datasets
from trainers.data.batches import Normalize, local_batches
from trainers.data.dataset import Dataset
from trainers.normalizers import set_training
from trainers.numerics import make_deterministic

EVERY_ROUND: dict[str, Any] = {
    "local_steps": 1,
    "participation": 1.0,
    "clip_norm": 0.0,
    "dtype": "float64",
    "partition": "dirichlet-class",
    "min_samples": 20,
    "weight_decay": 0.0,
    "rounds": 6,
}
"""E = 1, the full cohort, unclipped; sizes differ."""

AGGREGATED = [arm for arm in NORMALIZERS if arm["normalizer"] not in ("fedbn", "silobn")]
AGGREGATED += JOINT
UNMIXED = ["gn", "ln", "in", "wn", "none"]
"""Normalizers that never mix samples."""


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


def servers(config: TrainConfig, digits: Dataset) -> list[Tensor]:
    return [r.state().tensors["server"] for r in fedavg.run(config, digits)]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arm", AGGREGATED, ids=str)
def test_local_is_global_where_rounds_have_one_step(arm: dict[str, Any], digits: Dataset) -> None:
    """By linearity, for every normalizer whose layers are averaged."""
    local = servers(small(**EVERY_ROUND, **arm, momentum="local"), digits)
    everyone = servers(small(**EVERY_ROUND, **arm, momentum="global"), digits)
    for one, other in zip(local, everyone, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
    assert not torch.equal(local[0], local[-1])


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arm", AGGREGATED, ids=str)
def test_reset_is_no_momentum_where_rounds_have_one_step(
    arm: dict[str, Any], digits: Dataset
) -> None:
    """Bit for bit; at E = 2 it is not."""
    changes = {**EVERY_ROUND, **arm, "rounds": 3}
    reset, none = (servers(small(**changes, momentum=m), digits) for m in ("reset", "none"))
    assert all(torch.equal(a, b) for a, b in zip(reset, none, strict=True))
    changes["local_steps"] = 2
    reset, none = (servers(small(**changes, momentum=m), digits) for m in ("reset", "none"))
    assert not torch.equal(reset[0], none[0])


def centralized(
    config: TrainConfig, digits: Dataset, start: fedavg.State | None
) -> list[dict[str, Tensor]]:
    """SGD momentum by torch on sum (n_m / N) (mean loss of client m's batch), one step a round."""
    trial = fedavg._Federation(config, digits, torch.device("cpu"))
    model = models.build(config, 1, 8, 10)
    if start is not None:
        model.load_state_dict(trial.vector.named(start.tensors["server"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9)
    if start is not None:
        velocity = trial.vector.named(
            torch.cat([start.tensors["velocity"], trial.server[trial.vector.parameters_end :]])
        )
        for name, parameter in model.named_parameters():
            optimizer.state[parameter]["momentum_buffer"] = velocity[name].clone()
    normalize = Normalize(digits, torch.float64, torch.device("cpu"))
    sizes = np.array([len(samples) for samples in trial.samples])
    assert len(set(sizes)) > 1
    after = []
    for t in range(start.round + 1 if start else 1, config.rounds + 1):
        set_training(model, frozen=config.frozen(t))
        batches = [local_batches(s, config, t, m)[0] for m, s in enumerate(trial.samples)]
        logits = model(normalize(digits.train.images[np.concatenate(batches)]))
        losses = [
            nn.functional.cross_entropy(part, digits.train.labels[batch])
            for part, batch in zip(logits.split([len(b) for b in batches]), batches, strict=True)
        ]
        optimizer.zero_grad()
        sum(n / sizes.sum() * loss for n, loss in zip(sizes, losses, strict=True)).backward()
        optimizer.step()
        after.append({name: value.clone() for name, value in model.state_dict().items()})
    return after


def gap(config: TrainConfig, digits: Dataset, start: fedavg.State | None = None) -> list[float]:
    """How far the federated parameters lie from the centralized, relative to the path so far."""
    trial = fedavg._Federation(config, digits, torch.device("cpu"))
    parameters = [name for name, _ in trial.model.named_parameters()]
    origin = trial.vector.named(trial.server if start is None else start.tensors["server"])
    found = []
    wanted = centralized(config, digits, start)
    for measured, central in zip(fedavg.run(config, digits, start), wanted, strict=True):
        ours = measured.weights()
        apart = sum(float((ours[n] - central[n]).square().sum()) for n in parameters)
        path = sum(float((central[n] - origin[n]).square().sum()) for n in parameters)
        found.append((apart / path) ** 0.5)
    return found


@pytest.mark.one_in(2)
@pytest.mark.parametrize("normalizer", UNMIXED)
@pytest.mark.parametrize("momentum", ["local", "global"])
def test_one_step_rounds_are_centralized_momentum_where_no_samples_mix(
    normalizer: str, momentum: str, digits: Dataset
) -> None:
    """FedAvg at E = 1 is SGD momentum on the weighted loss."""
    config = small(**EVERY_ROUND, normalizer=normalizer, momentum=momentum)
    assert max(gap(config, digits)) < 1e-10


def test_one_step_rounds_are_centralized_momentum_once_fixbn_is_frozen(
    digits: Dataset,
) -> None:
    """From the state after T* = 3, with its velocity; before it, as BN, they are not."""
    config = small(**EVERY_ROUND, normalizer="fixbn", freeze_round=3, momentum="global")
    states = [r.state() for r in fedavg.run(config, digits)]
    assert max(gap(config, digits, states[2])) < 1e-10
    assert gap(config, digits)[0] > 1e-3


@pytest.mark.parametrize("momentum", ["local", "global"])
def test_one_step_rounds_of_bn_are_not_centralized_momentum(momentum: str, digits: Dataset) -> None:
    """On non-IID data each client's batch statistics are its own: a tenth of the path and more."""
    config = small(**EVERY_ROUND, normalizer="bn", momentum=momentum)
    assert min(gap(config, digits)) > 0.1


def test_momentum_is_kept_by_those_who_were_drawn(digits: Dataset) -> None:
    """local: clients not drawn keep their buffer, clients never drawn have none."""
    config = small(momentum="local", rounds=4, participation=0.2, clients=8)
    drawn: set[int] = set()
    before: dict[str, Tensor] = {}
    for measured in fedavg.run(config, digits):
        now = set(fedavg.cohort(config, 8, measured.round))
        drawn |= now
        state = measured.state().tensors
        kept = {name: v for name, v in state.items() if name.startswith("velocity.")}
        assert set(kept) == {f"velocity.{m}" for m in drawn}
        for name, velocity in before.items():
            moved = not torch.equal(velocity, kept[name])
            assert moved == (int(name.removeprefix("velocity.")) in now)
        before = kept
    assert len(drawn) < 8


def test_velocities_differ_from_one_momentum_to_another(digits: Dataset) -> None:
    """At E > 1 the four kinds are four algorithms."""
    last = {m: servers(small(momentum=m, rounds=3), digits)[-1] for m in MOMENTA}
    for one in MOMENTA:
        for other in MOMENTA:
            assert torch.equal(last[one], last[other]) == (one == other)


def test_server_momentum_follows_its_formula(digits: Dataset) -> None:
    """FedAvgM: u <- beta u + (x - a), x <- x - u, of the parameters; statistics are averaged."""
    changes = {"dtype": "float64", "rounds": 3, "momentum": "none", "participation": 1.0}
    config = small(**changes, server_momentum=0.7)
    trial = fedavg._Federation(config, digits, torch.device("cpu"))
    plain = fedavg._Federation(small(**changes), digits, torch.device("cpu"))
    end = trial.vector.parameters_end
    update = torch.zeros(end, dtype=torch.float64)
    for t in (1, 2, 3):
        before = trial.server.clone()
        plain.server.copy_(before)
        plain.train(t, sorted)  # its result is the average
        trial.train(t, sorted)
        update = 0.7 * update + before[:end] - plain.server[:end]
        assert torch.allclose(trial.server[:end], before[:end] - update, atol=1e-14)
        assert torch.equal(trial.server[end:], plain.server[end:])


def test_the_bytes_that_travel_are_counted(digits: Dataset) -> None:
    """Elements times four bytes times the cohort of three, each way."""

    def sent(**changes: Any) -> tuple[int, int]:
        first = next(fedavg.run(small(rounds=1, **changes), digits))
        return first.bytes_up // 12, first.bytes_down // 12

    weights, affine, statistics = 288 + 18432 + 2560 + 10, 2 * 96, 2 * 96
    assert sent() == (weights + affine + statistics,) * 2
    assert sent(normalizer="fixbn", freeze_round=0) == sent()
    assert sent(normalizer="gn") == (weights + affine,) * 2
    assert sent(normalizer="none") == (weights + 96,) * 2
    assert sent(normalizer="silobn") == (weights + affine,) * 2
    assert sent(normalizer="fedbn") == (weights,) * 2
    assert sent(momentum="global") == (2 * (weights + affine) + statistics,) * 2
    assert sent(momentum="global", normalizer="fedbn") == (2 * weights,) * 2
    assert sent(momentum="local") == sent()
    assert sent(centralized=True) == (0, 0)


def test_ten_registered_clients_or_ten_thousand(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, given that the ten drawn hold the same samples: nobody else leaves a trace."""
    hands = np.array_split(np.arange(1437), 10)

    def run(clients: int, share: float) -> list[Any]:
        others = [np.array([m % 1437]) for m in range(clients - 10)]
        monkeypatch.setattr(fedavg, "partition", lambda *_: [*hands, *others])
        monkeypatch.setattr(fedavg, "cohort", lambda *_: list(range(10)))
        config = small(
            dataset="imagefolder", augment=False, clients=clients, participation=share, rounds=3,
            momentum="local",
        )  # fmt: skip
        return [
            (r.train_loss, r.test_loss, r.test_accuracy, r.bytes_up,
             {name: t.numpy().tobytes() for name, t in r.state().tensors.items()})
            for r in fedavg.run(config, digits)
        ]  # fmt: skip

    assert run(10, 1.0) == run(10_000, 0.001)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ({"lr_schedule": "constant"}, [0.05, 0.05, 0.05, 0.05]),
        ({"lr_schedule": "cosine"}, [0.05, 0.0426776695, 0.025, 0.0073223305]),
        ({"lr_schedule": "step", "lr_step": 2, "lr_gamma": 0.5}, [0.05, 0.05, 0.025, 0.025]),
    ],
)
def test_learning_rates_follow_their_schedule(
    schedule: dict[str, Any], wanted: list[float]
) -> None:
    """The learning rates of a trial of four rounds follow its schedule."""
    config = small(rounds=4, **schedule)
    assert [config.lr_in(t) for t in (1, 2, 3, 4)] == pytest.approx(wanted, rel=1e-8)

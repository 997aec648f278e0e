"""FBN and HBN: batch normalization with the server's statistics, against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.trainers.arms import small
from trainers import fedavg
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.normalizers import FederatedBatchNorm, HybridBatchNorm

EPS = 1e-5


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.load("digits")


def images(seed: int, batch: int = 6) -> Tensor:
    """Activations [B, 3, 4, 5] whose channels differ, in float64."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 3, 4, 5, generator=draw, dtype=torch.float64)
    return (
        x * torch.tensor([1.0, 2.0, 0.5])[:, None, None]
        + torch.tensor([0.0, 3.0, -1.0])[:, None, None]
    )


def test_fbn_normalizes_with_the_server_s_statistics_as_constants() -> None:
    """A batch changes neither its own output nor the statistics of the round."""
    layer = FederatedBatchNorm(3).double()
    layer.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    layer.running_var.copy_(torch.tensor([4.0, 0.25, 1.0]))
    x = images(0)
    mean, variance = layer.running_mean.clone(), layer.running_var.clone()
    wanted = (x - mean[:, None, None]) / (variance + EPS).sqrt()[:, None, None]
    torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x[:1]), wanted[:1], rtol=1e-12, atol=1e-12)
    assert torch.equal(layer.running_mean, mean)
    assert torch.equal(layer.running_var, variance)


def test_fbn_moves_its_statistics_by_a_tenth_towards_those_of_all_batches() -> None:
    """The variance includes the one between batches. Test batches do not count."""
    layer = FederatedBatchNorm(3).double()
    batches = [images(seed) + seed for seed in range(4)]
    for batch in batches:
        layer(batch)
    layer.eval()
    layer(images(9) * 100)
    layer.end_round()
    everything = torch.cat(batches)
    mean, variance = everything.mean((0, 2, 3)), everything.var((0, 2, 3), correction=0)
    torch.testing.assert_close(layer.running_mean, 0.1 * mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * variance, rtol=1e-12, atol=1e-12)
    assert (layer.batches == 0).all()
    assert (layer.sum_of_means == 0).all()


def test_fbn_s_statistics_are_those_of_all_clients(digits: Dataset) -> None:
    """The first layer sees the images. Its statistics follow from the drawn batches alone."""
    chosen = small(normalizer="fbn", rounds=1, participation=1.0, dtype="float64", lr=1e-9)
    (measured,) = fedavg.run(chosen, digits)
    moved = measured.weights()["norm1.running_var"]
    assert (moved != 1).any()
    assert ((moved - 0.9) > 0).all()  # a tenth of a variance


@pytest.mark.parametrize("mix", [-30.0, 0.0, 30.0])
def test_hbn_mixes_the_statistics_of_the_batch_and_of_the_server(mix: float) -> None:
    """At the ends of its range it is BN with constants, and plain BN."""
    layer = HybridBatchNorm(3).double()
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    layer.running_var.copy_(torch.tensor([4.0, 0.25, 1.0]))
    layer.begin_round()
    mean, variance = layer.running_mean.clone(), layer.running_var.clone()
    layer.mix.data.fill_(mix)
    x, part = images(1), torch.tensor(mix, dtype=torch.float64).sigmoid()
    mean = (1 - part) * mean + part * x.mean((0, 2, 3))
    variance = (1 - part) * variance + part * x.var((0, 2, 3), correction=0)
    wanted = (x - mean[:, None, None]) / (variance + EPS).sqrt()[:, None, None]
    torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-12)  # constants in a round


def test_hbn_s_gradient_is_that_of_its_formula() -> None:
    """The batch's statistics depend on the activations, the server's do not."""
    layer = HybridBatchNorm(3).double()
    layer.begin_round()
    layer.mix.data.copy_(torch.tensor([-1.0, 0.0, 2.0]))

    def forward(x: Tensor, scale: Tensor, shift: Tensor, mix: Tensor) -> Tensor:
        parameters = {"weight": scale, "bias": shift, "mix": mix}
        result: Tensor = torch.func.functional_call(layer, parameters, (x,))
        return result

    leaves = (images(2, batch=3), *(p.detach().clone() for p in layer.parameters()))
    assert torch.autograd.gradcheck(forward, [leaf.requires_grad_() for leaf in leaves])


def test_hbn_s_running_statistics_are_those_of_bn() -> None:
    """Torch's own, with the unbiased variance. The mixture does not change them."""
    layer, plain = HybridBatchNorm(3).double(), torch.nn.BatchNorm2d(3).double()
    layer.begin_round()
    for seed in range(3):
        layer(images(seed))
        plain(images(seed))
    for name in ("running_mean", "running_var"):
        ours, theirs = getattr(layer, name), getattr(plain, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("momentum", ["reset", "global"])
def test_each_client_keeps_its_own_mix(momentum: str, digits: Dataset) -> None:
    """The server's stays at its first value, and is not sent. A resumed trial goes on with them."""
    chosen = small(normalizer="hbn", momentum=momentum)
    rounds = [(r.weights(), r.state(), r) for r in fedavg.run(chosen, digits)]
    weights, _, last = rounds[-1]
    assert (weights["norm1.mix"] == 0).all()
    own = {name: value for name, value in weights.items() if name.endswith("norm1.mix")}
    assert len(own) > 1 + 3  # more clients than one cohort
    values = [tuple(value.tolist()) for value in own.values()]
    assert len(set(values)) == len(values)
    bn = next(iter(fedavg.run(small(momentum=momentum), digits)))
    assert last.bytes_up == bn.bytes_up
    resumed = list(fedavg.run(chosen, digits, rounds[1][1]))
    again = resumed[-1].state().tensors
    assert again.keys() == rounds[-1][1].tensors.keys()
    for name, value in rounds[-1][1].tensors.items():
        assert torch.equal(value, again[name]), name


def test_clients_with_their_own_mix_are_tested_each(digits: Dataset) -> None:
    """There is no common model, as with FedBN."""
    changes: dict[str, Any] = {"normalizer": "hbn", "client_accuracy": True, "rounds": 1}
    (measured,) = fedavg.run(small(**changes), digits)
    assert len(measured.clients) == 3

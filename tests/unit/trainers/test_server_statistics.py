"""FBN and HBN: batch normalization with the server's statistics, against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.trainers.arms import small
from trainers import fedavg, models
from trainers.data import batches, datasets
from trainers.data.dataset import Dataset
from trainers.gathered import pooled
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
    layer.mix.data.copy_(torch.tensor([-1.0, 0.0, 2.0]))

    def forward(x: Tensor, scale: Tensor, shift: Tensor, mix: Tensor) -> Tensor:
        parameters = {"weight": scale, "bias": shift, "mix": mix}
        result: Tensor = torch.func.functional_call(layer, parameters, (x,))
        return result

    leaves = (images(2, batch=3), *(p.detach().clone() for p in layer.parameters()))
    assert torch.autograd.gradcheck(forward, [leaf.requires_grad_() for leaf in leaves])


def test_hbn_s_constants_stay_in_training() -> None:
    """There is no running average. A batch of one value per channel has the constants alone."""
    layer = HybridBatchNorm(3).double()
    noted: list[object] = []
    layer.note = lambda *statistics: noted.append(statistics)
    layer(images(0))
    assert len(noted) == 1
    pixel = images(1)[:1, :, :1, :1]
    torch.testing.assert_close(layer(pixel), pixel / (1 + EPS) ** 0.5)
    assert len(noted) == 1
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert (layer.running_mean == 0).all()
    assert (layer.running_var == 1).all()


def test_the_pooled_statistics_follow_their_formula() -> None:
    """Two clients of 3 and 1 samples, by hand: M = (3 * 2 + 6) / 4 and V over N - 1."""
    statistics = ([2.0], [1.0]), ([6.0], [5.0])
    clients = [[torch.tensor(mean), torch.tensor(variance)] for mean, variance in statistics]
    mean, variance = pooled(clients, [3, 1])
    assert mean.tolist() == [3.0]
    assert variance.tolist() == pytest.approx([(3 * 1 + 5 + 3 * 1 + 9) / 3])
    _, alone = pooled(clients[1:], [1])
    assert alone.tolist() == [5.0]  # the divisor is never 0


def mixed_by_hand(trial: fedavg._Federation, members: list[int], server: Tensor) -> list[Tensor]:
    """Return M and V of the first layer, whose input follows from the images alone."""
    named = trial.vector.named(server)
    total: list[tuple[int, Tensor, Tensor]] = []
    for m in members:
        batch = torch.from_numpy(trial.samples[m][:64])
        x = trial.local.normalize(trial.data.train.images[batch])
        x = torch.nn.functional.conv2d(x, named["conv1.weight"], padding=1)
        own = trial.mix.values.get(m)
        a = torch.full((32,), 0.5).double() if own is None else own[:32].sigmoid()
        mean = (1 - a) * named["norm1.running_mean"] + a * x.mean((0, 2, 3))
        variance = (1 - a) * named["norm1.running_var"] + a * x.var((0, 2, 3), correction=0)
        total.append((len(batch), mean, variance))
    samples = sum(n for n, _, _ in total)
    m_ = torch.stack([n * mean for n, mean, _ in total]).sum(0) / samples
    square = torch.stack([n * v + n * (mean - m_) ** 2 for n, mean, v in total]).sum(0)
    return [m_, square / (samples - 1)]


def test_hbn_s_statistics_are_gathered_before_the_steps_and_for_the_test(digits: Dataset) -> None:
    """The constants move by 0.002. The test has the statistics of the new average, at rate 1.

    Clients have fewer and more than 64 samples.
    """
    chosen = small(
        normalizer="hbn", dtype="float64", partition="dirichlet-class", alpha=0.5, clients=15,
        participation=1.0, rounds=3,
    )  # fmt: skip
    trial = fedavg._Federation(chosen, digits, torch.device("cpu"))
    sizes = [len(samples) for samples in trial.samples]
    assert min(sizes) < 64 < max(sizes)
    members = list(range(15))
    for number in (1, 2, 3):
        before = trial.server.clone()
        wanted = mixed_by_hand(trial, members, before)
        measured = trial.evaluate(trial.train(number, sorted))
        old, new = (trial.gathered.views(values)[:2] for values in (before, trial.server))
        for start, end, moment in zip(old, new, wanted, strict=True):
            torch.testing.assert_close(end, 0.998 * start + 0.002 * moment, rtol=1e-12, atol=1e-12)
        weights = measured.weights()
        tested = [weights["norm1.running_mean"], weights["norm1.running_var"]]
        for ours, by_hand in zip(tested, mixed_by_hand(trial, members, trial.server), strict=True):
            torch.testing.assert_close(ours, by_hand, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("evaluate_every", [1, 4])
def test_hbn_s_exported_model_is_the_tested_one(evaluate_every: int, digits: Dataset) -> None:
    """A plain model with these weights has the accuracy of the round. Asking twice, or in rounds
    without a test, changes nothing that is trained.
    """
    chosen = small(normalizer="hbn", evaluate_every=evaluate_every)
    states = []
    for measured in fedavg.run(chosen, digits):
        first, second = measured.weights(), measured.weights()
        assert all(torch.equal(first[name], second[name]) for name in first)
        states.append(measured.state().tensors)
    model = models.build(chosen, 1, 8, 10).to(memory_format=torch.channels_last).eval()
    model.load_state_dict({n: t for n, t in first.items() if not n.startswith("clients.")})
    normalize = batches.Normalize(digits, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        guesses = model(normalize(digits.test.images)).argmax(1)
    assert measured.test_accuracy == (guesses == digits.test.labels).sum().item() / 360
    for asked, plain in zip(states, fedavg.run(chosen, digits), strict=True):
        unasked = plain.state().tensors
        assert all(torch.equal(asked[name], unasked[name]) for name in unasked)


def test_hbn_sends_two_statistics_and_a_number_per_layer(digits: Dataset) -> None:
    """Per layer of C channels, 2 C + 1 elements up and 2 C down, for each of three clients."""
    hbn, bn = (next(fedavg.run(small(normalizer=name), digits)) for name in ("hbn", "bn"))
    assert hbn.bytes_down == bn.bytes_down
    assert hbn.bytes_up == bn.bytes_up + 3 * 4 * 2


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
    assert last.bytes_down == bn.bytes_down
    resumed = list(fedavg.run(chosen, digits, rounds[1][1]))
    again = resumed[-1].state().tensors
    assert again.keys() == rounds[-1][1].tensors.keys()
    for name, value in rounds[-1][1].tensors.items():
        assert torch.equal(value, again[name]), name


def test_clients_with_their_own_mix_have_a_common_test(digits: Dataset) -> None:
    """The test depends on no client's mixture. All clients are scored by the server's model."""
    changes: dict[str, Any] = {"normalizer": "hbn", "client_accuracy": True, "rounds": 1}
    (measured,) = fedavg.run(small(**changes), digits)
    assert len(measured.clients) == 5

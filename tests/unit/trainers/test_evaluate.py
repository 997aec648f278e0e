"""Measurements on the test set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.trainers.arms import small
from trainers import evaluate, fedavg
from trainers.data import batches, datasets
from trainers.data.dataset import Dataset
from trainers.numerics import make_deterministic

ROAD: dict[str, Any] = {
    "dataset": "camvid", "model": "deeplabv3plus", "partition": "natural", "participation": 1.0,
    "batch_size": 2, "augment": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


class Told(nn.Module):
    """A model that returns given predictions for any input."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.answers = logits
        self.at = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.at += len(x)
        return self.answers[self.at - len(x) : self.at]


def test_pixels_are_scored_without_the_void(scenes: Dataset) -> None:
    """Loss, accuracy and mean IoU against their definitions in plain numpy."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 32, 48, generator=draw)
    normalize = batches.Normalize(scenes, torch.float32, torch.device("cpu"))
    got = evaluate.Evaluation(Told(logits), scenes.test, 5, normalize).score()

    labels, guess = scenes.test.labels.numpy(), logits.argmax(1).numpy()
    seen = labels != 255
    assert got.accuracy == pytest.approx((labels == guess)[seen].mean(), rel=1e-12)
    ious = [
        ((labels == c) & (guess == c))[seen].sum() / ((labels == c) | (guess == c))[seen].sum()
        for c in range(5)
    ]
    assert got.miou == pytest.approx(np.mean(ious), rel=1e-6)
    log_p = logits.double().log_softmax(1).permute(0, 2, 3, 1).numpy()
    wanted = -np.take_along_axis(log_p[seen], labels[seen][:, None].astype(int), 1).mean()
    assert got.loss == pytest.approx(wanted, rel=1e-6)
    assert got.confusion.sum() == seen.sum()


def test_evaluation_batches_depend_on_the_images_size_alone() -> None:
    """At most 500 images and 512,000 pixels; at least one image."""
    sizes = [(8, 8), (32, 32), (64, 64), (256, 336), (1024, 2048)]
    assert [evaluate.batch_size(*size) for size in sizes] == [500, 500, 125, 5, 1]


def test_a_client_s_accuracy_is_that_on_its_own_class_mix() -> None:
    """Recalls 0.5, 0.9 and 0.2; three quarters class 0 and a quarter class 1: 0.6."""
    confusion = torch.tensor([[5, 5, 0], [1, 9, 0], [4, 4, 2]])
    assert evaluate.client_accuracy(confusion, np.array([30, 10, 0])) == pytest.approx(0.6)
    assert evaluate.client_accuracy(confusion, np.array([1, 1, 1])) == pytest.approx(16 / 30)


def test_classes_that_are_not_tested_are_left_out() -> None:
    """Their share goes to the others; a client with no tested class has no accuracy."""
    confusion = torch.tensor([[5, 5], [0, 0]])
    assert evaluate.client_accuracy(confusion, np.array([3, 7])) == pytest.approx(0.5)
    assert evaluate.client_accuracy(confusion, np.array([0, 7])) is None


def test_clients_are_tested_on_request(digits: Dataset) -> None:
    """All five, each on its class mix; the mean and the worst of them; nothing else changes."""
    with_ = list(fedavg.run(small(client_accuracy=True), digits))
    without = list(fedavg.run(small(), digits))
    for one, other in zip(with_, without, strict=True):
        assert one.test_accuracy == other.test_accuracy
        assert other.clients == ()
        assert other.worst_client_accuracy is None
        accuracies = [c.test_accuracy for c in one.clients]
        assert [c.client for c in one.clients] == [0, 1, 2, 3, 4]
        assert one.worst_client_accuracy == min(accuracies)
        assert one.mean_client_accuracy == pytest.approx(np.mean(accuracies))
        assert min(accuracies) < max(accuracies)


def test_a_client_of_all_classes_has_the_test_accuracy(digits: Dataset) -> None:
    """A single client is one, but for the shares of the classes' counts; centralized training has
    no clients.
    """
    alone = {"clients": 1, "participation": 1.0, "client_accuracy": True, "rounds": 1}
    one = next(fedavg.run(small(**alone), digits))
    assert one.clients[0].test_accuracy == pytest.approx(one.test_accuracy, abs=0.003)
    assert next(fedavg.run(small(**alone, centralized=True), digits)).clients == ()


@pytest.mark.parametrize("normalizer", ["fedbn", "silobn"])
def test_clients_with_layers_of_their_own_are_tested_one_by_one(
    normalizer: str, digits: Dataset
) -> None:
    """Each of the round's cohort on the whole test set, weighed by training samples."""
    config = small(
        normalizer=normalizer, client_accuracy=True, partition="dirichlet-class", validation=0.2
    )
    trial = fedavg._Federation(config, digits, torch.device("cpu"))
    for t in (1, 2):
        measured = trial.train(t, sorted)
    got = trial.evaluate(measured)
    drawn = trial.drawn(2)
    assert len(set(drawn.weights)) > 1
    accuracies, losses, held = [], [], []
    for m in drawn.members:
        # By hand: the server's vector with the client's tail.
        trial.vector.values.copy_(trial.server)
        trial.vector.values[trial.shared :].copy_(trial.own[m])
        trial.model.eval()
        normalize = trial.local.normalize
        for split, into in ((digits.test, accuracies), (trial.validation, held)):
            with torch.no_grad():
                logits = trial.model(normalize(split.images))
            into.append(float((logits.argmax(1) == split.labels).float().mean()))
            if into is accuracies:
                losses.append(float(nn.functional.cross_entropy(logits, split.labels)))
    assert len(set(accuracies)) > 1
    assert got.test_accuracy == pytest.approx(np.dot(drawn.weights, accuracies), rel=1e-6)
    assert got.validation_accuracy == pytest.approx(np.dot(drawn.weights, held), rel=1e-6)
    assert got.test_loss == pytest.approx(np.dot(drawn.weights, losses), rel=1e-4)
    assert [c.client for c in got.clients] == drawn.members


@pytest.mark.slow
def test_segmentation_learns_from_natural_clients(scenes: Dataset) -> None:
    """Three drives, four rounds under GN: the loss falls, accuracy and mean IoU rise by half."""
    config = small(
        **ROAD, normalizer="gn", rounds=4, local_steps=4, lr=0.1, momentum="global", clip_norm=1.0
    )
    rounds = list(fedavg.run(config, scenes))
    first, last = rounds[0], rounds[-1]
    assert last.train_loss < 0.8 * first.train_loss
    assert (last.test_miou or 0) > 1.5 * (first.test_miou or 1)
    assert (last.test_accuracy or 0) > 1.5 * (first.test_accuracy or 1)


def test_dropout_is_keyed(scenes: Dataset) -> None:
    """DeepLabv3+ drops half of its maps: equal twice, and resumed as if it had never stopped."""
    changes = {"augment": True, "rounds": 2, "local_steps": 2, "participation": 0.4}
    config = small(**{**ROAD, **changes})
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append([r.state() for r in fedavg.run(config, scenes)])
    one, other = states
    assert torch.equal(one[1].tensors["server"], other[1].tensors["server"])
    again = next(fedavg.run(config, scenes, one[0])).state()
    assert torch.equal(again.tensors["server"], one[1].tensors["server"])


def test_a_batch_of_void_pixels_alone_teaches_nothing(scenes: Dataset) -> None:
    """Its loss is zero, not a division by zero."""
    trial = fedavg._Federation(small(**ROAD), scenes, torch.device("cpu"))
    logits = torch.randn(1, 5, 32, 48)
    void = torch.full((1, 32, 48), 255, dtype=torch.uint8)
    assert float(trial.local.loss(logits, void)) == 0

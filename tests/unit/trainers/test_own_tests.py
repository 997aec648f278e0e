"""Clients that are tested on their own test images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.array_files import make_leaf, save_npz
from tests.unit.trainers.arms import config
from trainers import fedavg, seq
from trainers.config import TrainConfig
from trainers.data.dataset import Dataset
from trainers.evaluate import OwnTests, own_accuracies, worst_tenth

NATURAL: dict[str, Any] = {
    "dataset": "arrays",
    "file": "a.npz",
    "partition": "natural",
    "alpha": None,
    "clients": None,
    "client_accuracy": True,
    "batch_size": 4,
    "rounds": 2,
    "local_steps": 2,
    "augment": False,
}
OWN = ("mean_own_accuracy", "weighted_own_accuracy", "decile_own_accuracy", "worst_own_accuracy")


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """The folder of a file whose clients have 6, 3 and 3 test images."""
    save_npz(tmp_path / "a.npz")
    return tmp_path


def last_round(chosen: TrainConfig, data: Dataset) -> tuple[fedavg.Round, dict[str, torch.Tensor]]:
    """Train a trial. Return its last round, and the model after it."""
    *_, last = fedavg.run(chosen, data)
    return last, last.weights()


def right_answers(
    chosen: TrainConfig, data: Dataset, weights: dict[str, torch.Tensor]
) -> list[bool]:
    """Test each image on its own with a model of the same weights."""
    from trainers import models
    from trainers.data.batches import Normalize

    model = models.build(chosen, data.channels, data.size, data.classes)
    model.load_state_dict(weights)
    model.eval()
    normalize = Normalize(data, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        logits = [model(normalize(image[None])) for image in data.test.images]
    return [int(x.argmax()) == y for x, y in zip(logits, data.test.labels.tolist(), strict=True)]


def test_each_client_is_tested_on_its_own_images(arrays: Path) -> None:
    """One pass tests them all. Each number agrees with a count by hand."""
    chosen = config(**NATURAL)
    data = seq.load(chosen, arrays)
    assert data.test_members is not None
    last, weights = last_round(chosen, data)
    right = np.array(right_answers(chosen, data, weights))
    by_hand = [right[data.test_members == m].mean() for m in range(3)]
    assert [c.own_samples for c in last.clients] == [6, 3, 3]
    assert [c.own_accuracy for c in last.clients] == pytest.approx(by_hand)
    assert last.mean_own_accuracy == pytest.approx(np.mean(by_hand))
    assert last.weighted_own_accuracy == pytest.approx(right.mean()) == last.test_accuracy
    assert last.decile_own_accuracy == last.worst_own_accuracy == min(by_hand)


def test_numbers_that_were_measured_before_stay_the_same(arrays: Path) -> None:
    """The clients' own tests add measurements, and change none."""
    chosen = config(**NATURAL)
    data = seq.load(chosen, arrays)
    without = seq.load(chosen.model_copy(update={"client_accuracy": False}), arrays)
    tested, _ = last_round(chosen, data)
    plain, _ = last_round(chosen.model_copy(update={"client_accuracy": False}), without)
    assert (tested.train_loss, tested.test_loss) == (plain.train_loss, plain.test_loss)
    assert plain.clients == ()
    assert [getattr(plain, name) for name in OWN] == [None] * 4


def test_a_client_with_layers_of_its_own_is_tested_with_them(arrays: Path) -> None:
    """With FedBN, each client of the cohort has its own model."""
    chosen = config(**NATURAL, normalizer="fedbn")
    data = seq.load(chosen, arrays)
    last, weights = last_round(chosen, data)
    assert data.test_members is not None
    for client in last.clients:
        own = {
            name: weights.get(f"clients.{client.client}.{name}", tensor)
            for name, tensor in weights.items()
            if not name.startswith("clients.")
        }
        right = np.array(right_answers(chosen, data, own))[data.test_members == client.client]
        assert client.own_accuracy == pytest.approx(right.mean())


@pytest.mark.parametrize(
    "changes",
    [
        {"partition": "iid", "clients": 3},
        {"centralized": True, "clients": 3},
        {"file": "shared.npz"},
    ],
)
def test_clients_without_test_images_of_their_own_have_no_such_accuracy(
    changes: dict[str, Any], arrays: Path
) -> None:
    """Another partition gives the test images to nobody."""
    save_npz(arrays / "shared.npz", test_clients=None)
    chosen = config(**{**NATURAL, **changes})
    last, _ = last_round(chosen, seq.load(chosen, arrays))
    assert [getattr(last, name) for name in OWN] == [None] * 4
    assert all(client.own_accuracy is None for client in last.clients)


def test_a_client_without_test_images_does_not_count(arrays: Path) -> None:
    """The others' mean is that of the others."""
    save_npz(arrays / "a.npz", test_clients=np.array([0, 1] * 6))
    chosen = config(**NATURAL)
    last, _ = last_round(chosen, seq.load(chosen, arrays))
    assert [c.own_samples for c in last.clients] == [6, 6, 0]
    accuracies = [c.own_accuracy for c in last.clients]
    assert accuracies[2] is None
    assert last.mean_own_accuracy == pytest.approx(sum(a for a in accuracies if a is not None) / 2)


def test_writers_of_femnist_are_tested(tmp_path: Path) -> None:
    """Each has two test images."""
    changes = {**NATURAL, "dataset": "femnist", "file": None, "augment": None}
    chosen = config(**changes)
    last, _ = last_round(chosen, seq.load(chosen, make_leaf(tmp_path)))
    assert [(c.client, c.samples, c.own_samples) for c in last.clients] == [
        (0, 4, 2),
        (1, 2, 2),
        (2, 3, 2),
    ]


def test_the_means_of_own_accuracies_are_those_of_the_formulas() -> None:
    """The worst tenth is rounded up to whole clients. A client without tests is left out."""
    scores = [(k / 20, k + 1) for k in range(20)] + [(None, 0)]
    found = own_accuracies(scores)
    assert found["mean_own_accuracy"] == pytest.approx(9.5 / 20)
    weighted = sum(k / 20 * (k + 1) for k in range(20)) / sum(range(1, 21))
    assert found["weighted_own_accuracy"] == pytest.approx(weighted)
    assert found["decile_own_accuracy"] == pytest.approx((0 + 1 / 20) / 2)
    assert found["worst_own_accuracy"] == 0
    assert own_accuracies([(None, 0)]) == {}
    assert worst_tenth([0.4, 0.2, 0.9]) == 0.2
    assert math.isclose(worst_tenth([k / 11 for k in range(11)]), 0.5 / 11)


def test_predictions_are_counted_by_client() -> None:
    tests = OwnTests(torch.tensor([0, 1, 1, 2]), np.array([1, 0, 1, 1]), clients=3)
    assert tests.samples == [1, 3, 0]
    assert tests.accuracies(torch.tensor([0, 0, 1, 1], dtype=torch.uint8)) == [0.0, 2 / 3, None]

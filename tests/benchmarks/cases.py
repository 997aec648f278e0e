"""The trials of the engine and of its peers: the same model, data and batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from trainers import models
from trainers.config import TrainConfig
from trainers.data import datasets
from trainers.data.dataset import Dataset, assemble

CLIENTS = 10
RESNET: dict[str, Any] = {"dataset": "cifar10", "model": "resnet20", "augment": False}
CASES: dict[str, dict[str, Any]] = {
    "resnet20-e1": RESNET | {"local_steps": 1},
    "resnet20-e20": RESNET | {"local_steps": 20},
    "cnn-e5": {"dataset": "digits", "model": "cnn", "local_steps": 5},
}


def configured(case: str, **changes: Any) -> TrainConfig:
    """Return the trial that the engine and its peers train."""
    fields = {
        "normalizer": "bn", "partition": "iid", "clients": CLIENTS, "rounds": 10**6,
        "batch_size": 20, "lr": 0.01,
    }  # fmt: skip
    return TrainConfig(**{**fields, **CASES[case], **changes})


def random_images(count: int = 4000, side: int = 32) -> Dataset:
    """Return random color images of ten classes. The first hundred are the test set."""
    draw = np.random.RandomState(0)
    images = draw.randint(0, 256, (count, side, side, 3), dtype=np.uint8)
    labels = draw.randint(0, 10, count)
    train, test = (images, labels), (images[:100], labels[:100])
    return assemble(train, test, classes=10, mean=(125.0,) * 3, std=(62.0,) * 3)


def dataset(case: str) -> Dataset:
    """Return the data of a case."""
    return datasets.load("digits") if CASES[case]["dataset"] == "digits" else random_images()


def built(config: TrainConfig, made: Dataset) -> nn.Module:
    """Return the model with the seed's weights."""
    return models.build(config, made.channels, made.size, made.classes)

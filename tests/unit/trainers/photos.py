"""A data set of a few small color images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.unit.trainers.arms import config
from trainers.config import TrainConfig
from trainers.data.dataset import Dataset, Split

SIDE, CLASSES = 8, 4


def few_photos(side: int = SIDE) -> Dataset:
    """Return 24 training and 4 test images of random pixels, in four classes."""
    draw = np.random.RandomState(0)

    def split(count: int) -> Split:
        images = draw.randint(0, 256, (count, side, side, 3)).astype(np.uint8)
        return Split(torch.from_numpy(images), torch.arange(count) % CLASSES)

    return Dataset(split(24), split(4), CLASSES, (120.0,) * 3, (60.0,) * 3, "0" * 32)


def on_photos(**changes: Any) -> TrainConfig:
    """Return a trial of two clients with few steps on these images."""
    few = {"clients": 2, "rounds": 2, "local_steps": 1, "batch_size": 4, "alpha": 5.0}
    return config(**few | changes)

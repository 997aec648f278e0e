"""Batches of training samples, cropped and flipped."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.config import TrainConfig
from trainers.data.dataset import Dataset
from trainers.keys import keyed


class Normalize:
    """(x - mean) / std per channel: uint8 [B, H, W, C] to dtype [B, C, H, W], channels last."""

    def __init__(self, data: Dataset, dtype: torch.dtype, device: torch.device) -> None:
        self.mean = torch.tensor(data.mean, dtype=torch.float64).to(dtype).to(device)
        self.scale = (1 / torch.tensor(data.std, dtype=torch.float64)).to(dtype).to(device)
        self.dtype = dtype

    def __call__(self, images: Tensor) -> Tensor:
        """Normalize a batch."""
        return images.to(self.dtype).sub_(self.mean).mul_(self.scale).permute(0, 3, 1, 2)


def epoch_batches(
    samples: NDArray[np.int64], batch_size: int, draw: np.random.RandomState
) -> NDArray[np.int64]:
    """Permute the samples for one local epoch, and cut them into whole batches [steps, B].

    A last partial batch is dropped unless it is the only one.
    """
    order = samples[draw.permutation(len(samples))]
    size = min(batch_size, len(order))
    return order[: len(order) // size * size].reshape(-1, size)


def local_batches(
    samples: NDArray[np.int64], config: TrainConfig, round: int, client: int
) -> NDArray[np.int64]:
    """Return the sample indices [E, B] of a client's local steps in a round, epoch after epoch.

    B is the batch size, or the number of samples if the client has fewer.
    """
    steps, taken = config.steps(len(samples)), 0
    epochs: list[NDArray[np.int64]] = []
    while taken < steps:
        draw = keyed(config.seed, "batches", round, client, len(epochs))
        epochs.append(epoch_batches(samples, config.batch_size, draw)[: steps - taken])
        taken += len(epochs[-1])
    return np.concatenate(epochs)


def draw_crops(
    count: int, height: int, width: int, draws: Iterable[np.random.RandomState]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows [steps, B, height] and columns [steps, B, width] that crop and flip padded images.

    Random crop after padding all four sides by an eighth of the shorter, and horizontal flip;
    four pixels at 32x32, as He et al. 2016 do for CIFAR. One generator a step.
    """
    pad, down, across = _padding(height, width), np.arange(height), np.arange(width)
    rows, columns = [], []
    for draw in draws:
        offset = draw.randint(0, 2 * pad + 1, (2, count, 1))
        flip = draw.randint(0, 2, (count, 1))
        rows.append(offset[0] + down)
        columns.append(offset[1] + np.where(flip == 1, width - 1 - across, across))
    return np.stack(rows), np.stack(columns)


def crop_and_flip(images: Tensor, rows: Tensor, columns: Tensor, fill: int = 0) -> Tensor:
    """Take rows [B, H] and columns [B, W] of uint8 images [B, H, W, C], padded with `fill`.

    Label images [B, H, W], filled with VOID, move along.
    """
    pad = _padding(images.shape[1], images.shape[2])
    channels = (0, 0) if images.dim() == 4 else ()
    padded = torch.nn.functional.pad(images, (*channels, pad, pad, pad, pad), value=fill)
    at = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[at, rows[:, :, None], columns[:, None, :]]


def _padding(height: int, width: int) -> int:
    return min(height, width) // 8

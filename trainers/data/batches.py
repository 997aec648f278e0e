"""Batches of training samples, cropped and flipped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers import draws
from trainers.config import TrainConfig
from trainers.data.dataset import Dataset
from trainers.draws import Sampling


class Normalize:
    """(x - mean) / std per channel: uint8 [B, H, W, C] to dtype [B, C, H, W], channels last."""

    def __init__(self, data: Dataset, dtype: torch.dtype, device: torch.device) -> None:
        self.mean = torch.tensor(data.mean, dtype=torch.float64).to(dtype).to(device)
        self.scale = (1 / torch.tensor(data.std, dtype=torch.float64)).to(dtype).to(device)
        self.dtype = dtype

    def __call__(self, images: Tensor) -> Tensor:
        """Normalize a batch."""
        return images.to(self.dtype).sub_(self.mean).mul_(self.scale).permute(0, 3, 1, 2)


def sampling(config: TrainConfig, data: Dataset, samples: Sequence[NDArray[np.int64]]) -> Sampling:
    """Return everything that the draws of a trial depend on. `samples` are those of each client."""
    return Sampling(
        seed=config.seed,
        cohort=config.cohort_size(len(samples)),
        batch_size=config.batch_size,
        padding=draws.padding(data.height, data.width) if config.augment else None,
        steps=tuple(config.steps(len(part)) for part in samples),
        samples=tuple(samples),
    )


def local_batches(
    samples: NDArray[np.int64], config: TrainConfig, round: int, client: int
) -> NDArray[np.int64]:
    """Return the sample indices [E, B] of a client's local steps in a round, epoch after epoch.

    B is the batch size, or the number of samples if the client has fewer.
    """
    steps = config.steps(len(samples))
    return draws.client_batches(samples, config.batch_size, steps, config.seed, round, client)


class Crops:
    """Random crop after padding by an eighth of the shorter side, and horizontal flip."""

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        across = torch.arange(width)
        self.down = torch.arange(height).to(device)
        self.across = torch.stack([across, width - 1 - across]).to(device)
        """The columns of an image [2, W], and those of its mirror image."""

    def __call__(self, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows [..., B, H] and columns [..., B, W] of padded images for `crop_and_flip`.

        `offsets` [..., 3, B] are the first row, the first column, and 1 for a flip.
        """
        top, left, flip = offsets.long().unbind(-2)
        return top.unsqueeze(-1) + self.down, left.unsqueeze(-1) + self.across[flip]


def draw_crops(
    count: int, height: int, width: int, keys: Iterable[np.random.RandomState]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows [steps, B, height] and columns [steps, B, width] that crop and flip padded images.

    One generator a step.
    """
    padding = draws.padding(height, width)
    offsets = np.stack([draws.crop_offsets(count, padding, key) for key in keys])
    rows, columns = Crops(height, width, torch.device("cpu"))(torch.from_numpy(offsets))
    return rows.numpy(), columns.numpy()


def crop_and_flip(images: Tensor, rows: Tensor, columns: Tensor, fill: int = 0) -> Tensor:
    """Take rows [B, H] and columns [B, W] of uint8 images [B, H, W, C], padded with `fill`.

    Label images [B, H, W], filled with VOID, move along.
    """
    pad = draws.padding(images.shape[1], images.shape[2])
    channels = (0, 0) if images.dim() == 4 else ()
    padded = torch.nn.functional.pad(images, (*channels, pad, pad, pad, pad), value=fill)
    at = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[at, rows[:, :, None], columns[:, None, :]]

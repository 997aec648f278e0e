"""A data set in memory: whole uint8 tensors and their facts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.progress import progress

VOID = 255
"""The label of a pixel that does not count."""


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W, C] and labels: int64 [N], or uint8 [N, H, W] in segmentation."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Split:
        """Return the split on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training and test images; `mean` and `std` [C] are in units of the stored values."""

    train: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    """A hash of the decoded images and labels: decoders differ, and so do results on theirs."""
    groups: tuple[str, ...] = ()
    """Names of the natural clients, sorted: cities, drives."""
    members: NDArray[np.int64] | None = None
    """The group of each training image, [N]."""
    test_members: NDArray[np.int64] | None = None
    """The group of each test image, [N]; None if test images belong to no group."""
    found: tuple[str, ...] = ()
    """Sentences for people about files that were used, ignored and changed. Training does not use
    them.
    """
    pretrained: Mapping[str, Tensor] | None = None
    """The initial weights of the trial that it was loaded for, by torch's names; None without."""

    @property
    def segmentation(self) -> bool:
        """True if each pixel has a class; False if each image has one."""
        return self.train.labels.dim() == 3

    @property
    def channels(self) -> int:
        """1 for gray, 3 for RGB."""
        return self.train.images.shape[3]

    @property
    def height(self) -> int:
        """Height of an image, in pixels."""
        return self.train.images.shape[1]

    @property
    def width(self) -> int:
        """Width of an image, in pixels."""
        return self.train.images.shape[2]

    @property
    def size(self) -> int:
        """Side of a square image, or the height of another, in pixels."""
        return self.height

    def to(self, device: torch.device) -> Dataset:
        """Return the data set on a device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def assemble(
    train: tuple[NDArray[Any], NDArray[Any]],
    test: tuple[NDArray[Any], NDArray[Any]],
    *,
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    groups: tuple[str, ...] = (),
    members: NDArray[np.int64] | None = None,
    test_members: NDArray[np.int64] | None = None,
) -> Dataset:
    """Build a data set from arrays of images and labels, and compute its fingerprint."""
    parts = [np.ascontiguousarray(array) for array in (*train, *test)]
    content = hashlib.sha256()
    for array in (*parts, *(m for m in (members, test_members) if m is not None)):
        content.update(array.data)
        progress.step()
    train_x, train_y, test_x, test_y = (torch.from_numpy(array) for array in parts)
    splits = Split(train_x, train_y), Split(test_x, test_y)
    fingerprint = content.hexdigest()[:32]
    return Dataset(*splits, classes, mean, std, fingerprint, groups, members, test_members)

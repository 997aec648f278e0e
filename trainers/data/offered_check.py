"""The checks of a data set of another package, after it is loaded."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from trainers.data.arrays import CHANNELS, SMALLEST_SIDE
from trainers.data.dataset import Dataset, Split
from trainers.data.stock import Stock


def misfit(data: Dataset) -> str | None:
    """Return the end of a sentence on a data set that no model is trained on; None if sound."""
    parts = ((data.train, data.members), (data.test, data.test_members))
    misfits = [_misfit_of_labels(split, data.classes) for split, _ in parts]
    misfits += [_misfit_of_clients(split, of, len(data.groups)) for split, of in parts]
    return next((misfit for misfit in (_misfit_of_images(data), *misfits) if misfit), None)


def _misfit_of_images(data: Dataset) -> str | None:
    images, tests = data.train.images, data.test.images
    if any(part.dtype != torch.uint8 or part.dim() != 4 for part in (images, tests)):
        return "has images that are not uint8 [N, H, W, C]"
    if images.shape[1:] != tests.shape[1:] or data.height != data.width:
        return "has images that are not square, or of more than one size"
    if data.height < SMALLEST_SIDE:
        return f"has images with fewer than {SMALLEST_SIDE} pixels on a side"
    if data.channels not in CHANNELS:
        return f"has images with {data.channels} channels, which must be 1 or 3"
    if {len(data.mean), len(data.std)} != {data.channels} or not min(data.std) > 0:
        return "has no mean and positive standard deviation for each channel"
    return None


def _misfit_of_labels(split: Split, classes: int) -> str | None:
    labels = split.labels
    if labels.dtype != torch.int64 or labels.shape != split.images.shape[:1]:
        return "has labels that are not int64, one for each image"
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        return f"has labels that are not in 0 to {classes - 1}"
    return None


def _misfit_of_clients(split: Split, members: NDArray[np.int64] | None, groups: int) -> str | None:
    if members is None:
        return None
    if members.dtype.kind not in "iu" or members.shape != tuple(split.labels.shape):
        return "has clients that are not whole numbers, one for each image"
    if len(members) and not 0 <= members.min() <= members.max() < groups:
        return "has images of clients that its groups do not name"
    return None


def samples(data: Dataset) -> Stock:
    """Return the samples of a sound data set, counted."""

    def counts(members: NDArray[np.int64] | None, length: int) -> tuple[int, ...]:
        return () if members is None else tuple(np.bincount(members, minlength=length).tolist())

    groups = len(data.groups)
    return Stock(
        samples=len(data.train.labels),
        classes=counts(data.train.labels.numpy(), data.classes),
        groups=counts(data.members, groups),
        test=len(data.test.labels),
        tested=counts(data.test_members, groups),
    )

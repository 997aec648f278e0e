"""Data sets small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings

from trainers.data.dataset import VOID, Dataset, Split

settings.register_profile("fedsweep", deadline=None)  # no test depends on a timing
settings.load_profile("fedsweep")


@pytest.fixture(scope="module")
def scenes() -> Dataset:
    """Nine training and four test scenes, 32x48, five classes told by their brightness, some void;
    from three drives of four, three and two images.
    """
    draw = np.random.RandomState(0)

    def split(count: int) -> Split:
        blocks = draw.randint(0, 5, (count, 4, 6))
        labels = blocks.repeat(8, axis=1).repeat(8, axis=2)
        images = 40 * labels[..., None] + draw.randint(0, 40, (count, 32, 48, 3))
        labels[:, :2] = VOID
        return Split(*(torch.from_numpy(a.astype(np.uint8)) for a in (images, labels)))

    members = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
    train, test = split(9), split(4)
    return Dataset(train, test, 5, (120.0,) * 3, (60.0,) * 3, "0" * 32, ("a", "b", "c"), members)

"""Shapes that six people draw, each in a style of their own, as another package adds a data set.

The styles are feature skew: all clients draw the same classes, in other pens, on other paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.data.offered import OfferedDataset

if TYPE_CHECKING:  # a plan imports this file, and does not wait for torch
    import numpy as np
    from numpy.typing import NDArray

    from trainers.data.dataset import Dataset

CLASSES = ("circle", "square", "plus", "saltire")
SIDE = 16
"""Pixels of a side of an image."""

PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn")
"""The clients, in the order of their names."""

TRAIN = (96, 80, 64, 48, 32, 24)
"""Training images of each client. The classes take turns."""

TEST = (24,) * len(PEOPLE)
"""Test images of each client, in the same style."""


def images_of(person: int, count: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Yield so many images [SIDE, SIDE, 1] of a client, one class after the other.

    RandomState has the same numbers in every version of NumPy, and only sums, products and square
    roots follow. So each machine draws the same images.
    """
    import numpy as np

    style = np.random.RandomState(person)
    ink, paper = style.uniform(150, 255), style.uniform(0, 90)
    thick, slant = style.uniform(0.08, 0.22), style.uniform(-0.4, 0.4)
    grain = style.uniform(0, 30)
    draw = np.random.RandomState(1000 * seed + person)
    axis = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    for i in range(count):
        size = draw.uniform(0.45, 0.75)
        top, left = draw.uniform(-0.2, 0.2, 2)
        y = axis[:, None] - top
        x = axis[None, :] - left + slant * y
        across, corner = np.maximum(abs(x), abs(y)), np.sqrt(x * x + y * y)
        distance = {
            "circle": abs(corner - size),
            "square": abs(across - size),
            "plus": np.where(across < size, np.minimum(abs(x), abs(y)), 1),
            "saltire": np.where(across < size, abs(abs(x) - abs(y)) / 2, 1),
        }[CLASSES[i % len(CLASSES)]]
        image = np.where(distance < thick, ink, paper) + grain * draw.uniform(-1, 1, (SIDE, SIDE))
        yield image.clip(0, 255).round().astype(np.uint8)[..., None]


def split(counts: tuple[int, ...], seed: int) -> tuple[Any, Any, Any]:
    """Return images [N, SIDE, SIDE, 1], their classes [N], and the places of their clients [N]."""
    import numpy as np

    drawn = [image for person, n in enumerate(counts) for image in images_of(person, n, seed)]
    labels = np.concatenate([np.arange(n) % len(CLASSES) for n in counts])
    return np.stack(drawn), labels, np.repeat(np.arange(len(counts)), counts)


def load(_root: Path | None) -> Dataset:
    """Return the data set. It needs no file of the data folder."""
    from trainers.data.dataset import assemble
    from trainers.data.sources import channel_statistics

    images, labels, members = split(TRAIN, 1)
    test_images, test_labels, test_members = split(TEST, 2)
    mean, std = channel_statistics(images)
    return assemble(
        (images, labels),
        (test_images, test_labels),
        classes=len(CLASSES),
        mean=mean,
        std=std,
        groups=PEOPLE,
        members=members,
        test_members=test_members,
    )


DRAWINGS = OfferedDataset(
    load,
    classes=(sum(TRAIN) // len(CLASSES),) * len(CLASSES),
    test=sum(TEST),
    clients=TRAIN,
    tested=TEST,
)

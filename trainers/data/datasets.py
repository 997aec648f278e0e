"""Data sets by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainers.data import cache, sources
from trainers.data.dataset import Dataset
from trainers.data.errors import BadData, Missing


def load(
    dataset: str,
    root: Path | None = None,
    *,
    image_size: int | None = None,
    image_height: int | None = None,
    fingerprint: str | None = None,
) -> Dataset:
    """Load a data set by name, from `root` if it lies on disk. It is decoded once and then cached.

    `image_size` is the side in pixels for an image folder. `image_height` is the height in pixels
    for road scenes. `fingerprint` is the content that a plan expects of a data set on disk.

    Raises:
        BadData: it is missing, damaged, or differs from the planned fingerprint.

    """
    try:
        source = sources.find(dataset, root, image_size=image_size, image_height=image_height)
    except BadData as error:
        if fingerprint is None or isinstance(error, Missing):
            raise
        raise Missing(str(error)) from error  # a plan has seen sound files: others lie here
    kept = cache.fetch(source, fingerprint)
    return replace(kept, found=(*source.found, *kept.found))

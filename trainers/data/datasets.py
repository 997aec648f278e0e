"""Data sets by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainers.config import DATASET
from trainers.data import cache, offered, sources
from trainers.data.dataset import Dataset
from trainers.data.errors import BadData, Missing
from trainers.registry import loaded_hash


def load(
    dataset: str,
    root: Path | None = None,
    *,
    image_size: int | None = None,
    image_height: int | None = None,
    file: str | None = None,
    clients_by: str | None = None,
    fingerprint: str | None = None,
) -> Dataset:
    """Load a data set by name, from `root` if it lies on disk. It is decoded once and then cached.

    `image_size` is the side in pixels for an image folder. `image_height` is the height in pixels
    for road scenes. `file` holds arrays, and `clients_by` names the clients of an image folder.
    `fingerprint` is the content that a plan expects of a data set on disk.

    Raises:
        BadData: it is missing, damaged, or differs from the planned fingerprint.

    """
    if DATASET.offered(dataset) is not None:
        return _load_offered(dataset, root, fingerprint)
    try:
        source = sources.find(
            dataset,
            root,
            image_size=image_size,
            image_height=image_height,
            file=file,
            clients_by=clients_by,
        )
    except BadData as error:
        if fingerprint is None or isinstance(error, Missing):
            raise
        raise Missing(str(error)) from error  # a plan has seen sound files: others lie here
    kept = cache.fetch(source, fingerprint)
    return replace(kept, found=(*source.found, *kept.found))


def _load_offered(dataset: str, root: Path | None, fingerprint: str | None) -> Dataset:
    """Load a data set of another package, with the version and facts that were planned."""
    found = offered.offered(dataset, root)
    here = found.content(loaded_hash).fingerprint
    if fingerprint is not None and here != fingerprint:
        raise Missing(
            f"the package of the data set {dataset} here (fingerprint {here}) is not the one that "
            f"the trial was planned with ({fingerprint}): install the same version here and start "
            "a new worker, or plan again"
        )
    return offered.load(found, root)

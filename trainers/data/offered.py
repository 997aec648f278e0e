"""Data sets of other packages: entry points of the group `fedsweep.datasets`.

A package offers an `OfferedDataset`. A plan imports it, so the package should import torch inside
`load` only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.config import DATASET
from trainers.data.content import Content
from trainers.data.errors import BadData, Missing
from trainers.data.stock import Stock
from trainers.registry import code_hash, release

if TYPE_CHECKING:
    from trainers.data.dataset import Dataset


@dataclass(frozen=True)
class OfferedDataset:
    """A data set, and the facts that a plan needs of it."""

    load: Callable[[Path | None], Dataset]
    """Returns the data set; see `trainers.data.dataset.assemble`. Its argument is the data folder,
    or None if none is named."""
    classes: tuple[int, ...]
    """Training images of each class."""
    test: int
    """Test images."""
    clients: tuple[int, ...] = ()
    """Training images of each natural client; () if there are none."""
    tested: tuple[int, ...] = ()
    """Test images of each natural client; () if test images belong to no client."""

    def stock(self) -> Stock:
        """Return the samples, counted."""
        return Stock(sum(self.classes), self.classes, self.clients, self.test, self.tested)


@dataclass(frozen=True)
class Offered:
    """A data set of an installed package."""

    name: str
    root: Path
    offer: OfferedDataset
    paths: tuple[Path, ...] = ()
    found: tuple[str, ...] = ()
    labels: frozenset[Path] = frozenset()

    def content(self) -> Content:
        """Return a hash of the package's version and code, and of the facts that it promises."""
        point = DATASET.offered(self.name)
        assert point is not None
        try:
            facts = [release(point), code_hash(point), vars(self.stock())]
        except ValueError as error:
            raise BadData(str(error)) from error
        fingerprint = hashlib.sha256(json.dumps(facts, default=list).encode()).hexdigest()[:32]
        return Content(fingerprint, fingerprint)

    def stock(self) -> Stock:
        """Return the samples, counted."""
        return self.offer.stock()

    def names(self) -> Sequence[str] | None:
        """Return None: a sample has no name."""
        return None


def offered(name: str, root: Path | None) -> Offered:
    """Import a data set of another package.

    Raises:
        Missing: no installed package offers it, or its package cannot be imported here.
        BadData: what it offers is no `OfferedDataset`.

    """
    point = DATASET.offered(name)
    value = f"{point.value}, offered as the data set {name}," if point is not None else name
    try:
        loaded = DATASET.load(name)
    except ValueError as error:
        raise Missing(str(error)) from error
    except (Exception, SystemExit) as error:
        problem = str(error) or type(error).__name__
        raise Missing(
            f"{value} cannot be imported ({problem}): mend the installation of its package"
        ) from error
    if not isinstance(loaded, OfferedDataset):
        raise BadData(f"{value} is no OfferedDataset, but {type(loaded).__name__}")
    if len(loaded.classes) < 2 or any(n < 1 for n in (*loaded.classes, *loaded.clients)):
        raise BadData(f"{value} names a class or a client without training images")
    if loaded.clients and sum(loaded.clients) != sum(loaded.classes):
        raise BadData(f"{value} has other numbers of images by client than by class")
    return Offered(name, root or Path(), loaded)


def load(found: Offered, root: Path | None) -> Dataset:
    """Load a data set of another package, and compare it with the facts that a plan took.

    Raises:
        BadData: it has another content than its package promises.

    """
    import numpy as np

    from trainers.data.dataset import Dataset

    data = found.offer.load(root)
    if not isinstance(data, Dataset):
        raise BadData(f"the data set {found.name} loads a {type(data).__name__}, not a Dataset")
    labels = data.train.labels.numpy()
    counts = tuple(np.bincount(labels.ravel(), minlength=data.classes).tolist())
    members = data.members
    groups = () if members is None else tuple(np.bincount(members).tolist())
    promised = (found.offer.classes, found.offer.clients, found.offer.test)
    if (counts, groups, len(data.test.labels)) != promised:
        raise BadData(
            f"the data set {found.name} has other images by class or client than its package "
            "promises: correct the facts of its OfferedDataset"
        )
    return data

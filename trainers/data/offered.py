"""Data sets of other packages: entry points of the group `fedsweep.datasets`.

A package offers an `OfferedDataset`. A plan imports it, so the package should import torch inside
`load` only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.config import DATASET
from trainers.data.clients import untested
from trainers.data.content import Content
from trainers.data.errors import BadData, MachineLimit, Missing, refuse_limit
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
        """Return the samples, counted. Clients have numbers: only `load` knows their names."""
        numbers = list(map(str, range(len(self.clients))))
        tested = [number for number, count in enumerate(self.tested) if count]
        return Stock(
            sum(self.classes),
            tuple(self.classes),
            tuple(self.clients),
            self.test,
            tuple(self.tested),
            notes=untested(numbers, tested) if self.tested else (),
        )


@dataclass(frozen=True)
class Offered:
    """A data set of an installed package."""

    name: str
    root: Path
    offer: OfferedDataset
    paths: tuple[Path, ...] = ()
    found: tuple[str, ...] = ()
    labels: frozenset[Path] = frozenset()

    def content(self, read: Callable[[EntryPoint], str] = code_hash) -> Content:
        """Return a hash of the package's version and code, and of the facts that it promises.

        `read` returns the hash of the package's files.
        """
        point = DATASET.offered(self.name)
        assert point is not None
        try:
            code = release(point), read(point)
        except ValueError as error:
            raise BadData(str(error)) from error
        offer = self.offer
        facts = [*code, offer.classes, offer.test, offer.clients, offer.tested]
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
        kind = type(loaded).__name__
        raise BadData(f"{value} is no OfferedDataset, but {kind}: correct its package")
    if (reason := _problem(loaded)) is not None:
        raise BadData(f"{value} {reason}: correct its OfferedDataset")
    return Offered(name, root or Path(), loaded)


def _problem(offer: OfferedDataset) -> str | None:
    """Return the end of a sentence on facts that cannot be those of a data set; None if sound."""
    facts = (offer.classes, offer.clients, offer.tested, (offer.test,))
    if not all(isinstance(part, (tuple, list)) for part in facts) or not all(
        isinstance(n, int) for part in facts for n in part
    ):
        return "gives facts that are no whole numbers, or no tuples of them"
    images, tested = (*offer.classes, *offer.clients), offer.tested
    per_client = (len(offer.clients), offer.test)
    problems = {
        "names fewer than two classes": len(offer.classes) < 2,
        "names a class or a client without training images": any(n < 1 for n in images),
        "has no test images, or a client with fewer than none": min((offer.test - 1, *tested)) < 0,
        "has other numbers of images by client than by class": (
            bool(offer.clients) and sum(offer.clients) != sum(offer.classes)
        ),
        "has other numbers of test images by client than in all": (
            bool(tested) and (len(tested), sum(tested)) != per_client
        ),
    }
    return next((problem for problem, is_so in problems.items() if is_so), None)


def load(found: Offered, root: Path | None) -> Dataset:
    """Load a data set of another package, and compare it with the facts that a plan took.

    Raises:
        Missing: a file that it reads is not here.
        BadData: it cannot be loaded, or has another content than its package promises.

    """
    from trainers.data.dataset import Dataset
    from trainers.data.offered_check import misfit, samples

    name = found.name
    try:
        data = found.offer.load(root)
    except (BadData, MachineLimit, ImportError, MemoryError):
        raise
    except Exception as error:  # code of another package
        refuse_limit(error)
        text = " ".join(str(error).split())[:300]
        sentence = f"the data set {name} cannot be loaded ({type(error).__name__}: {text})"
        if isinstance(error, FileNotFoundError):
            raise Missing(f"{sentence}: put its files there, or change --data") from error
        raise BadData(f"{sentence}: correct its package, or the files that it reads") from error
    if not isinstance(data, Dataset):
        kind = type(data).__name__
        raise BadData(f"the data set {name} loads a {kind}, not a Dataset: correct its package")
    if (problem := misfit(data)) is not None:
        raise BadData(f"the data set {name} {problem}: correct its package")
    if samples(data) != found.stock():
        raise BadData(
            f"the data set {name} has other images by class or client than its package "
            "promises: correct the facts of its OfferedDataset"
        )
    return data

"""An image folder on disk: which files it holds, and what they hash to. Imports no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff"})


class BadData(Exception):
    """The data are missing, damaged, or not what the trial was planned for."""


@dataclass(frozen=True)
class Tree:
    """A tree of train/<class>/* and test/<class>/*."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[tuple[Path, int], ...]
    test: tuple[tuple[Path, int], ...]

    def fingerprint(self) -> str:
        """A hash of every file's place and content: the same wherever the tree lies."""
        total = hashlib.sha256()
        for path, _ in self.train + self.test:
            total.update(path.relative_to(self.root).as_posix().encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()[:32]


def read_tree(root: Path | None) -> Tree:
    """List the pictures of an image folder, classes and files in alphabetical order.

    Raises:
        BadData: no such folder, no pictures in it, or a test class that is not trained.

    """
    remedy = "point --data or FEDSWEEP_DATA at a folder of train/<class>/ and test/<class>/"
    if root is None:
        raise BadData(f"an image folder needs a place: {remedy}")
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise BadData(f"there is no folder {root / part}: {remedy}")
    train, test = (_pictures(root / part) for part in ("train", "test"))
    for part, found in (("train", train), ("test", test)):
        if not found:
            raise BadData(f"{root / part} holds no pictures: {remedy}")
    # An empty folder is no class: the labels depend on the pictures alone, as the hash does.
    classes = tuple(train)
    if strangers := [name for name in test if name not in train]:
        raise BadData(f"{root / 'test' / strangers[0]} is a class without training pictures")
    return Tree(root, classes, _labelled(train, classes), _labelled(test, classes))


def _pictures(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class that has any, classes and files in alphabetical order."""
    found = {}
    for place in sorted(folder.iterdir()):
        if place.is_dir() and not place.name.startswith("."):
            files = sorted(place.rglob("*"))
            found[place.name] = [p for p in files if p.suffix.lower() in SUFFIXES and p.is_file()]
    return {name: files for name, files in found.items() if files}


def _labelled(
    pictures: dict[str, list[Path]], classes: tuple[str, ...]
) -> tuple[tuple[Path, int], ...]:
    return tuple((path, classes.index(name)) for name, files in pictures.items() for path in files)

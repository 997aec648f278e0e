"""Listings of data sets on disk: their files, their hash and their samples, for any layout.

A plan makes them too, so this file imports no torch, and numpy only for arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from trainers.data.assignment import Assignment, read_partition
from trainers.data.content import Content
from trainers.data.errors import POINT, REMEDIES, Missing
from trainers.data.files import READERS, list_files
from trainers.data.stock import Stock
from trainers.facts import CHARACTERS, HUGGING_FACE, is_on_disk


class Listing(Protocol):
    """A data set on disk, before it is decoded."""

    @property
    def root(self) -> Path:
        """The folder that the places of the files are relative to."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that the data set is read from."""

    @property
    def found(self) -> tuple[str, ...]:
        """Sentences about the files that are used and ignored."""

    def content(self) -> Content:
        """Return the hash of the files."""

    def stock(self) -> Stock:
        """Return the samples, counted."""

    def names(self) -> Sequence[str] | None:
        """Return the names of the training samples, in order; None if they have none."""


CHOICE = ("dataset", "file", "clients_by", "image_size")
"""The fields of a configuration that choose the files of a data set, and how they are read."""


def list_data(choice: Mapping[str, Any], root: Path | None) -> Listing:
    """List a data set on disk. `choice` has the fields `CHOICE`.

    Raises:
        BadData: the files are missing, or do not fit.
        MachineLimit: this machine lacks a package to read them.

    """
    dataset = choice["dataset"]
    if dataset in READERS:
        return list_files(dataset, root, choice.get("clients_by") or "nothing")
    own = dataset in CHARACTERS or dataset == "arrays" or dataset.startswith(HUGGING_FACE)
    if not own:
        from trainers.data.offered import offered

        return offered(dataset, root)
    if root is None:
        raise Missing(f"{dataset} needs its data: {REMEDIES.get(dataset, f'{POINT} its folder')}")
    if dataset.startswith(HUGGING_FACE):
        from trainers.data.hub import hugging_face

        return hugging_face(dataset, root, choice.get("image_size") or 32)
    if dataset == "arrays":
        from trainers.data.arrays import array_file

        return array_file(root, choice["file"])
    from trainers.data.published import LAYOUTS

    return LAYOUTS[dataset](root)


def titled(choice: Mapping[str, Any]) -> str:
    """Return a data set's name for people, which tells two choices of files apart."""
    dataset: str = choice["dataset"]
    if choice.get("file") is not None:
        return f"{dataset} {choice['file']}"
    by = choice.get("clients_by") or "nothing"
    return dataset if by == "nothing" else f"{dataset} (clients by {by})"


def assignment(choice: Mapping[str, Any], name: str, root: Path | None, samples: int) -> Assignment:
    """Return the clients of a file of a partition, for a data set of so many training samples.

    Raises:
        BadData: the file is missing, or names other samples.

    """
    if root is None:
        raise Missing(f'partition_file = "{name}" needs the data folder: {POINT} it')
    names = list_data(choice, root).names() if is_on_disk(choice["dataset"]) else None
    return read_partition(root / name, samples, names)

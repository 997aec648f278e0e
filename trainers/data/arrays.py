"""Data sets that a few files hold as arrays, and the checks of every array.

A plan reads them too, so this file imports no torch. No file is unpickled.
"""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trainers import memory, regular
from trainers.data.clients import untested
from trainers.data.content import MOST_DATA_BYTES, Content
from trainers.data.errors import BadData, MachineLimit, Missing, counted, listed, reading, shown
from trainers.data.stock import Stock
from trainers.progress import progress
from trainers.regular import shown_bytes

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel."""

SMALLEST_SIDE = 4
"""Pixels of a side, at least: `cnn` halves an image twice."""

REQUIRED = ("images", "labels", "test_images", "test_labels")

OPTIONAL = ("clients", "test_clients")

CHANNELS = (1, 3)
"""Channels that images may have: gray, and RGB."""


@dataclass(frozen=True)
class Arrays:
    """Training and test images, uint8 [N, H, W, C], their classes [N], and their clients [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: int
    clients: tuple[str, ...] = ()
    """Names of the natural clients, sorted."""
    members: NDArray[np.int64] | None = None
    """The client of each training image; None without clients."""
    test_members: NDArray[np.int64] | None = None
    """The client of each test image; None if test images belong to no client."""
    statistics: Statistics | None = None
    """In units of the stored values; None for those of the training images."""
    notes: tuple[str, ...] = ()
    """Sentences about properties that a user may not expect."""

    def stock(self) -> Stock:
        """Return the samples, counted."""
        return Stock(
            samples=len(self.labels),
            classes=_counts(self.labels, self.classes),
            groups=_counts(self.members, len(self.clients)),
            test=len(self.test_labels),
            tested=_counts(self.test_members, len(self.clients)),
            side=self.images.shape[1],
            notes=self.notes,
        )


def _counts(members: NDArray[np.int64] | None, groups: int) -> tuple[int, ...]:
    if members is None:
        return ()
    return tuple(np.bincount(members, minlength=groups).tolist())


def opened(path: Path) -> AbstractContextManager[IO[bytes]]:
    """Open a file of arrays, which may be larger than a file of one image."""
    return regular.opened(path, MOST_DATA_BYTES)


@dataclass(frozen=True)
class Stored:
    """A data set on disk that a few files hold as arrays."""

    root: Path
    paths: tuple[Path, ...]
    read: Callable[[], Arrays]
    """Reads and checks all arrays."""
    look: Callable[[], Arrays] | None = None
    """Reads all but the images, whose shape alone counts. None if `read` is as fast."""
    opened: Callable[[Path], AbstractContextManager[IO[bytes]]] = opened
    """Opens the content of a file that is hashed."""
    size: int | None = None
    """Side in pixels to which the images are resized."""
    found: tuple[str, ...] = field(default=(), compare=False)
    labels: frozenset[Path] = frozenset()

    def content(self) -> Content:
        """Return the hash of every file's place and content.

        Raises:
            BadData: a file cannot be read.

        """
        total = hashlib.sha256()
        for path in self.paths:
            place = path.relative_to(self.root).as_posix().removesuffix(".gz")
            total.update(os.fsencode(place) + b"\0" + self._digest(path))
        fingerprint = total.hexdigest()[:32]
        return Content(fingerprint, fingerprint)

    def _digest(self, path: Path) -> bytes:
        content = hashlib.sha256()
        with reading(path), self.opened(path) as file:
            while block := file.read(BLOCK):
                content.update(block)
                progress.step()
        return content.digest()

    def arrays(self) -> Arrays:
        """Return the arrays, with images of which the shape alone counts.

        Raises:
            BadData: they are not sound.

        """
        return self.look() if self.look is not None else self.read()

    def stock(self) -> Stock:
        """Return the samples, counted.

        Raises:
            BadData: the arrays are not sound.

        """
        return self.arrays().stock()

    def names(self) -> Sequence[str] | None:
        """Return None: a sample has no name, only its place in the arrays."""
        return None


BLOCK = 2**22
"""Bytes that are hashed in one step."""


def check_memory(path: Path, size: int) -> None:
    """Refuse arrays that this machine cannot hold, before any is read.

    Raises:
        MachineLimit: they take more memory than this machine has.

    """
    if size > (most := memory.limit()):
        raise MachineLimit(
            f"the arrays in {shown(path)} take {shown_bytes(size)}, and this machine has "
            f"{shown_bytes(most)} of memory: use a machine with more memory"
        )


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file. Objects, which would be unpickled, are refused.

    Raises:
        BadData: it is no such file, or an array breaks off.

    """
    arrays: dict[str, NDArray[Any]] = {}
    with reading(path, "an .npz file"), opened(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        check_memory(path, sum(member.file_size for member in members))
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise BadData(f"{shown(path)} holds the array {shown(name)} twice: save it again")
            with archive.open(member) as content:
                _check_header(path, name, content, member.file_size)
            with archive.open(member) as content:
                arrays[name] = np.lib.format.read_array(content, allow_pickle=False)
            progress.step()
    return arrays


def _check_header(path: Path, name: str, content: IO[bytes], size: int) -> None:
    """Refuse an array of objects, and one whose header promises another size than it has."""
    version = np.lib.format.read_magic(content)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise BadData(f"the array {shown(name)} in {shown(path)} has a format that is not known")
    shape, _, dtype = readers[version](content)
    if dtype.hasobject:
        raise BadData(
            f"the array {shown(name)} in {shown(path)} holds Python objects, which are not "
            "unpickled: save numbers or text"
        )
    if math.prod(shape) * dtype.itemsize != size - content.tell():
        raise BadData(f"the array {shown(name)} in {shown(path)} breaks off: save it again")


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a .safetensors file.

    Raises:
        BadData: it is no such file.

    """
    from safetensors import safe_open

    with reading(path, "a .safetensors file"):
        with opened(path) as file:
            check_memory(path, os.fstat(file.fileno()).st_size)
        with safe_open(str(path), framework="numpy") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118  # it is no dict


def array_file(root: Path, name: str) -> Stored:
    """Return the data set `arrays` in a file of the data folder.

    Raises:
        BadData: there is no such file.

    """
    path = root / name
    if not path.is_file():
        raise Missing(f"there is no file {shown(path)}: put it there, or change --data")
    reader = read_npz if path.suffix == ".npz" else read_safetensors

    def read() -> Arrays:
        return sound(path, reader(path))

    return Stored(root, (path,), read)


def sound(
    place: Path,
    arrays: Mapping[str, NDArray[Any]],
    *,
    classes: int | None = None,
    statistics: Statistics | None = None,
) -> Arrays:
    """Check the arrays of a file or folder by their names, and return them in one form.

    With a number of `classes`, a class may lack images. Otherwise the labels tell the classes, and
    each must have a training image.

    Raises:
        BadData: one is missing, unknown, or does not fit to the others.

    """
    if missing := [name for name in REQUIRED if name not in arrays]:
        raise BadData(
            f"{shown(place)} lacks {listed(missing)}: it needs the arrays {', '.join(REQUIRED)}"
        )
    known = (*REQUIRED, *OPTIONAL)
    if strange := [shown(name) for name in arrays if name not in known]:
        raise BadData(
            f"{shown(place)} holds {listed(strange)}, which is not known: "
            f"remove or rename it ({', '.join(known)})"
        )
    images, test_images = (_images(place, name, arrays[name]) for name in REQUIRED[::2])
    if images.shape[1:] != test_images.shape[1:]:
        raise BadData(
            f"test_images in {shown(place)} are {_sides(test_images)}, and images are "
            f"{_sides(images)}: give both the same size"
        )
    labels = _labels(place, "labels", arrays["labels"], len(images))
    test_labels = _labels(place, "test_labels", arrays["test_labels"], len(test_images))
    count = _check_classes(place, labels, test_labels, classes)
    names, members = _clients(place, "clients", arrays.get("clients"), len(images))
    test_names, tested = _clients(
        place, "test_clients", arrays.get("test_clients"), len(test_images)
    )
    notes: tuple[str, ...] = ()
    if tested is not None:
        tested = _test_members(place, names, test_names, tested)
        notes = untested(names, tested.tolist())
    return Arrays(
        images, labels, test_images, test_labels, count, names, members, tested, statistics, notes
    )


def _sides(images: NDArray[Any]) -> str:
    return " x ".join(map(str, images.shape[1:]))


def _images(place: Path, name: str, images: NDArray[Any]) -> NDArray[np.uint8]:
    """Return images as [N, H, W, C]."""
    if images.dtype != np.uint8:
        raise BadData(
            f"{name} in {shown(place)} are {images.dtype}: save them as uint8, values 0 to 255"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in CHANNELS:
        raise BadData(
            f"{name} in {shown(place)} have the shape {list(images.shape)}: it must be [N, H, W], "
            "[N, H, W, 1] or [N, H, W, 3]"
        )
    if not len(images):
        raise BadData(f"{name} in {shown(place)} are empty: add images")
    height, width = images.shape[1:3]
    if height != width or height < SMALLEST_SIDE:
        raise BadData(
            f"{name} in {shown(place)} have {height} x {width} pixels: make them square, with "
            f"{SMALLEST_SIDE} or more on a side"
        )
    return images


def _labels(place: Path, name: str, labels: NDArray[Any], images: int) -> NDArray[np.int64]:
    _check_length(place, name, labels, images)
    if labels.dtype.kind not in "iu":
        raise BadData(f"{name} in {shown(place)} are {labels.dtype}: save them as whole numbers")
    if labels.min() < 0 or labels.max() >= 2**31:
        raise BadData(
            f"{name} in {shown(place)} hold {labels.min()} to {labels.max()}: number the classes "
            "from 0 on"
        )
    return labels.astype(np.int64)


def _check_length(place: Path, name: str, values: NDArray[Any], images: int) -> None:
    if values.shape != (images,):
        raise BadData(
            f"{name} in {shown(place)} have the shape {list(values.shape)}, for "
            f"{counted(images, 'image')}: it must be [{images}]"
        )


def _check_classes(
    place: Path, labels: NDArray[np.int64], test: NDArray[np.int64], classes: int | None
) -> int:
    """Return the number of classes."""
    trained = np.unique(labels)
    count = int(trained[-1]) + 1 if classes is None else classes
    if classes is None and len(trained) < count:
        empty = int(np.setdiff1d(np.arange(len(trained) + 1), trained)[0])
        raise BadData(
            f"no training image in {shown(place)} has the label {empty}, and one has {count - 1}: "
            "number the classes from 0 on, without a gap"
        )
    if count < 2:
        raise BadData(f"{shown(place)} holds one class: classification needs two or more")
    known = trained if classes is None else np.arange(count)
    if len(strange := np.setdiff1d(np.concatenate([labels, test]), known)):
        raise BadData(
            f"an image in {shown(place)} has the label {strange[0]}, a class without training "
            f"images: labels go from 0 to {count - 1}"
        )
    return count


def _clients(
    place: Path, name: str, ids: NDArray[Any] | None, images: int
) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Return the sorted names of the clients, and the place of each image's client among them."""
    if ids is None:
        return (), None
    _check_length(place, name, ids, images)
    if ids.dtype.kind not in "iuU":
        raise BadData(
            f"{name} in {shown(place)} are {ids.dtype}: save them as whole numbers or text"
        )
    values, members = np.unique(ids, return_inverse=True)
    names = tuple(str(value) for value in values)
    if "" in names:
        raise BadData(f"{name} in {shown(place)} hold an empty name: name each client")
    return names, members.astype(np.int64)


def _test_members(
    place: Path, names: tuple[str, ...], test_names: Sequence[str], tested: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the client of each test image, by its place among the training clients."""
    if not names:
        raise BadData(f"{shown(place)} holds test_clients without clients: add clients, or neither")
    at = {name: i for i, name in enumerate(names)}
    if strange := [shown(name) for name in test_names if name not in at]:
        raise BadData(
            f"{shown(place)} has test images of clients without training images "
            f"({listed(strange)}): add some, or remove these test images"
        )
    return np.array([at[name] for name in test_names], dtype=np.int64)[tested]

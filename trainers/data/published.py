"""Data sets in the layouts in which they are published: MNIST and its relatives, SVHN, FEMNIST.

A plan reads them too, so this file imports no torch.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trainers import regular
from trainers.data.arrays import Arrays, Statistics, Stored, opened, sound
from trainers.data.clients import in_order
from trainers.data.errors import REMEDIES, BadData, Missing, counted, listed, reading, shown
from trainers.facts import CHARACTERS, EMNIST
from trainers.progress import progress

IDX_FOLDERS = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    **dict.fromkeys(EMNIST, "EMNIST"),
}
"""Torchvision's folders of the data sets in MNIST's format."""

FIRST_LABELS = {"emnist-letters": 1}
"""The label of the first class in the files, if it is not 0: letters begin with 1 for A."""

MOST_IDX_BYTES = 2**30
"""Bytes that a file of MNIST's format holds, at most. The largest of EMNIST holds 547 MB."""

STATISTICS: dict[str, Statistics] = {
    "mnist": ((255 * 0.1307,), (255 * 0.3081,)),
    "fashion-mnist": ((255 * 0.2860,), (255 * 0.3530,)),
}
"""The usual ones, of the training images. Other data sets take those that are measured."""


def idx_files(dataset: str) -> tuple[str, str, str, str]:
    """Return the names of the training images, their labels, the test images and their labels."""
    parts = ("train", "t10k")
    if dataset in EMNIST:
        parts = (f"emnist-{EMNIST[dataset]}-train", f"emnist-{EMNIST[dataset]}-test")
    train, test = ((f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in parts)
    return *train, *test


def in_idx(dataset: str, root: Path) -> Stored:
    """List a data set in MNIST's format, in torchvision's folder or the files' own.

    Each file may be compressed, as it is published, or not.

    Raises:
        BadData: a file is missing.

    """
    folder = IDX_FOLDERS[dataset]
    names = idx_files(dataset)
    places = (root / folder / "raw", root / "raw", root / folder, root)
    for place in places:
        files = [_idx_file(place, name) for name in names]
        if all(files):
            paths = tuple(file for file in files if file is not None)
            break
    else:
        raise Missing(
            f"neither {shown(root)} nor {folder}/raw in it holds {', '.join(names)} (or the same "
            f"with .gz): {REMEDIES[dataset]}"
        )

    def read() -> Arrays:
        images, labels, test_images, test_labels = (
            read_idx(path, dimensions) for path, dimensions in zip(paths, (3, 1, 3, 1), strict=True)
        )
        if dataset in EMNIST:  # its files hold each image with rows and columns exchanged
            images, test_images = (part.transpose(0, 2, 1) for part in (images, test_images))
        first = FIRST_LABELS.get(dataset, 0)
        named: dict[str, NDArray[Any]] = {"images": images, "test_images": test_images}
        named["labels"], named["test_labels"] = (
            part.astype(np.int64) - first for part in (labels, test_labels)
        )
        return sound(place, named, classes=CHARACTERS[dataset], statistics=STATISTICS.get(dataset))

    return Stored(place, paths, read, opened=opened_idx)


def _idx_file(place: Path, name: str) -> Path | None:
    found = (path for path in (place / name, place / f"{name}.gz") if path.is_file())
    return next(found, None)


@contextmanager
def opened_idx(path: Path) -> Iterator[IO[bytes]]:
    """Open the content of a file that may be compressed. A compressed one has the same content."""
    with opened(path) as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.open(file) as content:
            yield content  # type: ignore[misc]  # a GzipFile is read like any file


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of bytes in a file of MNIST's format.

    Raises:
        BadData: it is no such file, or another size than its header says.

    """
    with reading(path, "a file of MNIST's format"), opened_idx(path) as file:
        header = file.read(4 + 4 * dimensions)
        if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
            raise ValueError(f"its first bytes are not those of {dimensions} dimensions")
        shape = struct.unpack(f">{dimensions}I", header[4:])
        size = int(np.prod(shape, dtype=object))
        content = file.read(min(size, MOST_IDX_BYTES) + 1)
        if len(content) != size:
            raise ValueError(f"it holds no {size:,} bytes, as its header says")
        progress.step()
        return np.frombuffer(content, dtype=np.uint8).reshape(shape)


SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")


def svhn(root: Path) -> Stored:
    """List the cropped digits of SVHN (Netzer et al. 2011), in MATLAB's format.

    Raises:
        BadData: a file is missing.

    """
    places = (root, root / "SVHN", root / "svhn")
    for place in places:
        if all((place / name).is_file() for name in SVHN_FILES):
            break
    else:
        raise Missing(
            f"neither {shown(root)} nor SVHN in it holds {', '.join(SVHN_FILES)}: "
            f"{REMEDIES['svhn']}"
        )

    def read() -> Arrays:
        named: dict[str, NDArray[Any]] = {}
        for prefix, name in zip(("", "test_"), SVHN_FILES, strict=True):
            named[f"{prefix}images"], named[f"{prefix}labels"] = read_mat(place / name)
        return sound(place, named, classes=CHARACTERS["svhn"])

    return Stored(place, tuple(place / name for name in SVHN_FILES), read)


def read_mat(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return images [N, H, W, C] and labels [N] of a file of SVHN, which writes 10 for 0.

    Raises:
        BadData: it is no such file.

    """
    from scipy.io import loadmat

    with reading(path, "a file of SVHN"), opened(path) as file:
        values = loadmat(file, variable_names=("X", "y"))
        progress.step()
        images, labels = values["X"], values["y"]
        if images.ndim != 4 or labels.dtype.kind not in "iu":
            raise ValueError("its X must be [H, W, 3, N], and its y whole numbers")
        labels = labels.astype(np.int64).ravel()
        return images.transpose(3, 0, 1, 2), np.where(labels == 10, 0, labels)


LEAF_PLACES = ("", "femnist/data", "data", "femnist")
"""Folders below the data folder that may hold LEAF's train and test, the first that does counts."""

SIDE = 28
"""Pixels of a side of an image of FEMNIST."""


def femnist(root: Path) -> Stored:
    """List FEMNIST by writer, as LEAF (Caldas et al. 2018) makes it: {train,test}/*.json.

    Raises:
        BadData: a folder is missing or empty.

    """
    for place in (root / name for name in LEAF_PLACES):
        train, test = (sorted((place / part).glob("*.json")) for part in ("train", "test"))
        if train and test:
            break
    else:
        raise Missing(
            f"{shown(root)} holds no train/*.json and test/*.json of LEAF: {REMEDIES['femnist']}"
        )
    read = partial(_read_leaf, place, train, test)
    return Stored(place, (*train, *test), read)


def _read_leaf(place: Path, train: Sequence[Path], test: Sequence[Path]) -> Arrays:
    users, tests = read_leaf(train), read_leaf(test)
    named = _of_users(users, "") | _of_users(tests, "test_")
    common = users.keys() & tests.keys()
    if common:
        return sound(place, named, classes=CHARACTERS["femnist"])
    # LEAF can also split by writer. Then no test image belongs to a client.
    del named["test_clients"]
    made = sound(place, named, classes=CHARACTERS["femnist"])
    note = f"no test image is of a training client: {counted(len(tests), 'other writer')} test"
    return Arrays(**{**vars(made), "notes": (*made.notes, note)})


def _of_users(users: dict[str, tuple[NDArray[Any], NDArray[Any]]], prefix: str) -> dict[str, Any]:
    """Return the images, labels and writers of all users."""
    names = in_order(users)
    sizes = [len(users[name][1]) for name in names]
    return {
        f"{prefix}images": np.concatenate([users[name][0] for name in names]),
        f"{prefix}labels": np.concatenate([users[name][1] for name in names]),
        f"{prefix}clients": np.repeat(np.array(names), sizes),
    }


def read_leaf(paths: Sequence[Path]) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Return the images [N, 28, 28] and labels [N] of each writer in files of LEAF.

    Raises:
        BadData: a file is no such file, or a writer is in two of them.

    """
    users: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
    for path in paths:
        with reading(path, "a file of LEAF"):
            content = json.loads(regular.read(path))
            names, data = content["users"], content["user_data"]
            if sorted(names) != sorted(data):
                raise ValueError("its users are not those of its user_data")
            for name in names:
                if name in users:
                    raise BadData(f"{shown(path)} holds the writer {shown(name)} a second time")
                users[name] = _leaf_images(path, name, data[name])
                progress.step()
    if empty := [shown(name) for name, (_, labels) in users.items() if not len(labels)]:
        raise BadData(f"{shown(paths[0].parent)} holds writers without images: {listed(empty)}")
    if not users:
        raise BadData(f"{shown(paths[0].parent)} holds no writers: make the files again")
    return users


def _leaf_images(
    path: Path, name: str, data: dict[str, Any]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return a writer's images and labels. LEAF stores values from 0 to 1, each 1/255 of a byte."""
    labels = np.array(data["y"])
    if labels.dtype.kind not in "iu" and len(labels):
        raise ValueError(f"the labels of {name} are no whole numbers")
    pixels = np.array(data["x"], dtype=np.float64)
    pixels = pixels.reshape(len(pixels), -1 if pixels.size else 0)
    if len(pixels) != len(labels) or (len(pixels) and pixels.shape[1] != SIDE * SIDE):
        raise BadData(
            f"{shown(path)} has {len(labels)} labels and images of shape {list(pixels.shape)} for "
            f"the writer {shown(name)}: an image has {SIDE * SIDE} values"
        )
    if len(pixels) and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise BadData(f"{shown(path)} has pixels outside of 0 to 1 for the writer {shown(name)}")
    images = np.rint(255 * pixels).astype(np.uint8).reshape(-1, SIDE, SIDE)
    return images, labels.astype(np.int64)


LAYOUTS: dict[str, Callable[[Path], Stored]] = {
    **{name: partial(in_idx, name) for name in IDX_FOLDERS},
    "svhn": svhn,
    "femnist": femnist,
}
"""The functions that list each data set in its folder."""

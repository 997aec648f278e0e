"""Sources of the data sets: their files, and the functions that decode these into arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import features
from platformdirs import user_cache_path

from trainers import pickles, regular
from trainers.data.arrays import Statistics, Stored
from trainers.data.content import Content, check_room, read_content
from trainers.data.dataset import VOID, Dataset, assemble
from trainers.data.decode import Depth, Images, read_images, read_scenes
from trainers.data.downloads import (
    download,
    download_cifar,
    is_whole,
    limit_silence,
    require_writable,
)
from trainers.data.errors import (
    POINT,
    BadData,
    Missing,
    shown,
)
from trainers.data.files import Files
from trainers.data.images import decoding, orientation, upright
from trainers.data.listing import Listing, list_data
from trainers.facts import DOWNLOADED, SEGMENTATION
from trainers.progress import progress

CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""As in FedBE's code (Chen and Chao 2021)."""


CIFAR100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


TINY_IMAGENET_200 = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
"""The usual ones, of the training images."""


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which is usual for road scenes too."""


TINY_SIDE = 64


CAMVID_CLASSES = 11


CAMVID_VOID = 11


@dataclass(frozen=True)
class Source:
    """The files of a data set, and how they become arrays."""

    dataset: str
    root: Path
    paths: tuple[Path, ...]
    decode: Callable[[], Dataset]
    size: int | None = None
    """Side or height in pixels to which images are resized."""
    labels: frozenset[Path] = frozenset()
    """The label images among the paths."""
    found: tuple[str, ...] = ()
    """Sentences about the files of the folder that are used and ignored."""
    variant: tuple[str, ...] = ()
    """Further facts that decide how the files become arrays."""
    listing: Listing | None = None
    """The listing that the source was made from, if it lies on disk."""

    def key(self) -> str:
        """Return a hash of the files' places, sizes and times of change, and of the decoders.

        Files are not read. A changed file of the same size and time is not noticed.
        """
        listing = []
        for path in self.paths:
            stat = path.stat()
            listing.append((path.relative_to(self.root).as_posix(), stat.st_size, stat.st_mtime_ns))
            progress.step()
        packages = "pillow", "torchvision", "scikit-learn"
        decoders = [*map(version, packages), features.version("jpg")]
        facts = json.dumps([self.dataset, self.size, decoders, listing, *self.variant])
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def content(self) -> Content:
        """Read every file once: the fingerprint that a plan takes, and what headers say."""
        if self.listing is not None:
            return self.listing.content()
        return read_content(self.root, self.paths, self.labels)


def find(
    dataset: str,
    root: Path | None,
    *,
    image_size: int | None,
    image_height: int | None,
    file: str | None = None,
    clients_by: str | None = None,
) -> Source:
    """Return a data set's files. Missing ones are downloaded if that is allowed.

    Raises:
        BadData: they are neither there nor to be had, or are no such data set.

    """
    if dataset == "digits":
        return _digits()
    if dataset in CIFARS:
        return _cifar(dataset, root or user_cache_path("fedsweep"))
    if root is None and dataset in DOWNLOADED:
        root = download(dataset, user_cache_path("fedsweep"))
    choice = {"dataset": dataset, "file": file, "clients_by": clients_by, "image_size": image_size}
    files = list_data(choice, root)
    if isinstance(files, Stored):
        return _stored(dataset, files)
    assert isinstance(files, Files)  # `trainers.data.datasets` loads those of other packages
    if dataset in SEGMENTATION:
        size = image_height or 256
        decode = partial(road_scenes, dataset, files, size)
    elif dataset == "tiny-imagenet":
        size = TINY_SIDE
        decode = partial(image_folder, files, size, _of_bytes(TINY_IMAGENET_200))
    else:
        size = image_size or 32
        decode = partial(image_folder, files, size)
    variant = () if clients_by in (None, "nothing") else (str(clients_by),)
    return Source(
        *(dataset, files.root, files.paths, decode, size, files.labels, files.found),
        variant=variant,
        listing=files,
    )


def _stored(dataset: str, stored: Stored) -> Source:
    """Return the source of arrays in a few files."""
    name = dataset.partition(":")[0]  # it becomes the name of a folder
    decode = partial(stored_arrays, stored)
    return Source(
        *(name, stored.root, stored.paths, decode, stored.size),
        found=stored.found,
        variant=(dataset,),
        listing=stored,
    )


def stored_arrays(stored: Stored) -> Dataset:
    """Return the data set of arrays in a few files.

    They are normalized by the training images' own channel statistics (ours), unless others are
    usual.
    """
    arrays = stored.read()
    mean, std = arrays.statistics or channel_statistics(arrays.images)
    # Torch wants its arrays writable.
    images, test_images = (
        np.require(part, requirements=["C", "W"]) for part in (arrays.images, arrays.test_images)
    )
    made = assemble(
        (images, arrays.labels),
        (test_images, arrays.test_labels),
        classes=arrays.classes,
        mean=mean,
        std=std,
        groups=arrays.clients,
        members=arrays.members,
        test_members=arrays.test_members,
    )
    return replace(made, found=arrays.notes)


def _digits() -> Source:
    """Load the digits of scikit-learn. Its import takes seconds, and cached digits do not
    need it.
    """
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    root = Path(package.origin).parent / "datasets" / "data"
    return Source("digits", root, (root / "digits.csv.gz",), digits)


def digits() -> Dataset:
    """1,797 handwritten digits, 8x8, gray 0..16 (scikit-learn's); a stratified fifth tests."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, 8, 8, 1).astype(np.uint8)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, labels.astype(np.int64), test_size=0.2, stratify=labels, random_state=0
    )
    return assemble((train_x, train_y), (test_x, test_y), classes=10, mean=(0.0,), std=(16.0,))


CIFARS = {
    "cifar10": ("CIFAR-10", "cifar-10-batches-py", 10, CIFAR10),
    "cifar100": ("CIFAR-100", "cifar-100-python", 100, CIFAR100),
}
"""Name, folder, classes and statistics of the data sets of Krizhevsky 2009."""


def _cifar(dataset: str, place: Path) -> Source:
    folder = place / CIFARS[dataset][1]
    if not folder.is_dir():
        cifar(dataset, place)
    paths = tuple(sorted(path for path in folder.iterdir() if path.is_file()))
    return Source(dataset, place, paths, partial(cifar, dataset, place))


def cifar(dataset: str, place: Path) -> Dataset:
    """Return the source of CIFAR-10 or CIFAR-100: the files in `place`, or downloaded there."""
    name, folder, _, _ = CIFARS[dataset]
    try:
        with suppress(RuntimeError):  # not there, or damaged
            return _read_cifar(dataset, place, download=False)
        if place == user_cache_path("fedsweep"):
            require_writable(place)
        elif not place.is_dir():  # a person named it: a slip is not to become a folder
            raise FileNotFoundError(f"there is no folder {place}")
        with limit_silence(), FileLock(place / f".{dataset}.lock"):
            return _read_cifar(dataset, place, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise Missing(
            f"{name} is not in {place} and could not be downloaded ({error}): put its folder "
            f"{folder} there, or {POINT} where it is"
        ) from error


def _read_cifar(dataset: str, place: Path, *, download: bool) -> Dataset:
    """Read the batches whose checksums torchvision lists, without its unpickling.

    Raises:
        RuntimeError: one of them is not there, or damaged.

    """
    from torchvision import datasets

    reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    folder = place / reader.base_folder
    if download and not is_whole(folder, reader):
        download_cifar(folder, reader)
    if not is_whole(folder, reader):
        raise RuntimeError(f"its files in {folder} are not those of the official archive")
    train, test = (
        _batches([folder / name for name, _ in names])
        for names in (reader.train_list, reader.test_list)
    )
    _, _, classes, statistics = CIFARS[dataset]
    mean, std = _of_bytes(statistics)
    return assemble(train, test, classes=classes, mean=mean, std=std)


def _batches(files: Sequence[Path]) -> tuple[Images, NDArray[np.int64]]:
    """Return the images [N, 32, 32, 3] and labels of pickled batches.

    Raises:
        BadData: a file is no such batch.

    """
    images, labels = [], []
    for file in files:
        try:
            batch = pickles.load(regular.read(file))
            images.append(batch["data"].reshape(-1, 3, 32, 32))
            numbers = batch["labels"] if "labels" in batch else batch["fine_labels"]
            labels.append(np.array(numbers, dtype=np.int64).reshape(len(images[-1])))
        except OSError:
            raise
        except Exception as error:
            raise BadData(
                f"{shown(file)} cannot be read as a batch of CIFAR ({error}): put the official "
                "file there"
            ) from error
        progress.step()
    return np.concatenate(images).transpose(0, 2, 3, 1), np.concatenate(labels)


def _of_bytes(statistics: Statistics) -> Statistics:
    """Statistics of values in 0..1, in units of uint8."""
    mean, std = (tuple(255 * v for v in values) for values in statistics)
    return mean, std


def image_folder(files: Files, size: int, statistics: Statistics | None = None) -> Dataset:
    """Decode images with one class each to RGB, resized to size x size if they differ.

    They are normalized by the training images' own channel statistics (ours), unless others are
    given.
    """
    depth = Depth()
    check_room(files.root, len(files.train) + len(files.test), size, size, 3)
    train, test = (read_images(part, size, depth) for part in (files.train, files.test))
    mean, std = statistics or channel_statistics(train[0])
    members, test_members = (
        np.array(part, dtype=np.int64) if part else None
        for part in (files.members, files.test_members)
    )
    made = assemble(
        train,
        test,
        classes=len(files.classes),
        mean=mean,
        std=std,
        groups=files.groups,
        members=members,
        test_members=test_members,
    )
    return replace(made, found=depth.lines(files.root))


def channel_statistics(images: Images) -> Statistics:
    """Mean and standard deviation of each channel of [N, H, W, C], from exact integer sums."""
    values = np.arange(256, dtype=np.float64)
    counts = [np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[3])]
    mean = [float(n @ values / n.sum()) for n in counts]
    var = [float(n @ (values - m) ** 2 / n.sum()) for n, m in zip(counts, mean, strict=True)]
    return tuple(mean), tuple(max(v, 1.0) ** 0.5 for v in var)


def road_scenes(dataset: str, files: Files, height: int) -> Dataset:
    """Images with a class for each pixel; RGB, all resized to one height and width.

    The width keeps the first training image's aspect, to the nearest multiple of 16. Images
    are resized bilinearly, labels to the nearest.
    """
    ids = cityscapes_ids() if dataset == "cityscapes" else camvid_ids()
    depth = Depth()
    with decoding(files.train[0][0]) as first:
        across, down = upright(first, orientation(first)).size
    width = max(round(height * across / down / 16), 1) * 16
    check_room(files.root, len(files.train) + len(files.test), height, width, 4)
    train, test = (
        read_scenes(part, (width, height), ids, depth) for part in (files.train, files.test)
    )
    if (test[1] == VOID).all():
        raise BadData(
            f"every pixel of the test images in {shown(files.root)} is void: nothing to test"
        )
    mean, std = _of_bytes(IMAGENET)
    classes = len(set(ids.values()) - {VOID})
    members = np.array(files.members, dtype=np.int64)
    made = assemble(
        train, test, classes=classes, mean=mean, std=std, groups=files.groups, members=members
    )
    return replace(made, found=depth.lines(files.root))


def camvid_ids() -> dict[int, int]:
    """Return the class of each value of a label image: 11 classes, and void."""
    return {i: i for i in range(CAMVID_CLASSES)} | {CAMVID_VOID: VOID}


def cityscapes_ids() -> dict[int, int]:
    """Return the training class of each label id: 19 classes and void, from torchvision's table.

    The id -1 (a license plate) is 255 in a byte.
    """
    from torchvision.datasets import Cityscapes

    return {c.id % 256: VOID if c.train_id == -1 else c.train_id for c in Cityscapes.classes}

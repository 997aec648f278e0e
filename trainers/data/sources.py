"""Where each data set comes from, and how its files become arrays."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http.client import HTTPException
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from threading import Lock
from typing import Any
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, features
from platformdirs import user_cache_path

from trainers import pickles, private, regular
from trainers.data.dataset import VOID, Dataset, assemble
from trainers.data.files import (
    POINT,
    REMEDIES,
    TINY_IMAGENET,
    BadData,
    Content,
    Files,
    MachineLimit,
    Missing,
    check_room,
    list_files,
    read_content,
    refuse_limit,
    shown,
)
from trainers.data.images import decoding, is_deep, is_inverted, orientation, sample_bits, upright
from trainers.facts import SEGMENTATION
from trainers.progress import progress

Images = NDArray[np.uint8]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel."""

CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""As in FedBE's code (Chen and Chao 2021)."""
CIFAR100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
TINY_IMAGENET_200 = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
"""The usual ones, of the training images."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which is usual for road scenes too."""

TINY_SIDE = 64

TINY_URL = f"http://cs231n.stanford.edu/{TINY_IMAGENET}.zip"
TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SILENCE = 60.0
"""Seconds without a byte after which a download has failed."""

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
    """Sentences on what was found in the folder and what was ignored."""

    def key(self) -> str:
        """A hash of all that decides the arrays: files by place, size and time of change; decoders.

        Files are not read: one that changed within its size and kept its time passes for the old.
        """
        listing = []
        for path in self.paths:
            stat = path.stat()
            listing.append((path.relative_to(self.root).as_posix(), stat.st_size, stat.st_mtime_ns))
            progress.step()
        packages = "pillow", "torchvision", "scikit-learn"
        decoders = [*map(version, packages), features.version("jpg")]
        facts = json.dumps([self.dataset, self.size, decoders, listing])
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def content(self) -> Content:
        """Read every file once: the fingerprint that a plan takes, and what headers say."""
        return read_content(self.root, self.paths, self.labels)


def find(
    dataset: str, root: Path | None, *, image_size: int | None, image_height: int | None
) -> Source:
    """A data set's files, downloaded where that is allowed and they are missing.

    Raises:
        BadData: they are neither there nor to be had, or are no such data set.

    """
    if dataset == "digits":
        return _digits()
    if dataset in CIFARS:
        return _cifar(dataset, root or user_cache_path("fedsweep"))
    if dataset == "tiny-imagenet" and root is None:
        download_tiny_imagenet(user_cache_path("fedsweep"))
    files = list_files(dataset, root)
    if dataset in SEGMENTATION:
        size = image_height or 256
        decode = partial(road_scenes, dataset, files, size)
    elif dataset == "tiny-imagenet":
        size = TINY_SIDE
        decode = partial(image_folder, files, size, _of_bytes(TINY_IMAGENET_200))
    else:
        size = image_size or 32
        decode = partial(image_folder, files, size)
    return Source(dataset, files.root, files.paths, decode, size, files.labels, files.found)


def _digits() -> Source:
    """Within scikit-learn, whose import takes seconds: once they are decoded, nobody needs it."""
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
    """CIFAR-10 or CIFAR-100 through torchvision: found in `place`, else downloaded there."""
    name, folder, _, _ = CIFARS[dataset]
    try:
        with suppress(RuntimeError):  # not there, or damaged
            return _read_cifar(dataset, place, download=False)
        if place == user_cache_path("fedsweep"):
            _require_writable(place)
        elif not place.is_dir():  # a person named it: a slip is not to become a folder
            raise FileNotFoundError(f"there is no folder {place}")
        with _patience(), FileLock(place / f".{dataset}.lock"):
            return _read_cifar(dataset, place, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise Missing(
            f"{name} is not in {place} and could not be downloaded ({error}): put its folder "
            f"{folder} there, or {POINT} where it is"
        ) from error


def _read_cifar(dataset: str, place: Path, *, download: bool) -> Dataset:
    """Read the batches whose sums are those of torchvision's list, without its unpickling.

    Raises:
        RuntimeError: one of them is not there, or damaged.

    """
    from torchvision import datasets

    reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    folder = place / reader.base_folder
    if download and not _is_whole(folder, reader):
        _download_cifar(folder, reader)
    if not _is_whole(folder, reader):
        raise RuntimeError(f"its files in {folder} are not those of the official archive")
    train, test = (
        _batches([folder / name for name, _ in names])
        for names in (reader.train_list, reader.test_list)
    )
    _, _, classes, statistics = CIFARS[dataset]
    mean, std = _of_bytes(statistics)
    return assemble(train, test, classes=classes, mean=mean, std=std)


def _is_whole(folder: Path, reader: Any) -> bool:
    """Return if a folder holds all files of torchvision's list, with their sums."""
    from torchvision.datasets import cifar as lists

    files = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
    for name, md5 in files:
        try:
            with regular.opened(folder / name):  # torchvision would read a file of any size
                pass
        except OSError as error:
            refuse_limit(error)
            return False
        if not lists.check_integrity(str(folder / name), md5):
            return False
    return True


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


def _download_cifar(folder: Path, reader: Any) -> None:
    """Put the files of the official archive into a folder, which may have others.

    An archive that a person has put next to the folder is used, if it is sound.

    Raises:
        OSError, RuntimeError: it cannot be had.

    """
    from torchvision.datasets.utils import download_url

    with private.aside(folder) as aside:
        content = b""
        with suppress(OSError):
            content = regular.read(folder.parent / reader.filename)
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != reader.tgz_md5:
            download_url(reader.url, aside, reader.filename, reader.tgz_md5)
            content = regular.read(aside / reader.filename)
        private.make_folder(folder)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                if not (member.isreg() and place.parent == PurePosixPath(reader.base_folder)):
                    continue
                source = archive.extractfile(member)
                if source is not None and member.size <= regular.MOST_BYTES:
                    (aside / place.name).write_bytes(source.read())
                    (aside / place.name).replace(folder / place.name)


def _of_bytes(statistics: Statistics) -> Statistics:
    """Statistics of values in 0..1, in units of uint8."""
    mean, std = (tuple(255 * v for v in values) for values in statistics)
    return mean, std


def _require_writable(place: Path) -> None:
    """Make the cache folder that a data set is downloaded to.

    Raises:
        MachineLimit: it cannot be written.

    """
    try:
        private.make_folder(place)
        with TemporaryFile(dir=place):
            return
    except OSError as error:
        raise MachineLimit(
            f"nothing can be downloaded to {place} ({error.strerror or error}): name a folder that "
            f"can be written in XDG_CACHE_HOME, or {POINT} the data set"
        ) from error


def _require_ours(folder: Path) -> None:
    """Refuse a downloaded data set that other users may have changed: no sum tells.

    Raises:
        MachineLimit: they may write it, or own it.

    """
    for place in (folder.parent, folder):
        private.close(place)
    with suppress(OSError):
        if said := private.writer_of(folder) or private.writer_of(folder.parent):
            raise MachineLimit(
                f"{shown(folder)} is not trusted ({shown(said)}): remove it and it is downloaded "
                f"again, name a folder of your own in XDG_CACHE_HOME, or {POINT} the data set"
            )


@contextmanager
def _patience() -> Iterator[None]:
    """Give up on a server that has fallen silent: torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        with progress.waiting():
            yield
    finally:
        socket.setdefaulttimeout(before)


def download_tiny_imagenet(place: Path) -> None:
    """Put Tiny-ImageNet's folder into `place`, whole or not at all, where it is missing.

    Raises:
        BadData: it cannot be had.

    """
    wanted = place / TINY_IMAGENET
    if wanted.is_dir():
        _require_ours(wanted)
        return
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        _require_writable(place)
        with _patience(), FileLock(place / f".{TINY_IMAGENET}.lock"):
            if wanted.is_dir():
                return
            with private.aside(wanted) as aside:
                download_and_extract_archive(TINY_URL, aside, md5=TINY_MD5, remove_finished=True)
                (aside / TINY_IMAGENET).chmod(0o700)
                (aside / TINY_IMAGENET).replace(wanted)
    except (OSError, RuntimeError, HTTPException, BadZipFile) as error:
        raise Missing(
            f"Tiny-ImageNet is not in {place} and could not be downloaded ({error}): "
            f"{REMEDIES['tiny-imagenet']}"
        ) from error


def image_folder(files: Files, size: int, statistics: Statistics | None = None) -> Dataset:
    """Images with a class each; RGB, resized to size x size where they differ.

    Normalized by the training images' own channel statistics (ours) unless some are given.
    """
    depth = Depth()
    check_room(files.root, len(files.train) + len(files.test), size, size, 3)
    train, test = (_images(part, size, depth) for part in (files.train, files.test))
    mean, std = statistics or channel_statistics(train[0])
    made = assemble(train, test, classes=len(files.classes), mean=mean, std=std)
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
    train, test = (_scenes(part, (width, height), ids, depth) for part in (files.train, files.test))
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
    """The class of each value of a label image: 11 of them, and void."""
    return {i: i for i in range(CAMVID_CLASSES)} | {CAMVID_VOID: VOID}


def cityscapes_ids() -> dict[int, int]:
    """The training class of each label id: 19 of them, and void, from torchvision's table.

    The id -1 (a license plate) is 255 in a byte.
    """
    from torchvision.datasets import Cityscapes

    return {c.id % 256: VOID if c.train_id == -1 else c.train_id for c in Cityscapes.classes}


@dataclass
class Depth:
    """The range of gray that the deep images of a data set use. Threads add to it."""

    images: int = 0
    low: int = 2**16
    high: int = -1
    bright: tuple[int, int] = (256, -1)
    """Lowest and highest value that is left in 8 bits."""
    lock: Lock = field(default_factory=Lock)

    def reduce(self, image: Image.Image) -> Image.Image:
        """Return deep gray as 8-bit gray: the upper 8 bits of the depth that the file defines."""
        values = np.asarray(image).astype(np.int32)  # a copy of 16 bits or more for each pixel
        low, high = int(values.min()), int(values.max())
        values >>= sample_bits(image) - 8
        gray = np.clip(values, 0, 255, out=values).astype(np.uint8)
        with self.lock:
            self.images += 1
            self.low, self.high = min(self.low, low), max(self.high, high)
            darkest, brightest = self.bright
            self.bright = min(darkest, int(gray.min())), max(brightest, int(gray.max()))
        return Image.fromarray(255 - gray if is_inverted(image) else gray)

    def lines(self, root: Path) -> tuple[str, ...]:
        """Return a sentence if the images use few of the 256 levels that 8 bits have.

        Raises:
            BadData: they use one, although their values differ.

        """
        levels = self.bright[1] - self.bright[0] + 1
        if not self.images or levels >= FEW_LEVELS:
            return ()
        said = (
            f"deep gray images hold values of {self.low:,} to {self.high:,}, "
            f"which are {levels} of 256 levels in 8 bits"
        )
        if levels == 1 and self.low < self.high:
            raise BadData(
                f"in {shown(root)}, {said}: scale them to the whole depth, or save them with 8 bits"
            )
        return (said,)


FEW_LEVELS = 32
"""Levels of gray below which the loss of the lower bits is told."""


def _images(
    entries: Sequence[tuple[Path, Any]], size: int, depth: Depth
) -> tuple[Images, NDArray[np.int64]]:
    images = np.empty((len(entries), size, size, 3), dtype=np.uint8)

    def read(i: int) -> None:
        images[i] = _rgb(entries[i][0], (size, size), depth)

    _each(read, len(entries))
    return images, np.array([label for _, label in entries], dtype=np.int64)


def _scenes(
    entries: Sequence[tuple[Path, Any]],
    size: tuple[int, int],
    ids: Mapping[int, int],
    depth: Depth,
) -> tuple[Images, Images]:
    width, height = size
    images = np.empty((len(entries), height, width, 3), dtype=np.uint8)
    labels = np.empty((len(entries), height, width), dtype=np.uint8)

    def read(i: int) -> None:
        path, label_path = entries[i]
        with decoding(path) as image:
            sides, turn = image.size, orientation(image)
            images[i] = _to_rgb(image, path, size, depth)
        with decoding(label_path, label=True) as label:
            if label.size != sides:
                raise BadData(
                    f"{shown(label_path)} and its image {shown(path)} differ in size: "
                    "mend one of them"
                )
            if orientation(label) != turn:
                raise BadData(
                    f"{shown(label_path)} and its image {shown(path)} differ in EXIF "
                    "orientation: turn the pixels of both alike, and remove the tag"
                )
            labels[i] = _classes(label, label_path, size, ids)

    _each(read, len(entries))
    return images, labels


def _each(read: Callable[[int], None], count: int) -> None:
    """Pillow decodes outside the interpreter's lock, so threads share the work.

    In runs: small images one by one would spend their time on handing over that lock.
    """

    def some(start: int) -> None:
        for i in range(start, min(start + RUN, count)):
            read(i)
            progress.step()

    with ThreadPoolExecutor() as threads:
        for _ in threads.map(some, range(0, count, RUN)):
            pass


RUN = 16
"""Images that a thread decodes in one go."""


def _rgb(path: Path, size: tuple[int, int], depth: Depth) -> Images:
    """Return the first frame of an image file as RGB [H, W, 3]."""
    with decoding(path) as image:
        return _to_rgb(image, path, size, depth)


def _to_rgb(image: Image.Image, path: Path, size: tuple[int, int], depth: Depth) -> Images:
    """Return an image as RGB [H, W, 3], upright, resized if its width or height differs."""
    turn = orientation(image)
    try:
        rgb = (depth.reduce(image) if is_deep(image) else image).convert("RGB")
    except ValueError as error:
        raise BadData(f"{shown(path)} cannot become RGB ({error}): save it as RGB") from error
    rgb = upright(rgb, turn)
    if rgb.size != size:
        rgb = rgb.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def _classes(
    image: Image.Image, path: Path, size: tuple[int, int], ids: Mapping[int, int]
) -> Images:
    """The class of each pixel [H, W], from a label image whose values are the keys of `ids`."""
    strange = [value for value, n in enumerate(image.histogram()) if n and value not in ids]
    if strange:
        raise BadData(f"{shown(path)} holds the label {strange[0]}, which is no class: mend it")
    table = np.array([ids.get(value, VOID) for value in range(256)], dtype=np.uint8)
    image = upright(image, orientation(image))
    values: Images = np.asarray(image.resize(size, Image.Resampling.NEAREST))
    return np.take(table, values)

"""Data sets, resident as whole uint8 tensors, and the batches cut from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.config import TrainConfig
from trainers.folder import BadData, Tree, read_tree
from trainers.keys import keyed

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Channel statistics of CIFAR-10, as in FedBE's code (Chen and Chao 2021)."""


@dataclass(frozen=True)
class Split:
    """Pictures uint8 [N, H, W, C] and labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Split:
        """The same, on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training and test pictures; `mean` and `std` [C] are in units of the stored values."""

    train: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    """A hash of the decoded pictures and labels: decoders differ, and so do results on theirs."""

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return self.train.images.shape[3]

    @property
    def size(self) -> int:
        """Side of a picture, pixels."""
        return self.train.images.shape[1]

    def to(self, device: torch.device) -> Dataset:
        """The same, on a device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def load(
    dataset: str,
    root: Path | None = None,
    *,
    image_size: int | None = None,
    fingerprint: str | None = None,
) -> Dataset:
    """Read a data set by its name, from `root` where it lies on disk.

    `image_size` and `fingerprint` are for an image folder: the side in pixels, and the content
    that a plan expects.

    Raises:
        BadData: it is missing, damaged, or differs from the planned fingerprint.

    """
    if dataset == "digits":
        return digits()
    if dataset == "cifar10":
        return cifar10(root)
    tree = read_tree(root)
    if fingerprint and fingerprint != (found := tree.fingerprint()):
        raise BadData(
            f"the pictures in {root} (fingerprint {found}) are not those that the trial was "
            f"planned for ({fingerprint}): point --data at the right folder"
        )
    return image_folder(tree, image_size or 32)


def digits() -> Dataset:
    """1,797 handwritten digits, 8x8, grey 0..16 (scikit-learn's); a stratified fifth tests."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, 8, 8, 1).astype(np.uint8)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, labels.astype(np.int64), test_size=0.2, stratify=labels, random_state=0
    )
    return _dataset(train_x, train_y, test_x, test_y, mean=(0.0,), std=(16.0,))


def cifar10(root: Path | None) -> Dataset:
    """CIFAR-10 (Krizhevsky 2009) through torchvision: found under `root`, else downloaded there."""
    from filelock import FileLock
    from platformdirs import user_cache_path
    from torchvision.datasets import CIFAR10

    place = root or user_cache_path("fedsweep")
    try:
        with suppress(RuntimeError):  # not there, or damaged
            return _cifar10(CIFAR10, place, download=False)
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / ".cifar10.lock"):
            return _cifar10(CIFAR10, place, download=True)
    except (OSError, RuntimeError) as error:
        raise BadData(
            f"CIFAR-10 is not in {place} and could not be downloaded ({error}): put its folder "
            "cifar-10-batches-py there, or point --data or FEDSWEEP_DATA at where it is"
        ) from error


def _cifar10(reader: Any, place: Path, *, download: bool) -> Dataset:
    parts = [reader(str(place), train=train, download=download) for train in (True, False)]
    (train_x, train_y), (test_x, test_y) = ((p.data, np.array(p.targets)) for p in parts)
    mean, std = (tuple(255 * v for v in values) for values in (CIFAR_MEAN, CIFAR_STD))
    return _dataset(train_x, train_y, test_x, test_y, mean=mean, std=std)


def image_folder(tree: Tree, size: int) -> Dataset:
    """Any tree of train/<class>, test/<class>; RGB, resized to size x size where they differ.

    Normalised by the training pictures' own channel mean and standard deviation (ours).
    """
    (train_x, train_y), (test_x, test_y) = (_decode(p, size) for p in (tree.train, tree.test))
    mean, std = channel_statistics(train_x)
    return _dataset(train_x, train_y, test_x, test_y, mean=mean, std=std)


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of [N, H, W, C], from exact integer sums."""
    values = np.arange(256, dtype=np.float64)
    counts = [np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[3])]
    mean = [float(n @ values / n.sum()) for n in counts]
    var = [float(n @ (values - m) ** 2 / n.sum()) for n, m in zip(counts, mean, strict=True)]
    return tuple(mean), tuple(max(v, 1.0) ** 0.5 for v in var)


def _decode(
    files: tuple[tuple[Path, int], ...], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from PIL import Image

    images = np.empty((len(files), size, size, 3), dtype=np.uint8)
    for i, (path, _) in enumerate(files):
        try:
            with Image.open(path) as picture:
                rgb = picture.convert("RGB")
        except (OSError, SyntaxError) as error:
            raise BadData(
                f"{path} cannot be read as a picture ({error}): mend or remove it"
            ) from error
        if rgb.size != (size, size):
            rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
        images[i] = np.asarray(rgb)
    return images, np.array([label for _, label in files], dtype=np.int64)


def _dataset(
    train_x: NDArray[np.uint8],
    train_y: NDArray[np.int64],
    test_x: NDArray[np.uint8],
    test_y: NDArray[np.int64],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Dataset:
    content = hashlib.sha256()
    for array in (train_x, train_y, test_x, test_y):
        content.update(np.ascontiguousarray(array).data)
    train, test = (
        Split(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.asarray(y, np.int64)))
        for x, y in ((train_x, train_y), (test_x, test_y))
    )
    classes = int(train_y.max()) + 1
    return Dataset(train, test, classes, mean, std, content.hexdigest()[:32])


class Normalize:
    """(x - mean) / std per channel: uint8 [B, H, W, C] to dtype [B, C, H, W], channels last."""

    def __init__(self, data: Dataset, dtype: torch.dtype, device: torch.device) -> None:
        self.mean = torch.tensor(data.mean, dtype=torch.float64).to(dtype).to(device)
        self.scale = (1 / torch.tensor(data.std, dtype=torch.float64)).to(dtype).to(device)
        self.dtype = dtype

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise a batch."""
        return images.to(self.dtype).sub_(self.mean).mul_(self.scale).permute(0, 3, 1, 2)


def epoch_batches(
    samples: NDArray[np.int64], batch_size: int, draw: np.random.RandomState
) -> list[NDArray[np.int64]]:
    """One local epoch: the samples permuted, cut into whole batches.

    A last partial batch is dropped unless it is the only one.
    """
    order = samples[draw.permutation(len(samples))]
    whole = max(len(order) // batch_size, 1)
    return [order[i * batch_size : (i + 1) * batch_size] for i in range(whole)]


def local_batches(
    samples: NDArray[np.int64], config: TrainConfig, round: int, client: int
) -> NDArray[np.int64]:
    """The sample indices [E, B] of a client's local steps in a round, epoch after epoch.

    B is the batch size, or the number of samples where the client holds fewer.
    """
    batches: list[NDArray[np.int64]] = []
    epoch = 0
    while len(batches) < config.local_steps:
        draw = keyed(config.seed, "batches", round, client, epoch)
        batches += epoch_batches(samples, config.batch_size, draw)
        epoch += 1
    return np.stack(batches[: config.local_steps])


def draw_crops(
    count: int, size: int, draws: Iterable[np.random.RandomState]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns [steps, B, size] that crop and flip batches of B padded pictures.

    Random crop after zero padding of size // 8, and horizontal flip; four pixels at 32x32, as
    He et al. 2016 do for CIFAR. One generator a step.
    """
    pad, span = size // 8, np.arange(size)
    rows, columns = [], []
    for draw in draws:
        offset = draw.randint(0, 2 * pad + 1, (2, count, 1))
        flip = draw.randint(0, 2, (count, 1))
        rows.append(offset[0] + span)
        columns.append(offset[1] + np.where(flip == 1, size - 1 - span, span))
    return np.stack(rows), np.stack(columns)


def crop_and_flip(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Take rows and columns [B, size] of uint8 pictures [B, size, size, C], zero-padded."""
    pad = images.shape[1] // 8
    padded = torch.nn.functional.pad(images, (0, 0, pad, pad, pad, pad))
    at = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[at, rows[:, :, None], columns[:, None, :]]

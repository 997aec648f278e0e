"""Decoding of image files into arrays of one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainers.data.dataset import VOID
from trainers.data.errors import (
    BadData,
    shown,
)
from trainers.data.images import decoding, is_deep, is_inverted, orientation, sample_bits, upright
from trainers.progress import progress

Images = NDArray[np.uint8]


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
        message = (
            f"deep gray images hold values of {self.low:,} to {self.high:,}, "
            f"which are {levels} of 256 levels in 8 bits"
        )
        if levels == 1 and self.low < self.high:
            raise BadData(
                f"in {shown(root)}, {message}: scale them to the whole depth, "
                "or save them with 8 bits"
            )
        return (message,)


FEW_LEVELS = 32
"""Number of gray levels below which a message reports the loss of the lower bits."""


def read_images(
    entries: Sequence[tuple[Path, Any]], size: int, depth: Depth
) -> tuple[Images, NDArray[np.int64]]:
    """Return the images [N, size, size, 3] of files, and their classes [N]."""
    images = np.empty((len(entries), size, size, 3), dtype=np.uint8)

    def read(i: int) -> None:
        images[i] = _rgb(entries[i][0], (size, size), depth)

    _each(read, len(entries))
    return images, np.array([label for _, label in entries], dtype=np.int64)


def read_scenes(
    entries: Sequence[tuple[Path, Any]],
    size: tuple[int, int],
    ids: Mapping[int, int],
    depth: Depth,
) -> tuple[Images, Images]:
    """Return images [N, H, W, 3] and the class of each pixel [N, H, W]; `size` is (W, H)."""
    width, height = size
    images = np.empty((len(entries), height, width, 3), dtype=np.uint8)
    labels = np.empty((len(entries), height, width), dtype=np.uint8)

    def read(i: int) -> None:
        path, label_path = entries[i]
        with decoding(path) as image:
            sides, turn = image.size, orientation(image)
            images[i] = to_rgb(image, path, size, depth)
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
    counter = progress.current

    def decode_run(start: int) -> None:
        with progress.counting_in(counter):
            for i in range(start, min(start + RUN, count)):
                read(i)
                progress.step()

    with ThreadPoolExecutor() as threads:
        for _ in threads.map(decode_run, range(0, count, RUN)):
            pass


RUN = 16
"""Images that a thread decodes in one go."""


def _rgb(path: Path, size: tuple[int, int], depth: Depth) -> Images:
    """Return the first frame of an image file as RGB [H, W, 3]."""
    with decoding(path) as image:
        return to_rgb(image, path, size, depth)


def to_rgb(image: Image.Image, path: Path, size: tuple[int, int], depth: Depth) -> Images:
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
    """Return the class of each pixel [H, W] of a label image whose values are keys of `ids`."""
    strange = [value for value, n in enumerate(image.histogram()) if n and value not in ids]
    if strange:
        raise BadData(f"{shown(path)} holds the label {strange[0]}, which is no class: mend it")
    table = np.array([ids.get(value, VOID) for value in range(256)], dtype=np.uint8)
    image = upright(image, orientation(image))
    values: Images = np.asarray(image.resize(size, Image.Resampling.NEAREST))
    return np.take(table, values)

"""The content of image files: its hash, its headers, and the memory that it decodes to.

A plan reads it too, so this file imports no torch.
"""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from trainers import regular
from trainers.data.errors import BadData, MachineLimit, Missing, counted, refuse_limit, shown
from trainers.progress import progress
from trainers.regular import shown_bytes

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff"})
"""Endings of image files, in small letters. Others are ignored, and counted."""

PLAIN_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


SPECIAL_CHUNKS = (b"tRNS", b"acTL", b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Chunks of a PNG for transparency, frames and orientation."""


MOST_PIXELS = 2**26
"""Pixels of one image, at most (8,192 x 8,192). Decoding takes up to 16 bytes for each."""


MOST_DATA_BYTES = 2**40
"""Bytes of all files of a data set, and of its decoded arrays, at most (1.1 TB)."""


UNREADABLE = "damage that fails a trial"
"""The note on files that are no images, or that break off."""


@dataclass
class Notes:
    """Counts of the images that a message mentions."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, Path] = field(default_factory=dict)
    reasons: dict[Path, str] = field(default_factory=dict)
    """Sentences on images that cannot be decoded."""

    def add(self, text: str, path: Path) -> None:
        """Count an image; the first of a kind is its example."""
        self.counts[text] = self.counts.get(text, 0) + 1
        self.examples.setdefault(text, path)

    def lines(self, root: Path) -> tuple[str, ...]:
        """Return one sentence for each kind, with the place of one image."""
        return tuple(
            f"{counted(n, 'image')} with {text} ({shown(self.examples[text].relative_to(root))})"
            for text, n in self.counts.items()
        )


@dataclass(frozen=True)
class Content:
    """The content of the files of a data set."""

    fingerprint: str
    """A hash of the files' places and content, and of how affected images are decoded."""
    released: str
    """The fingerprint that the first release took: that of places and content alone."""
    notes: tuple[str, ...] = ()
    """Sentences on how unusual images are decoded."""
    unreadable: str | None = None
    """A sentence on files that are no images, or that break off."""

    def check(self) -> None:
        """Refuse content on which every trial fails.

        Raises:
            BadData: a file is no image.

        """
        if self.unreadable is not None:
            raise BadData(self.unreadable)


def read_content(
    root: Path, paths: Iterable[Path], labels: Collection[Path] = frozenset()
) -> Content:
    """Hash files' places below `root` and their content; look at the headers of images.

    Raises:
        BadData: a file cannot be read, or no decoding of it is right.

    """
    paths = tuple(paths)
    _check_bytes(root, paths)
    total, released, notes = hashlib.sha256(), hashlib.sha256(), Notes()
    for path in paths:
        progress.step()
        try:
            content = regular.read(path)
        except OSError as error:
            refuse_limit(error)
            raise Missing(
                f"{shown(path)} cannot be read ({error.strerror}): mend or remove it"
            ) from error
        place = os.fsencode(path.relative_to(root).as_posix()) + b"\0"
        entry = place + hashlib.sha256(content).digest()
        released.update(entry)
        total.update(entry + _decoding(path, content, notes, label=path in labels))
    unreadable = None
    if count := notes.counts.get(UNREADABLE, 0):
        more = f" (and {count - 1:,} more)" if count > 1 else ""
        path = notes.examples[UNREADABLE]
        why = f"{shown(path)} cannot be read as an image: mend or remove it"
        unreadable = notes.reasons.get(path, why).replace(shown(path), shown(path) + more, 1)
    return Content(total.hexdigest()[:32], released.hexdigest()[:32], notes.lines(root), unreadable)


def _check_bytes(root: Path, paths: Iterable[Path]) -> None:
    """Refuse files that are too large together, before any is read.

    Raises:
        BadData: says their size.

    """
    size = 0
    for path in paths:
        progress.step()
        with suppress(OSError):  # the reading tells
            size += path.stat().st_size
    if size > MOST_DATA_BYTES:
        raise BadData(
            f"the files in {shown(root)} have {shown_bytes(size)}, and a data set may have "
            f"{shown_bytes(MOST_DATA_BYTES)}: use fewer or smaller files"
        )


def check_decoded(root: Path, images: int, height: int, width: int, channels: int) -> int:
    """Return the bytes that images take when they are decoded, one for each channel and pixel.

    Raises:
        BadData: they are too many.

    """
    size = images * height * width * channels
    if size > MOST_DATA_BYTES:
        raise BadData(
            f"{_decoded(root, images, height, width, size)}, and a data set may have "
            f"{shown_bytes(MOST_DATA_BYTES)}: {_SMALLER}"
        )
    return size


def check_room(root: Path, images: int, height: int, width: int, channels: int) -> None:
    """Refuse images that this machine cannot hold, before any is decoded.

    Raises:
        BadData: no machine is to hold them.
        MachineLimit: they take more memory than this machine has.

    """
    from trainers import memory

    size, most = check_decoded(root, images, height, width, channels), memory.limit()
    if size > most:
        raise MachineLimit(
            f"{_decoded(root, images, height, width, size)}, and this machine has "
            f"{shown_bytes(most)} of memory: {_SMALLER}, or use a machine with more memory"
        )


def _decoded(root: Path, images: int, height: int, width: int, size: int) -> str:
    return (
        f"the {counted(images, 'image')} in {shown(root)} take {shown_bytes(size)} when they are "
        f"decoded to {width:,} x {height:,} pixels"
    )


_SMALLER = "lower image_size (or image_height), use fewer images"


def _decoding(path: Path, content: bytes, notes: Notes, *, label: bool) -> bytes:
    """Return what enters the fingerprint for the decoding of an image; mostly nothing.

    Most PNG files are plain, and tell that by their first bytes: then Pillow is not imported.
    """
    if path.suffix.lower() not in SUFFIXES or _is_plain(content, label=label):
        return b""
    from trainers.data.images import inspect

    with warnings.catch_warnings(action="ignore"):  # the decoding gives them again
        return inspect(path, content, notes, label=label)


def _is_plain(content: bytes, *, label: bool) -> bool:
    """Return if this is a PNG of 8-bit gray, RGB or palette, without any special chunk.

    A label image is plain only as gray or palette. No image with too many pixels is plain.
    """
    if not content.startswith(PLAIN_PNG) or len(content) < len(PLAIN_PNG) + 10:
        return False
    width, height = struct.unpack(">II", content[16:24])
    if width * height > MOST_PIXELS:
        return False
    depth, color = content[24], content[25]
    if depth != 8 or color not in ((0, 3) if label else (0, 2, 3)):
        return False
    return not lacks_its_end(content) and not any(chunk in content for chunk in SPECIAL_CHUNKS)


def lacks_its_end(content: bytes) -> bool:
    """Return if a JPEG or PNG probably breaks off, because no mark of an end follows its start."""
    if content.startswith(JPEG):
        return content.find(b"\xff\xd9", _first_scan(content)) < 0
    return content.startswith(PLAIN_PNG[:4]) and content.rfind(b"IEND") < 0


JPEG = b"\xff\xd8"

SCAN, FILL = 0xDA, 0xFF
"""The byte after 0xFF where a scan of a JPEG begins, and the one that only fills."""


def _first_scan(content: bytes) -> int:
    """Return the place of a JPEG's first scan. A small image in a segment before it is skipped."""
    at = len(JPEG)
    while at + 4 <= len(content) and content[at] == FILL and content[at + 1] != SCAN:
        if content[at + 1] == FILL:
            at += 1
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return at

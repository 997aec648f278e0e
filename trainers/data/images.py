"""Image files: their headers, and the decoding of pixels into 8-bit RGB or class labels.

A folder may mix modes, depths and sizes. An image that 8-bit RGB cannot hold is scaled by the depth
that its file defines, or refused by name and mode. Each loss is counted and reported.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import Any

from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from trainers import regular
from trainers.data.content import MOST_PIXELS, UNREADABLE, Notes, lacks_its_end
from trainers.data.errors import BadData, MachineLimit, refuse_limit, shown

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF")
"""Formats that are decoded, and no other of Pillow's: the one of PostScript starts a program."""

MOST_SCANS = 500
"""Scans of a progressive JPEG, at most: each decodes the whole image again. A camera writes ten."""

BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
"""Exceptions of Pillow for images of very many pixels; the second if warnings are errors."""

BYTES_PER_PIXEL = 16
"""Bytes that decoding may take for each pixel: the image, and its copies of other modes."""

SHALLOW = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"})
"""Modes whose samples have at most 8 bits. Pillow keeps the upper 8 bits of deeper color."""
DEEP = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
"""Modes of gray that has 9 to 16 bits."""
DEEP_FORMATS = frozenset({"PNG", "PPM"})
"""Formats whose mode I is gray of 16 bits: they hold nothing deeper."""
WITH_ALPHA = frozenset({"LA", "PA", "RGBA"})
"""Modes that have a channel for transparency."""
SIGNED = 2
"""The TIFF sample format of signed integers."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The turn that each EXIF orientation asks for; 1 asks for none."""

LATE_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Bytes of a PNG that may hold an orientation. Pillow decodes the whole file to look for it."""

DECODED = {
    "gray with 9 to 16 bits, 16-bit color": "the upper 8 bits of the depth that the file defines",
    "32-bit, float, signed samples": "refused by name and mode",
    "EXIF orientation": "applied; an image and its label image must have the same",
    "transparency": "dropped, with a note: hidden colors become visible",
    "palette, 1-bit, CMYK, YCbCr, LAB": "converted; ICC profiles and gamma are not applied",
    "several frames or pages": "only the first, with a note",
    "damaged or truncated": "refused by name; `plan` finds bad headers, and a JPEG or PNG cut off",
    "label images": "8-bit gray or palette; other modes are refused",
}
"""The decoding of each kind of image into 8-bit RGB, in words."""

DECODING = b"\0decoded: 2"
"""Enters the fingerprint with each file that the first release decoded otherwise."""


def inspect(path: Path, content: bytes, notes: Notes, *, label: bool = False) -> bytes:
    """Read the header of an image or label image; return what enters the fingerprint with it.

    A file without a readable header, or one that breaks off, is only noted: a plan refuses it, and
    its decoding fails.

    Raises:
        BadData: no decoding of such an image is right, or it has too many pixels.
        MachineLimit: this machine lacks the memory or the files to decode it.

    """
    try:
        return _inspect(path, content, notes, label=label)
    except (BadData, MachineLimit):
        raise
    except BOMB as error:
        raise BadData(_too_large(path)) from error
    except Exception as error:  # noqa: BLE001  # a decoder may raise anything
        refuse_limit(error)
        notes.add(UNREADABLE, path)
        return b""


def _inspect(path: Path, content: bytes, notes: Notes, *, label: bool) -> bytes:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    check_size(image, path)
    may_turn = image.format != "PNG" or any(mark in content for mark in LATE_EXIF)
    if label:
        check_label(image, path)
    else:
        check_image(image, path)
        for text in _oddities(image):
            notes.add(text, path)
    if lacks_its_end(content) and (reason := _damage(path, label=label)):
        notes.add(UNREADABLE, path)
        notes.reasons[path] = reason
    deep = not label and is_deep(image)
    turned = (may_turn and orientation(image) in TURNS) or _was_scrambled(image)
    if turned and not label:
        notes.add("an EXIF orientation, which is applied", path)
    return DECODING if turned or deep else b""


def _damage(path: Path, *, label: bool) -> str | None:
    """Decode an image; return the sentence on its damage, or None if it has none.

    Raises:
        MachineLimit: this machine lacks the memory or the files to decode it.

    """
    try:
        with decoding(path, label=label):
            return None
    except BadData as error:
        return str(error)


def _oddities(image: Image.Image) -> Iterator[str]:
    """Yield the properties of a header that decoding changes or drops, except the orientation."""
    if is_deep(image):
        yield "gray of more than 8 bits: the upper 8 bits of its depth are used"
    elif _is_deep_color(image):
        yield "color of more than 8 bits: the upper 8 bits are used"
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        yield "transparency, which is dropped: hidden colors show"
    if _has_frames(image):
        yield "several frames or pages: only the first is used"
    if image.mode == "CMYK":
        yield "CMYK colors, which become RGB without a color profile"


def _has_frames(image: Image.Image) -> bool:
    """Return if an image has, or claims, more than one frame."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001  # a later frame is damaged
        return True


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8. Pillow turns a TIFF itself."""
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  # its tags are damaged
        return 1
    return value if value in TURNS else 1


def _was_scrambled(image: Image.Image) -> bool:
    """Return if the first release mapped a TIFF with width and height exchanged.

    Pillow maps one raw strip of a file that it opened by name, and then ignores a quarter turn.
    """
    quarter = _tag(image, ExifTags.Base.Orientation, 1) in QUARTER_TURNS
    oblong = image.width != image.height
    if not (quarter and oblong and isinstance(image, ImageFile.ImageFile)):
        return False
    one_strip = len(image.tile) == 1 and image.tile[0].codec_name == "raw"
    return one_strip and image.mode in MAPPED and _raw(image)[0] == image.mode


QUARTER_TURNS = (5, 6, 7, 8)
MAPPED = frozenset({"L", "P", "RGBX", "RGBA", "CMYK"})
"""Shallow modes that Pillow maps into memory."""


def is_deep(image: Image.Image) -> bool:
    """Return if the image is gray of 9 to 16 bits."""
    return image.mode in DEEP or (image.mode == "I" and image.format in DEEP_FORMATS)


def _is_deep_color(image: Image.Image) -> bool:
    """Return if color samples have more than 8 bits, before the pixels are read."""
    arguments = _raw(image)
    if image.format == "PPM":
        return len(arguments) > 1 and isinstance(arguments[1], int) and arguments[1] > 255
    return bool(arguments) and ";16" in str(arguments[0])


def _raw(image: Image.Image) -> tuple[Any, ...]:
    """Return the raw mode and its options, as the file stores the pixels."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return ()
    arguments = image.tile[0].args
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _tag(image: Image.Image, tag: ExifTags.Base | int, default: int) -> int:
    """Return the first value of a TIFF's tag."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return default
    value = image.tag_v2.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def check_image(image: Image.Image, path: Path) -> None:
    """Refuse an image whose file does not define a scale to 8 bits.

    Raises:
        BadData: the mode is 32-bit or float, or its samples are signed.

    """
    signed = _tag(image, SAMPLE_FORMAT, 1) == SIGNED
    if (image.mode in SHALLOW or is_deep(image)) and not signed:
        return
    depth = {"I": "whole numbers of 16 or 32 bits", "F": "floating-point numbers"}
    kind = "signed numbers" if signed else depth.get(image.mode, "samples of an unknown scale")
    raise BadData(
        f"{shown(path)} has mode {image.mode}, {kind}, and no scale to 8 bits: "
        "save it with 8 bits, or as unsigned gray of 16 bits"
    )


SAMPLE_FORMAT = 339
"""The TIFF tag that tells unsigned, signed and floating-point samples apart."""


def check_label(image: Image.Image, path: Path) -> None:
    """Refuse a label image that does not hold one class per byte.

    Raises:
        BadData: the mode is another, or Pillow would stretch the labels to 0 to 255.

    """
    raw = str(_raw(image)[0]) if _raw(image) else image.mode
    if image.mode not in ("L", "P") or raw in STRETCHED:
        raise BadData(
            f"{shown(path)} is no label image: it must hold one byte a pixel, and its mode is {raw}"
        )


STRETCHED = frozenset({"L;1", "L;2", "L;4"})
"""Raw modes of gray that Pillow stretches to 8 bits."""


def check_size(image: Image.Image, path: Path) -> None:
    """Refuse an image that takes much memory to decode. Its file may be small.

    Raises:
        BadData: it has too many pixels, also in one of its tiles, or too many scans.

    """
    sides = [image.size]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        sides.append((_tag(image, TILE_WIDTH, 1), _tag(image, TILE_LENGTH, 1)))
    for width, height in sides:
        if width * height > MOST_PIXELS:
            raise BadData(
                f"{shown(path)} has {width:,} x {height:,} pixels, and an image may have "
                f"{MOST_PIXELS:,}: save it with fewer, or remove it"
            )


def _too_large(path: Path) -> str:
    """Return the sentence on an image that Pillow itself refuses to open."""
    return (
        f"{shown(path)} has more than the {MOST_PIXELS:,} pixels that an image may have: save it "
        "with fewer, or remove it"
    )


TILE_WIDTH, TILE_LENGTH = 322, 323
"""The TIFF tags of the sides of a tile."""


def check_scans(image: Image.Image, path: Path) -> None:
    """Refuse a progressive JPEG that takes hours to decode.

    Raises:
        BadData: it has too many scans.

    """
    if not image.info.get("progressive"):
        return
    scans = regular.read(path).count(b"\xff\xda")
    if scans > MOST_SCANS:
        raise BadData(
            f"{shown(path)} is a JPEG of {scans:,} scans, and an image may have {MOST_SCANS:,}: "
            "save it again, or remove it"
        )


class _Room:
    """The pixels that the threads of a process decode at the same time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self.changed = Condition()

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for an image, and keep it while the image is decoded."""
        with self.changed:
            self.changed.wait_for(lambda: not self.taken or self.taken + pixels <= self.most)
            self.taken += pixels
        try:
            yield
        finally:
            with self.changed:
                self.taken -= pixels
                self.changed.notify_all()


_room = _Room(MOST_PIXELS)


@contextmanager
def decoding(path: Path, *, label: bool = False) -> Iterator[Image.Image]:
    """Give the first frame of an image or label image, its pixels read; one at a time per thread.

    Each error of the block is taken for one of the image.

    Raises:
        BadData: it is damaged, or no decoding of it is right.
        MachineLimit: this machine lacks the memory or the files to decode it.

    """
    pixels = 0
    try:
        # Pillow would map a file that it opens by name, with a turned TIFF's sides exchanged.
        with regular.opened(path) as file, Image.open(file, formats=FORMATS) as image:
            check_size(image, path)
            (check_label if label else check_image)(image, path)
            check_scans(image, path)
            pixels = image.width * image.height
            with _room.of(pixels):
                image.load()
                yield image
    except (BadData, MachineLimit):
        raise
    except BOMB as error:
        raise BadData(_too_large(path)) from error
    except Exception as error:
        refuse_limit(error)
        if isinstance(error, MemoryError) and not _holds(BYTES_PER_PIXEL * pixels):
            raise MachineLimit(
                f"there is not enough memory to decode {shown(path)}, an image of {pixels:,} "
                "pixels: use fewer --slots, or a machine with more memory"
            ) from error
        raise BadData(
            f"{shown(path)} cannot be read as an image ({_reason(error)}): mend or remove it"
        ) from error


def opened(path: Path, *, label: bool = False) -> Image.Image:
    """Return the first frame of an image or label image, its pixels read.

    Raises:
        BadData: it is damaged, or no decoding of it is right.

    """
    with decoding(path, label=label) as image:
        return image


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is none of {', '.join(FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _holds(size: int) -> bool:
    """Return if this process can have so many bytes of memory."""
    try:
        bytearray(size)
    except MemoryError:
        return False
    return True


def upright(image: Image.Image, turn: int) -> Image.Image:
    """Return the image as an EXIF orientation shows it."""
    return image.transpose(TURNS[turn]) if turn in TURNS else image


def sample_bits(image: Image.Image) -> int:
    """Return the bits per sample of deep gray; Pillow scales deep PPM files to 16."""
    return _tag(image, ExifTags.Base.BitsPerSample, 16)


def is_inverted(image: Image.Image) -> bool:
    """Return if zero is white in deep gray. Pillow inverts only 8-bit files."""
    return _tag(image, ExifTags.Base.PhotometricInterpretation, 1) == 0

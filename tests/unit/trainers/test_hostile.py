"""Data folders from somebody else: nothing runs, nothing hangs, and no file takes the memory."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from torchvision.datasets import CIFAR100, cifar

from fedsweep.errors import PlanError
from fedsweep.execution.data import look_at_data
from fedsweep.plans import read_plan
from tests.image_folders import make_camvid, make_image_folder, make_tiny_imagenet
from trainers import memory, pickles, regular
from trainers.data import content, datasets, decode, downloads, images, sources
from trainers.data.errors import BadData, MachineLimit
from trainers.data.files import list_files

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound image folder."""
    return make_image_folder(tmp_path / "images", each=4)


@pytest.fixture
def victim(root: Path) -> Path:
    """One of its images, which is to be replaced."""
    file = root / "train" / "class0" / "000.png"
    file.unlink()
    return file


def test_postscript_named_as_an_image_starts_no_program(
    root: Path, victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would give the file to Ghostscript, at the decoding."""
    victim.write_bytes(POSTSCRIPT)
    started = tmp_path / "started"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(BadData, match=r"000\.png cannot be read as an image: mend or remove it"):
        list_files("imagefolder", root).content().check()
    with pytest.raises(BadData, match=r"000\.png cannot be read as an image \(it is none of PNG"):
        datasets.load("imagefolder", root, image_size=8)
    assert not started.exists()


@pytest.mark.parametrize("form", ["ICO", "TGA", "PCX", "JPEG2000", "SGI", "ICNS"])
def test_other_formats_are_refused_by_name(form: str, root: Path, victim: Path) -> None:
    """Only the formats whose endings are read are decoded, and GIF."""
    Image.new("RGB", (16, 16)).save(victim, form)
    with pytest.raises(BadData, match=r"000\.png cannot be read as an image"):
        list_files("imagefolder", root).content().check()
    with pytest.raises(BadData, match="it is none of PNG, JPEG, GIF, BMP, PPM, WEBP, TIFF"):
        images.opened(victim)


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png_bomb(width: int, height: int, color: int = 2, depth: int = 8, also: bytes = b"") -> bytes:
    """Return a PNG of a few kilobytes that claims so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(2**20)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + also + pixels + chunk(b"IEND", b"")


def tiff_bomb(width: int, height: int, tags: dict[int, int]) -> bytes:
    """Return a TIFF that claims so many pixels, or so large a tile."""
    entries = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1} | tags
    directory = struct.pack("<H", len(entries))
    for tag, value in sorted(entries.items()):
        directory += struct.pack("<HHII", tag, 4, 1, value)
    return b"II*\0" + struct.pack("<I", 8) + directory + b"\0\0\0\0" + bytes(64)


def webp_bomb(width: int, height: int) -> bytes:
    """Return a small WebP image whose header has another size."""
    content = bytearray(saved("WEBP", 16, 16))
    at = content.index(b"\x9d\x01\x2a") + 3
    content[at : at + 4] = struct.pack("<HH", width, height)
    return bytes(content)


def saved(form: str, width: int, height: int) -> bytes:
    """Return a real image of so many black pixels, which compress to little."""
    content = io.BytesIO()
    Image.new("1" if form == "TIFF" else "L", (width, height)).save(content, form)
    return content.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "plain PNG": lambda: png_bomb(13_000, 13_000),
    "PNG that Pillow refuses": lambda: png_bomb(60_000, 60_000),
    "PNG with an orientation": lambda: png_bomb(13_000, 13_000, also=chunk(b"eXIf", b"II*\0")),
    "deep PNG": lambda: png_bomb(13_000, 13_000, color=0, depth=16),
    "BMP": lambda: (
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 54, 40, 13_000, 13_000, 1, 24, *[0] * 6)
    ),
    "PPM": lambda: b"P6 13000 13000 255\n",
    "GIF": lambda: (
        b"GIF89a"
        + struct.pack("<HHBBB", 13_000, 13_000, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 13_000, 13_000, 0)
        + b"\x08\0;"
    ),
    "TIFF": lambda: tiff_bomb(13_000, 13_000, {273: 200, 278: 13_000, 279: 10}),
    "tile of a small TIFF": lambda: tiff_bomb(
        16, 16, {322: 32_768, 323: 32_768, 324: 200, 325: 10}
    ),
    "WebP": lambda: webp_bomb(16_000, 4_500),
}


@pytest.mark.parametrize("form", BOMBS)
def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(
    form: str, root: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan and the decoding alone say the size, and no pixel is read."""
    victim.write_bytes(BOMBS[form]())

    def decoded(_: Any) -> None:
        raise AssertionError("the image is decoded")

    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", decoded)
        said = r"000\.png has (more than|[\d,]+ x [\d,]+ pixels, and).* 67,108,864"
        with pytest.raises(BadData, match=said):
            list_files("imagefolder", root).content().check()
        with pytest.raises(BadData, match=said):
            images.opened(victim)


def test_a_label_image_with_too_many_pixels_is_refused(tmp_path: Path) -> None:
    """A label image is plain, so that its header alone is looked at."""
    make_camvid(tmp_path)
    label = tmp_path / "CamVid" / "trainannot" / "0006R0_f00001.png"
    label.write_bytes(png_bomb(13_000, 13_000, color=0))
    with pytest.raises(BadData, match="13,000 x 13,000 pixels"):
        list_files("camvid", tmp_path).content()


def test_a_jpeg_of_many_scans_is_refused(victim: Path) -> None:
    """Each scan decodes the whole image again: a small file would take hours."""
    content = io.BytesIO()
    Image.new("L", (64, 64)).save(content, "JPEG", progressive=True)
    start = content.getvalue().index(b"\xff\xda")
    victim.write_bytes(content.getvalue()[:start] + b"\xff\xda\0\6\1\1\0\0\0\0" * 600)
    with pytest.raises(BadData, match=r"000\.png is a JPEG of 600 scans, and .* 500"):
        images.opened(victim)


def test_threads_share_the_room_for_pixels() -> None:
    """Two images that are large together are decoded one after the other."""
    room, busy, most = images._Room(100), [0, 0], threading.Lock()

    def decode(_: int) -> None:
        with room.of(70):
            with most:
                busy[0] += 1
                busy[1] = max(busy)
            with most:
                busy[0] -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(decode, range(200)))
    assert busy == [0, 1]
    assert room.taken == 0
    with room.of(1000):  # an image alone always has room
        pass


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**39)


def a_folder(path: Path) -> None:
    path.mkdir()


SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (fifo, "it is a pipe, not a regular file"),
    "device": (device, "it is a device, not a regular file"),
    "sparse file": (sparse, "it has 549.8 GB, and a file may have"),
    "folder": (a_folder, "it is a folder, not a regular file"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_neither_hang_nor_fill_the_memory(kind: str, tmp_path: Path) -> None:
    """An image, a label image and a list that became a pipe, a device or endless are bad data."""
    make, said = SPECIAL[kind]
    root = make_image_folder(tmp_path / "images", each=4)
    files, victim = list_files("imagefolder", root), root / "train" / "class0" / "000.png"
    victim.unlink()
    make(victim)
    with pytest.raises(BadData, match=rf"000\.png cannot be read \({said}"):
        files.content()
    with pytest.raises(BadData, match=rf"000\.png cannot be read as an image \({said}"):
        images.opened(victim)
    base = make_tiny_imagenet(tmp_path / "tiny") / "tiny-imagenet-200"
    for name in ("wnids.txt", "val/val_annotations.txt"):
        before = (base / name).read_bytes()
        (base / name).unlink()
        make(base / name)
        with pytest.raises(BadData, match=rf"{name} cannot be read \({said}"):
            list_files("tiny-imagenet", tmp_path / "tiny")
        (base / name).rmdir() if kind == "folder" else (base / name).unlink()
        (base / name).write_bytes(before)


def test_special_files_in_an_image_folder_are_no_images(root: Path) -> None:
    """A listing ignores pipes and devices, so that nothing opens them."""
    before = list_files("imagefolder", root)
    fifo(root / "train" / "class0" / "pipe.png")
    device(root / "train" / "class0" / "zero.png")
    assert list_files("imagefolder", root) == before


def test_a_file_that_grows_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more bytes are read than the file had when it was opened."""
    (tmp_path / "x").write_bytes(b"content")
    status = os.stat_result((0o100644, 0, 0, 1, 0, 0, 3, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda _: status)
    with pytest.raises(OSError, match="it grows while it is read"):
        regular.read(tmp_path / "x")


ERRORS = [
    RuntimeError("x"),
    NotImplementedError(),
    MemoryError(),
    SyntaxError("x"),
    struct.error("x"),
    OverflowError("x"),
    zlib.error("x"),
    RecursionError(),
    AttributeError("x"),
    AssertionError(),
    OSError("x"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", ["load", "convert", "resize", "getexif"])
def test_each_error_of_a_decoder_is_bad_data_with_the_name_of_the_file(
    step: str, error: Exception, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's decoders raise many kinds of errors, and so do its conversions."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    place = ImageFile.ImageFile if step == "load" else Image.Image
    monkeypatch.setattr(place, step, fail)
    source = sources.find("imagefolder", root, image_size=8, image_height=None)
    if step == "getexif":  # an image without a readable orientation is upright
        source.decode()
        return
    with pytest.raises(BadData, match=r"/class\d/\d+\.png cannot be read as an image \(.+\): mend"):
        source.decode()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_each_error_of_a_header_is_noted_by_the_plan(
    error: Exception, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan refuses the file by name, whichever step of looking at it failed."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(content, "_is_plain", lambda *_, **__: False)
    for name in ("open", "check_image", "orientation"):
        with monkeypatch.context() as patch:
            patch.setattr(images.Image if name == "open" else images, name, fail)
            read = list_files("imagefolder", root).content()
            if name == "orientation" and read.unreadable is None:
                continue  # it is not asked for an image without such a tag
            with pytest.raises(BadData, match="cannot be read as an image: mend or remove it"):
                read.check()


def test_a_machine_without_memory_for_a_sound_image_is_not_bad_data(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that asks for nonsense is told from a machine that is full."""

    def fail(_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    monkeypatch.setattr(images, "_holds", lambda _: False)
    with pytest.raises(MachineLimit, match=r"not enough memory to decode .*png, an image of"):
        images.opened(root / "train" / "class0" / "000.png")


def test_decoded_data_that_do_not_fit_are_refused_before_they_are_decoded(
    root: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says the size and the remedy, for images, road scenes and a plan."""
    make_camvid(tmp_path / "scenes")
    monkeypatch.setattr(decode, "decoding", None)
    monkeypatch.setattr(memory, "limit", lambda: 1000)
    said = (
        r"the 10 images in .*images take 1\.9 kB when they are decoded to 8 x 8 pixels, and this "
        r"machine has 1\.0 kB of memory: lower image_size .*use fewer images, or use a machine"
    )
    with pytest.raises(MachineLimit, match=said):
        sources.find("imagefolder", root, image_size=8, image_height=None).decode()
    monkeypatch.undo()
    monkeypatch.setattr(memory, "limit", lambda: 1000)
    with pytest.raises(MachineLimit, match="decoded to 16 x 16 pixels, and this machine has"):
        sources.find("camvid", tmp_path / "scenes", image_size=None, image_height=16).decode()
    monkeypatch.setattr(content, "MOST_DATA_BYTES", 2**30)
    sweep = read_plan(tiny, ["dataset=imagefolder", "image_size=16384"])
    with pytest.raises(PlanError, match=r"take 8\.1 GB when .* and a data set may have 1\.1 GB"):
        look_at_data(sweep, root)


def test_files_that_are_too_large_together_are_refused_before_they_are_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million sparse files would be read for days."""
    monkeypatch.setattr(content, "MOST_DATA_BYTES", 1000)
    monkeypatch.setattr(regular, "read", None)
    with pytest.raises(BadData, match=r"the files in .*images have .* may have 1\.0 kB: use fewer"):
        list_files("imagefolder", root).content()


# Pickles and archives


class Evil:
    """Its unpickling makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_in_the_place_of_a_batch_runs_nothing(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have come between the check of the sum and the reading."""
    place, marker = tmp_path / "cifar-100-python", tmp_path / "ran"
    place.mkdir()
    for name in ("train", "test", "meta"):
        (place / name).write_bytes(pickle.dumps({"data": Evil(marker)}, protocol))
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    with pytest.raises(
        BadData, match=r"train cannot be read as a batch .*mkdir, which is not call"
    ):
        datasets.load("cifar100", tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_batch_is_read_from_every_protocol(protocol: int) -> None:
    """Python's and NumPy's versions store arrays under different names."""
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    batch = pickles.load(pickle.dumps({"data": values, "labels": [1, 2, 3]}, protocol))
    assert (batch["data"] == values).all()
    assert batch["labels"] == [1, 2, 3]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"(S'x'\nP0\n.",
        b"\x80\x02\x82\x01.",
        pickle.dumps({"data": np.arange(3.0)}),
        pickle.dumps({"data": np.array([object()])}),
        b"\x80\x02r\xff\xff\xff\xff.",
    ],
)
def test_other_pickles_are_refused(content: bytes) -> None:
    """A name, an extension, a stored object, an array of another type, or damage."""
    with pytest.raises(pickles.NotPlain):
        pickles.load(content)


def test_a_sparse_batch_is_not_summed(tmp_path: Path) -> None:
    """The sum of a terabyte would take hours."""
    place = tmp_path / "cifar-100-python"
    place.mkdir()
    for name in ("train", "test", "meta"):
        sparse(place / name)
    assert not downloads.is_whole(place, CIFAR100)


def test_an_archive_writes_only_the_files_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths upward, links and devices in it are left out."""
    with tarfile.open(tmp_path / CIFAR100.filename, "w:gz") as archive:
        for name in ("../up", "/top", "cifar-100-python/../../up2", "cifar-100-python/train"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"data"))
        link = tarfile.TarInfo("cifar-100-python/link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
    content = (tmp_path / CIFAR100.filename).read_bytes()
    monkeypatch.setattr(CIFAR100, "tgz_md5", __import__("hashlib").md5(content).hexdigest())
    place = tmp_path / "in" / "cifar-100-python"
    place.parent.mkdir()
    (place.parent / CIFAR100.filename).write_bytes(content)
    downloads.download_cifar(place, CIFAR100)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert found == {
        CIFAR100.filename,
        "in",
        f"in/{CIFAR100.filename}",
        "in/cifar-100-python",
        "in/cifar-100-python/train",
    }

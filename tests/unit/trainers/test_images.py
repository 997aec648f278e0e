"""Decoding of image files: depths, modes, orientations, frames, and the labels of road scenes."""

from __future__ import annotations

import errno
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.image_folders import make_camvid, make_image_folder, make_modes_folder
from trainers.data import cache, datasets, images, sources
from trainers.data.errors import BadData, MachineLimit
from trainers.data.files import list_files
from trainers.data.images import TURNS

Gray = NDArray[np.uint16]


def ramp(*, reverse: bool = False) -> Gray:
    """Gray of 16 bits over the whole range, 8x8, with lower bits that 8 bits cannot hold."""
    values = np.linspace(7, 65528, 64).astype(np.uint16).reshape(8, 8)
    return values[::-1] if reverse else values


def png(path: Path, values: Gray, color: int, also: bytes = b"") -> None:
    """Write 16-bit samples [H, W] or [H, W, C] as a PNG of a color type, and further chunks."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + also + chunk(b"IDAT", zlib.compress(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b""))


def tiff(path: Path, values: NDArray[Any], order: str, tags: dict[int, int]) -> None:
    """Write one uncompressed strip of gray as a TIFF of a byte order, with further tags."""
    entries = {256: 8, 257: 8, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8} | tags
    pixels = values.tobytes()
    entries[279] = len(pixels)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(order + "H", len(entries))
    for tag, value in sorted(entries.items()):
        directory += struct.pack(order + "HHII", tag, 4, 1, value)
    start = struct.pack(order + "I", 8 + len(pixels))
    path.write_bytes(mark + start + pixels + directory + b"\0\0\0\0")


def packed_12_bits(values: Gray) -> NDArray[np.uint8]:
    """Pack gray of 12 bits, two values in three bytes."""
    one, two = values.ravel()[::2], values.ravel()[1::2]
    parts = (one >> 4, ((one & 15) << 4) | (two >> 8), two & 255)
    return np.stack(parts, axis=1).astype(np.uint8)


def pgm(path: Path, values: Gray, most: int) -> None:
    """Write gray with a largest value above 255 as a PGM."""
    path.write_bytes(f"P5 8 8 {most}\n".encode() + values.astype(">u2").tobytes())


DEEP: dict[str, Callable[[Path, Gray], None]] = {
    "png": lambda path, values: Image.fromarray(values).save(path, "PNG"),
    "png with transparency": lambda path, values: png(path, np.stack([values] * 2, 2), 4),
    "png of color": lambda path, values: png(path, np.stack([values] * 3, 2), 2),
    "png of color with transparency": lambda path, values: png(path, np.stack([values] * 4, 2), 6),
    "little-endian tiff": lambda path, values: tiff(path, values.astype("<u2"), "<", {}),
    "big-endian tiff": lambda path, values: tiff(path, values.astype(">u2"), ">", {}),
    "tiff with white zero": lambda path, values: tiff(
        path, (65535 - values).astype("<u2"), "<", {262: 0}
    ),
    "tiff of 12 bits": lambda path, values: tiff(path, packed_12_bits(values >> 4), "<", {258: 12}),
    "pgm": lambda path, values: pgm(path, values, 65535),
}
"""How gray of 16 bits is written, by the format."""


def folder(root: Path, write: Callable[[Path, Gray], None], name: str = "x.png") -> Path:
    """Make two classes of one image each, a ramp and its reverse."""
    for part in ("train", "test"):
        for label in ("a", "b"):
            place = root / part / label
            place.mkdir(parents=True)
            write(place / name, ramp(reverse=label == "b"))
    return root


def test_images_of_8_bits_decode_as_in_the_first_release(tmp_path: Path) -> None:
    """Pixels, statistics and fingerprint of every mode of 8 bits or fewer are those of 0.1.0."""
    root = make_modes_folder(tmp_path)
    decoded = datasets.load("imagefolder", root, image_size=8)
    assert decoded.fingerprint == "41820ae5f4faee63abb78a8de01096c3"
    assert list_files("imagefolder", root).fingerprint() == "7346c47dae1c63c672084f1c0526b794"
    assert decoded.mean == (114.97200520833333, 113.40690104166667, 116.91145833333333)


@pytest.mark.parametrize("form", DEEP)
def test_deep_images_keep_their_upper_8_bits(form: str, tmp_path: Path) -> None:
    """The same ramp decodes to the same 8 bits from every format, and the log says so."""
    decoded = datasets.load("imagefolder", folder(tmp_path, DEEP[form]), image_size=8)
    for i, reverse in enumerate((False, True)):
        expected = ramp(reverse=reverse) >> 8
        tolerance = 1 if form == "pgm" else 0
        for channel in range(3):
            gap = decoded.train.images[i, ..., channel].numpy().astype(int) - expected
            assert abs(gap).max() <= tolerance
    assert "more than 8 bits" in "\n".join(decoded.found)


REFUSED: dict[str, tuple[Callable[[Path, Gray], None], str]] = {
    "float": (lambda path, v: Image.fromarray(v.astype(np.float32)).save(path, "TIFF"), "mode F"),
    "32 bits": (lambda path, v: Image.fromarray(v.astype(np.int32)).save(path, "TIFF"), "mode I"),
    "unsigned 32 bits": (
        lambda path, v: tiff(path, v.astype("<u4"), "<", {258: 32}),
        "mode I",
    ),
    "signed 16 bits": (
        lambda path, v: tiff(path, v.astype("<i2"), "<", {339: 2}),
        "mode I",
    ),
    "signed 8 bits": (
        lambda path, v: tiff(path, (v >> 8).astype("<u1"), "<", {258: 8, 339: 2}),
        "mode L, signed numbers",
    ),
    "float map": (
        lambda path, v: path.write_bytes(b"Pf\n8 8\n-1.0\n" + v.astype("<f4").tobytes()) and None,
        "mode F",
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_images_without_a_scale_are_refused_by_name_and_mode(form: str, tmp_path: Path) -> None:
    """A plan refuses them before training, and so does the decoding alone."""
    write, mode = REFUSED[form]
    root = folder(tmp_path, write)
    with pytest.raises(BadData, match=rf"a/x\.png has mode .*{mode[5:]}.*save it with 8 bits"):
        list_files("imagefolder", root).content()
    with pytest.raises(BadData, match=r"a/x\.png has mode"):
        sources.find("imagefolder", root, image_size=8, image_height=None).decode()


def test_deep_images_that_lose_everything_in_8_bits_are_refused(tmp_path: Path) -> None:
    """Values of 8 bits in a 16-bit file would all be black; values of 12 bits are told."""
    root = folder(tmp_path / "dark", lambda path, v: DEEP["png"](path, v >> 8))
    with pytest.raises(BadData, match=r"values of 0 to 255, which are 1 of 256 levels"):
        datasets.load("imagefolder", root, image_size=8)
    root = folder(tmp_path / "dim", lambda path, v: DEEP["png"](path, v >> 4))
    for _ in range(2):  # decoded, then found in the cache
        decoded = datasets.load("imagefolder", root, image_size=8)
        assert "values of 0 to 4,095, which are 16 of 256 levels" in decoded.found[-1]


def test_a_changed_decoding_has_another_fingerprint_and_a_reason(tmp_path: Path) -> None:
    """A trial planned on deep images by the first release is refused with a remedy."""
    content = list_files("imagefolder", folder(tmp_path, DEEP["png"])).content()
    assert content.fingerprint != content.released
    with pytest.raises(BadData, match="decoded otherwise than when the trial was planned"):
        datasets.load("imagefolder", tmp_path, image_size=8, fingerprint=content.released)
    datasets.load("imagefolder", tmp_path, image_size=8, fingerprint=content.fingerprint)


def test_arrays_of_the_first_decoding_are_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version of the decoding is part of the name of what is cached."""
    monkeypatch.setenv("FEDSWEEP_CACHE", str(tmp_path / "cache"))
    root = folder(tmp_path / "images", DEEP["png"])
    monkeypatch.setattr(cache, "VERSION", 1)
    datasets.load("imagefolder", root, image_size=8)
    monkeypatch.undo()
    monkeypatch.setenv("FEDSWEEP_CACHE", str(tmp_path / "cache"))
    datasets.load("imagefolder", root, image_size=8)
    kept = [place.name for place in (tmp_path / "cache").glob("imagefolder-*")]
    assert sorted(name.split("-")[1] for name in kept) == ["1", "2"]


CORNERS = np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8).repeat(16, 0).repeat(16, 1)
"""Six areas of one gray each, 32x48: no turn leaves them as they are."""


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(10))
def test_an_orientation_is_applied(turn: int, form: str, tmp_path: Path) -> None:
    """Pixels that EXIF orientation 1 to 8 turns are shown upright; others ask for nothing."""
    exif = Image.Exif()
    exif[0x112] = turn
    upright = Image.fromarray(CORNERS)
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = upright.transpose(back.get(turn, TURNS[turn])) if turn in TURNS else upright
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / place).mkdir(parents=True)
        stored.save(tmp_path / place / "x.png", form, exif=exif, quality=100)
    decoded = datasets.load("imagefolder", tmp_path, image_size=48)
    seen = decoded.train.images[0, 8::24, 8::16, 0].numpy().astype(int)
    assert abs(seen - CORNERS[8::16, 8::16]).max() <= 8
    told = any("EXIF orientation" in line for line in decoded.found)
    content = list_files("imagefolder", tmp_path).content()
    # Pillow turns a TIFF itself, but exchanged the sides of a raw one.
    turned_here = turn in TURNS and (form != "TIFF" or turn >= 5)
    assert told == turned_here == (content.fingerprint != content.released)


def save_frames(path: Path, form: str) -> None:
    """Write three frames of different gray."""
    frames = [Image.new("RGB", (8, 8), (value,) * 3) for value in (50, 150, 250)]
    frames[0].save(path, form, save_all=True, append_images=frames[1:], lossless=True)


ODD: dict[str, tuple[Callable[[Path, Gray], None], str]] = {
    "GIF": (lambda path, _: save_frames(path, "GIF"), "several frames"),
    "APNG": (lambda path, _: save_frames(path, "PNG"), "several frames"),
    "WebP": (lambda path, _: save_frames(path, "WEBP"), "several frames"),
    "TIFF": (lambda path, _: save_frames(path, "TIFF"), "several frames"),
    "MPO": (lambda path, _: save_frames(path, "MPO"), "several frames"),
    "CMYK": (lambda path, _: Image.new("CMYK", (8, 8), (9,) * 4).save(path, "JPEG"), "CMYK"),
    "LA": (lambda path, _: Image.new("LA", (8, 8)).save(path), "transparency"),
    "RGBA": (lambda path, _: Image.new("RGBA", (8, 8)).save(path), "transparency"),
    "hole": (lambda path, _: Image.new("P", (8, 8)).save(path, transparency=0), "transparency"),
    "no image": (lambda path, _: path.write_bytes(b"") and None, "damage that fails a trial"),
}


@pytest.mark.parametrize("form", ODD)
def test_a_loss_is_told_with_one_image_as_an_example(form: str, tmp_path: Path) -> None:
    """Frames, transparency and color profiles that decoding leaves out appear in the notes."""
    write, text = ODD[form]
    content = list_files("imagefolder", folder(tmp_path, write)).content()
    (note,) = content.notes
    assert note.startswith("4 images with ")
    assert text in note
    assert note.endswith("(train/a/x.png)")
    assert content.fingerprint == content.released
    if text == "several frames":
        assert abs(datasets.load("imagefolder", tmp_path).train.images.numpy() - 50.0).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
@pytest.mark.parametrize("left", [0, 1, 0.3, 0.7])
def test_a_truncated_image_is_refused_by_name(form: str, left: float, tmp_path: Path) -> None:
    """A file of any format that was cut short, at any place, is bad data."""
    folder(tmp_path, DEEP["png"])
    victim = tmp_path / "train" / "b" / "x.png"
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(victim, form)
    content = victim.read_bytes()
    victim.write_bytes(content[: int(left) if left in (0, 1) else int(len(content) * left)])
    refused = pytest.raises(BadData, match=r"train/b/x\.png cannot be read as an image")
    planned = list_files("imagefolder", tmp_path).content()
    if form in ("PNG", "JPEG") or left in (0, 1):
        with refused:
            planned.check()
    with refused:
        datasets.load("imagefolder", tmp_path, image_size=8)


def whole(form: str) -> bytes:
    """Return an image of noise: a photo, one with a small image in it, a moving one, or a PNG."""
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8))
    file, more = io.BytesIO(), {}
    if form == "thumbnail":
        small = io.BytesIO()
        noise.resize((8, 8)).save(small, "JPEG")
        more["exif"] = b"Exif\0\0" + small.getvalue()
    if form == "MPO":
        more |= {"save_all": True, "append_images": [noise]}
    kind = form if form in ("MPO", "PNG") else "JPEG"
    noise.save(file, kind, progressive=form == "progressive", **more)
    content = file.getvalue()
    return content + b"film \xff\xda film" if form == "film" else content


@pytest.mark.parametrize("form", ["JPEG", "progressive", "thumbnail", "film", "MPO", "PNG"])
def test_a_plan_finds_an_image_that_breaks_off_and_accepts_a_whole_one(
    form: str, tmp_path: Path
) -> None:
    """The end of a small image in a photo is not its end. Bytes after its end do no harm."""
    root, content = make_image_folder(tmp_path), whole(form)
    photo = root / "train" / "class0" / "photo.jpg"
    photo.write_bytes(content)
    list_files("imagefolder", root).content().check()
    assert len(datasets.load("imagefolder", root).train.labels) == 49
    photo.write_bytes(content[: len(content) * 2 // (5 if form == "MPO" else 3)])
    said = r"photo\.jpg cannot be read as an image \(.*\): mend or remove it"
    with pytest.raises(BadData, match=said):
        list_files("imagefolder", root).content().check()
    with pytest.raises(BadData, match=said):
        datasets.load("imagefolder", root)


def test_a_png_without_its_last_chunk_is_whole(tmp_path: Path) -> None:
    """Its pixels can be decoded. So a plan decodes it, and accepts it."""
    root = make_image_folder(tmp_path)
    (root / "train" / "class0" / "cut.png").write_bytes(whole("PNG")[:-12])
    list_files("imagefolder", root).content().check()
    assert len(datasets.load("imagefolder", root).train.labels) == 49


def test_a_limit_of_the_machine_is_no_damage_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that cannot open one more file does not blame the photo."""
    root = make_image_folder(tmp_path)
    (root / "train" / "class0" / "photo.jpg").write_bytes(whole("JPEG")[:-2])

    def refused(_: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(images, "regular", SimpleNamespace(opened=refused))
    with pytest.raises(MachineLimit):
        list_files("imagefolder", root).content()


LABELS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "RGB": lambda label: label.convert("RGB"),
    "RGBA": lambda label: label.convert("RGBA"),
    "LA": lambda label: label.convert("LA"),
    "1": lambda label: label.convert("1"),
    "I;16": lambda label: Image.fromarray(np.asarray(label).astype(np.uint16) * 300),
}


@pytest.mark.parametrize("mode", LABELS)
def test_a_label_image_in_another_mode_is_refused_by_name_and_mode(
    mode: str, tmp_path: Path
) -> None:
    """A plan refuses every label image that does not hold one byte per pixel."""
    make_camvid(tmp_path)
    victim = tmp_path / "CamVid" / "trainannot" / "0006R0_f00001.png"
    with Image.open(victim) as label:
        LABELS[mode](label).save(victim)
    said = rf"0006R0_f00001\.png is no label image.*its mode is .*{mode}"
    with pytest.raises(BadData, match=said):
        list_files("camvid", tmp_path).content()
    with pytest.raises(BadData, match=said):
        sources.find("camvid", tmp_path, image_size=None, image_height=16).decode()


def test_gray_labels_of_4_bits_are_refused_and_palettes_of_4_bits_are_read(tmp_path: Path) -> None:
    """Pillow stretches gray of 4 bits to 0 to 255, which would make other labels of them."""
    make_camvid(tmp_path)
    before = datasets.load("camvid", tmp_path, image_height=48)
    victim = tmp_path / "CamVid" / "trainannot" / "0006R0_f00001.png"
    with Image.open(victim) as label:
        values = np.asarray(label)
    palette = Image.fromarray(values)
    palette.putpalette([5, 50, 90] * 12)
    palette.save(victim, bits=4)
    assert datasets.load("camvid", tmp_path, image_height=48).fingerprint == before.fingerprint
    content = victim.read_bytes()
    header = content[16:25] + b"\0" + content[26:29]
    sum_ = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    start = content.index(b"PLTE") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    victim.write_bytes(content[:16] + header + sum_ + content[33:start] + content[end:])
    with pytest.raises(BadData, match=r"0006R0_f00001\.png is no label image.*L;4"):
        datasets.load("camvid", tmp_path, image_height=48)


def test_an_image_and_its_labels_are_turned_alike(tmp_path: Path) -> None:
    """Equal orientations turn both, and different ones are refused."""
    make_camvid(tmp_path)
    before = datasets.load("camvid", tmp_path, image_height=48)
    exif = Image.Exif()
    exif[0x112] = 3
    places = [tmp_path / "CamVid" / kind / "0006R0_f00001.png" for kind in ("trainannot", "train")]
    for i, place in enumerate(places):
        with Image.open(place) as image:
            image.transpose(Image.Transpose.ROTATE_180).save(place, exif=exif)
        if i == 0:
            with pytest.raises(BadData, match="differ in EXIF orientation"):
                datasets.load("camvid", tmp_path, image_height=48)
    assert datasets.load("camvid", tmp_path, image_height=48).fingerprint == before.fingerprint


def test_deep_images_and_8_bit_images_of_the_same_gray_are_equal(tmp_path: Path) -> None:
    """A class of 16-bit files and a class of 8-bit files decode to the same scale."""
    root = folder(tmp_path, DEEP["png"])
    before = datasets.load("imagefolder", root, image_size=8).train.images.numpy()
    for place in root.glob("*/b/x.png"):
        Image.fromarray((ramp(reverse=True) >> 8).astype(np.uint8)).save(place)
    assert (datasets.load("imagefolder", root, image_size=8).train.images.numpy() == before).all()

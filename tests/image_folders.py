"""Small folders of images in the layouts that trainers read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def make_image_folder(root: Path, classes: int = 2, each: int = 24) -> Path:
    """Noise around a brightness of its class; every third image is gray, every fifth larger."""
    import numpy as np
    from PIL import Image

    draw = np.random.RandomState(0)
    for part, count in (("train", each), ("test", each // 4)):
        for label in range(classes):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                side = 40 if i % 5 == 0 else 32
                pixels = draw.randint(0, 60, (side, side, 3)) + 180 * label // max(classes - 1, 1)
                image = Image.fromarray(pixels.astype(np.uint8))
                (image.convert("L") if i % 3 == 0 else image).save(folder / f"{i:03}.png")
    return root


def make_modes_folder(root: Path) -> Path:
    """Make an image folder of two classes, with an image of each mode that has 8 bits or fewer."""
    import numpy as np
    from PIL import Image

    draw, turned = np.random.RandomState(0), Image.Exif()
    turned[0x112] = 3  # Pillow itself turns a TIFF
    for folder in (root / part / name for part in ("train", "test") for name in "ab"):
        (folder / "inside").mkdir(parents=True)
        pixels = draw.randint(0, 256, (8, 8, 4)).astype(np.uint8)
        gray, color = Image.fromarray(pixels[..., 0]), Image.fromarray(pixels[..., :3])
        palette = Image.fromarray(pixels[..., 0] // 16)
        palette.putpalette(pixels[:4, :4, :3].tobytes())
        color.save(folder / "rgb.png")
        color.save(folder / "inside" / "rgb.ppm")
        color.save(folder / "turned.tif", exif=turned)
        gray.save(folder / "gray.bmp")
        gray.convert("1", dither=Image.Dither.NONE).save(folder / "bits.png")
        palette.save(folder / "palette.png")
        palette.save(folder / "hole.png", transparency=3)
        Image.fromarray(pixels).save(folder / "rgba.png")
        Image.fromarray(pixels[..., :2], "LA").save(folder / "la.png")
        for mode, count in (("CMYK", 4), ("YCbCr", 3), ("LAB", 3)):
            Image.frombytes(mode, (8, 8), pixels[..., :count].tobytes()).save(
                folder / f"{mode}.tif"
            )
    return root


def make_tiny_imagenet(root: Path, each: int = 6) -> Path:
    """Three classes of noise in 64x64 JPEGs, every third gray; two validation images a class."""
    base, draw = root / "tiny-imagenet-200", _noise()
    (base / "val" / "images").mkdir(parents=True)
    wnids, lines = ("n03", "n01", "n02"), []
    for label, wnid in enumerate(wnids):
        (base / "train" / wnid / "images").mkdir(parents=True)
        for i in range(each):
            place = base / "train" / wnid / "images" / f"{wnid}_{i}.JPEG"
            draw((64, 64), 3).convert("L" if i % 3 == 0 else "RGB").save(place)
        for i in (label, label + 3):
            draw((64, 64), 3).save(base / "val" / "images" / f"val_{i}.JPEG")
            lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (base / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    (base / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def make_camvid(root: Path, each: int = 3) -> Path:
    """Noise from two drives, 64x48, with labels 0..11; another drive tests."""
    draw = _noise()
    for part, drives in (("train", ("0016E5", "0006R0")), ("test", ("Seq05VD",))):
        for folder in (part, f"{part}annot"):
            (root / "CamVid" / folder).mkdir(parents=True)
        for drive in drives:
            for i in range(each):
                name = f"{drive}_f{i:05}.png"
                draw((64, 48), 3).save(root / "CamVid" / part / name)
                draw((64, 48), 1, 12).save(root / "CamVid" / f"{part}annot" / name)
    return root


def make_cityscapes(root: Path, each: int = 3) -> Path:
    """Noise from two cities, 64x32, with label ids 0..33; another city tests."""
    draw = _noise()
    for part, cities in (("train", ("ulm", "aachen")), ("val", ("lindau",))):
        for city in cities:
            images, labels = root / "leftImg8bit" / part / city, root / "gtFine" / part / city
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for i in range(each):
                stem = f"{city}_{i:06}_000019"
                draw((64, 32), 3).save(images / f"{stem}_leftImg8bit.png")
                draw((64, 32), 1, 34).save(labels / f"{stem}_gtFine_labelIds.png")
                (labels / f"{stem}_gtFine_polygons.json").write_text("{}")
    return root


def _noise() -> Callable[..., Any]:
    """Draws images of a width and height, of one channel or three, of values below a bound."""
    import numpy as np
    from PIL import Image

    state = np.random.RandomState(0)

    def draw(size: tuple[int, int], channels: int, below: int = 256) -> Image.Image:
        pixels = state.randint(0, below, (size[1], size[0], channels)).astype(np.uint8)
        return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)

    return draw

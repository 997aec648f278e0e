"""Files of a data set on disk: the listing of its folder.

A plan lists them too, so this file imports no torch. `trainers.data.sources` decodes them. At every
level of a tree, one rule decides which entries are not read (see `is_hidden` and `_Tally`). Links
to files and folders are followed, unless they are broken or lead back to a folder above them.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from platformdirs import user_cache_path

from trainers import regular
from trainers.data.assignment import assign, read_pairs
from trainers.data.clients import in_order, untested
from trainers.data.content import SUFFIXES, Content, read_content
from trainers.data.errors import (
    REMEDIES,
    TINY_IMAGENET,
    BadData,
    Missing,
    counted,
    listed,
    refuse_limit,
    shown,
)
from trainers.data.stock import Stock
from trainers.progress import progress
from trainers.text import NotUtf8, decode

SYSTEM_FILES = frozenset({"__macosx", "@eadir", "thumbs.db", "desktop.ini"})
"""Names of files that operating systems and storage devices leave in folders, in lower case."""


def is_hidden(name: str) -> bool:
    """Return if a file or folder is hidden: its name begins with a dot, or a system left it."""
    return name.startswith(".") or name.casefold() in SYSTEM_FILES


@dataclass
class _Tally:
    """Counts of the entries that a listing ignores, and of those that a user may not expect
    in it.
    """

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
    hint: str = ""
    """The end of the sentence on nested images."""

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
        """Return the ignored kinds, the most frequent first, or an empty text."""
        counts = sorted(self.ignored.items(), key=lambda item: (-item[1], item[0]))
        kinds = [f"{n:,} {PLURALS.get(kind, kind) if n > 1 else kind}" for kind, n in counts]
        return f"; ignored: {listed(kinds)}" if kinds else ""

    def notes(self) -> tuple[str, ...]:
        """Return sentences about entries that a user may not expect."""
        notes = list(self.remarks)
        if self.deeper is not None:
            notes.append(
                f"{counted(self.nested, 'image')} in folders inside a class folder, which belong "
                f"to that class ({shown(self.deeper)}){self.hint}"
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
    """Names of the classes' folders. Segmentation has fixed classes and no folders."""
    train: tuple[tuple[Path, int | Path], ...]
    test: tuple[tuple[Path, int | Path], ...]
    groups: tuple[str, ...] = ()
    """Natural clients of the training images: cities, drives."""
    members: tuple[int, ...] = ()
    """The group of each training image."""
    test_members: tuple[int, ...] = ()
    """The group of each test image; () if test images belong to no group."""
    also: tuple[Path, ...] = ()
    """Further files that tell labels."""
    found: tuple[str, ...] = field(default=(), compare=False)
    """Sentences about the files that are used and ignored, the summary first."""

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
        """Return a hash of every file's place and content. It does not depend on the root's path.

        Raises:
            BadData: a file cannot be read.

        """
        return self.content().fingerprint

    def content(self) -> Content:
        """Read every file once. Return its hash, and the facts in the headers of the
        images.

        Raises:
            BadData: a file cannot be read, or no decoding of it is right.

        """
        return read_content(self.root, self.paths, self.labels)

    def stock(self) -> Stock:
        """Return the samples, counted."""
        classes = Counter(label for _, label in self.train if isinstance(label, int))
        groups, tested = Counter(self.members), Counter(self.test_members)
        of_groups = range(len(self.groups))
        return Stock(
            samples=len(self.train),
            classes=tuple(classes[c] for c in range(len(self.classes))) if classes else (),
            groups=tuple(groups[g] for g in of_groups),
            test=len(self.test),
            tested=tuple(tested[g] for g in of_groups) if tested else (),
        )

    def names(self) -> Sequence[str]:
        """Return the place of each training image below the root."""
        return [path.relative_to(self.root).as_posix() for path, _ in self.train]


def list_files(dataset: str, root: Path | None, clients_by: str = "nothing") -> Files:
    """List the files of a data set on disk in alphabetical order.

    Without a `root`, Tiny-ImageNet is expected in the folder of its download. `clients_by` names
    the clients of an image folder.

    Raises:
        BadData: there is no such folder, or something in it is missing or does not fit.

    """
    if root is None and dataset == "tiny-imagenet":
        root = user_cache_path("fedsweep")
    if root is None:
        raise Missing(f"{dataset} needs its data: {REMEDIES[dataset]}")
    try:
        if dataset == "imagefolder":
            return CLIENT_READERS[clients_by](root)
        return READERS[dataset](root)
    except OSError as error:
        refuse_limit(error)
        place = shown(error.filename or root)
        raise Missing(f"{place} cannot be read ({error.strerror}): mend or remove it") from error


HINT = '; with clients_by = "folder", the outer folders are clients'


def image_folder(root: Path, hint: str = HINT) -> Files:
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
    tally = _Tally(hint=hint)
    train, test = (_class_images(root / part, tally, remedy) for part in PARTS)
    # An empty folder is no class: the labels depend on the images alone, as the hash does.
    classes = tuple(train)
    _check_classes(root / "train", train, tally)
    without = [name for name in classes if name not in test]
    for name in test:
        if name not in train:
            raise BadData(_stranger(root / "test" / name, classes, tally, without))
    tally.remarks.insert(0, _names(classes))
    if without:
        tally.remarks.append(f"without test images: {listed(map(shown, without))}")
    unused = [entry for entry in _entries(root, tally) if _is_folder(entry)]
    if names := [shown(entry.name) for entry in unused if entry.name not in PARTS]:
        tally.remarks.append(f"folders that are not used: {listed(names)}")
    entries = _labeled(train, classes), _labeled(test, classes)
    return Files(root, classes, *entries, found=_found(classes, *entries, tally))


PARTS = ("train", "test")
"""The two halves of an image folder."""


def _check_classes(place: Path, train: dict[str, list[Path]], tally: _Tally) -> None:
    """Refuse fewer than two classes, and two classes with names that look the same.

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


def _names(classes: Iterable[str]) -> str:
    return f"classes: {listed(map(shown, classes))}"


def _clients(groups: Iterable[str]) -> str:
    return f"clients: {listed(map(shown, groups))}"


def _stranger(folder: Path, classes: Iterable[str], tally: _Tally, without: Sequence[str]) -> str:
    """Return the sentence on a class of the test set that training lacks.

    `without` are the classes of training without test images.
    """
    message = f"{shown(folder)} is a class without training images{tally.phrase()}"
    if alike := [name for name in classes if _folded(name) == _folded(folder.name)]:
        return (
            f"{message}: {folder.name!a} differs from the training class {alike[0]!a} only "
            "in Unicode normalization or in capital letters: rename one"
        )
    near = _resembled(folder.name, without)
    rename = f"rename it if it is {shown(near)}, which has no test images, " if near else ""
    return f"{message}: add them, {rename}or remove the folder"


MOST_COMPARED = 200
"""The most classes that are compared with each other by name."""

MOST_SUSPECTS = 2
"""A client with more classes of its own than these has them on purpose."""


def _misspelled(images: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    """Yield a sentence on classes of one client that look like a class which it lacks."""
    clients: dict[str, list[str]] = {}
    for client, found in images.items():
        for label in found:
            clients.setdefault(label, []).append(client)
    alone = {label: names[0] for label, names in clients.items() if len(names) == 1}
    own = Counter(alone.values())
    named: dict[str, str] = {}
    for label, client in alone.items() if len(clients) <= MOST_COMPARED else ():
        lacking = [name for name in clients if name not in images[client] and name not in named]
        if own[client] <= MOST_SUSPECTS and (near := _resembled(label, lacking)):
            named[label] = f"{shown(label)} of {shown(client)} ({shown(near)})"
    if named:
        yield f"classes of one client that may be misspelled: {listed(named.values())}"


def _resembled(name: str, others: Sequence[str]) -> str | None:
    """Return the most similar name; None if no other name is similar in its letters."""
    letters = _letters(name)
    differing = [other for other in others if _letters(other) != letters]
    near = get_close_matches(name, differing, n=1, cutoff=0.75)
    return near[0] if near else None


def _letters(name: str) -> str:
    """Return a name without numbers and without differences that `_folded` leaves out."""
    return re.sub(r"\d+", "", _folded(name))


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


def client_folders(root: Path) -> Files:
    """List an image folder with a folder for each client, such as a domain or a hospital.

    The images are train/CLIENT/CLASS/* and test/CLIENT/CLASS/*, or, without the folder train,
    CLIENT/train/CLASS/* and CLIENT/test/CLASS/*.
    """
    tally = _Tally()
    train, test = _client_places(root, tally)
    if strange := [shown(name) for name in test if name not in train]:
        raise BadData(
            f"{shown(root)} has test images of clients without training images "
            f"({listed(strange)}): add some, or remove these folders"
        )
    remedy = "put images into the folder of each class"
    images, tests = (
        {name: _class_images(part[name], tally, remedy) for name in in_order(part)}
        for part in (train, test)
    )
    classes = tuple(sorted({name for found in images.values() for name in found}))
    merged: dict[str, list[Path]] = {name: [] for name in classes}
    if len(classes) < 2:
        raise BadData(
            f"the clients in {shown(root)} hold one class with images, {shown(classes[0])}: put "
            "two or more class folders into the folder of each client"
        )
    _check_classes(root, merged, tally)
    for name, found in tests.items():
        if strange := [label for label in found if label not in merged]:
            without = [label for label in images[name] if label not in found]
            raise BadData(_stranger(test[name] / strange[0], classes, tally, without))
    groups = tuple(images)
    entries, members = _by_client(images, classes, groups)
    test_entries, test_members = _by_client(tests, classes, groups)
    tally.remarks[:0] = [_names(classes), _clients(groups)]
    tally.remarks.extend(_misspelled(images))
    tally.remarks.extend(untested(groups, test_members))
    sizes = f"{len(entries):,} + {len(test_entries):,} images, {counted(len(groups), 'client')}"
    notes = (f"{len(classes):,} classes, {sizes}{tally.phrase()}", *tally.notes())
    parts = entries, test_entries
    return Files(root, classes, *parts, groups, members, test_members, found=notes)


def _client_places(root: Path, tally: _Tally) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the folders of the clients' training and test images, by client."""
    if (root / "train").is_dir():
        if not (root / "test").is_dir():
            raise Missing(f"there is no folder {shown(root / 'test')}: {CLIENT_REMEDY}")
        train, test = (
            {place.name: place for place in _folders(root / part, tally)} for part in PARTS
        )
    else:
        places = list(_folders(root, tally))
        train, test = (
            {place.name: place / part for place in places if (place / part).is_dir()}
            for part in PARTS
        )
        if unused := [shown(p.name) for p in places if p.name not in train and p.name not in test]:
            tally.remarks.append(f"folders that are not used: {listed(unused)}")
    if not train or not test:
        raise Missing(f"{shown(root)} holds no folders of clients: {CLIENT_REMEDY}")
    return train, test


CLIENT_REMEDY = (
    "make train/CLIENT/CLASS/ and test/CLIENT/CLASS/, or CLIENT/train/CLASS/ and CLIENT/test/CLASS/"
)


def _by_client(
    images: Mapping[str, Mapping[str, list[Path]]],
    classes: tuple[str, ...],
    groups: tuple[str, ...],
) -> tuple[tuple[tuple[Path, int], ...], tuple[int, ...]]:
    """Return the images with their classes, client after client, and each image's client."""
    entries: list[tuple[Path, int]] = []
    members: list[int] = []
    for name, found in images.items():
        of_client = [(path, classes.index(label)) for label in found for path in found[label]]
        entries += of_client
        members += [groups.index(name)] * len(of_client)
    return tuple(entries), tuple(members)


def listed_clients(root: Path) -> Files:
    """List an image folder whose clients.csv has the columns file and client.

    It names every training image, and every test image or none.
    """
    files, table = image_folder(root, hint=""), root / "clients.csv"
    pairs, _ = read_pairs(table, "file")
    places, test_places = (
        {path.relative_to(root).as_posix(): i for i, (path, _) in enumerate(part)}
        for part in (files.train, files.test)
    )
    tests = [pair for pair in pairs if pair[0] in test_places]
    groups, members = assign(
        table, [pair for pair in pairs if pair[0] not in test_places], places, "training image"
    )
    files = replace(files, groups=groups, members=tuple(members), also=(*files.also, table))
    files = replace(
        files,
        found=(
            f"{files.found[0]}, {counted(len(groups), 'client')}",
            files.found[1],
            _clients(groups),
            *files.found[2:],
        ),
    )
    if not tests:
        return files
    names, tested = assign(table, tests, test_places, "test image")
    if strange := [shown(name) for name in names if name not in groups]:
        raise BadData(
            f"{shown(table)} has test images of clients without training images "
            f"({listed(strange)}): give them to other clients"
        )
    at = tuple(groups.index(names[i]) for i in tested)
    notes = (*files.found, *untested(groups, at))
    return replace(files, test_members=at, found=notes)


def listed_domains(root: Path) -> Files:
    """List images by lists in the form of DomainNet (Peng et al. 2019), two for each client.

    A line of CLIENT_train.txt or CLIENT_test.txt is the file of an image below the root, and the
    number of its class. The classes are the numbers that have training images.
    """
    lists = {
        part: {
            path.name.removesuffix(f"_{part}.txt"): path
            for path in sorted(root.glob(f"*_{part}.txt"))
            if path.is_file() and not is_hidden(path.name)
        }
        for part in PARTS
    }
    if not lists["train"] or not lists["test"]:
        raise Missing(
            f"{shown(root)} holds no lists CLIENT_train.txt and CLIENT_test.txt: put them there"
        )
    if strange := [shown(name) for name in lists["test"] if name not in lists["train"]]:
        raise BadData(
            f"{shown(root)} has lists of test images of clients without a list of training images "
            f"({listed(strange)}): add it, or remove the others"
        )
    seen: set[Path] = set()
    train, test = (
        {name: _listed_images(root, lists[part][name], seen) for name in in_order(lists[part])}
        for part in PARTS
    )
    numbers = sorted({number for images in train.values() for _, number in images})
    if len(numbers) < 2:
        raise BadData(
            f"the lists of training images in {shown(root)} name one class: classification needs "
            "two or more"
        )
    for name, images in test.items():
        if strange := [f"{number}" for _, number in images if number not in numbers]:
            raise BadData(
                f"{shown(lists['test'][name])} names the class {strange[0]}, which has no training "
                "images: add them, or remove its lines"
            )
    groups, label = tuple(train), {number: i for i, number in enumerate(numbers)}
    entries, members = zip(*_members(train, groups, label), strict=True)
    test_entries, test_members = zip(*_members(test, groups, label), strict=True)
    sizes = f"{len(entries):,} + {len(test_entries):,} images, {counted(len(groups), 'client')}"
    return Files(
        root,
        tuple(map(str, numbers)),
        *(entries, test_entries, groups, members, test_members),
        also=(*lists["train"].values(), *lists["test"].values()),
        found=(
            f"{len(numbers):,} classes, {sizes}",
            _clients(groups),
            *untested(groups, test_members),
        ),
    )


def _members(
    images: Mapping[str, list[tuple[Path, int]]], groups: tuple[str, ...], label: dict[int, int]
) -> Iterator[tuple[tuple[Path, int], int]]:
    """Yield each image with its class, and the client that it belongs to."""
    for name, of_client in images.items():
        for path, number in of_client:
            yield (path, label[number]), groups.index(name)


def _listed_images(root: Path, table: Path, seen: set[Path]) -> list[tuple[Path, int]]:
    """Return the images of a list with the numbers of their classes, in alphabetical order.

    `seen` are the images of the lists before, to which these are added.

    Raises:
        BadData: a line is damaged, or an image is missing or in two lines.

    """
    images = []
    for place, line in enumerate(_lines(table), 1):
        if not line:
            continue
        name, _, number = line.rpartition(" ")
        path = root / name.strip()
        if not name or not (number.isascii() and number.isdigit()) or len(number) > MOST_DIGITS:
            raise BadData(
                f"line {place} of {shown(table)} is not the file of an image and the number of its "
                f"class: mend it"
            )
        if Path(name).is_absolute() or ".." in path.parts[len(root.parts) :]:
            raise BadData(
                f"line {place} of {shown(table)} names a file outside of {shown(root)}: remove it"
            )
        if path in seen:
            raise BadData(
                f"line {place} of {shown(table)} names {shown(name)} a second time: remove it"
            )
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise BadData(
                f"line {place} of {shown(table)} names {shown(name)}, which is no image in "
                f"{shown(root)}: unpack it there, or remove the line"
            )
        seen.add(path)
        images.append((path, int(number)))
        progress.step()
    if not images:
        raise BadData(f"{shown(table)} names no images: put the complete list there")
    return sorted(images)


MOST_DIGITS = 9
"""Digits of the number of a class in a list."""


def tiny_imagenet(root: Path) -> Files:
    """List Tiny-ImageNet in the layout of its archive. Its validation images are the test set.

    The files are train/<wnid>/images/*, val/images/*, and val/val_annotations.txt. A line of the
    last is an image's name, its wnid and a box, separated by tabs. The classes are those of
    wnids.txt that have training images, so a part of the data set is enough.
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
    notes = _found(classes, *entries, tally)
    return Files(base, classes, *entries, also=(annotations,), found=notes)


def camvid(root: Path) -> Files:
    """CamVid as SegNet's authors cut it (Badrinarayanan et al. 2017): {train,test}{,annot}/*.png.

    The drive that an image comes from is its name up to the first underscore. The folders val
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


CLIENT_READERS: dict[str, Callable[[Path], Files]] = {
    "nothing": image_folder,
    "folder": client_folders,
    "csv": listed_clients,
    "lists": listed_domains,
}
"""The readers of an image folder, by the value of `clients_by`."""


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
    """Yield the entries of a folder in alphabetical order, without hidden ones."""
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
    """Return the images of each class that has any, classes and files in alphabetical order.

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
    notes = (f"{sizes}{tally.phrase()}", *tally.notes())
    return Files(base, (), tuple(train), tuple(test), groups, members, found=notes)

"""Decoded data sets, kept as memory-mapped arrays that all processes of a machine share.

A cache entry is a folder `<name>-<version>-<key>` with one .npy file per array, and facts.json. The
key is a hash of facts about the original files (`sources.Source.key`), so that other files get
another entry.

The size and time of the original files are trusted. The entry is not trusted: its hash is computed
each time it is opened, and the files are decoded again if the hash differs. The hash lies next to
the arrays, so it proves nothing against another user. An entry is used only if it and the cache
folder belong to this user or root, and if no other user may write them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_path

from trainers import private, regular
from trainers.data.dataset import Dataset, assemble
from trainers.data.errors import BadData, Missing, shown
from trainers.data.sources import Source
from trainers.progress import progress
from trainers.text import BYTE_ORDER_MARK

VERSION = 2
"""Number of the format. It rises whenever the content of an entry, or its decoding, changes."""

LOCK_SECONDS = 3600.0
"""How long a process waits for another one that decodes; then it decodes a copy of its own."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A decoded data set and the fingerprint of the files it came from."""

    data: Dataset
    source: str
    released: str
    """The fingerprint that the first release took of the same files."""


def cache_folder() -> Path:
    """Return $FEDSWEEP_CACHE, or by default a folder in the user's cache."""
    named = os.environ.get("FEDSWEEP_CACHE", "").strip().removeprefix(BYTE_ORDER_MARK)
    return Path(named).expanduser() if named else _own_folder()


def _own_folder() -> Path:
    return user_cache_path("fedsweep") / "decoded"


def _trusted_folder() -> Path | None:
    """Return the cache folder, or this user's own if other users may write that one. Return None if
    there is neither.

    A warning names the first one that is refused, once.
    """
    for folder in dict.fromkeys((cache_folder(), _own_folder())):
        if folder == _own_folder():
            private.close(folder)  # an earlier version left its mode to the umask
        if (reason := _distrust(folder)) is None:
            return folder
        _tell_once(reason, folder)
    return None


def _distrust(folder: Path, *, inside: bool = False) -> str | None:
    """Return why what lies in a folder is not trusted; None if it is, or if there is no folder."""
    try:
        return private.writer_of(folder, inside=inside)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"{folder} cannot be looked at ({error.strerror or error})"


@lru_cache
def _tell_once(reason: str, folder: Path) -> None:
    log.warning(
        "%s, so what is kept there is not used, and the data are decoded again: let nobody else "
        "write it (chmod -R go-w %s), or name a folder of your own in FEDSWEEP_CACHE",
        shown(reason),
        shown(folder),
    )


def fetch(source: Source, planned: str | None = None) -> Dataset:
    """Return the data set. At most one process at a time decodes it, and the others wait.

    If it cannot be cached, only this process decodes it for itself, with a warning.

    Raises:
        BadData: the files are damaged, or have another fingerprint than planned.

    """
    if (place := _trusted_folder()) is None:
        kept = _decode(source, planned)
    else:
        folder = place / f"{source.dataset}-{VERSION}-{source.key()}"
        kept = read(folder) or _make(folder, source, planned)
    _compare(source, kept.source, kept.released, planned)
    return kept.data


def _make(folder: Path, source: Source, planned: str | None) -> Kept:
    try:
        private.make_folder(folder.parent)
        if (reason := _distrust(folder.parent)) is not None:
            raise PermissionError(errno.EPERM, reason)
        with progress.waiting():
            lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=LOCK_SECONDS)
            turn = lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter: no locks on this file system
        _warn(folder, error)
        return _decode(source, planned)
    with turn:
        if kept := read(folder):
            return kept
        made = _decode(source, planned)
        try:
            write(folder, made)
        except OSError as error:
            _warn(folder, error)
            return made
        return read(folder) or made


def _decode(source: Source, planned: str | None) -> Kept:
    content = source.content()
    _compare(source, content.fingerprint, content.released, planned)
    data = source.decode()
    noted = replace(data, found=(*content.notes, *data.found))
    return Kept(noted, content.fingerprint, content.released)


def _compare(source: Source, found: str, released: str, planned: str | None) -> None:
    if planned is None or planned == found:
        return
    if planned == released:
        raise BadData(
            f"some images in {shown(source.root)} are decoded otherwise than when the trial was "
            "planned (deep gray is scaled, EXIF orientations are applied): plan the sweep again"
        )
    raise Missing(
        f"the images in {shown(source.root)} (fingerprint {found}) are not those that the trial "
        f"was planned for ({planned}): point --data at the right folder, or, if the images have "
        "changed, plan again under another name"
    )


def _warn(folder: Path, error: Exception) -> None:
    log.warning(
        "%s cannot be written (%s), so every worker decodes its own copy: name a place with "
        "room in FEDSWEEP_CACHE",
        folder.parent,
        error,
    )


def read(folder: Path) -> Kept | None:
    """Return the data set of a cache entry; None if it is missing, damaged or not trusted."""
    if (reason := _distrust(folder, inside=True)) is not None:
        _tell_once(reason, folder)
        return None
    try:
        facts = json.loads(regular.read(folder / "facts.json"))
        if facts.pop("check") != _check(facts):
            return None
        # Copy on write: shared pages, and yet writable, as torch wants its tensors.
        arrays = {
            file.stem: np.load(file, mmap_mode="c", allow_pickle=False)
            for file in folder.glob("*.npy")
        }
        data = assemble(
            (arrays["train_images"], arrays["train_labels"]),
            (arrays["test_images"], arrays["test_labels"]),
            classes=facts["classes"],
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            groups=tuple(facts["groups"]),
            members=arrays.get("members"),
            test_members=arrays.get("test_members"),
        )
        data = replace(data, found=tuple(facts["found"]))
    except Exception:  # noqa: BLE001  # damage has many faces, and one remedy
        return None
    if data.fingerprint != facts["fingerprint"]:
        return None
    return Kept(data, facts["source"], facts["released"])


def write(folder: Path, kept: Kept) -> None:
    """Store a data set as a cache entry. The caller holds the folder's lock.

    The entry is written to a temporary folder and renamed, so that no process reads half of it.

    Raises:
        OSError: there is no room or no permission; then nothing is left behind.

    """
    with private.aside(folder) as aside:
        for name, array in _arrays(kept.data).items():
            np.save(aside / f"{name}.npy", array)
            _close_file(aside / f"{name}.npy")
            progress.step()
        facts = _facts(kept)
        text = json.dumps({**facts, "check": _check(facts)}, indent=1)
        (aside / "facts.json").write_text(text, encoding="utf-8")
        _close_file(aside / "facts.json")
        shutil.rmtree(folder, ignore_errors=True)  # damaged
        aside.replace(folder)


def _close_file(file: Path) -> None:
    """Remove other users' right to open a file, because a umask may let a group write it."""
    file.chmod(0o600)


def _arrays(data: Dataset) -> dict[str, NDArray[Any]]:
    splits = {"train": data.train, "test": data.test}
    arrays = {f"{name}_images": split.images.numpy() for name, split in splits.items()}
    arrays |= {f"{name}_labels": split.labels.numpy() for name, split in splits.items()}
    members = {"members": data.members, "test_members": data.test_members}
    return arrays | {name: array for name, array in members.items() if array is not None}


def _facts(kept: Kept) -> dict[str, Any]:
    data = kept.data
    names = ("classes", "mean", "std", "groups", "fingerprint", "found")
    facts = {name: getattr(data, name) for name in names}
    return facts | {"source": kept.source, "released": kept.released}


def _check(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

"""Decoded data sets, kept as memory-mapped arrays that all processes of a machine share.

A data set lies in `<name>-<key>`, an .npy file an array and the rest in facts.json. The key is of
the files it was decoded from (`sources.Source.key`), so that other files get another folder. What
is trusted is the size and time of those files; what was kept is not: its hash is taken anew each
time it is opened, and whatever does not fit is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_path

from trainers.dataset import Dataset, assemble
from trainers.folder import BadData
from trainers.sources import Source

VERSION = 1
"""Raised whenever what is kept, or how it is decoded, changes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A decoded data set and the fingerprint of the files it came from."""

    data: Dataset
    source: str


def cache_folder() -> Path:
    """$FEDSWEEP_CACHE, else a folder in the user's cache."""
    named = os.environ.get("FEDSWEEP_CACHE", "").strip()
    return Path(named).expanduser() if named else user_cache_path("fedsweep") / "decoded"


def fetch(source: Source, planned: str | None = None) -> Dataset:
    """The data set, decoded by at most one of the processes that ask at once.

    Where nothing can be kept, it is decoded for this process alone, with a warning.

    Raises:
        BadData: the files are damaged, or have another fingerprint than planned.

    """
    folder = cache_folder() / f"{source.dataset}-{VERSION}-{source.key()}"
    kept = read(folder) or _make(folder, source, planned)
    _compare(source, kept.source, planned)
    return kept.data


def _make(folder: Path, source: Source, planned: str | None) -> Kept:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        turn = FileLock(folder.parent / f".{folder.name}.lock").acquire()
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
    found = source.fingerprint()
    _compare(source, found, planned)
    return Kept(source.decode(), found)


def _compare(source: Source, found: str, planned: str | None) -> None:
    if planned is not None and planned != found:
        raise BadData(
            f"the pictures in {source.root} (fingerprint {found}) are not those that the trial "
            f"was planned for ({planned}): point --data at the right folder"
        )


def _warn(folder: Path, error: Exception) -> None:
    log.warning(
        "%s cannot be written (%s), so every worker decodes its own copy: name a place with "
        "room in FEDSWEEP_CACHE",
        folder.parent,
        error,
    )


def read(folder: Path) -> Kept | None:
    """What a folder holds; None where that is nothing, or not what was written."""
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        if facts.pop("check") != _check(facts):
            return None
        # Copy on write: shared pages, and yet writable, as torch wants its tensors.
        arrays = {file.stem: np.load(file, mmap_mode="c") for file in folder.glob("*.npy")}
        data = assemble(
            (arrays["train_images"], arrays["train_labels"]),
            (arrays["test_images"], arrays["test_labels"]),
            classes=facts["classes"],
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            groups=tuple(facts["groups"]),
            members=arrays.get("members"),
        )
    except Exception:  # noqa: BLE001  # damage has many faces, and one remedy
        return None
    return Kept(data, facts["source"]) if data.fingerprint == facts["fingerprint"] else None


def write(folder: Path, kept: Kept) -> None:
    """Keep a data set; for the holder of the folder's lock.

    It is built aside and renamed: no one ever reads half of it.

    Raises:
        OSError: there is no room or no permission; then nothing is left behind.

    """
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    try:
        aside.mkdir(parents=True)
        for name, array in _arrays(kept.data).items():
            np.save(aside / f"{name}.npy", array)
        facts = _facts(kept)
        text = json.dumps({**facts, "check": _check(facts)}, indent=1)
        (aside / "facts.json").write_text(text, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # damaged
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _arrays(data: Dataset) -> dict[str, NDArray[Any]]:
    splits = {"train": data.train, "test": data.test}
    arrays = {f"{name}_images": split.images.numpy() for name, split in splits.items()}
    arrays |= {f"{name}_labels": split.labels.numpy() for name, split in splits.items()}
    return arrays if data.members is None else {**arrays, "members": data.members}


def _facts(kept: Kept) -> dict[str, Any]:
    data = kept.data
    names = ("classes", "mean", "std", "groups", "fingerprint")
    return {name: getattr(data, name) for name in names} | {"source": kept.source}


def _check(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

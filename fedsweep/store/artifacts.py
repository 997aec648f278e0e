"""Snapshots and weights: files in a folder of this machine, or in a bucket that fsspec reaches.

The index row is the commit: a file is valid only if its content has the row's sum. On this machine
it is written to a temporary file, synced and renamed.

The index and the place may have been written by anybody. A file is touched only if its name has the
one form that an attempt of this store gives, in the folder that belongs to the store alone, at a
place that this user has approved (see `store.trust`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from platformdirs import user_data_path
from sqlalchemy.engine import URL

from fedsweep.files import created, make_folder, sync_and_replace
from fedsweep.store import trust
from fedsweep.store.dialects import sqlite_file
from fedsweep.store.file_index import Snapshot, Weights
from fedsweep.store.file_places import Home
from fedsweep.store.identity import is_store_name
from fedsweep.store.location import ARTIFACTS, links_to, sidecar
from fedsweep.store.places import READ_ALONE, is_sound, opened, parse

__all__ = ["Folder", "Outside", "Unapproved", "folder_of", "parse"]

T = TypeVar("T")

PATIENCE_SECONDS = 240.0
"""What a folder gets for one file: a worker takes a trainer for stalled after five minutes."""
REST, QUICK_SECONDS = 10, 1.0
"""A folder that did not fail quickly is left alone for as many times as long as that took: waiting
for storage that does not answer costs a tenth of the time at most."""


class Outside(OSError):
    """The name is not one that this store gives, or leads out of its folder."""


class Unapproved(OSError):
    """The place is not one that this user has approved for the store."""


class Folder:
    """The folder of a store's files. Every failure is an OSError."""

    def __init__(self, files: _Here | _There | _Closed, store: str, *, shared: bool) -> None:
        self._files = files
        self._store = store
        self.shared = shared
        """Whether every machine sees the same files there."""
        self._rests_until = 0.0
        self._last: Future[Any] | None = None

    def __str__(self) -> str:
        return str(self._files)

    @property
    def places(self) -> list[Path]:
        """The folders of this machine that it stands for, none if it lies elsewhere."""
        return self._files.places if isinstance(self._files, _Here) else []

    @property
    def refusal(self) -> OSError | None:
        """Why nothing is read or written there; None if it can be used."""
        return self._files.why if isinstance(self._files, _Closed) else None

    def write(self, name: str, content: bytes, *, overwrite: bool = True) -> str:
        """Put a file in its place, and return its sum.

        Raises:
            FileExistsError: there is one of that name, and `overwrite` is off.
            OSError: it cannot be written, or not now.

        """
        name = self._own(name)
        self._do(lambda: self._files.write(name, content, overwrite=overwrite))
        return _sum(content)

    def read(self, kept: Snapshot | Weights) -> bytes | None:
        """A file's content; None where it is missing, out of reach or not what was written."""
        with suppress(OSError):
            name = self._own(kept.name)
            content = self._do(lambda: self._files.read(name, kept.bytes))
            return content if _sum(content) == kept.sha256 else None
        return None

    def size(self, name: str) -> int | None:
        """A file's bytes, None where there is none.

        Raises:
            OSError: it is no file of this store, or out of reach.

        """
        name = self._own(name)
        return self._do(lambda: self._files.size(name))

    def remove(self, name: str) -> int | None:
        """Delete a file; returns its bytes, None where there was none.

        Raises:
            OSError: it is no file of this store, or cannot be deleted.

        """
        name = self._own(name)
        return self._do(lambda: self._files.remove(name))

    def _own(self, name: object) -> str:
        """Return the name, if it is one that an attempt of this store gives.

        Raises:
            Outside: it is not.

        """
        found = _NAME.fullmatch(name) if isinstance(name, str) else None
        if found is None or found["store"] not in (None, self._store):
            raise Outside(f"{name!r} is not a file of this store")
        return found[0]

    def _do(self, work: Callable[[], T]) -> T:
        began = time.monotonic()
        if began < self._rests_until or (self._last is not None and not self._last.done()):
            raise TimeoutError(f"{self} did not answer")
        done: Future[T] = Future()
        self._last = done
        Thread(target=_settle, args=(done, work), daemon=True).start()
        try:
            return done.result(timeout=PATIENCE_SECONDS)
        except Exception as error:
            now = time.monotonic()
            if now - began >= QUICK_SECONDS:
                self._rests_until = now + REST * (now - began)
            if isinstance(error, OSError):
                raise
            # Each file system of fsspec has errors of its own.
            raise OSError(f"{type(error).__name__}: {error}") from error


def _settle(done: Future[T], work: Callable[[], T]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # noqa: BLE001  # the one who waits raises it
        done.set_exception(error)


class _Closed:
    """A place at which nothing is read or written."""

    def __init__(self, place: object, why: OSError) -> None:
        self.place = place
        self.why = why

    def __str__(self) -> str:
        return str(self.place)

    def write(self, name: str, content: bytes, *, overwrite: bool) -> None:  # noqa: ARG002
        raise self.why

    def read(self, name: str, size: int) -> bytes:  # noqa: ARG002
        raise self.why

    def size(self, name: str) -> int | None:  # noqa: ARG002
        raise self.why

    def remove(self, name: str) -> int | None:  # noqa: ARG002
        raise self.why


class _Here:
    """A folder of this machine. It may stand for earlier ones too, which is only read, and
    emptied.
    """

    def __init__(self, place: Path, *earlier: Path, like: Path | None = None) -> None:
        self.place = place
        self.places = [place, *earlier]
        self.like = like
        """The file or folder whose users may use this folder too."""
        self._left: dict[Path, dict[str, list[Path]]] = {}

    def __str__(self) -> str:
        return str(self.place)

    def write(self, name: str, content: bytes, *, overwrite: bool) -> None:
        make_folder(self.place, like=self.like)
        _put(self.place / name, content, aside=self.place / _aside(name), overwrite=overwrite)

    def read(self, name: str, size: int) -> bytes:
        """Return a file's content; one of another size is not read at all."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(self._find(name), flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                raise OSError(errno.EIO, "not the file that was written", name)
            return file.read(size + 1)

    def size(self, name: str) -> int | None:
        with suppress(FileNotFoundError):
            return self._find(name).lstat().st_size
        return None

    def remove(self, name: str) -> int | None:
        """Delete a file, and what a kill left of it, which has a name for that reason."""
        for place in self.places:
            for aside in (place / f".{name}", *self._leftovers(place).pop(name, ())):
                with suppress(OSError):  # in a shared folder it may be another user's
                    aside.unlink()
        with suppress(FileNotFoundError):
            file = self._find(name)
            size = file.lstat().st_size
            file.unlink()
            return size
        return None

    def _leftovers(self, place: Path) -> dict[str, list[Path]]:
        """Return the temporary files of a folder, listed once, by the name that they were for."""
        if place not in self._left:
            left: dict[str, list[Path]] = {}
            with suppress(OSError), os.scandir(place) as entries:
                for entry in entries:
                    name, dot, mark = entry.name[1:].rpartition(".")
                    if entry.name[0] == "." and dot and _MARK.fullmatch(mark):
                        left.setdefault(name, []).append(place / entry.name)
            self._left[place] = left
        return self._left[place]

    def _find(self, name: str) -> Path:
        for place in self.places:
            file = place / name
            with suppress(FileNotFoundError):
                mode = file.lstat().st_mode
                if stat.S_ISLNK(mode):
                    raise Outside(f"{file} leads out of its folder")
                if stat.S_ISDIR(mode):
                    raise IsADirectoryError(f"{file} is a folder")
                if not stat.S_ISREG(mode):
                    raise Outside(f"{file} is no regular file")
                return file
        raise FileNotFoundError(self.place / name)


class _There:
    """A folder that fsspec reaches. It is opened when it is first used, for that may fail."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __str__(self) -> str:
        return self.url

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return opened(self.url)

    def write(self, name: str, content: bytes, *, overwrite: bool) -> None:
        self._require_writable()
        if not overwrite and self.size(name) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), f"{self.url}/{name}")
        files, root = self._opened
        try:
            files.pipe_file(f"{root}/{name}", content)
        except FileNotFoundError:  # where folders are more than a part of the name
            files.makedirs(root, exist_ok=True)
            files.pipe_file(f"{root}/{name}", content)

    def read(self, name: str, size: int) -> bytes:
        """Return a file's content; of a longer one, one byte too many."""
        files, root = self._opened
        return bytes(files.cat_file(f"{root}/{name}", start=0, end=size + 1))

    def size(self, name: str) -> int | None:
        files, root = self._opened
        try:
            found = files.info(f"{root}/{name}")
        except FileNotFoundError:
            return None
        if found["type"] != "file":
            raise IsADirectoryError(f"{self.url}/{name} is no file")
        return int(found["size"] or 0)

    def remove(self, name: str) -> int | None:
        self._require_writable()
        files, root = self._opened
        if (size := self.size(name)) is not None:
            files.rm_file(f"{root}/{name}")
        return size

    def _require_writable(self) -> None:
        if self.url.partition("://")[0] in READ_ALONE:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), self.url)


def folder_of(url: URL, home: Home) -> Folder:
    """Where the files of a trial lie, of the store at a URL.

    By default beside a SQLite file; of a server's store in the user's data folder of each machine:
    there a snapshot that was left on another one costs rounds, never a trial.
    """
    file = sqlite_file(url)
    shared = file is not None
    if not is_store_name(home.store):
        why: OSError = Outside(f"{home.store!r} is not a name that fedsweep gives to a database")
        return Folder(_Closed("the folder of its files", why), "", shared=shared)
    if home.artifacts is not None:
        return _chosen(home.store, home.artifacts, file)
    if file is None:
        place = user_data_path("fedsweep") / "artifacts" / home.store
        return Folder(_Here(place, _earlier(url)), home.store, shared=False)
    places = [_beside(file), *map(_beside, links_to(file))]
    usable = [place for place in places if _is_own(home.store, place)]
    if places[0] not in usable:
        target = os.path.realpath(places[0])
        why = Unapproved(f"it is a link to {target}, {_ASK}")
        return Folder(_Closed(places[0], why), home.store, shared=True)
    return Folder(_Here(*usable, like=file), home.store, shared=True)


_ASK = f"which you have not approved here: run `fedsweep db trust`, or set {trust.VARIABLE}"


def _chosen(store: str, place: object, file: Path | None) -> Folder:
    """Return the store's folder at the place that its database names."""
    shared = file is not None
    if not isinstance(place, str) or not is_sound(place):
        why: OSError = Outside(f"{str(place)[:200]!r} is not a place that fedsweep keeps files at")
        return Folder(_Closed(f"{str(place)[:200]}/{store}", why), store, shared=shared)
    if not trust.is_approved(store, place):
        why = Unapproved(f"the database names {place}, {_ASK}")
        return Folder(_Closed(f"{place}/{store}", why), store, shared=shared)
    if "://" in place:
        return _there(f"{place}/{store}", store)
    named = Path(place)
    return Folder(_Here(named / store, like=file or named), store, shared=shared)


@dataclass(frozen=True)
class Place:
    """A place for files that its user may approve."""

    store: str
    place: str
    sweeps: tuple[str, ...]
    """The sweeps whose files lie there; none for a folder next to the database."""


def places_to_approve(url: URL, homes: Mapping[Home, Sequence[str]]) -> list[Place]:
    """Return the places that a database names, and links next to it, that can be approved."""
    found = []
    for home, names in homes.items():
        if not is_store_name(home.store):
            continue
        if home.artifacts is not None and is_sound(home.artifacts):
            found.append(Place(home.store, home.artifacts, tuple(names)))
    file, stores = sqlite_file(url), {home.store for home in homes if is_store_name(home.store)}
    if file is not None and _beside(file).is_symlink():
        found += [Place(store, os.path.realpath(_beside(file)), ()) for store in sorted(stores)]
    return found


def _is_own(store: str, place: Path) -> bool:
    """Return whether the folder next to a database is one; a link needs an approval."""
    return not place.is_symlink() or trust.is_approved(store, os.path.realpath(place))


@lru_cache
def _there(url: str, store: str) -> Folder:
    """One for all trials of a process: where it does not answer, it does so to all of them."""
    return Folder(_There(url), store, shared=True)


_NAME = re.compile(
    r"[0-9a-f]{1,64}-[0-9]{1,19}(?:-(?P<store>[0-9a-f]{16}))?"
    r"-(?:a|b|weights[0-9]{0,3}|[0-9]{1,19})\.safetensors"
)
"""The form of a file's name: its trial, the fence, the store, and what it holds (see `writes`).

In names that earlier versions gave, the store is missing."""


def _beside(file: Path) -> Path:
    return sidecar(file, ARTIFACTS).absolute()


def _earlier(url: URL) -> Path:
    """A server's folder, before stores had names of their own."""
    shown = url.set(password=None).render_as_string()
    name = hashlib.sha256(shown.encode()).hexdigest()[:16]
    return user_data_path("fedsweep") / "artifacts" / name


def _put(target: Path, content: bytes, *, aside: Path, overwrite: bool) -> None:
    """Write a file in one step, so that nobody meets half of it, not even after a power loss.

    Raises:
        FileExistsError: there is such a file, which is not to be overwritten.
        OSError: it cannot be written.

    """
    with created(aside) as file:
        try:
            file.write(content)
            if not overwrite and os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            sync_and_replace(file, aside, target, overwrite=overwrite)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
    aside.unlink(missing_ok=True)  # it may have been linked rather than renamed


def _aside(name: str) -> str:
    """Return a name that nobody can know before, and that `remove` finds after a kill."""
    return f".{name}.{secrets.token_hex(8)}"


_MARK = re.compile("[0-9a-f]{16}")


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""Snapshots and weights: files in a folder of this machine, or in a bucket that fsspec reaches.

The index row is the commit: a file is valid only if its content has the row's checksum. On this
machine, a file is written to a temporary file, synced and renamed.

Other users may have written the index and the place. A file is read, written or deleted only if:

- its name has the form that an attempt of this store gives;
- it lies in the folder that belongs only to this store;
- this user has approved the place (see `store.trust`).
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
"""Seconds that one operation on a file may take.

A worker regards a trainer as stalled after five minutes: this limit is shorter."""

QUICK_SECONDS = 1.0
"""Seconds within which a failure is quick. Only after a slower one, the folder is not used."""

REST = 10
"""A folder is not used after a slow failure, for this many times the duration of the failure.

Therefore storage that does not answer costs at most a tenth of the time."""


class Outside(OSError):
    """The name is not one that this store gives, or it leads out of the store's folder."""


class Unapproved(OSError):
    """The place is not approved for the store by this user."""


class Folder:
    """The folder of a store's files. Every failure is an OSError."""

    def __init__(
        self, files: _LocalFiles | _RemoteFiles | _RefusedFiles, store: str, *, shared: bool
    ) -> None:
        self._files = files
        self._store = store
        self.shared = shared
        """True if every machine reads the same files there."""
        self._rests_until = 0.0
        self._last: Future[Any] | None = None

    def __str__(self) -> str:
        return str(self._files)

    @property
    def places(self) -> list[Path]:
        """The folders on this machine, empty if the folder is remote or refused."""
        return self._files.places if isinstance(self._files, _LocalFiles) else []

    @property
    def refusal(self) -> OSError | None:
        """The reason why no file is read or written there, None if the folder can be used."""
        return self._files.why if isinstance(self._files, _RefusedFiles) else None

    def write(self, name: str, content: bytes, *, overwrite: bool = True) -> str:
        """Write a file, and return its checksum.

        Raises:
            FileExistsError: a file of that name exists, and `overwrite` is off.
            OSError: the file cannot be written now.

        """
        name = self._own(name)
        self._do(lambda: self._files.write(name, content, overwrite=overwrite))
        return _checksum(content)

    def read(self, kept: Snapshot | Weights) -> bytes | None:
        """Return a file's content, None if it is missing, unreachable or has another checksum."""
        with suppress(OSError):
            name = self._own(kept.name)
            content = self._do(lambda: self._files.read(name, kept.bytes))
            return content if _checksum(content) == kept.sha256 else None
        return None

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None if the file is missing.

        Raises:
            OSError: the file is not one of this store, or is unreachable.

        """
        name = self._own(name)
        return self._do(lambda: self._files.size(name))

    def remove(self, name: str) -> int | None:
        """Delete a file, and return its size in bytes, None if it was missing.

        Raises:
            OSError: the file is not one of this store, or cannot be deleted.

        """
        name = self._own(name)
        return self._do(lambda: self._files.remove(name))

    def _own(self, name: object) -> str:
        """Return the name, if it is one that an attempt of this store gives.

        Raises:
            Outside: the name has another form, or belongs to another store.

        """
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        if match is None or match["store"] not in (None, self._store):
            raise Outside(f"{name!r} is not a file of this store")
        return match[0]

    def _do(self, work: Callable[[], T]) -> T:
        began = time.monotonic()
        if began < self._rests_until or (self._last is not None and not self._last.done()):
            raise TimeoutError(f"{self} did not answer")
        future: Future[T] = Future()
        self._last = future
        Thread(target=_complete, args=(future, work), daemon=True).start()
        try:
            return future.result(timeout=PATIENCE_SECONDS)
        except Exception as error:
            now = time.monotonic()
            if now - began >= QUICK_SECONDS:
                self._rests_until = now + REST * (now - began)
            if isinstance(error, OSError):
                raise
            # Each file system of fsspec has errors of its own.
            raise OSError(f"{type(error).__name__}: {error}") from error


def _complete(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001  # the thread that waits raises it
        future.set_exception(error)


class _RefusedFiles:
    """Files at a place at which no file may be read or written."""

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


class _LocalFiles:
    """Files in a folder of this machine.

    The store may have used earlier folders: files there are read and deleted, but not written.
    """

    def __init__(self, place: Path, *earlier: Path, like: Path | None = None) -> None:
        self.place = place
        self.places = [place, *earlier]
        self.like = like
        """A file or folder. Its users may also use this folder."""
        self._leftovers_of: dict[Path, dict[str, list[Path]]] = {}

    def __str__(self) -> str:
        return str(self.place)

    def write(self, name: str, content: bytes, *, overwrite: bool) -> None:
        make_folder(self.place, like=self.like)
        temporary = self.place / _temporary_name(name)
        _put(self.place / name, content, temporary=temporary, overwrite=overwrite)

    def read(self, name: str, size: int) -> bytes:
        """Return a file's content. A file of another size is not read, and raises an OSError."""
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
        """Delete a file, and the temporary files of it that a killed process left."""
        for place in self.places:
            for temporary in (place / f".{name}", *self._leftovers(place).pop(name, ())):
                with suppress(OSError):  # in a shared folder it may be another user's
                    temporary.unlink()
        with suppress(FileNotFoundError):
            file = self._find(name)
            size = file.lstat().st_size
            file.unlink()
            return size
        return None

    def _leftovers(self, place: Path) -> dict[str, list[Path]]:
        """Return the temporary files in a folder by the final name. They are listed only once."""
        if place not in self._leftovers_of:
            leftovers: dict[str, list[Path]] = {}
            with suppress(OSError), os.scandir(place) as entries:
                for entry in entries:
                    name, dot, mark = entry.name[1:].rpartition(".")
                    if entry.name[0] == "." and dot and _MARK.fullmatch(mark):
                        leftovers.setdefault(name, []).append(place / entry.name)
            self._leftovers_of[place] = leftovers
        return self._leftovers_of[place]

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
                    raise Outside(f"{file} is not a regular file")
                return file
        raise FileNotFoundError(self.place / name)


class _RemoteFiles:
    """Files in a folder that fsspec reaches.

    The folder is opened at its first use, because that may fail.
    """

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
        except FileNotFoundError:  # on file systems with real folders
            files.makedirs(root, exist_ok=True)
            files.pipe_file(f"{root}/{name}", content)

    def read(self, name: str, size: int) -> bytes:
        """Return a file's content. At most one byte more than `size` is read."""
        files, root = self._opened
        return bytes(files.cat_file(f"{root}/{name}", start=0, end=size + 1))

    def size(self, name: str) -> int | None:
        files, root = self._opened
        try:
            entry = files.info(f"{root}/{name}")
        except FileNotFoundError:
            return None
        if entry["type"] != "file":
            raise IsADirectoryError(f"{self.url}/{name} is not a file")
        return int(entry["size"] or 0)

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
    """Return the folder of a trial's files, for the store at a URL.

    By default, it lies next to a SQLite file. For a store on a server, it lies in the user's data
    folder on each machine. A snapshot that was left on another machine costs only rounds: the
    trial still finishes.
    """
    file = sqlite_file(url)
    shared = file is not None
    if not is_store_name(home.store):
        why: OSError = Outside(f"{home.store!r} is not a name that fedsweep gives to a database")
        return Folder(_RefusedFiles("the folder of its files", why), "", shared=shared)
    if home.artifacts is not None:
        return _chosen(home.store, home.artifacts, file)
    if file is None:
        place = user_data_path("fedsweep") / "artifacts" / home.store
        return Folder(_LocalFiles(place, _earlier_folder(url)), home.store, shared=False)
    places = [_folder_next_to(file), *map(_folder_next_to, links_to(file))]
    usable = [place for place in places if _is_own(home.store, place)]
    if places[0] not in usable:
        target = os.path.realpath(places[0])
        why = Unapproved(f"it is a link to {target}, {_APPROVE_IT}")
        return Folder(_RefusedFiles(places[0], why), home.store, shared=True)
    return Folder(_LocalFiles(*usable, like=file), home.store, shared=True)


_APPROVE_IT = f"which you have not approved here: run `fedsweep db trust`, or set {trust.VARIABLE}"


def _chosen(store: str, place: object, file: Path | None) -> Folder:
    """Return the store's folder at the place that the database names."""
    shared = file is not None
    if not isinstance(place, str) or not is_sound(place):
        why: OSError = Outside(f"{str(place)[:200]!r} is not a place that fedsweep keeps files at")
        return Folder(_RefusedFiles(f"{str(place)[:200]}/{store}", why), store, shared=shared)
    if not trust.is_approved(store, place):
        why = Unapproved(f"the database names {place}, {_APPROVE_IT}")
        return Folder(_RefusedFiles(f"{place}/{store}", why), store, shared=shared)
    if "://" in place:
        return _remote_folder(f"{place}/{store}", store)
    named = Path(place)
    return Folder(_LocalFiles(named / store, like=file or named), store, shared=shared)


@dataclass(frozen=True)
class FilePlace:
    """A place for files that its user may approve."""

    store: str
    place: str
    sweeps: tuple[str, ...]
    """The sweeps with files at the place, empty for a folder next to the database."""


def places_to_approve(url: URL, homes: Mapping[Home, Sequence[str]]) -> list[FilePlace]:
    """Return the places that a user can approve: those a database names, and a link next to it."""
    candidates = []
    for home, names in homes.items():
        if not is_store_name(home.store):
            continue
        if home.artifacts is not None and is_sound(home.artifacts):
            candidates.append(FilePlace(home.store, home.artifacts, tuple(names)))
    file, stores = sqlite_file(url), {home.store for home in homes if is_store_name(home.store)}
    if file is not None and (link := _folder_next_to(file)).is_symlink():
        candidates += [FilePlace(store, os.path.realpath(link), ()) for store in sorted(stores)]
    return candidates


def _is_own(store: str, place: Path) -> bool:
    """Return whether a folder next to a database can be used. A link needs the user's approval."""
    return not place.is_symlink() or trust.is_approved(store, os.path.realpath(place))


@lru_cache
def _remote_folder(url: str, store: str) -> Folder:
    """Return the folder at a URL: the same object for all trials of a process.

    If the storage does not answer one trial, it does not answer the others either.
    """
    return Folder(_RemoteFiles(url), store, shared=True)


_NAME = re.compile(
    r"[0-9a-f]{1,64}-[0-9]{1,19}(?:-(?P<store>[0-9a-f]{16}))?"
    r"-(?:a|b|weights[0-9]{0,3}|[0-9]{1,19})\.safetensors"
)
"""The form of a file's name: trial, fence, store, and kind of content (see `file_names`).

Names that earlier versions gave lack the store."""


def _folder_next_to(file: Path) -> Path:
    return sidecar(file, ARTIFACTS).absolute()


def _earlier_folder(url: URL) -> Path:
    """Return the folder that earlier versions used for a server, before stores had names."""
    shown = url.set(password=None).render_as_string()
    name = hashlib.sha256(shown.encode()).hexdigest()[:16]
    return user_data_path("fedsweep") / "artifacts" / name


def _put(target: Path, content: bytes, *, temporary: Path, overwrite: bool) -> None:
    """Write a file atomically: no process reads a part of it, not even after a power loss.

    Raises:
        FileExistsError: the file exists, and `overwrite` is off.
        OSError: the file cannot be written.

    """
    with created(temporary) as file:
        try:
            file.write(content)
            if not overwrite and os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            sync_and_replace(file, temporary, target, overwrite=overwrite)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    temporary.unlink(missing_ok=True)  # it may have been linked rather than renamed


def _temporary_name(name: str) -> str:
    """Return a random name that `remove` recognizes if the process is killed.

    No other user can guess it.
    """
    return f".{name}.{secrets.token_hex(8)}"


_MARK = re.compile("[0-9a-f]{16}")


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""Snapshots and weights: files in a folder of this machine, or in one that fsspec reaches.

The index row is the commit: a file is what its row says, by its sum, or it is none. On this
machine it is moreover written aside, synced and renamed.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from platformdirs import user_data_path
from sqlalchemy.engine import URL

from fedsweep.errors import RequestError, hide_secrets
from fedsweep.files import created, make_folder, sync_and_replace
from fedsweep.store.location import ARTIFACTS, links_to, sidecar, sqlite_file
from fedsweep.store.reads import Home
from fedsweep.store.writes import Snapshot, Weights

T = TypeVar("T")

PATIENCE_SECONDS = 240.0
"""What a folder gets for one file: a worker takes a trainer for stalled after five minutes."""
REST, QUICK_SECONDS = 10, 1.0
"""A folder that did not fail quickly is left alone for as many times as long as that took: waiting
for storage that does not answer costs a tenth of the time at most."""


class Outside(OSError):
    """The name leads out of its folder."""


class Folder:
    """Where files of a store lie. Whatever goes wrong there is an OSError."""

    def __init__(self, files: _Here | _There, *, shared: bool) -> None:
        self._files = files
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

    def write(self, name: str, content: bytes) -> str:
        """Put a file in its place, and return its sum.

        Raises:
            OSError: it cannot be written, or not now.

        """
        self._do(lambda: self._files.write(_plain(name), content))
        return _sum(content)

    def read(self, kept: Snapshot | Weights) -> bytes | None:
        """A file's content; None where it is missing, out of reach or not what was written."""
        with suppress(OSError):
            content = self._do(lambda: self._files.read(_plain(kept.name)))
            return content if _sum(content) == kept.sha256 else None
        return None

    def size(self, name: str) -> int | None:
        """A file's bytes, None where there is none.

        Raises:
            OSError: it is no file of this folder, or out of reach.

        """
        return self._do(lambda: self._files.size(_plain(name)))

    def remove(self, name: str) -> int | None:
        """Delete a file; returns its bytes, None where there was none.

        Raises:
            OSError: it is no file of this folder, or cannot be deleted.

        """
        return self._do(lambda: self._files.remove(_plain(name)))

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

    def write(self, name: str, content: bytes) -> None:
        make_folder(self.place, like=self.like)
        _put(self.place / name, content, aside=self.place / _aside(name))

    def read(self, name: str) -> bytes:
        return self._find(name).read_bytes()

    def size(self, name: str) -> int | None:
        with suppress(FileNotFoundError):
            return self._find(name).stat().st_size
        return None

    def remove(self, name: str) -> int | None:
        """With what a kill left of it, which has its name for that reason."""
        for place in self.places:
            for aside in (place / f".{name}", *self._leftovers(place).pop(name, ())):
                with suppress(OSError):  # in a shared folder it may be another user's
                    aside.unlink()
        with suppress(FileNotFoundError):
            file = self._find(name)
            size = file.stat().st_size
            file.unlink()
            return size
        return None

    def _leftovers(self, place: Path) -> dict[str, list[Path]]:
        """Return the temporary files of a folder, listed once, by the name that they were for."""
        if place not in self._left:
            left: dict[str, list[Path]] = {}
            with suppress(OSError), os.scandir(place) as entries:
                for entry in entries:
                    if match := _ASIDE.fullmatch(entry.name):
                        left.setdefault(match["name"], []).append(place / entry.name)
            self._left[place] = left
        return self._left[place]

    def _find(self, name: str) -> Path:
        for place in self.places:
            file = place / name
            if file.resolve().parent != place.resolve():
                raise Outside(f"{file} leads out of its folder")
            if file.is_dir():
                raise IsADirectoryError(f"{file} is a folder")
            if file.exists():
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
        from fsspec.core import url_to_fs

        files, root = url_to_fs(self.url)
        return files, root

    def write(self, name: str, content: bytes) -> None:
        files, root = self._opened
        try:
            files.pipe_file(f"{root}/{name}", content)
        except FileNotFoundError:  # where folders are more than a part of the name
            files.makedirs(root, exist_ok=True)
            files.pipe_file(f"{root}/{name}", content)

    def read(self, name: str) -> bytes:
        files, root = self._opened
        return bytes(files.cat_file(f"{root}/{name}"))

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
        files, root = self._opened
        if (size := self.size(name)) is not None:
            files.rm_file(f"{root}/{name}")
        return size


def folder_of(url: URL, home: Home) -> Folder:
    """Where the files of a trial lie, of the store at a URL.

    By default beside a SQLite file; of a server's store in the user's data folder of each machine:
    there a snapshot that was left on another one costs rounds, never a trial.
    """
    file = sqlite_file(url)
    if home.artifacts is not None and "://" in home.artifacts:
        return _there(f"{home.artifacts}/{home.store}")
    if home.artifacts is not None:
        named = Path(home.artifacts)
        return Folder(_Here(named / home.store, like=file or named), shared=file is not None)
    if file is not None:
        earlier = map(_beside, links_to(file))
        return Folder(_Here(_beside(file), *earlier, like=file), shared=True)
    place = user_data_path("fedsweep") / "artifacts" / home.store
    return Folder(_Here(place, _earlier(url)), shared=False)


@lru_cache
def _there(url: str) -> Folder:
    """One for all trials of a process: where it does not answer, it does so to all of them."""
    return Folder(_There(url), shared=True)


def _beside(file: Path) -> Path:
    return sidecar(file, ARTIFACTS).absolute()


def _earlier(url: URL) -> Path:
    """A server's folder, before stores had names of their own."""
    shown = url.set(password=None).render_as_string()
    name = hashlib.sha256(shown.encode()).hexdigest()[:16]
    return user_data_path("fedsweep") / "artifacts" / name


_KEY_IN_QUERY = re.compile(r"(?i)[?&][^=&]*(?:token|secret|pass|pwd|key|sig|credential)[^=&]*=")
NOT_WRITTEN = frozenset({"http", "https", "data"})
"""Protocols that fsspec reads alone."""


def parse(text: str) -> str:
    """--artifacts as it is stored: an absolute path of a folder, or a URL that fsspec knows.

    Raises:
        RequestError: it holds a secret, or nothing here can write there.

    """
    if hide_secrets(text) != text or _KEY_IN_QUERY.search(text):
        raise RequestError(
            "--artifacts has a password or a key in it, which everyone who reads the database "
            "would see: leave it out, and set it in the environment of the workers"
        )
    protocol, is_url, rest = text.partition("://")
    if not rest.strip("/") if is_url else not text.strip():
        raise RequestError(f"--artifacts {text!r} names no folder: write /folder or s3://bucket")
    if not text.isprintable() or "::" in protocol:
        raise RequestError(f"--artifacts {text!r} is neither a folder nor one URL")
    if is_url and protocol not in ("file", "local"):
        _require(protocol)
        return text.rstrip("/")
    if is_url and not rest.startswith("/"):
        raise RequestError(f"--artifacts {text} has a host: write {protocol}:///folder")
    place = Path(os.path.abspath(Path(rest if is_url else text).expanduser()))  # noqa: PTH100  # without its ".."
    if place.exists() and not place.is_dir():
        raise RequestError(f"--artifacts {place} is a file: name a folder")
    return str(place)


def _require(protocol: str) -> None:
    """Refuse what cannot be reached from here."""
    from fsspec import get_filesystem_class

    if protocol in NOT_WRITTEN:
        raise RequestError(
            f"--artifacts {protocol}:// can only be read: name a folder, or a bucket (s3://bucket)"
        )
    try:
        get_filesystem_class(protocol)
    except ValueError as error:
        raise RequestError(
            f"fsspec knows no {protocol}://: name a folder, or a bucket (s3://bucket)"
        ) from error
    except ImportError as error:
        raise RequestError(
            f"--artifacts {protocol}:// needs a package, here and on the workers: {error}"
        ) from error


def _put(target: Path, content: bytes, *, aside: Path) -> None:
    """Write a file in one step, so that nobody meets half of it, not even after a power loss."""
    try:
        with created(aside) as file:
            file.write(content)
            sync_and_replace(file, aside, target)
    except OSError:
        with suppress(FileNotFoundError):
            aside.unlink()
        raise


def _aside(name: str) -> str:
    """Return a name that nobody can know before, and that `remove` finds after a kill."""
    return f".{name}.{secrets.token_hex(8)}"


_ASIDE = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}", re.DOTALL)


def _plain(name: str) -> str:
    """The name, if it is one.

    Raises:
        Outside: it is a path, or none at all.

    """
    if name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
        raise Outside(f"{name!r} is not the name of a file")
    return name


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

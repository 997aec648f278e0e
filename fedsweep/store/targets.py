"""Tell if a place to write to is a fedsweep database, or one of the files next to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError

from fedsweep.errors import FedsweepError, RequestError
from fedsweep.store.access import Access
from fedsweep.store.artifacts import folder_of
from fedsweep.store.catalog import SIGNATURE, contents
from fedsweep.store.dialects import dialect_of_url, sqlite_file
from fedsweep.store.engine import make_engine
from fedsweep.store.file_places import Home
from fedsweep.store.location import SIDECARS, sidecar
from fedsweep.store.places import is_sound
from fedsweep.store.tables import identity, sweeps
from fedsweep.store.transactions import reading


def refuse_own(engine: Engine, target: str | Path, option: str) -> None:
    """Refuse to write to what belongs to the store, or to another fedsweep database.

    Raises:
        RequestError: It does. Nothing has been written.

    """
    if _is_own(engine, target):
        raise RequestError(f"{option} is a fedsweep database or one of its files: name another one")


def _is_own(engine: Engine, target: str | Path) -> bool:
    try:
        url = make_url(str(target))
    except (ArgumentError, ValueError):
        return _is_own_path(engine, _as_path(target))
    dialect = dialect_of_url(url)
    own = None if dialect is None else dialect.same_place(url)
    if own is None:
        return False
    file = sqlite_file(own)
    return _is_own_server(own) if file is None else _is_own_path(engine, file)


def _as_path(target: str | Path) -> Path:
    """Return the path that is meant, without the scheme of a file: URI."""
    if isinstance(target, str) and target.startswith("file:"):
        return Path(unquote(urlsplit(target).path))
    return Path(target)


def _is_own_path(engine: Engine, target: Path) -> bool:
    file = sqlite_file(engine.url)
    if file is not None and is_file_of(file, target):
        return True
    if _is_store(target):
        return True
    place = target.resolve()
    return any(place == own or own in place.parents for own in _folders(engine))


def is_file_of(file: Path, target: Path) -> bool:
    """Return whether a path, by any name, is a database file or one that SQLite keeps for it."""
    place = target.resolve()
    if place == file or place in [sidecar(file, end) for end in SIDECARS]:
        return True
    return place.exists() and file.exists() and place.samefile(file)  # a hard link


def _is_store(file: Path) -> bool:
    """Return whether a file is a SQLite database with fedsweep's tables."""
    if not file.is_file():
        return False
    access = Access(file.resolve())
    try:
        with closing(sqlite3.connect(access.address("rw"), uri=True)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except (sqlite3.Error, FedsweepError):
        return False
    finally:
        access.close()
    return names >= SIGNATURE


def _folders(engine: Engine) -> Iterator[Path]:
    """Return the folders of this machine that hold the store's snapshots and weights."""
    with reading(engine) as connection:
        name = connection.execute(sa.select(identity.c.id)).scalar_one()
        artifacts = connection.execute(sa.select(sweeps.c.artifacts).distinct()).scalars().all()
    for one in {None, *artifacts}:
        for place in folder_of(engine.url, Home(name, one)).places:
            yield place.resolve()
        if one is not None and is_sound(one) and "://" not in one:  # approved here or not
            yield (Path(one) / name).resolve()


def _is_own_server(url: URL) -> bool:
    """Return whether the schema that a URL leads to has fedsweep's tables."""
    try:
        other = make_engine(url.render_as_string(hide_password=False))
    except FedsweepError:  # the one who writes there says why it cannot be reached
        return False
    try:
        with reading(other) as connection:
            return contents(connection).ours
    finally:
        other.dispose()

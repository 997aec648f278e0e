"""Tell if a place to write to is a fedsweep database, or one of the files next to it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from fedsweep.errors import FedsweepError, RequestError
from fedsweep.store.access import Access
from fedsweep.store.artifacts import folder_of
from fedsweep.store.catalog import SIGNATURE, contents
from fedsweep.store.engine import make_engine, reading
from fedsweep.store.location import SIDECARS, URI_OPTIONS, resolved, sidecar, sqlite_file
from fedsweep.store.places import is_sound
from fedsweep.store.reads import Home
from fedsweep.store.tables import identity, sweeps


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
    own = _IS_OWN.get(url.get_backend_name())
    return own is not None and own(engine, url)


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
    """The folders of this machine that hold the store's snapshots and weights."""
    with reading(engine) as connection:
        name = connection.execute(sa.select(identity.c.id)).scalar_one()
        artifacts = connection.execute(sa.select(sweeps.c.artifacts).distinct()).scalars().all()
    for one in {None, *artifacts}:
        for place in folder_of(engine.url, Home(name, one)).places:
            yield place.resolve()
        if one is not None and is_sound(one) and "://" not in one:  # approved here or not
            yield (Path(one) / name).resolve()


def _is_own_sqlite(engine: Engine, url: URL) -> bool:
    if not url.database or url.host:
        return False
    options = {name: value for name, value in url.query.items() if name in URI_OPTIONS}
    try:
        other = sqlite_file(resolved(url.set(drivername="sqlite", query=options)))
    except RequestError:  # in memory, or nowhere
        return False
    return other is not None and _is_own_path(engine, other)


def _is_own_postgres(_engine: Engine, url: URL) -> bool:
    """Return whether the schema that a URL leads to has fedsweep's tables."""
    written = url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        other = make_engine(written)
    except FedsweepError:  # the one who writes there says why it cannot be reached
        return False
    try:
        with reading(other) as connection:
            return contents(connection).ours
    finally:
        other.dispose()


_IS_OWN = {"sqlite": _is_own_sqlite, "postgresql": _is_own_postgres}


def same_database(there: Connection, here: Connection) -> bool:
    """Return whether two stores of the same dialect are one: a file, or a schema of a server."""
    return _SAME[here.dialect.name](there, here)


def _same_sqlite(there: Connection, here: Connection) -> bool:
    one, other = sqlite_file(there.engine.url), sqlite_file(here.engine.url)
    assert one is not None
    assert other is not None
    return one.samefile(other)


def _same_postgres(there: Connection, here: Connection) -> bool:
    """Compare by an advisory lock, which belongs to one database and keeps out others there."""
    key = random.getrandbits(62)
    there.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
    alone = here.execute(sa.select(sa.func.pg_try_advisory_xact_lock(key))).scalar_one()
    schema = sa.select(sa.func.current_schema())
    return not alone and there.execute(schema).scalar() == here.execute(schema).scalar()


_SAME = {"sqlite": _same_sqlite, "postgresql": _same_postgres}

"""The check that a database is still the one that was opened.

While a command runs, another process can delete or replace a SQLite file, or drop and create a
server's database. Later writes are then lost, or reach the tables of another store.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from fedsweep.errors import StoreReplaced
from fedsweep.store import driver_errors
from fedsweep.store.dialects import sqlite_file
from fedsweep.store.location import shown
from fedsweep.store.prepared import Prepared
from fedsweep.store.tables import identity


@dataclass(frozen=True)
class Identity:
    """The values that distinguish one store from another."""

    store: Any
    """The store's own name. It can have any type in a database of another application."""
    file: tuple[int, int] | None
    """Device and inode of a SQLite file, None for a server or a missing file."""


_OPTION = "fedsweep_identity"
"""The execution option under which an engine carries the identity of the store that it opened."""


def remember(connection: Connection) -> None:
    """Note which store an engine has opened. Its later transactions require this store."""
    engine = connection.engine
    name = _NAME(connection).one()[0]
    engine.update_execution_options(**{_OPTION: Identity(name, _inode(engine))})


def of(engine: Engine) -> Identity | None:
    """Return the identity of the store that an engine has opened, None if it was not noted."""
    noted = engine.get_execution_options().get(_OPTION)
    return noted if isinstance(noted, Identity) else None


def store_name(connection: Connection) -> str:
    """Return the store's own name, "" if the database has none of the right form."""
    known = of(connection.engine)
    name = known.store if known is not None else _NAME(connection).one()[0]
    return name if is_store_name(name) else ""


def is_store_name(text: object) -> bool:
    """Return whether a text is a name that fedsweep gives to a database."""
    return isinstance(text, str) and _FORM.fullmatch(text) is not None


_FORM = re.compile(r"[0-9a-f]{16}")


def require(engine: Engine, expected: Identity | None) -> None:
    """Refuse a store that is not the expected one. None allows every store.

    Raises:
        StoreReplaced: it is another store.

    """
    if expected is not None and of(engine) != expected:
        raise StoreReplaced(_message(engine, "is another one than when the command began"))


def require_file(engine: Engine) -> None:
    """Refuse a SQLite file that is no longer the one that the engine has opened.

    Raises:
        StoreReplaced: it was deleted or replaced.

    """
    known = of(engine)
    if known is None or known.file is None:
        return
    inode = _inode(engine)
    if inode is None:
        raise StoreReplaced(_message(engine, "was deleted while it was in use"))
    if inode != known.file:
        raise StoreReplaced(_message(engine, "was replaced while it was in use"))


TRUSTED_SECONDS = 0.5
"""Seconds for which a connection relies on its last check of the store's name.

A check in each transaction costs a fifth of the claims per second on Postgres. Creating a store
again and planning it takes longer than this."""

_UNTIL = "fedsweep_identity_until"


def require_store(connection: Connection) -> None:
    """Refuse, inside a transaction, a database that has become another store.

    A new connection checks the name, and then again at most once per TRUSTED_SECONDS.

    Raises:
        StoreReplaced: the database is another store, or was emptied.

    """
    known, now = of(connection.engine), time.monotonic()
    if known is None or now < connection.info.get(_UNTIL, now):
        return
    try:
        name = _NAME.with_begin(connection).one()[0]
    except DBAPIError as error:
        if not driver_errors.lacks_table(error):
            raise
        raise StoreReplaced(
            _message(connection.engine, "was emptied while it was in use")
        ) from error
    if name != known.store:
        raise StoreReplaced(_message(connection.engine, "was made again while it was in use"))
    connection.info[_UNTIL] = now + TRUSTED_SECONDS


_NAME = Prepared(lambda _: sa.select(sa.func.min(identity.c.id).label("name")))


def _inode(engine: Engine) -> tuple[int, int] | None:
    file = sqlite_file(engine.url)
    if file is not None:
        with suppress(OSError):
            status = file.stat()
            return status.st_dev, status.st_ino
    return None


def _message(engine: Engine, fault: str) -> str:
    file = sqlite_file(engine.url)
    place = "the database on the server" if file is None else str(shown(file))
    return (
        f"{place} {fault}: what has not been stored in time is lost; put the database back, or "
        "start again on the one that is there now"
    )

"""Databases: all differences between SQLite and Postgres, as two objects with one interface.

Other modules use the object, and never compare the name of a dialect.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, Connection, Engine

from fedsweep.store.dialects.base import Dialect
from fedsweep.store.dialects.postgres import Postgres
from fedsweep.store.dialects.sqlite import Sqlite

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (Sqlite(), Postgres())}
"""The dialects by SQLAlchemy's names."""


def dialect_of(opened: Connection | Engine) -> Dialect:
    """Return the dialect of an open store."""
    return DIALECTS[opened.dialect.name]


def dialect_of_url(url: URL) -> Dialect | None:
    """Return the dialect of a URL, None for an unsupported database.

    The URL can be that of another program.
    """
    return DIALECTS.get(url.get_backend_name())


def dialect_of_text(text: str) -> Dialect | None:
    """Return the dialect that a URL's scheme names, None if fedsweep has no driver for it."""
    scheme, mark, _ = text.partition("://")
    known = (dialect for dialect in DIALECTS.values() if mark and scheme in dialect.schemes)
    return next(known, None)


def sqlite_file(url: URL) -> Path | None:
    """Return the file of a SQLite URL, None for a server."""
    dialect = dialect_of_url(url)
    return None if dialect is None else dialect.file(url)

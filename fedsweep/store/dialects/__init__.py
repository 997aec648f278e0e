"""Databases: all differences between SQLite and Postgres, as two objects with one interface.

Other modules ask for the object, and never for the name of a dialect.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, Connection, Engine

from fedsweep.store.dialects.base import Dialect
from fedsweep.store.dialects.postgres import Postgres
from fedsweep.store.dialects.sqlite import Sqlite

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (Sqlite(), Postgres())}
"""By SQLAlchemy's name."""


def dialect_of(opened: Connection | Engine) -> Dialect:
    """Return the dialect of a store that is open."""
    return DIALECTS[opened.dialect.name]


def dialect_of_url(url: URL) -> Dialect | None:
    """Return the dialect of a URL, also of another program's; None for another database."""
    return DIALECTS.get(url.get_backend_name())


def dialect_of_text(text: str) -> Dialect | None:
    """Return the dialect that a URL's text asks for; None if fedsweep has no driver for it."""
    scheme, mark, _ = text.partition("://")
    known = (dialect for dialect in DIALECTS.values() if mark and scheme in dialect.schemes)
    return next(known, None)


def sqlite_file(url: URL) -> Path | None:
    """Return the file of a SQLite URL, None for a server."""
    dialect = dialect_of_url(url)
    return None if dialect is None else dialect.file(url)

"""A store for those who only look: nothing that goes through its engine can write."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from fedsweep.errors import StoreMissing
from fedsweep.store.engine import make_engine, postgres_engine, reading, sqlite_file
from fedsweep.store.schema import check, current

BUSY_SECONDS = 2.0
"""How long a look at SQLite waits for another process; the next look comes soon."""

STATEMENT_SECONDS = 20
"""How long a look at Postgres may take."""


def open_to_read(url: str) -> Engine:
    """An engine for a store with the current schema, which nothing can be written through.

    Raises:
        StoreError: it is missing, empty, unreachable, foreign, older or newer.

    """
    first = make_engine(url)
    try:
        with reading(first) as connection:
            if current(connection) is None and not sa.inspect(connection).get_table_names():
                raise StoreMissing("the database is empty: `fedsweep plan FILE` fills it")
            check(connection)
    finally:
        first.dispose()
    return _ENGINES[first.dialect.name](first)


def _sqlite_engine(first: Engine) -> Engine:
    """A connection for each look: what is moved away and back is found again, and a file that is
    not there is not made.
    """
    file = sqlite_file(first.url)
    assert file is not None
    name = f"{file.absolute().as_uri()}?mode=ro"

    def connect() -> sqlite3.Connection:
        driver = sqlite3.connect(name, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)
        driver.execute("PRAGMA query_only = ON")
        return driver

    return sa.create_engine(first.url, creator=connect, poolclass=NullPool)


def _postgres_engine(first: Engine) -> Engine:
    settings = {"statement_timeout": f"{STATEMENT_SECONDS}s"}
    return postgres_engine(first.url, settings=settings, read_only=True)


_ENGINES = {"sqlite": _sqlite_engine, "postgresql": _postgres_engine}

"""A store for those who only look: nothing that goes through its engine can write."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import NullPool, QueuePool

from fedsweep.errors import SchemaOld, StoreEmpty
from fedsweep.store import driver_errors
from fedsweep.store.access import Access, writable
from fedsweep.store.engine import (
    BUSY_SECONDS,
    STATEMENT_SECONDS,
    begin_sqlite,
    bound_statements,
    opening,
    parse_url,
    postgres_engine,
    reading,
    require_file,
    require_readable,
)
from fedsweep.store.location import shown, sqlite_file
from fedsweep.store.reader_sqlite import use_own_views
from fedsweep.store.schema import check, is_empty
from fedsweep.store.texts import store_any_text
from fedsweep.store.views import statements

LOOK_SECONDS = 20
"""How long a statement of a page may take."""

LOOK_BUSY_SECONDS = 2.0
"""How long a look of a page at SQLite waits for another process; the next look comes soon."""


def open_to_read(url: str, *, page: bool = False) -> Engine:
    """Return an engine for a store with the current schema, which nothing can be written through.

    A page (`page`) looks again and again: it waits less, and leaves SQLite's log as it is.

    Raises:
        StoreError: it is missing, empty, unreachable, foreign, older or newer.

    """
    parsed = parse_url(url)
    with opening(parsed):
        engine = _ENGINES[parsed.get_backend_name()](parsed, page)
        try:
            require_readable(engine)
            _require_current(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


def _require_current(engine: Engine) -> None:
    file = sqlite_file(engine.url)
    with reading(engine) as connection:
        if is_empty(connection):
            raise StoreEmpty
        try:
            check(connection)
        except SchemaOld as error:
            if file is None or writable(file):
                raise
            raise SchemaOld(
                f"{shown(file)} has an older schema and is read-only here: copy it to a folder of "
                "yours, and run `fedsweep db upgrade` on the copy"
            ) from error


def _sqlite_engine(url: URL, page: bool) -> Engine:  # as `_ENGINES` calls it
    """A connection for each look: what is moved away and back is found again, and a file that is
    not there is not made.
    """
    file = sqlite_file(url)
    assert file is not None
    require_file(file)
    access = Access(file)
    # By "rw" the last connection takes its log away; queries are all that it runs.
    mode, seconds = ("ro", LOOK_BUSY_SECONDS) if page else ("rw", BUSY_SECONDS)

    def connect() -> sqlite3.Connection:
        address = access.address(mode)
        driver = sqlite3.connect(address, uri=True, timeout=seconds, check_same_thread=False)
        driver.isolation_level = None
        use_own_views(driver, statements("sqlite"))
        driver.execute("PRAGMA query_only = ON")
        return driver

    if not writable(file):
        access.require_whole()
    lasting = writable(file) and not page
    engine = create_engine(
        url,
        creator=connect,
        poolclass=QueuePool if lasting else NullPool,
        execution_options={"access": access},
    )
    bound_statements(engine, LOOK_SECONDS if page else STATEMENT_SECONDS)
    event.listen(engine, "begin", begin_sqlite)
    event.listen(engine, "engine_disposed", lambda _: access.close())
    store_any_text(engine)
    driver_errors.name_engine(engine)
    return engine


def _postgres_engine(url: URL, page: bool) -> Engine:  # as `_ENGINES` calls it
    settings = {"statement_timeout": f"{LOOK_SECONDS}s"} if page else None
    return postgres_engine(url, settings=settings, read_only=True)


_ENGINES: dict[str, Callable[[URL, bool], Engine]] = {
    "sqlite": _sqlite_engine,
    "postgresql": _postgres_engine,
}

"""Engines: parsing a database URL, and opening the database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from fedsweep.errors import (
    RequestError,
    StoreError,
)
from fedsweep.store import driver_errors
from fedsweep.store.dialects import DIALECTS, dialect_of, dialect_of_text
from fedsweep.store.location import WRITE_A_URL
from fedsweep.store.transactions import shown_url, translated


def parse_url(text: str) -> URL:
    """Return a database URL from its text.

    The text is sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME. A SQLite file is resolved
    here once, so that every link and relative path to it gives the same URL.

    Raises:
        RequestError: the text is not a URL, or fedsweep has no driver for the database.

    """
    text = text.strip()
    if _CONTROL.search(text):
        raise RequestError("--db has a line end or a control character in it: remove that")
    if (dialect := dialect_of_text(text)) is not None:
        return dialect.parse(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise RequestError(WRITE_A_URL) from error
    raise RequestError(
        f"fedsweep has no driver for {url.drivername}: name a sqlite: or postgresql: URL in --db"
    )


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def make_engine(text: str, *, create: bool = False) -> Engine:
    """Return an engine for a store. Everything but the tables is checked.

    Raises:
        StoreError: the file is missing (and `create` is off), is not a database, or lies on a
            network file system, or the server does not answer.

    """
    url = parse_url(text)
    with opening(url):
        engine = DIALECTS[url.get_backend_name()].engine(url, create=create)
        try:
            require_readable(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


@contextmanager
def opening(url: URL) -> Iterator[None]:
    """Turn an error without a translation into a message about this URL."""
    try:
        yield
    except (ArgumentError, DBAPIError, OSError, TypeError, ValueError) as error:
        why = driver_errors.first_line(error)
        raise StoreError(f"{shown_url(url)} cannot be opened: {why}") from error


def require_readable(engine: Engine) -> None:
    """Refuse a database that cannot be read.

    Raises:
        StoreError: the database cannot be read. The message contains the reason.

    """
    with translated(engine), engine.connect() as connection:
        dialect_of(engine).require_readable(connection, shown_url(engine.url))


def close_idle(engine: Engine) -> None:
    """Close a server's connections that are not in use: training needs none."""
    dialect_of(engine).close_unused(engine)

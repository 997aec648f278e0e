"""Open the database of a command, for reading."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from fedsweep.errors import StoreEmpty
from fedsweep.store import schema
from fedsweep.store.dialects import sqlite_file
from fedsweep.store.engine import parse_url
from fedsweep.store.readonly import open_to_read


def read_store(url: str) -> Engine:
    """Open a database for reading. An empty one gets its schema first, if it can be written.

    Raises:
        StoreError: it is missing, unreachable, foreign, older or newer.

    """
    try:
        return open_to_read(url)
    except StoreEmpty:
        schema.open_store(url).dispose()
        return open_to_read(url)


def read_existing_store(url: str) -> Engine | None:
    """Open a database for reading as `read_store` does; return None if its file does not exist."""
    file = sqlite_file(parse_url(url))
    return read_store(url) if file is None or file.exists() else None

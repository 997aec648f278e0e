"""A person's SQL on SQLite: read-only, and bounded, here or in a process of its own.

Of the standard library alone: a question from the page starts a process.
"""

from __future__ import annotations

import sqlite3
import time

from fedsweep.errors import SqlRefused
from fedsweep.store.bounds import MOST_COLUMNS, Found, refusal, taken

LARGEST_VALUE = 16 * 2**20
"""Bytes of one value: keeps zeroblob() and its like from filling the memory."""


def read(
    address: str,
    text: str,
    parameters: dict[str, str | None],
    limit: int,
    seconds: float,
    room: int | None,
) -> Found:
    """Columns and rows of a statement on a SQLite file."""
    connection = sqlite3.connect(address, uri=True, timeout=seconds)
    deadline = time.monotonic() + seconds
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(LARGEST_VALUE, room or LARGEST_VALUE))
        if room is not None:
            connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, MOST_COLUMNS)
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        cursor = connection.execute(text, parameters)
        if cursor.description is None:
            raise SqlRefused
        rows = cursor.fetchmany(limit) if room is None else taken(cursor, limit, room)
        return [column[0] for column in cursor.description], rows
    except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError) as error:
        raise refusal(str(error), seconds) from error
    finally:
        connection.close()


_READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}


def _authorize(action: int, _first: str | None, second: str | None, *_: str | None) -> int:
    function = second if action == sqlite3.SQLITE_FUNCTION else None
    if action not in _READING or function in ("load_extension", "fts3_tokenizer"):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK

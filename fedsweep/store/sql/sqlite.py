"""A person's SQL on SQLite: read-only and limited, in this process or in one of its own.

It needs only the standard library, because each question from the page starts a process.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from fedsweep.errors import SqlRefused
from fedsweep.store.sql.limits import MOST_BYTES, MOST_COLUMNS, Found, refusal, taken

LARGEST_VALUE = 16 * 2**20
"""Bytes of one value: keeps zeroblob() and its like from filling the memory."""


HEAP = 2**30
"""Bytes that SQLite may take in a process that does other things too."""


def read(
    address: str,
    text: str,
    parameters: dict[str, str | None],
    limit: int,
    seconds: float,
    until: float,
    room: int | None,
    views: dict[str, str],
    opened: Callable[[sqlite3.Connection], object] = lambda _: None,
) -> Found:
    """Return the columns and rows of a statement on a SQLite file, until a time of the monotonic
    clock.

    `views` are the statements that create our views, because a file from another person may have
    other views of the same names. `opened` gets the connection, so that another thread can
    interrupt it.
    """
    left = max(0.0, until - time.monotonic())
    connection = sqlite3.connect(address, uri=True, timeout=left, check_same_thread=False)
    try:
        opened(connection)
        if room is None:
            connection.execute(f"PRAGMA hard_heap_limit = {HEAP}")
        use_own_views(connection, views)
        connection.execute("PRAGMA query_only = ON")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(LARGEST_VALUE, room or LARGEST_VALUE))
        if room is not None:
            connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, MOST_COLUMNS)
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
        cursor = connection.execute(text, parameters)
        if cursor.description is None:
            raise SqlRefused
        rows = taken(cursor, limit, room or MOST_BYTES)
        return [column[0] for column in cursor.description], rows
    except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError) as error:
        raise refusal(str(error), seconds) from error
    finally:
        connection.close()


def use_own_views(connection: sqlite3.Connection, views: dict[str, str]) -> None:
    """Let a connection read our views, also if the file has other ones under their names.

    A temporary view comes before one of the file. None is made if the file has ours.
    """
    connection.execute("PRAGMA trusted_schema = OFF")
    stored = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'"))
    for name, statement in views.items():
        if name in stored and stored[name] != statement:
            connection.execute(statement.replace("CREATE VIEW", "CREATE TEMP VIEW", 1))


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

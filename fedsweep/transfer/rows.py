"""Rows that go from one database to another, some at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import RequestError
from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.base import Lock
from fedsweep.store.rows import Row

COPIED_ROWS = 5000
"""Number of rows in memory at a time, and in one statement."""


Values = tuple[Any, ...]


Parts = Generator[list[Values], None, None]


def row_parts(connection: Connection, query: sa.Select[Any]) -> Iterator[Sequence[sa.Row[Any]]]:
    """Yield the rows of a query, some at a time, also from a server."""
    with connection.execute(query, execution_options={"yield_per": COPIED_ROWS}) as found:
        yield from found.partitions()


def dicts(table: sa.Table, found: Iterable[sa.Row[Any]]) -> list[Row]:
    """Return rows of a table as dictionaries, by the names of its columns."""
    columns = table.columns.keys()
    return [dict(zip(columns, row, strict=True)) for row in found]


def insert(
    connection: Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[Values]
) -> None:
    """Insert rows, as fast as the database takes them."""
    if rows:
        dialect_of(connection).load(connection, table, columns, rows)


def begin(there: Connection, here: Connection) -> None:
    """Prepare both transactions: no time limit, and a lock against planners in both
    databases.

    Raises:
        RequestError: it is one.

    """
    for connection in (there, here):
        dialect_of(connection).lift_time_limits(connection, idle=True)
    dialect = dialect_of(here)
    if dialect_of(there) is dialect and dialect.same_database(there, here):
        raise RequestError("FROM and the database to write are the same one: name two")
    dialect.lock(here, Lock.PLAN)

"""Rows that go from one database to another, a limited number at a time."""

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
    with connection.execute(query, execution_options={"yield_per": COPIED_ROWS}) as rows:
        yield from rows.partitions()


def dicts(table: sa.Table, rows: Iterable[sa.Row[Any]]) -> list[Row]:
    """Return rows of a table as dictionaries, by the names of its columns."""
    columns = table.columns.keys()
    return [dict(zip(columns, row, strict=True)) for row in rows]


def insert(
    connection: Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[Values]
) -> None:
    """Insert rows, as fast as the database takes them."""
    if rows:
        dialect_of(connection).load(connection, table, columns, rows)


def begin(source: Connection, target: Connection) -> None:
    """Lift the time limits of both transactions, and lock out the planners of the target.

    Raises:
        RequestError: both connections are to the same database.

    """
    for connection in (source, target):
        dialect_of(connection).lift_time_limits(connection, idle=True)
    dialect = dialect_of(target)
    if dialect_of(source) is dialect and dialect.same_database(source, target):
        raise RequestError("FROM and the database to write are the same one: name two")
    dialect.lock(target, Lock.PLAN)

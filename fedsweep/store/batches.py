"""Statements that insert many rows, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from fedsweep.store.prepared import Prepared

T = TypeVar("T")


STATEMENT_ROWS = 1000
"""Rows per statement."""


def batches(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Return the rows in batches, each small enough for one statement."""
    return (rows[i : i + STATEMENT_ROWS] for i in range(0, len(rows), STATEMENT_ROWS))


def adding(table: sa.Table, *names: str) -> Prepared:
    """Return the statement INSERT … ON CONFLICT DO NOTHING of these columns."""
    values: dict[str, Any] = {name: sa.bindparam(name) for name in names}
    return Prepared(lambda dialect: dialect.insert(table).values(values).on_conflict_do_nothing())

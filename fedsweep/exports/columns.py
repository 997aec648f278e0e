"""The types of the views' columns. SQLite does not report them."""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.store.tables import attempts, client_rounds, rounds, trials
from fedsweep.store.views import NAMES

COMPUTED_COLUMNS: dict[str, type] = {
    "sweep": str, "attempts": int, "n": int, "n_failed": int, "n_diverged": int,
    "mean_test_accuracy": float, "std_test_accuracy": float,
    "rounds_shared": int, "seconds_saved": float,
}  # fmt: skip
"""Columns that are not in a table, or have another type there."""


@cache
def column_types() -> dict[str, type]:
    """Return the type of each column of the views: int, float or str.

    A column has the same type in each view.
    """
    stored = {
        column.name: column.type.python_type
        for table in (attempts, client_rounds, rounds, trials)
        for column in table.c
    }
    whole = {name: int if kind is bool else kind for name, kind in stored.items()}
    return whole | COMPUTED_COLUMNS


def view_columns(connection: Connection, view: str) -> list[str]:
    """Return the columns of a view, in order."""
    return list(connection.execute(sa.text(f"SELECT * FROM {view} LIMIT 0")).keys())


def view_query(view: str, *, scoped: bool) -> str:
    """Return the query for the rows of a view, or if scoped for those of the sweep `:sweep`."""
    assert view in NAMES
    if not scoped:
        return f"SELECT * FROM {view}"
    if view in ("members", "cells", "ledger"):
        return f"SELECT * FROM {view} WHERE sweep = :sweep"
    trial_ids = "SELECT trial_id FROM members WHERE sweep = :sweep"
    return f"SELECT * FROM {view} WHERE trial_id IN ({trial_ids})"

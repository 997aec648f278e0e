"""What the views hold, column by column: SQLite itself does not say."""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.store.tables import attempts, client_rounds, rounds, trials
from fedsweep.store.views import NAMES

COMPUTED: dict[str, type] = {
    "sweep": str, "attempts": int, "n": int, "n_failed": int, "n_diverged": int,
    "mean_test_accuracy": float, "std_test_accuracy": float,
    "rounds_shared": int, "seconds_saved": float,
}  # fmt: skip
"""Columns that no table has, or has as something else."""


@cache
def kinds() -> dict[str, type]:
    """Every column of every view: int, float or str. A column means the same in each view."""
    stored = {
        column.name: column.type.python_type
        for table in (attempts, client_rounds, rounds, trials)
        for column in table.c
    }
    whole = {name: int if kind is bool else kind for name, kind in stored.items()}
    return whole | COMPUTED


def columns_of(connection: Connection, view: str) -> list[str]:
    """A view's columns, in order."""
    return list(connection.execute(sa.text(f"SELECT * FROM {view} LIMIT 0")).keys())


def rows_of(view: str, *, scoped: bool) -> str:
    """The statement of a view's rows: all, or those of the sweep `:sweep`."""
    assert view in NAMES
    if not scoped:
        return f"SELECT * FROM {view}"
    if view in ("members", "cells", "ledger"):
        return f"SELECT * FROM {view} WHERE sweep = :sweep"
    its = "SELECT trial_id FROM members WHERE sweep = :sweep"
    return f"SELECT * FROM {view} WHERE trial_id IN ({its})"

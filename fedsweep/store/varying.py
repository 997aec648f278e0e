"""The fields that tell the trials of one sweep apart."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.fields import TELLING, UNSET
from fedsweep.store.tables import members, sweeps, trials


def varying_fields(connection: Connection, sweep: str | None = None) -> tuple[str, ...]:
    """Return the fields of `TELLING` that vary within a sweep, or within any sweep (None).

    None is a value only where it is a choice of its own.
    """
    columns: list[sa.ColumnElement[Any]] = []
    for name in TELLING:
        value: sa.ColumnElement[Any] = trials.c[name]
        if isinstance(value.type, sa.Boolean):
            value = sa.cast(value, sa.Integer)  # Postgres has no minimum of booleans
        columns.append(sa.func.min(value).label(f"{name}_least"))
        columns.append(sa.func.max(value).label(f"{name}_most"))
        columns.append(sa.func.count(value).label(f"{name}_set"))
    query = (
        sa.select(sa.func.count().label("trials"), *columns)
        .select_from(members.join(trials, trials.c.id == members.c.trial))
        .group_by(members.c.sweep)
    )
    if sweep is not None:
        query = query.join(sweeps, sweeps.c.id == members.c.sweep).where(sweeps.c.name == sweep)
    varying: set[str] = set()
    for row in connection.execute(query).mappings():
        for name in TELLING:
            is_partly_set = name in UNSET and 0 < row[f"{name}_set"] < row["trials"]
            if row[f"{name}_least"] != row[f"{name}_most"] or is_partly_set:
                varying.add(name)
    return tuple(name for name in TELLING if name in varying)

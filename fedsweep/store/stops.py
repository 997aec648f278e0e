"""Workers that cannot train, and the reasons. None of them is charged to a trial.

A worker that stops because of its machine adds a row. A worker that passes over trials, because its
machine lacks data or a package, adds one too. The page and `fedsweep status` show them.
"""

from __future__ import annotations

import json
import time

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import hide_secrets, legible
from fedsweep.store.rows import Row
from fedsweep.store.tables import stops, trials

Lack = tuple[tuple[str, str | None], ...]
"""Columns of `trials`, each with a value. A machine lacks what trials with all of these need."""

SHOWN_SECONDS = 86400.0
"""How long a stop is shown: a person looks in the morning."""
SHOWN = 50
"""Stops that are shown, of different machines or reasons."""
KEPT = 10_000
"""Rows that are kept. A scheduler may start a broken machine's worker again and again."""
LONGEST = 2000
"""Characters of a reason that are kept."""


def note(
    connection: Connection, *, host: str, pid: int, device: str, reason: str, lack: Lack | None
) -> None:
    """Store why a worker stopped, or which trials it passes over."""
    text = legible(hide_secrets(reason))[:LONGEST]
    row = {"host": host, "pid": pid, "device": device, "at": time.time(), "reason": text}
    added = sa.insert(stops).values(**row, lacks=None if lack is None else json.dumps(lack))
    newest = connection.execute(added.returning(stops.c.id)).scalar_one()
    connection.execute(sa.delete(stops).where(stops.c.id <= newest - KEPT))


def recent(connection: Connection) -> list[Row]:
    """Return the stops of the last day, one for each machine, device and reason, the latest first.

    `at` is the latest time, and `times` is their number. `lacks` is 1 if the worker continues with
    other trials, and 0 if it stopped.
    """
    c = stops.c
    query = (
        sa.select(
            *(c.host, c.device, c.reason),
            sa.func.max(c.at).label("at"),
            sa.func.count().label("times"),
            sa.func.min(sa.case((c.lacks.is_(None), 0), else_=1)).label("lacks"),
        )
        .where(c.at > time.time() - SHOWN_SECONDS)
        .group_by(c.host, c.device, c.reason)
        .order_by(sa.func.max(c.at).desc(), c.host, c.device)
        .limit(SHOWN)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def nowhere(connection: Connection, lack: Lack, host: str) -> bool:
    """Return whether data that this machine lacks seem to be on no machine.

    They are somewhere if their content was seen by a plan, or loaded by an attempt. They are
    nowhere if another machine has lacked them too within the last day.
    """
    values = dict(lack)
    if any(values.get(name) is not None for name in ("fingerprint", "pretrained_hash")):
        return False
    same = [trials.c[name].is_not_distinct_from(value) for name, value in lack]
    loaded = sa.select(trials.c.id).where(*same, trials.c.data_fingerprint.is_not(None)).limit(1)
    if connection.execute(loaded).first() is not None:
        return False
    since = time.time() - SHOWN_SECONDS
    missed = sa.select(stops.c.id).where(
        stops.c.lacks == json.dumps(lack), stops.c.host != host, stops.c.at > since
    )
    return connection.execute(missed.limit(1)).first() is not None

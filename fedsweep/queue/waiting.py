"""Outstanding trials: their existence, their needs, and the time of the next change."""

from __future__ import annotations

from collections.abc import Callable, Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.queue.statements import AMONG_SHARED, OPEN, OWN, RUNNING
from fedsweep.states import Hold
from fedsweep.store import arms
from fedsweep.store.clock import AHEAD_SECONDS, as_sql
from fedsweep.store.dialects.base import Dialect
from fedsweep.store.moment import Moment
from fedsweep.store.prepared import Prepared
from fedsweep.store.stops import Lack
from fedsweep.store.tables import (
    BACKING_OFF,
    members,
    sweeps,
    trials,
)


def others(lacks: Collection[Lack]) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of the trials that need none of what a machine lacks."""
    return [
        sa.not_(sa.and_(*(trials.c[name].is_not_distinct_from(value) for name, value in lack)))
        for lack in sorted(lacks, key=repr)
    ]


def outstanding(connection: Connection, sweep: str | None = None) -> bool:
    """Return whether a trial in scope is running, queued, backing off, paused, or still to be
    proposed.

    Drained sweeps, and sweeps that have used up their budget, do not count.
    """
    statement = _OUTSTANDING if sweep is None else _OUTSTANDING_IN
    return bool(statement(connection, sweep=sweep).one()[0]) or arms.open_in(connection, sweep)


def _outstanding(*scopes: sa.ColumnElement[bool]) -> Callable[[Dialect], sa.ClauseElement]:
    one: sa.ColumnElement[int] = sa.literal_column("1")
    paused: sa.ColumnElement[str] = sa.literal_column(f"'{Hold.PAUSE.value}'")
    waits = (
        (RUNNING,),
        (OPEN, trials.c.held.is_(None)),
        (OPEN, trials.c.held == paused),
    )
    # In the index's own order, not EXISTS: if most trials wait, a planner would read the table
    # from its beginning, past all that have finished.
    by = trials.c.held, trials.c.sweep
    looks = [
        sa.select(one).where(*wait, scope).order_by(*by).limit(one).scalar_subquery().is_not(None)
        for scope in scopes
        for wait in waits
    ]
    return lambda _: sa.select(sa.or_(*looks))


_OUTSTANDING = Prepared(_outstanding(sa.true()))


_OUTSTANDING_IN = Prepared(_outstanding(OWN, AMONG_SHARED))


def needs(connection: Connection, sweep: str | None = None) -> list[dict[str, str | None]]:
    """Return the data sets and packages that the open trials in scope need, without duplicates."""
    columns = [trials.c[name] for name in NEEDS]
    query = sa.select(*columns).where(OPEN, _in_scope(sweep)).distinct()
    return [dict(row) for row in connection.execute(query.limit(MOST_NEEDS)).mappings()]


NEEDS = (
    *("dataset", "fingerprint", "model", "normalizer", "algorithm"),
    *("pretrained", "pretrained_hash", "code"),
    *("file", "clients_by", "partition_file", "partition_fingerprint"),
)
"""The fields of a configuration that decide what a machine must have."""


MOST_NEEDS = 1000
"""Number of combinations that a worker checks before its first claim. It checks others when it
claims them.
"""


def may_come(connection: Connection, sweep: str | None, passed_over: Collection[Lack]) -> bool:
    """Return whether an open or future trial in scope is not passed over.

    Drained sweeps, and sweeps that have used up their budget, do not count.
    """
    active = RUNNING | trials.c.held.is_(None) | (trials.c.held == Hold.PAUSE.value)
    query = sa.select(trials.c.id).where(OPEN, active, _in_scope(sweep), *others(passed_over))
    if connection.execute(query.limit(1)).first() is not None:
        return True
    return any(
        not any(all(config.get(name) == value for name, value in lack) for lack in passed_over)
        for config in arms.open_configs(connection, sweep)
    )


def _in_scope(sweep: str | None) -> sa.ColumnElement[bool]:
    """Return the condition of a sweep's trials, including shared ones. Without a sweep it is always
    true.
    """
    if sweep is None:
        return sa.true()
    query = sa.select(members.c.trial).join(sweeps, sweeps.c.id == members.c.sweep)
    return trials.c.id.in_(query.where(sweeps.c.name == sweep))


def next_change(connection: Connection, now: Moment) -> float | None:
    """Return the seconds until the first lease ends or the first trial has backed off. Return None
    if neither will happen.
    """
    c = trials.c
    soonest = (
        sa.select(sa.func.min(c.lease_until)).where(RUNNING).scalar_subquery(),
        sa.select(sa.func.min(c.not_before))
        .where(sa.text(BACKING_OFF), c.clock == now.clock)
        .scalar_subquery(),
    )
    times = connection.execute(sa.select(*(time - as_sql(now) for time in soonest))).one()
    soon = min((t for t in times if t is not None), default=None)
    return 0.0 if soon is not None and soon > AHEAD_SECONDS else soon

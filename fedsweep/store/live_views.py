"""What a page shows of a sweep at work: workers, the queue, failures. Plain rows, quick to read.

No read goes through the rounds, and none through more attempts than RECENT.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.fields import DESCRIBED
from fedsweep.states import FailureKind, Outcome, TrialState
from fedsweep.store.clock import as_sql, is_ahead, read_clock
from fedsweep.store.rows import Row
from fedsweep.store.tables import (
    BACKING_OFF,
    CLAIMABLE,
    WAITING,
    attempts,
    members,
    sweeps,
    trials,
)

RECENT = 10_000
"""The newest attempts, in which workers are looked for."""

TOLD = (
    *("trial_id", "state", "normalizer", *DESCRIBED),
    *("seed", "final_round", "rounds", "priority"),
)
"""The columns that tell a trial in a few words (`report.summary.describe`)."""

_RUNNING = sa.text("trials.state = 'running'")
_TOLD = [trials.c[name] for name in TOLD]


def states(connection: Connection) -> dict[str, int]:
    """How many trials are in each state, each trial once; every state is named."""
    query = sa.select(trials.c.state, sa.func.count()).group_by(trials.c.state)
    return dict.fromkeys(TrialState, 0) | {row[0]: row[1] for row in connection.execute(query)}


def running(connection: Connection) -> list[Row]:
    """The attempts at work, with their trials; `lease_left` in seconds, below zero where over."""
    now = read_clock(connection)
    # On another clock, that of an earlier boot, it is over.
    until, at = trials.c.lease_until, as_sql(now)
    left = sa.case(((trials.c.clock != now.clock) | is_ahead(until, at), -1.0), else_=until - at)
    mine = (attempts.c.trial == trials.c.id) & (attempts.c.fence == trials.c.fence)
    a = attempts.c
    query = (
        sa.select(
            *_TOLD,
            *(a.worker, a.host, a.pid, a.device, a.started_at, a.rounds_trained),
            *(a.seconds_trained, a.provenance, a.memory, left.label("lease_left")),
        )
        .select_from(trials.join(attempts, mine))
        .where(_RUNNING)
        .order_by(a.host, a.worker)
    )
    return _rows(connection, query)


def workers(connection: Connection, since: float) -> list[Row]:
    """Who ended an attempt after this wall time: a row a worker, from its recent attempts.

    `trained` are its seconds of training since then, `first` and `last` when it began its first
    and ended its last attempt, `outcome` how that ended, `finished` how many trials it finished.
    """
    recent = sa.select(attempts).order_by(attempts.c.id.desc()).limit(RECENT).subquery("recent")
    r = recent.c
    inside = sa.case(
        (r.started_at >= since, 1.0), else_=(r.ended_at - since) / (r.ended_at - r.started_at)
    )
    trained = sa.case((r.ended_at > since, r.seconds_trained * inside), else_=0.0)
    done = sa.case((r.outcome == Outcome.FINISHED, 1), else_=0)
    each = (
        sa.select(
            r.worker,
            sa.func.max(r.id).label("newest"),
            sa.func.min(r.started_at).label("first"),
            sa.func.max(r.ended_at).label("last"),
            sa.func.sum(trained).label("trained"),
            sa.cast(sa.func.sum(done), sa.BigInteger).label("finished"),
            sa.func.count().label("attempts"),
        )
        .group_by(r.worker)
        .having((sa.func.max(r.ended_at) > since) | (sa.func.count() > sa.func.count(r.ended_at)))
        .subquery("each")
    )
    a = attempts.c
    query = (
        sa.select(each, *(a.host, a.device, a.pid, a.outcome, a.provenance, a.memory))
        .select_from(each.join(attempts, a.id == each.c.newest))
        .order_by(a.host, each.c.worker)
    )
    return _rows(connection, query)


def queue(connection: Connection) -> dict[str, int]:
    """How many queued trials may be claimed, wait for their trunk, back off, or are held.

    The held ones by why: `pause`, `drain`, `budget`, `cancel`; only those that there are.
    """
    off, held = trials.c.not_before.is_not(None), trials.c.held
    why = sa.case((off & held.is_(None), "backing off"), (held.is_not(None), held),
                  (trials.c.waits == 1, "waiting"), else_="next")  # fmt: skip
    query = sa.select(why.label("why"), sa.func.count()).where(sa.text("state = 'queued'"))
    return {row[0]: row[1] for row in connection.execute(query.group_by(sa.text("why")))}


def upcoming(connection: Connection, limit: int) -> list[Row]:
    """The trials that are claimed next, in this order."""
    return _queued(connection, CLAIMABLE, (trials.c.priority.desc(), trials.c.id), limit)


def backing_off(connection: Connection, limit: int) -> list[Row]:
    """Trials that are tried again later, the soonest first; `seconds_off` may be below zero."""
    now = read_clock(connection)
    until, at = trials.c.not_before, as_sql(now)
    off = sa.case(((trials.c.clock != now.clock) | is_ahead(until, at), 0.0), else_=until - at)
    order = (trials.c.clock, trials.c.not_before, trials.c.id)
    last = (attempts.c.trial == trials.c.id) & (attempts.c.fence == trials.c.fence)
    why = [
        sa.select(attempts.c[name]).where(last).correlate(trials).scalar_subquery().label(name)
        for name in ("failure", "error")
    ]
    more = (off.label("seconds_off"), trials.c.failures, *why)
    return _queued(connection, BACKING_OFF, order, limit, *more)


def waiting(connection: Connection, limit: int) -> list[Row]:
    """Trials that wait, by trunk: `n` of them, and the `carrier` that trains it, or None."""
    carrier = trials.alias("carrier")
    trains = sa.select(sa.func.min(carrier.c.trial_id)).where(
        sa.text("carrier.trunk IS NOT NULL AND carrier.state = 'running'"),
        carrier.c.trunk == trials.c.trunk,
    )
    query = (
        sa.select(
            trials.c.trunk,
            sa.func.count().label("n"),
            sa.func.min(trials.c.trial_id).label("one"),
            trains.correlate(trials).scalar_subquery().label("carrier"),
        )
        .where(sa.text(WAITING))
        .group_by(trials.c.trunk)
        .order_by(sa.func.count().desc(), trials.c.trunk)
    )
    return _rows(connection, query.limit(limit))


def _queued(
    connection: Connection,
    which: str,
    order: tuple[sa.ColumnElement[Any], ...],
    limit: int,
    *more: sa.ColumnElement[Any],
) -> list[Row]:
    query = sa.select(*_TOLD, sweeps.c.name.label("sweep"), *more)
    query = query.join(sweeps, sweeps.c.id == trials.c.sweep).where(sa.text(_of_trials(which)))
    return _rows(connection, query.order_by(*order).limit(limit))


def _of_trials(which: str) -> str:
    """A partial index's condition, where another table has columns of the same names."""
    return which.replace("held", "trials.held")


def failure_counts(connection: Connection) -> dict[str, tuple[int, int]]:
    """By kind: the trials that failed for good, and all attempts that failed so."""
    ended = sa.select(trials.c.failure, sa.func.count()).where(trials.c.state == TrialState.FAILED)
    tried = sa.select(attempts.c.failure, sa.func.count()).where(attempts.c.failure.is_not(None))
    good = {r[0]: r[1] for r in connection.execute(ended.group_by(trials.c.failure))}
    each = {r[0]: r[1] for r in connection.execute(tried.group_by(attempts.c.failure))}
    return {
        kind.value: (good.get(kind, 0), each.get(kind, 0))
        for kind in FailureKind
        if kind in good or kind in each
    }


def failures(connection: Connection, kind: str, limit: int) -> list[Row]:
    """The newest failed attempts of a kind, with their trials; of `lost`, the last ones."""
    last = (attempts.c.trial == trials.c.id) & (attempts.c.fence == trials.c.fence)
    lost = (trials.c.failure == FailureKind.LOST) & last
    of_kind = lost if kind == FailureKind.LOST else attempts.c.failure == kind
    a = attempts.c
    query = (
        sa.select(
            *_TOLD,
            *(a.fence, a.worker, a.host, a.device, a.ended_at, a.error, a.traceback),
        )
        .select_from(attempts.join(trials, trials.c.id == a.trial))
        .where(of_kind)
        .order_by(a.id.desc())
    )
    return _rows(connection, query.limit(limit))


def ledgers(connection: Connection) -> list[Row]:
    """Each sweep's rounds and seconds; as the view `ledger`, without going through the rounds.

    What was shared is counted once for each trial that took it over.
    """
    sums = ("rounds_trained", "rounds_lost", "seconds_trained", "seconds_lost")
    of_sweep = sweeps.join(members, members.c.sweep == sweeps.c.id)
    trained = (
        sa.select(sweeps.c.name, *(sa.func.sum(attempts.c[name]).label(name) for name in sums))
        .select_from(of_sweep.join(attempts, attempts.c.trial == members.c.trial))
        .group_by(sweeps.c.name)
    )
    shared = (
        sa.select(sweeps.c.name, sa.func.sum(trials.c.rounds_shared))
        .select_from(of_sweep.join(trials, trials.c.id == members.c.trial))
        .group_by(sweeps.c.name)
        .order_by(sweeps.c.name)
    )
    rows = connection.execute(trained).all()
    found = {name: dict(zip(sums, values, strict=True)) for name, *values in rows}
    none = dict.fromkeys(sums, 0)
    return [
        {"sweep": name, "rounds_shared": n, **none, **found.get(name, {})}
        for name, n in connection.execute(shared)
    ]


def _rows(connection: Connection, query: sa.Select[Any]) -> list[Row]:
    return [dict(row) for row in connection.execute(query).mappings()]

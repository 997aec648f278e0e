"""Rows about a running sweep for the live page: workers, the queue and failures.

The reads are fast: none of them scans the rounds.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.fields import DESCRIBED, TELLING
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
"""Number of newest attempts in which `workers` searches. It keeps the read fast."""

DESCRIPTION = (
    "trial_id",
    "state",
    "normalizer",
    *DESCRIBED,
    "seed",
    "final_round",
    "rounds",
    "priority",
)
"""The columns of a short description of a trial (`report.labels.describe`)."""

_RUNNING = sa.text("trials.state = 'running'")
_DESCRIPTION = [trials.c[name] for name in DESCRIPTION]


def states(connection: Connection) -> dict[str, int]:
    """Return the number of trials in each state, 0 for a state without trials."""
    query = sa.select(trials.c.state, sa.func.count()).group_by(trials.c.state)
    return dict.fromkeys(TrialState, 0) | {row[0]: row[1] for row in connection.execute(query)}


def running(connection: Connection) -> list[Row]:
    """Return the running attempts, with their trials.

    `lease_left` are the seconds to the end of the lease, negative if it has expired.
    """
    now = read_clock(connection)
    # A lease on another clock, such as that of an earlier boot, has expired.
    until, at = trials.c.lease_until, as_sql(now)
    left = sa.case(((trials.c.clock != now.clock) | is_ahead(until, at), -1.0), else_=until - at)
    current = (attempts.c.trial == trials.c.id) & (attempts.c.fence == trials.c.fence)
    a = attempts.c
    query = (
        sa.select(
            *_DESCRIPTION,
            *(trials.c[name] for name in TELLING if name not in DESCRIPTION),
            a.worker,
            a.host,
            a.pid,
            a.device,
            a.started_at,
            a.rounds_trained,
            a.seconds_trained,
            a.provenance,
            a.memory,
            left.label("lease_left"),
        )
        .select_from(trials.join(attempts, current))
        .where(_RUNNING)
        .order_by(a.host, a.worker)
    )
    return _rows(connection, query)


def workers(connection: Connection, since: float) -> list[Row]:
    """Return the workers that ended an attempt after this wall time, or that run one.

    A row sums up a worker's attempts among the RECENT newest ones:

    - `trained` are its seconds of training since then.
    - `first` is the start of its first attempt, `last` the latest end of one.
    - `finished` is the number of trials that it finished.
    - `outcome` is how its newest attempt ended.
    """
    recent = sa.select(attempts).order_by(attempts.c.id.desc()).limit(RECENT).subquery("recent")
    r = recent.c
    fraction = sa.case(
        (r.started_at >= since, 1.0), else_=(r.ended_at - since) / (r.ended_at - r.started_at)
    )
    trained = sa.case((r.ended_at > since, r.seconds_trained * fraction), else_=0.0)
    finished = sa.case((r.outcome == Outcome.FINISHED, 1), else_=0)
    each = (
        sa.select(
            r.worker,
            sa.func.max(r.id).label("newest"),
            sa.func.min(r.started_at).label("first"),
            sa.func.max(r.ended_at).label("last"),
            sa.func.sum(trained).label("trained"),
            sa.cast(sa.func.sum(finished), sa.BigInteger).label("finished"),
            sa.func.count().label("attempts"),
        )
        .group_by(r.worker)
        .having((sa.func.max(r.ended_at) > since) | (sa.func.count() > sa.func.count(r.ended_at)))
        .subquery("each")
    )
    a = attempts.c
    query = (
        sa.select(each, a.host, a.device, a.pid, a.outcome, a.provenance, a.memory)
        .select_from(each.join(attempts, a.id == each.c.newest))
        .order_by(a.host, each.c.worker)
    )
    return _rows(connection, query)


def queue(connection: Connection) -> dict[str, int]:
    """Return the number of queued trials by the reason why they are not running.

    "next" can be claimed, "waiting" waits for the trunk, and "backing off" waits after a failure.
    Held trials are counted by their hold: "pause", "drain", "budget" or "cancel". A reason
    without trials is left out.
    """
    backs_off, held = trials.c.not_before.is_not(None), trials.c.held
    why = sa.case(
        (backs_off & held.is_(None), "backing off"),
        (held.is_not(None), held),
        (trials.c.waits == 1, "waiting"),
        else_="next",
    )
    query = sa.select(why.label("why"), sa.func.count()).where(sa.text("state = 'queued'"))
    return {row[0]: row[1] for row in connection.execute(query.group_by(sa.text("why")))}


def upcoming(connection: Connection, limit: int) -> list[Row]:
    """Return the trials that workers claim next, in this order."""
    return _queued(connection, CLAIMABLE, (trials.c.priority.desc(), trials.c.id), limit)


def backing_off(connection: Connection, limit: int) -> list[Row]:
    """Return the trials that back off after a failure, in the order of their retries.

    `seconds_off` are the seconds until the retry, which may be negative.
    """
    now = read_clock(connection)
    until, at = trials.c.not_before, as_sql(now)
    seconds_off = sa.case(
        ((trials.c.clock != now.clock) | is_ahead(until, at), 0.0), else_=until - at
    )
    order = (trials.c.clock, trials.c.not_before, trials.c.id)
    last = (attempts.c.trial == trials.c.id) & (attempts.c.fence == trials.c.fence)
    why = [
        sa.select(attempts.c[name]).where(last).correlate(trials).scalar_subquery().label(name)
        for name in ("failure", "error")
    ]
    more = (seconds_off.label("seconds_off"), trials.c.failures, *why)
    return _queued(connection, BACKING_OFF, order, limit, *more)


def waiting(connection: Connection, limit: int) -> list[Row]:
    """Return the trunks for which trials wait.

    `n` is the number of waiting trials, and `one` the id of one. `carrier` is the id of the trial
    that trains the trunk, None if it does not run.
    """
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
    condition: str,
    order: tuple[sa.ColumnElement[Any], ...],
    limit: int,
    *more: sa.ColumnElement[Any],
) -> list[Row]:
    query = sa.select(*_DESCRIPTION, sweeps.c.name.label("sweep"), *more)
    query = query.join(sweeps, sweeps.c.id == trials.c.sweep).where(sa.text(_qualified(condition)))
    return _rows(connection, query.order_by(*order).limit(limit))


def _qualified(condition: str) -> str:
    """Return a partial index's condition for a query in which `sweeps` has a column `held` too."""
    return condition.replace("held", "trials.held")


def failure_counts(connection: Connection) -> dict[str, tuple[int, int]]:
    """Return, by kind of failure, the number of failed trials and of all failed attempts."""
    of_trials = sa.select(trials.c.failure, sa.func.count()).where(
        trials.c.state == TrialState.FAILED
    )
    of_attempts = sa.select(attempts.c.failure, sa.func.count()).where(
        attempts.c.failure.is_not(None)
    )
    trial_rows = connection.execute(of_trials.group_by(trials.c.failure))
    attempt_rows = connection.execute(of_attempts.group_by(attempts.c.failure))
    failed_trials = {row[0]: row[1] for row in trial_rows}
    failed_attempts = {row[0]: row[1] for row in attempt_rows}
    return {
        kind.value: (failed_trials.get(kind, 0), failed_attempts.get(kind, 0))
        for kind in FailureKind
        if kind in failed_trials or kind in failed_attempts
    }


def failures(connection: Connection, kind: str, limit: int) -> list[Row]:
    """Return the newest failed attempts of a kind, with their trials.

    For the kind `lost`, these are the last attempts of the lost trials.
    """
    last = (attempts.c.trial == trials.c.id) & (attempts.c.fence == trials.c.fence)
    lost = (trials.c.failure == FailureKind.LOST) & last
    of_kind = lost if kind == FailureKind.LOST else attempts.c.failure == kind
    a = attempts.c
    query = (
        sa.select(
            *_DESCRIPTION,
            a.fence,
            a.worker,
            a.host,
            a.device,
            a.ended_at,
            a.error,
            a.traceback,
        )
        .select_from(attempts.join(trials, trials.c.id == a.trial))
        .where(of_kind)
        .order_by(a.id.desc())
    )
    return _rows(connection, query.limit(limit))


def ledgers(connection: Connection) -> list[Row]:
    """Return each sweep's rounds and seconds, as the view `ledger` does.

    It does not scan the rounds, so that it is faster than the view.
    A shared round is counted once for each trial that inherited it.
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
    sums_by_sweep = {name: dict(zip(sums, values, strict=True)) for name, *values in rows}
    zeros = dict.fromkeys(sums, 0)
    return [
        {"sweep": name, "rounds_shared": n, **zeros, **sums_by_sweep.get(name, {})}
        for name, n in connection.execute(shared)
    ]


def _rows(connection: Connection, query: sa.Select[Any]) -> list[Row]:
    return [dict(row) for row in connection.execute(query).mappings()]

"""Reads for the decision on notices, and the record which ensures that each is sent once."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.notify.decide import SILENCE_SECONDS, EndedAttempt, Event, Notice
from fedsweep.states import FailureKind, Outcome
from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.base import Lock
from fedsweep.store.tables import attempts, logs, members, rounds, sweeps, trials

ENDS_READ = 200
"""Ended attempts that are read."""
TRIALS_READ = 50
"""Trials whose rounds are read: the latest that ran, so that running trials are among them."""
ROUNDS_READ = 20
"""Rounds that are read per trial, of those with and of those without an evaluation."""
FIRST_NOTICE_LINE = 10**9
"""Log lines from this number on are notices.

The number encodes the event and the sweep. So the table's key refuses a second notice.
"""
_ORDER = tuple(Event)


def latest_ends(connection: Connection, sweep: str) -> list[EndedAttempt]:
    """Return a sweep's latest attempts that finished, failed or were lost, in order of time."""
    ends = (Outcome.FINISHED, Outcome.FAILED, Outcome.EXPIRED)
    a = attempts.c
    query = (
        sa.select(a.trial, a.fence, trials.c.trial_id, a.ended_at, a.outcome, a.failure, a.id)
        .select_from(attempts.join(trials, trials.c.id == a.trial))
        .join(members, members.c.trial == a.trial)
        .where(members.c.sweep == _key(sweep), a.outcome.in_([end.value for end in ends]))
        .order_by(a.id.desc())
        .limit(ENDS_READ)
    )
    rows = sorted(connection.execute(query), key=lambda row: (row.ended_at, row.id))
    return [
        EndedAttempt(row.trial, row.fence, row.trial_id, row.ended_at, _failure(row))
        for row in rows
    ]


def _failure(row: Any) -> str | None:
    if row.outcome == Outcome.EXPIRED:
        return str(FailureKind.LOST)
    return None if row.outcome == Outcome.FINISHED else str(row.failure)


def has_free_trial(connection: Connection, sweep: str) -> bool:
    """Return if a trial of the sweep is queued or running and not held."""
    query = (
        sa.select(trials.c.id)
        .join(members, members.c.trial == trials.c.id)
        .where(members.c.sweep == _key(sweep), trials.c.held.is_(None))
        .where(sa.text("trials.state IN ('queued', 'running')"))
        .limit(1)
    )
    return connection.execute(query).first() is not None


def longest_usual_round(connection: Connection, sweep: str) -> float | None:
    """Return the longest median of a trial's round seconds; None before the first round.

    Rounds with and without an evaluation have separate medians. An inherited round counts, because
    it took as long in the trial that trained it.
    """
    by_trial = (
        sa.select(attempts.c.trial)
        .join(members, members.c.trial == attempts.c.trial)
        .where(members.c.sweep == _key(sweep))
        .group_by(attempts.c.trial)
        .order_by(sa.func.max(attempts.c.id).desc())
        .limit(TRIALS_READ)
        .scalar_subquery()
    )
    evaluated = rounds.c.test_accuracy.is_not(None)
    newest_first = sa.func.row_number().over(
        partition_by=(rounds.c.trial, evaluated), order_by=rounds.c.round.desc()
    )
    numbered = (
        sa.select(
            rounds.c.trial,
            evaluated.label("evaluated"),
            rounds.c.seconds,
            newest_first.label("number"),
        )
        .where(rounds.c.trial.in_(by_trial))
        .subquery()
    )
    seconds: defaultdict[tuple[int, bool], list[float]] = defaultdict(list)
    for row in connection.execute(sa.select(numbered).where(numbered.c.number <= ROUNDS_READ)):
        seconds[row.trial, bool(row.evaluated)].append(row.seconds)
    return max(map(statistics.median, seconds.values()), default=None)


def record(connection: Connection, notice: Notice, ended: Sequence[EndedAttempt]) -> bool:
    """Record a notice. Return False if it was recorded before, and so must not be sent.

    The record is a line in the log of the sweep's last ended attempt, which people can read. If
    several workers decide on the same notice, one of them records it.
    """
    dialect_of(connection).lock(connection, Lock.NOTICE)
    sweep = connection.execute(sa.select(_key(notice.sweep))).scalar_one()
    number = FIRST_NOTICE_LINE + len(_ORDER) * sweep + _ORDER.index(notice.event)
    last, before = ended[-1], _BEFORE[notice.event](ended)
    in_these = sa.tuple_(logs.c.trial, logs.c.fence).in_([(a.trial, a.fence) for a in before])
    recorded = sa.select(logs.c.n).where(in_these, logs.c.n == number)
    if connection.execute(recorded.limit(1)).first() is not None:
        return False
    line = {"n": number, "at": time.time(), "level": "notice", "message": notice.text}
    connection.execute(sa.insert(logs).values(trial=last.trial, fence=last.fence, **line))
    return True


def _last_only(ended: Sequence[EndedAttempt]) -> Sequence[EndedAttempt]:
    return ended[-1:]


def _recent(ended: Sequence[EndedAttempt]) -> Sequence[EndedAttempt]:
    return [a for a in ended if ended[-1].ended_at - a.ended_at < SILENCE_SECONDS]


_BEFORE = {Event.FINISHED: _last_only, Event.FAILURES: _recent, Event.STALLED: _last_only}
"""By event, the attempts in whose logs an earlier notice makes this one a repetition."""


def _key(sweep: str) -> sa.ScalarSelect[int]:
    return sa.select(sweeps.c.id).where(sweeps.c.name == sweep).scalar_subquery()

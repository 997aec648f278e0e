"""What a notice is decided from, and that it is told once, whoever works."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.notify.decide import SILENCE_SECONDS, Attempt, Event, Notice
from fedsweep.states import FailureKind, Outcome
from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.base import Lock
from fedsweep.store.tables import attempts, logs, members, rounds, sweeps, trials

LATEST = 200
"""Ends that are looked at."""
LATEST_TRIALS = 50
"""Trials whose rounds are measured: the latest that ran, so that those which run are among them."""
LATEST_ROUNDS = 20
"""Rounds with, and rounds without, an evaluation that are measured of each trial."""
NUMBER = 10**9
"""Lines of a log from this number on are notices: the number tells event and sweep, so that a
second one is refused by the table's key."""
_ORDER = tuple(Event)


def latest_ends(connection: Connection, sweep: str) -> list[Attempt]:
    """A sweep's latest attempts that finished, failed or were lost, in the order of their ends."""
    ends = (Outcome.FINISHED, Outcome.FAILED, Outcome.EXPIRED)
    a = attempts.c
    query = (
        sa.select(a.trial, a.fence, trials.c.trial_id, a.ended_at, a.outcome, a.failure, a.id)
        .select_from(attempts.join(trials, trials.c.id == a.trial))
        .join(members, members.c.trial == a.trial)
        .where(members.c.sweep == _key(sweep), a.outcome.in_([end.value for end in ends]))
        .order_by(a.id.desc())
        .limit(LATEST)
    )
    rows = sorted(connection.execute(query), key=lambda row: (row.ended_at, row.id))
    return [
        Attempt(row.trial, row.fence, row.trial_id, row.ended_at, _failure(row)) for row in rows
    ]


def _failure(row: Any) -> str | None:
    if row.outcome == Outcome.EXPIRED:
        return str(FailureKind.LOST)
    return None if row.outcome == Outcome.FINISHED else str(row.failure)


def anything_free(connection: Connection, sweep: str) -> bool:
    """Whether a trial of the sweep is open that nobody holds back."""
    some = (
        sa.select(trials.c.id)
        .join(members, members.c.trial == trials.c.id)
        .where(members.c.sweep == _key(sweep), trials.c.held.is_(None))
        .where(sa.text("trials.state IN ('queued', 'running')"))
        .limit(1)
    )
    return connection.execute(some).first() is not None


def longest_usual_round(connection: Connection, sweep: str) -> float | None:
    """Return the longest median of a trial's round seconds; None before the first round.

    Rounds with and without an evaluation have medians of their own. An inherited round counts: it
    took as long in the trial that trained it.
    """
    by_trial = (
        sa.select(attempts.c.trial)
        .join(members, members.c.trial == attempts.c.trial)
        .where(members.c.sweep == _key(sweep))
        .group_by(attempts.c.trial)
        .order_by(sa.func.max(attempts.c.id).desc())
        .limit(LATEST_TRIALS)
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
    for row in connection.execute(sa.select(numbered).where(numbered.c.number <= LATEST_ROUNDS)):
        seconds[row.trial, bool(row.evaluated)].append(row.seconds)
    return max(map(statistics.median, seconds.values()), default=None)


def tell(connection: Connection, notice: Notice, ended: Sequence[Attempt]) -> bool:
    """Whether a notice is still to be told; from now on it is not.

    It is noted in the log of the sweep's last attempt, which may be read there. Of several workers
    that want to tell the same, one gets to.
    """
    dialect_of(connection).lock(connection, Lock.NOTICE)
    sweep = connection.execute(sa.select(_key(notice.sweep))).scalar_one()
    number = NUMBER + len(_ORDER) * sweep + _ORDER.index(notice.event)
    last, before = ended[-1], _BEFORE[notice.event](ended)
    some = sa.tuple_(logs.c.trial, logs.c.fence).in_([(a.trial, a.fence) for a in before])
    told = sa.select(logs.c.n).where(some, logs.c.n == number)
    if connection.execute(told.limit(1)).first() is not None:
        return False
    line = {"n": number, "at": time.time(), "level": "notice", "message": notice.text}
    connection.execute(sa.insert(logs).values(trial=last.trial, fence=last.fence, **line))
    return True


def _last(ended: Sequence[Attempt]) -> Sequence[Attempt]:
    return ended[-1:]


def _not_long_ago(ended: Sequence[Attempt]) -> Sequence[Attempt]:
    return [a for a in ended if ended[-1].ended_at - a.ended_at < SILENCE_SECONDS]


_BEFORE = {Event.FINISHED: _last, Event.FAILURES: _not_long_ago, Event.STALLED: _last}
"""The attempts in whose logs an earlier notice stands that makes this one a repetition."""


def _key(sweep: str) -> sa.ScalarSelect[int]:
    return sa.select(sweeps.c.id).where(sweeps.c.name == sweep).scalar_subquery()

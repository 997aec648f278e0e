"""Attempts that lost their worker, and trials that have backed off for long enough."""

from __future__ import annotations

import logging
import math
import time

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.queue.statements import (
    DUE,
    RUNNING,
    attempt_of,
    held_by,
    lease_lost,
    pass_on,
    update_holds,
    wake,
)
from fedsweep.states import FailureKind, Outcome, TrialState
from fedsweep.store.claim import Claim
from fedsweep.store.clock import as_sql, is_ahead
from fedsweep.store.moment import Moment
from fedsweep.store.tables import (
    BACKING_OFF,
    attempts,
    trials,
)

log = logging.getLogger("fedsweep")


MAX_LOSSES = 3
"""Number of lost workers in a row, without a new round, after which a trial fails as `lost`."""


MAX_DOUBTS = 10
"""The same limit for attempts that are not counted as losses (`UNCHARGED`). Outages cost a trial
nothing, but a trial that stops its whole machine again and again must end.
"""


LEASE_ENDED = "its lease ended"


UNWATCHED = "its lease ended while the database may have been out of reach"


RESTARTED = "its lease was set on the clock of an earlier start of the machine"


AHEAD = "its lease was set by a clock that is ahead of this one"


UNCHARGED = (UNWATCHED, RESTARTED, AHEAD)
"""Reasons for the end of an attempt that do not count against the trial. Its worker or the database
may have been away.
"""


RESCUE_BATCH = 100
"""Trials that one rescue queues again, so that its transaction stays short."""


def rescue(connection: Connection, now: Moment, served: float = math.inf) -> int:
    """Queue again the running trials whose lease has ended, and the trials that have backed off for
    long enough. Return their number.

    An attempt that stored a new round costs nothing. A trial that loses its worker MAX_LOSSES times
    in a row without a new round fails as `lost`, because it probably stops its workers.

    `served` is the number of seconds for which the database has answered the caller. A lease that
    ended longer ago is not a loss: the database may have been away while the worker lived.
    """
    due = DUE(connection, now=now.seconds, clock=now.clock).one()
    waited = _end_waits(connection, now) if due.backed_off else 0
    return waited + (_rescue_expired(connection, now, served) if due.expired else 0)


def _end_waits(connection: Connection, now: Moment) -> int:
    return _end_some_waits(
        connection, (trials.c.clock != now.clock) | (trials.c.not_before <= as_sql(now))
    )


def end_waits_ahead(connection: Connection, now: Moment) -> int:
    """Queue again the trials that back off until a time that only another clock can have set."""
    return _end_some_waits(connection, is_ahead(trials.c.not_before, as_sql(now)))


def _end_some_waits(connection: Connection, over: sa.ColumnElement[bool]) -> int:
    ids = sa.select(trials.c.id).where(sa.text(BACKING_OFF), over)
    ids = ids.limit(RESCUE_BATCH).with_for_update(skip_locked=True)
    again = sa.update(trials).where(trials.c.id.in_(ids)).values(not_before=None, clock=None)
    if count := connection.execute(again).rowcount:
        wake(connection)
    return count


def _rescue_expired(connection: Connection, now: Moment, served: float) -> int:
    until, at = trials.c.lease_until, as_sql(now)
    ahead, same = is_ahead(until, at), trials.c.clock == now.clock
    expired = connection.execute(
        sa.select(
            trials.c.id,
            trials.c.trial_id,
            trials.c.fence,
            trials.c.losses,
            trials.c.trunk,
            (ahead & same).label("ahead"),
            same.label("same"),
            (at - until).label("ago"),
        )
        .where(RUNNING, (until < at) | ahead | ~same)
        .order_by(trials.c.lease_until)
        .limit(RESCUE_BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    for row in expired:
        why = LEASE_ENDED if row.ago <= served else UNWATCHED
        if row.ahead or not row.same:
            why = AHEAD if row.ahead else RESTARTED
        if row.ahead:
            log.warning("trial %s is taken over: %s", row.trial_id, why)
        _expire(connection, row.id, row.fence, row.losses, why)
        pass_on(connection, row.trunk)
    return len(expired)


def lose(connection: Connection, claim: Claim, why: str, *, charged: bool = True) -> bool:
    """End an attempt whose process died. This is a rescue without the wait for the lease.

    Return whether the attempt had stored a round. If it is not `charged`, its machine may be at
    fault: the trial is queued again, and its losses stay as they are.

    Raises:
        LeaseLost: the claim does not hold the trial any more.

    """
    row = connection.execute(
        sa.select(trials.c.losses).where(held_by(claim)).with_for_update()
    ).one_or_none()
    if row is None:
        raise lease_lost(connection, claim)
    stored = _expire(connection, claim.trial, claim.fence, row.losses, why, charged=charged)
    pass_on(connection, claim.trunk)
    return stored


def _expire(
    connection: Connection, trial: int, fence: int, losses: int, why: str, *, charged: bool = True
) -> bool:
    """End an attempt that lost its worker. Return whether it had stored a round."""
    ended = sa.update(attempts).where(attempts.c.trial == trial, attempts.c.fence == fence)
    row = connection.execute(
        ended.values(outcome=Outcome.EXPIRED.value, ended_at=time.time(), error=why).returning(
            attempts.c.rounds_new, attempts.c.rounds_trained
        )
    ).one()
    losses = 0 if row.rounds_new > 0 else losses + (charged and why not in UNCHARGED)
    too_often = losses >= MAX_LOSSES
    times = losses if too_often else _doubts(connection, trial)
    lost = too_often or times >= MAX_DOUBTS
    error = f"{_FOR_GOOD} {times} times in a row without a new round; the last time: {why}"
    if lost and not too_often:  # `_doubts` begins to count from here
        connection.execute(ended.values(error=error))
    connection.execute(
        sa.update(trials)
        .where(trials.c.id == trial)
        .values(
            state=(TrialState.FAILED if lost else TrialState.QUEUED).value,
            failure=FailureKind.LOST.value if lost else None,
            error=error if lost else None,
            losses=losses,
            lease_until=None,
            clock=None,
        )
    )
    wake(connection)
    return bool(row.rounds_trained)


_FOR_GOOD = "lost its worker"


def _doubts(connection: Connection, trial: int) -> int:
    """Count a trial's attempts that ended for an uncharged reason, since it last stored a new round
    or ended.
    """
    c = attempts.c
    settled = (Outcome.FINISHED.value, Outcome.FAILED.value, Outcome.CANCELLED.value)
    over = (c.rounds_new > 0) | c.outcome.in_(settled) | c.error.startswith(_FOR_GOOD)
    last = sa.select(sa.func.coalesce(sa.func.max(c.fence), 0)).where(c.trial == trial, over)
    since = (c.trial == trial) & (c.fence > last.scalar_subquery())
    counted = sa.select(sa.func.count()).where(since, c.error.in_(UNCHARGED))
    return int(connection.execute(counted).scalar_one())


def come_back(connection: Connection, claim: Claim) -> bool:
    """Take back the loss of an attempt whose lease ended while its worker lived. Call it once.

    The worker was frozen or cut off from the database, which is not the trial's fault. Returns True
    if there was a loss. A trial that failed because of it is queued again. After MAX_DOUBTS expired
    attempts without a new round, losses stay, because the trial may freeze its machines.
    """
    c = attempts.c
    expired = (
        sa.select(c.id)
        .where(attempt_of(claim), c.outcome == Outcome.EXPIRED.value, c.error == LEASE_ENDED)
        .where(c.rounds_new == 0)
    )
    if connection.execute(expired).first() is None:
        return False
    since = (c.trial == claim.trial) & (c.fence > _last_gain(claim.trial))
    vain = sa.select(sa.func.count()).where(since, c.outcome == Outcome.EXPIRED.value)
    got_on = _last_gain(claim.trial) > claim.fence
    fewer = (
        sa.update(trials)
        .where(trials.c.id == claim.trial, trials.c.losses > 0, ~got_on)
        .where(vain.scalar_subquery() < MAX_DOUBTS)
        .values(losses=trials.c.losses - 1)
    )
    if not connection.execute(fewer).rowcount:
        return False
    given_up = (
        (trials.c.state == TrialState.FAILED.value)
        & (trials.c.failure == FailureKind.LOST.value)
        & (trials.c.losses == MAX_LOSSES - 1)
    )
    again = sa.update(trials).where(trials.c.id == claim.trial, given_up)
    again = again.values(state=TrialState.QUEUED.value, failure=None, error=None)
    if connection.execute(again).rowcount:
        update_holds(connection, trials.c.id == claim.trial)
        wake(connection)
    return True


def _last_gain(trial: int) -> sa.ScalarSelect[int]:
    """Return the fence of the last attempt that stored a new round, 0 if there is none."""
    latest = sa.func.coalesce(sa.func.max(attempts.c.fence), sa.literal_column("0"))
    gained = sa.select(latest).where(attempts.c.trial == trial, attempts.c.rounds_new > 0)
    return gained.scalar_subquery()

"""The queue: the only code that changes a trial's state.

Every function works inside the caller's write transaction (`store.engine.transaction`), so that a
claim's last rounds and its end are one commit. `now` is an argument. A lease is a claim in time
alone; what makes it exclusive is the fence: each claim raises it, and each write carries it.

What every trial goes through is a `Prepared` statement. The queue is a partial index of what can
be claimed at once, so that a claim costs the same whatever else waits, is held or backs off.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import FedsweepError, LeaseLost, Refused
from fedsweep.measures import FROM_LAST_ROUND
from fedsweep.spec import Budget, Claim
from fedsweep.states import RETRIED, TRANSITIONS, FailureKind, Hold, Outcome, TrialState
from fedsweep.store import arms, trunks
from fedsweep.store.clock import Moment
from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.base import Dialect
from fedsweep.store.engine import AHEAD_SECONDS, as_sql, is_ahead
from fedsweep.store.identity import store_name
from fedsweep.store.prepared import Prepared, Steps
from fedsweep.store.stops import Lack
from fedsweep.store.tables import (
    BACKING_OFF,
    CLAIMABLE,
    SHARING,
    attempts,
    members,
    sweeps,
    trials,
)
from fedsweep.store.writes import batches, take_turns

log = logging.getLogger("fedsweep")

LEASE_SECONDS = 15.0
MAX_ATTEMPTS = 3
"""Failures after which a trial stays failed."""
MAX_LOSSES = 3
"""Workers lost in a row, without a new round, after which a trial fails as `lost`."""
MAX_DOUBTS = 10
"""The same for attempts that are not counted as losses (`UNCHARGED`): outages cost a trial nothing,
but one that kills its whole machine, again and again, ends."""

LEASE_ENDED = "its lease ended"
UNWATCHED = "its lease ended while the database may have been out of reach"
RESTARTED = "its lease was set on the clock of an earlier start of the machine"
AHEAD = "its lease was set by a clock that is ahead of this one"
UNCHARGED = (UNWATCHED, RESTARTED, AHEAD)
"""Ends of attempts that are no sign against the trial: its worker or the database may have been
away."""
RESCUE_BATCH = 100
CHANNEL = "fedsweep_work"
"""On Postgres: notified when there may be something to claim."""

# Literals, not parameters: only so can a planner see that a partial index applies.
_QUEUED = trials.c.state == sa.literal_column(f"'{TrialState.QUEUED.value}'")
_RUNNING = trials.c.state == sa.literal_column(f"'{TrialState.RUNNING.value}'")
_OPEN = sa.text("state IN ('queued', 'running')")


def _key(claim: Claim) -> dict[str, int]:
    return {"of_trial": claim.trial, "of_fence": claim.fence}


def others(lacks: Collection[Lack]) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of the trials that need none of what a machine lacks."""
    return [
        sa.not_(sa.and_(*(trials.c[name].is_not_distinct_from(value) for name, value in lack)))
        for lack in sorted(lacks, key=repr)
    ]


@dataclass(frozen=True)
class Worker:
    """Who claims: one slot of one `fedsweep work`."""

    name: str
    device: str
    host: str = platform.node()
    pid: int = os.getpid()


def claim(
    connection: Connection,
    worker: Worker,
    now: Moment,
    *,
    lease: float = LEASE_SECONDS,
    sweep: str | None = None,
    rescuing: bool = True,
    served: float = math.inf,
    passed_over: frozenset[Lack] = frozenset(),
) -> Claim | None:
    """Take the first trial that may run, by priority and then by age; None where there is none.

    What other workers lost, and what has backed off for long enough, is queued again, and taken
    where nothing else waits; so is what waits for a trunk that nobody trains. Without `rescuing`,
    trials stay with workers whose leases have ended: after an outage these renew them. `served`
    is for how many seconds the database has answered the caller without a break (see `rescue`).
    Trials that need what is `passed_over` are left to other machines.
    """
    given = {
        "now": now.seconds,
        "clock": now.clock,
        "lease": lease,
        "sweep": sweep,
        "worker": worker.name,
        "host": worker.host,
        "pid": worker.pid,
        "device": worker.device,
        "started_at": time.time(),
    }
    take = _statements(passed_over)[None if sweep is None else _any_shared(connection, sweep)]
    claiming = partial(_claim_free, connection, take, given)
    taken, due = claiming()
    if rescuing and due and rescue(connection, now, served) and taken is None:
        taken, _ = claiming()
    if taken is None and _end_waits_ahead(connection, now):
        taken, _ = claiming()
    if taken is None and trunks.anybody_waits(connection) and trunks.free(connection, sweep):
        taken, _ = claiming()
    return None if taken is None else _claim_of(connection, taken)


def reclaim(
    connection: Connection, worker: str, now: Moment, *, lease: float = LEASE_SECONDS
) -> Claim | None:
    """Return the claim that a worker's name already holds, with a renewed lease; None for none.

    The answer of a claim can be lost after its commit. The worker then trains that trial.
    """
    row = connection.execute(
        sa.select(*_OF_A_CLAIM)
        .join(attempts, (attempts.c.trial == trials.c.id) & (attempts.c.fence == trials.c.fence))
        .where(_RUNNING, attempts.c.worker == worker, attempts.c.outcome.is_(None))
        .limit(1)
        .with_for_update(of=trials)
    ).first()
    if row is None:
        return None
    claim = _claim_of(connection, row)
    renew(connection, claim, now, lease=lease)
    return claim


def _claim_of(connection: Connection, taken: Any) -> Claim:
    return Claim(
        trial=taken.id,
        trial_id=taken.trial_id,
        fence=taken.fence,
        config=json.loads(taken.config),
        numerics_id=taken.numerics_id,
        data_fingerprint=taken.data_fingerprint,
        final_round=taken.final_round or 0,
        trunk=taken.trunk,
        fork_round=taken.fork_round or 0,
        store=store_name(connection),
    )


def _claim_free(connection: Connection, take: Prepared, given: dict[str, Any]) -> tuple[Any, bool]:
    """Claim the first trial that does not need what another one is training.

    Returns its row, None for none, and whether something is due to be queued again. If another
    trial trains the shared trunk in the meantime, a claimed trial goes back to waiting.
    """
    dialect = dialect_of(connection)
    while True:
        taken, due = dialect.claim(connection, take, _NOTE, _DUE, given)
        if taken is None or taken.trunk is None:
            return taken, due
        trunks.lock(connection, taken.trunk)
        if not trunks.busy(connection, taken.id, taken.trunk):
            return taken, due
        _UNDO(connection, of_trial=taken.id)
        mine = (attempts.c.trial == taken.id) & (attempts.c.fence == taken.fence)
        connection.execute(sa.delete(attempts).where(mine))


def _any_shared(connection: Connection, sweep: str) -> bool:
    """A sweep that has trials of its own alone has an index of them."""
    return _ANY_SHARED(connection, sweep=sweep).first() is not None


_OF_A_CLAIM: tuple[sa.Column[Any], ...] = (
    trials.c.id,
    trials.c.trial_id,
    trials.c.fence,
    trials.c.config,
    trials.c.numerics_id,
    trials.c.data_fingerprint,
    trials.c.final_round,
    trials.c.trunk,
    trials.c.fork_round,
)
"""The columns of a trial that a claim carries."""

_SWEEP = sa.select(sweeps.c.id).where(sweeps.c.name == sa.bindparam("sweep", type_=sa.Text()))
_OWN = trials.c.sweep == _SWEEP.scalar_subquery()
_SHARED = (members.c.sweep == _SWEEP.scalar_subquery()) & (
    members.c.shared == sa.literal_column("1")
)
_AMONG_SHARED = trials.c.id.in_(sa.select(members.c.trial).where(_SHARED))
_ANY_SHARED = Prepared.named("any_shared")
_PARTS = {
    "claimable": CLAIMABLE,
    "backing_off": BACKING_OFF,
    "ahead": str(AHEAD_SECONDS),
}
"""Conditions of the statements in the SQL files: the indexes have the same ones."""
_DUE = Prepared.named("due", _PARTS)
_NOTE = Prepared.named("note_claim")
_UNDO = Prepared.named("undo_claim")


@lru_cache(maxsize=16)
def _statements(passed_over: frozenset[Lack]) -> dict[bool | None, Prepared]:
    """Return the statements of a claim: by any sweep (None), by one with shared trials or without.

    They are those of any other claim if nothing is passed over.
    """
    lacks = sorted(passed_over, key=repr)
    values = {
        f"lack_{n}_{name}": value
        for n, lack in enumerate(lacks)
        for name, value in lack
        if value is not None
    }
    parts = _PARTS | {"wanted": "".join(_unlike(n, lack) for n, lack in enumerate(lacks))}

    def claim_of(first: str) -> Prepared:
        return Prepared.named("claim", parts | {"first": f"{{{first}}}"}, **values)

    return {
        None: claim_of("first_of_all"),
        False: claim_of("first_of_sweep"),
        True: claim_of("first_of_sweep_or_shared"),
    }


def _unlike(number: int, lack: Lack) -> str:
    """Return the text of the condition of the trials that do not need what is passed over."""
    needs = [
        f"{name} IS NULL" if value is None else f"coalesce({name} = :lack_{number}_{name}, false)"
        for name, value in lack
    ]
    return f" AND NOT ({' AND '.join(needs)})"


@dataclass(frozen=True)
class Held:
    """What a renewal says of a trial."""

    final_round: int
    """The last stored round, 0 where there is none."""
    give_back: bool
    """A person, or the sweep's budget, wants it saved and given back."""


def renew(
    connection: Connection, claim: Claim, now: Moment, *, lease: float = LEASE_SECONDS
) -> Held:
    """Prove that the claim still holds its trial, and hold it for another lease.

    In front of every write of an attempt: on Postgres it locks the row until the commit.

    Raises:
        LeaseLost: the trial was cancelled, or another attempt took it over.

    """
    row = _RENEW(connection, now=now.seconds, clock=now.clock, lease=lease, **_key(claim)).first()
    if row is None:
        raise _lost(connection, claim)
    return Held(row.final_round or 0, row.held in (Hold.PAUSE, Hold.BUDGET))


_RENEW = Prepared.named("renew")


def finish(connection: Connection, claim: Claim) -> None:
    """All rounds are stored: take the trial's final numbers from them.

    Raises:
        LeaseLost: the claim does not hold the trial any more.
        FedsweepError: a round is missing.

    """
    if _FINISH(connection, **_ended(claim, Outcome.FINISHED)).rowcount != 1:
        lost = _lost(connection, claim)
        if lost.still_held:
            raise FedsweepError(f"trial {claim.trial_id} cannot finish: a round is missing")
        raise lost
    _pass_on(connection, claim.trunk)


_END = Prepared.named("end_attempt")
_FINISH = Steps("finish", {"final": ", ".join(FROM_LAST_ROUND)})


def fail(
    connection: Connection,
    claim: Claim,
    now: Moment,
    kind: FailureKind,
    error: str,
    traceback: str | None = None,
    *,
    max_attempts: int = MAX_ATTEMPTS,
) -> float | None:
    """The attempt failed: queue the trial again after a delay, or leave it failed.

    Returns the delay in seconds, None where the trial stays failed.
    """
    mine = _mine(claim)
    found = connection.execute(sa.select(trials.c.failures).where(mine)).one_or_none()
    if found is None:
        raise _lost(connection, claim)
    failures = found.failures + 1
    delay = retry_delay(kind, failures, claim.trial_id, max_attempts=max_attempts)
    again = {
        "state": TrialState.QUEUED.value,
        "not_before": as_sql(now) + (delay or 0),
        "clock": now.clock,
    }
    for_good = {
        "state": TrialState.FAILED.value,
        "failure": kind.value,
        "error": error,
        "clock": None,
    }
    ended = connection.execute(
        sa.update(trials)
        .where(mine)
        .values(
            **(for_good if delay is None else again),
            lease_until=None,
            failures=failures,
            device=sa.select(attempts.c.device).where(_attempt_of(claim)).scalar_subquery(),
        )
    )
    if ended.rowcount != 1:
        raise _lost(connection, claim)
    _END(connection, **_ended(claim, Outcome.FAILED, kind, error, traceback))
    if kind is FailureKind.DIVERGED and claim.trunk is not None:
        _fail_siblings(connection, claim, error)
    _pass_on(connection, claim.trunk)
    return delay


def get_on(connection: Connection, claim: Claim, round: int) -> int | None:
    """A trial has come to a round of its trunk: whoever forks there, or before, may begin.

    Returns the next round at which another one forks, or this one; None where there is none. To be
    called with what makes that round's snapshot known.
    """
    if claim.trunk is None:
        return None
    freed = trunks.get_on(connection, claim.trunk, min(round, claim.fork_round))
    if round >= claim.fork_round:
        freed += trunks.pass_on(connection, claim.trunk)
    if freed:
        wake(connection)
    ahead = trunks.next_fork(connection, claim.trunk, round)
    last = min(claim.fork_round, claim.config["rounds"] - 1)  # nobody goes on from the very end
    return ahead if ahead is not None and ahead <= last else None


def _pass_on(connection: Connection, trunk: str | None) -> None:
    """Whoever carried the trunk does so no more, or may not: somebody else may."""
    if trunk is not None and trunks.pass_on(connection, trunk):
        wake(connection)


def _fail_siblings(connection: Connection, claim: Claim, error: str) -> None:
    """The trunk itself diverged: whoever forks later would, in the same round."""
    here = sa.select(sa.func.coalesce(trials.c.final_round, 0)).where(trials.c.id == claim.trial)
    last = connection.execute(here).scalar_one()
    if last >= claim.fork_round:
        return
    some = sa.select(trials.c.id).where(
        sa.text(SHARING),
        trials.c.trunk == claim.trunk,
        trials.c.waits.in_([0, 1]),
        trials.c.fork_round > last,
        _QUEUED,
    )
    connection.execute(
        sa.update(trials)
        .where(trials.c.id.in_(some.with_for_update(skip_locked=True)))
        .values(
            state=TrialState.FAILED.value,
            failure=FailureKind.DIVERGED.value,
            error=f"its trunk diverged in trial {claim.trial_id}: {error}",
            not_before=None,
            clock=None,
        )
    )


def release(
    connection: Connection, claim: Claim, why: str | None = None, traceback: str | None = None
) -> None:
    """Give the trial back, at no cost: the worker was asked to stop, or the trial to wait.

    `why` tells what else ended the attempt: a fault of the machine or of the store.
    """
    if _RELEASE(connection, **_key(claim)).rowcount != 1:
        raise _lost(connection, claim)
    _END(connection, **_ended(claim, Outcome.RELEASED, None, why, traceback))
    _pass_on(connection, claim.trunk)
    wake(connection)


_RELEASE = Prepared.named("release")


def rescue(connection: Connection, now: Moment, served: float = math.inf) -> int:
    """Queue again every running trial whose lease has ended, and what has backed off for long
    enough; returns how many there were.

    An attempt that stored a new round costs nothing. A trial that loses its worker MAX_LOSSES
    times in a row without one fails as `lost`: it probably kills its workers.

    A lease that ended longer ago than the database has answered the caller (`served`, in seconds)
    is no loss: perhaps the database was away, and its worker lives.
    """
    due = _DUE(connection, now=now.seconds, clock=now.clock).one()
    waited = _end_waits(connection, now) if due.backed_off else 0
    return waited + (_rescue_expired(connection, now, served) if due.expired else 0)


def _end_waits(connection: Connection, now: Moment) -> int:
    return _end_some_waits(
        connection, (trials.c.clock != now.clock) | (trials.c.not_before <= as_sql(now))
    )


def _end_waits_ahead(connection: Connection, now: Moment) -> int:
    """Queue again what backs off until a time that only another clock can have set."""
    return _end_some_waits(connection, is_ahead(trials.c.not_before, as_sql(now)))


def _end_some_waits(connection: Connection, over: sa.ColumnElement[bool]) -> int:
    some = sa.select(trials.c.id).where(sa.text(BACKING_OFF), over)
    some = some.limit(RESCUE_BATCH).with_for_update(skip_locked=True)
    again = sa.update(trials).where(trials.c.id.in_(some)).values(not_before=None, clock=None)
    if count := connection.execute(again).rowcount:
        wake(connection)
    return count


def _rescue_expired(connection: Connection, now: Moment, served: float) -> int:
    until, at = trials.c.lease_until, as_sql(now)
    ahead, same = is_ahead(until, at), trials.c.clock == now.clock
    expired = connection.execute(
        sa.select(
            *(trials.c.id, trials.c.trial_id, trials.c.fence, trials.c.losses, trials.c.trunk),
            (ahead & same).label("ahead"),
            same.label("same"),
            (at - until).label("ago"),
        )
        .where(_RUNNING, (until < at) | ahead | ~same)
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
        _pass_on(connection, row.trunk)
    return len(expired)


def lose(connection: Connection, claim: Claim, why: str, *, charged: bool = True) -> bool:
    """The trainer died under its worker's eyes: what a rescue does, without the wait.

    Returns whether the attempt had stored a round. If it is not `charged`, its machine may be at
    fault: the trial is queued again, and its losses stay as they are.

    Raises:
        LeaseLost: the claim does not hold the trial any more.

    """
    row = connection.execute(
        sa.select(trials.c.losses).where(_mine(claim)).with_for_update()
    ).one_or_none()
    if row is None:
        raise _lost(connection, claim)
    stored = _expire(connection, claim.trial, claim.fence, row.losses, why, charged=charged)
    _pass_on(connection, claim.trunk)
    return stored


def _expire(
    connection: Connection, trial: int, fence: int, losses: int, why: str, *, charged: bool = True
) -> bool:
    """End an attempt that lost its worker; returns whether it had stored a round."""
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
    """Count a trial's attempts that ended in doubt, since it last got on or was given up."""
    c = attempts.c
    settled = (Outcome.FINISHED.value, Outcome.FAILED.value, Outcome.CANCELLED.value)
    over = (c.rounds_new > 0) | c.outcome.in_(settled) | c.error.startswith(_FOR_GOOD)
    last = sa.select(sa.func.coalesce(sa.func.max(c.fence), 0)).where(c.trial == trial, over)
    since = (c.trial == trial) & (c.fence > last.scalar_subquery())
    counted = sa.select(sa.func.count()).where(since, c.error.in_(UNCHARGED))
    return int(connection.execute(counted).scalar_one())


def come_back(connection: Connection, claim: Claim) -> bool:
    """Take back the loss of an attempt whose lease ended while its worker lived; to be called once.

    The worker was frozen, or cut off from the database, which is no sign against the trial. Returns
    whether there was a loss. A trial that failed for it is queued again. After MAX_DOUBTS expired
    attempts without a new round, losses stay: the trial may be what freezes its machines.
    """
    c = attempts.c
    mine = (
        sa.select(c.id)
        .where(_attempt_of(claim), c.outcome == Outcome.EXPIRED.value, c.error == LEASE_ENDED)
        .where(c.rounds_new == 0)
    )
    if connection.execute(mine).first() is None:
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
        settle(connection, trials.c.id == claim.trial)
        wake(connection)
    return True


def _last_gain(trial: int) -> sa.ScalarSelect[int]:
    """The fence of the last attempt that stored a new round, 0 for none."""
    latest = sa.func.coalesce(sa.func.max(attempts.c.fence), sa.literal_column("0"))
    gained = sa.select(latest).where(attempts.c.trial == trial, attempts.c.rounds_new > 0)
    return gained.scalar_subquery()


def cancel(connection: Connection, ids: Sequence[int], why: str | None = None) -> int:
    """Cancel trials that wait or run, by their rows, and say why; a running attempt notices at its
    next write. Returns how many there were.
    """
    count = 0
    for batch in batches(ids):
        gone = connection.execute(
            sa.update(trials)
            .where(trials.c.id.in_(batch), _QUEUED | _RUNNING)
            .values(
                state=TrialState.CANCELLED.value,
                lease_until=None,
                clock=None,
                not_before=None,
                error=why,
            )
            .returning(trials.c.id)
        ).scalars()
        cancelled = list(gone)
        connection.execute(
            sa.update(attempts)
            .where(attempts.c.trial.in_(cancelled), attempts.c.outcome.is_(None))
            .values(outcome=Outcome.CANCELLED.value, ended_at=time.time(), error=why)
        )
        count += len(cancelled)
    return count


def retry(connection: Connection, ids: Sequence[int]) -> int:
    """Queue failed and cancelled trials again, by their rows; returns how many there were.

    Raises:
        Refused: one of them is finished, running or queued; nothing is changed.

    """
    take_turns(connection)
    for batch in batches(ids):
        named = sa.select(trials.c.trial_id, trials.c.state).where(trials.c.id.in_(batch))
        for trial_id, state in connection.execute(named.with_for_update()):
            if TrialState.QUEUED not in TRANSITIONS[state] or state == TrialState.RUNNING:
                raise Refused(
                    f"trial {trial_id} is {state}: only failed and cancelled trials can be retried"
                )
    count = 0
    for batch in batches(ids):
        again = connection.execute(
            sa.update(trials)
            .where(trials.c.id.in_(batch))
            .values(
                state=TrialState.QUEUED.value,
                failure=None,
                error=None,
                failures=0,
                losses=0,
                not_before=None,
                clock=None,
            )
        )
        count += again.rowcount
        settle(connection, trials.c.id.in_(batch))
    wake(connection)
    return count


def hold(connection: Connection, ids: Sequence[int], wish: Hold | None) -> int:
    """Hold single trials that wait or run, by their rows, or (None) hold them no longer.

    Returns how many there were. What runs notices when its lease is renewed.
    """
    take_turns(connection)
    count = 0
    for batch in batches(ids):
        some = trials.c.id.in_(batch)
        asked = sa.update(trials).where(some, _QUEUED | _RUNNING)
        count += connection.execute(asked.values(wish=wish and wish.value)).rowcount
        settle(connection, some)
    wake(connection)
    return count


def hold_sweep(connection: Connection, sweep: str, why: Hold | None) -> None:
    """Hold what a sweep alone has, or (None) hold it no longer."""
    take_turns(connection)
    mine = sa.update(sweeps).where(sweeps.c.name == sweep)
    connection.execute(mine.values(held=why and why.value))
    settle_sweep(connection, sweep)


def planned(connection: Connection, sweep: str, budget_: Budget | None) -> None:
    """A sweep was planned, or planned again: it is wanted, and its trials are as free as it is."""
    take_turns(connection)
    mine = sa.update(sweeps).where(sweeps.c.name == sweep)
    connection.execute(mine.where(sweeps.c.held == Hold.CANCEL.value).values(held=None))
    if budget_ is not None:
        budget(connection, sweep, rounds=budget_.rounds, hours=budget_.hours)
    elif connection.execute(sa.select(sweeps.c.id).where(sweeps.c.held.is_not(None))).first():
        settle_sweep(connection, sweep)
    wake(connection)


def settle_sweep(connection: Connection, sweep: str) -> None:
    """Hold each of a sweep's trials, or not, as its sweeps now say; wakes the workers."""
    key = sa.select(sweeps.c.id).where(sweeps.c.name == sweep).scalar_subquery()
    settle(connection, trials.c.id.in_(sa.select(members.c.trial).where(members.c.sweep == key)))
    wake(connection)


def settle(connection: Connection, some: sa.ColumnElement[bool]) -> None:
    """`held` of some trials, from what is wished for them and from their sweeps.

    A trial is held by its own wish; else where no sweep that has it is free, by the mildest reason.
    A cancelled sweep has no say.
    """
    of_trial = members.join(sweeps, sweeps.c.id == members.c.sweep)
    having = sa.select(sweeps.c.held).select_from(of_trial).where(members.c.trial == trials.c.id)
    free = sa.exists(having.where(sweeps.c.held.is_(None)).correlate(trials))
    drained = sa.case((sweeps.c.held == Hold.DRAIN.value, sweeps.c.held))
    first = sa.func.coalesce(sa.func.min(drained), sa.func.min(sweeps.c.held))  # the rest by name
    mildest = sa.select(first).select_from(of_trial)
    mildest = mildest.where(members.c.trial == trials.c.id, sweeps.c.held != Hold.CANCEL.value)
    held = sa.func.coalesce(
        trials.c.wish,
        sa.case((free, sa.null()), else_=mildest.correlate(trials).scalar_subquery()),
    )
    connection.execute(
        sa.update(trials)
        .where(some, _QUEUED | _RUNNING, trials.c.held.is_distinct_from(held))
        .values(held=held)
    )


def prioritize(connection: Connection, ids: Sequence[int], priority: int) -> int:
    """Let trials that are not done run before others of less priority, or after those of more."""
    count = 0
    for batch in batches(ids):
        asked = sa.update(trials).where(trials.c.id.in_(batch), _QUEUED | _RUNNING)
        count += connection.execute(asked.values(priority=priority)).rowcount
    return count


def budget(connection: Connection, sweep: str, *, rounds: int | None, hours: float | None) -> None:
    """Limit what a sweep may train in all; None does not. A sweep held by its budget goes on."""
    take_turns(connection)
    mine = sa.update(sweeps).where(sweeps.c.name == sweep)
    connection.execute(mine.values(budget_rounds=rounds, budget_hours=hours))
    connection.execute(mine.where(sweeps.c.held == Hold.BUDGET.value).values(held=None))
    settle_sweep(connection, sweep)
    spend(connection)


def overspent(connection: Connection) -> list[str]:
    """Sweeps that have used up their budget and are not held yet: see the view `ledger`."""
    limited = sweeps.c.budget_rounds.is_not(None) | sweeps.c.budget_hours.is_not(None)
    if connection.execute(sa.select(sweeps.c.id).where(limited).limit(1)).first() is None:
        return []
    free = sweeps.c.held.is_(None) | (sweeps.c.held == Hold.DRAIN.value)
    spent = (
        sa.select(
            sweeps.c.name,
            sweeps.c.budget_rounds,
            sweeps.c.budget_hours,
            sa.func.coalesce(sa.func.sum(attempts.c.rounds_trained), 0).label("rounds"),
            (sa.func.coalesce(sa.func.sum(attempts.c.seconds_trained), 0) / 3600.0).label("hours"),
        )
        .select_from(sweeps)
        .join(members, members.c.sweep == sweeps.c.id)
        .join(attempts, attempts.c.trial == members.c.trial)
        .where(limited, free)
        .group_by(sweeps.c.id, sweeps.c.name, sweeps.c.budget_rounds, sweeps.c.budget_hours)
    )
    return [
        row.name
        for row in connection.execute(spent)
        if (row.budget_rounds is not None and row.rounds >= row.budget_rounds)
        or (row.budget_hours is not None and row.hours >= row.budget_hours)
    ]


def spend(connection: Connection) -> list[str]:
    """Hold the sweeps that have used up their budget; returns their names."""
    over = overspent(connection)
    for name in over:
        hold_sweep(connection, name, Hold.BUDGET)
    return over


def outstanding(connection: Connection, sweep: str | None = None) -> bool:
    """Whether a trial in scope is running anywhere, queued, backing off, paused, or still to be
    proposed.

    What is drained, or beyond its sweep's budget, is not waited for.
    """
    statement = _OUTSTANDING if sweep is None else _OUTSTANDING_IN
    return bool(statement(connection, sweep=sweep).one()[0]) or arms.open_in(connection, sweep)


def _outstanding(*scopes: sa.ColumnElement[bool]) -> Callable[[Dialect], sa.ClauseElement]:
    some: sa.ColumnElement[int] = sa.literal_column("1")
    paused: sa.ColumnElement[str] = sa.literal_column(f"'{Hold.PAUSE.value}'")
    waits = (
        (_RUNNING,),
        (_OPEN, trials.c.held.is_(None)),
        (_OPEN, trials.c.held == paused),
    )
    # In the index's own order, not EXISTS: where most trials wait, a planner would read the table
    # from its beginning, past all that have finished.
    by = trials.c.held, trials.c.sweep
    looks = [
        sa.select(some).where(*wait, scope).order_by(*by).limit(some).scalar_subquery().is_not(None)
        for scope in scopes
        for wait in waits
    ]
    return lambda _: sa.select(sa.or_(*looks))


_OUTSTANDING = Prepared(_outstanding(sa.true()))
_OUTSTANDING_IN = Prepared(_outstanding(_OWN, _AMONG_SHARED))


def needs(connection: Connection, sweep: str | None = None) -> list[dict[str, str | None]]:
    """Return what the open trials in scope need of a machine, each combination once."""
    columns = [trials.c[name] for name in NEEDS]
    query = sa.select(*columns).where(_OPEN, _in_scope(sweep)).distinct()
    return [dict(row) for row in connection.execute(query.limit(MOST_NEEDS)).mappings()]


NEEDS = ("dataset", "fingerprint", "model", "normalizer")
"""The fields of a configuration that decide what a machine must have."""
MOST_NEEDS = 1000
"""Combinations that a worker looks at before its first claim; it meets others at their claim."""


def may_come(connection: Connection, sweep: str | None, passed_over: Collection[Lack]) -> bool:
    """Return whether an open trial in scope, or one still to be proposed, is not passed over.

    What is drained, or beyond its sweep's budget, does not come.
    """
    wanted = _RUNNING | trials.c.held.is_(None) | (trials.c.held == Hold.PAUSE.value)
    query = sa.select(trials.c.id).where(_OPEN, wanted, _in_scope(sweep), *others(passed_over))
    if connection.execute(query.limit(1)).first() is not None:
        return True
    return any(
        not any(all(config.get(name) == value for name, value in lack) for lack in passed_over)
        for config in arms.open_configs(connection, sweep)
    )


def _in_scope(sweep: str | None) -> sa.ColumnElement[bool]:
    """Return the condition of a sweep's trials, its shared ones too; true for no sweep."""
    if sweep is None:
        return sa.true()
    mine = sa.select(members.c.trial).join(sweeps, sweeps.c.id == members.c.sweep)
    return trials.c.id.in_(mine.where(sweeps.c.name == sweep))


def wake(connection: Connection) -> None:
    """Tell idle workers, when this transaction commits, that there may be something to claim."""
    dialect_of(connection).notify(connection, CHANNEL)


def next_change(connection: Connection, now: Moment) -> float | None:
    """Seconds until the first lease ends, or the first trial has backed off; None for never."""
    c = trials.c
    soonest = (
        sa.select(sa.func.min(c.lease_until)).where(_RUNNING).scalar_subquery(),
        sa.select(sa.func.min(c.not_before))
        .where(sa.text(BACKING_OFF), c.clock == now.clock)
        .scalar_subquery(),
    )
    times = connection.execute(sa.select(*(time - as_sql(now) for time in soonest))).one()
    soon = min((t for t in times if t is not None), default=None)
    return 0.0 if soon is not None and soon > AHEAD_SECONDS else soon


def retry_delay(
    kind: FailureKind, failures: int, trial_id: str, *, max_attempts: int = MAX_ATTEMPTS
) -> float | None:
    """Seconds before the next attempt: 5, 10, 20 … up to 300, each +-50 %; None for no attempt.

    The jitter is a function of the trial and the count, so that the decision can be repeated.
    """
    if kind not in RETRIED or failures >= max_attempts:
        return None
    digest = hashlib.sha256(f"{trial_id}/{failures}".encode()).digest()
    jitter = 0.5 + int.from_bytes(digest[:4], "little") / 2**32
    return float(min(5.0 * 2 ** (failures - 1), 300.0) * jitter)


class _Lost(LeaseLost):
    still_held = False


def _lost(connection: Connection, claim: Claim) -> _Lost:
    """Why a guarded write met no row."""
    row = connection.execute(
        sa.select(trials.c.state, trials.c.fence).where(trials.c.id == claim.trial)
    ).one_or_none()
    if row is not None and row.state == TrialState.CANCELLED:
        return _Lost(f"trial {claim.trial_id} was cancelled")
    lost = _Lost(f"trial {claim.trial_id} is no longer held by attempt {claim.fence}")
    lost.still_held = (
        row is not None and row.state == TrialState.RUNNING and row.fence == claim.fence
    )
    return lost


def _mine(claim: Claim) -> sa.ColumnElement[bool]:
    return (trials.c.id == claim.trial) & (trials.c.fence == claim.fence) & _RUNNING


def _attempt_of(claim: Claim) -> sa.ColumnElement[bool]:
    return (attempts.c.trial == claim.trial) & (attempts.c.fence == claim.fence)


def _ended(
    claim: Claim,
    outcome: Outcome,
    failure: FailureKind | None = None,
    error: str | None = None,
    traceback: str | None = None,
) -> dict[str, Any]:
    """Of `_END` and `_FINISH`."""
    return _key(claim) | {
        "ended_at": time.time(),
        "outcome": outcome.value,
        "failure": failure and failure.value,
        "error": error,
        "traceback": traceback,
    }

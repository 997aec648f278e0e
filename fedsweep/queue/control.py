"""Control by people: cancel, retry, hold, priority and budget."""

from __future__ import annotations

import time
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import Refused
from fedsweep.plans import Budget
from fedsweep.queue.statements import QUEUED, RUNNING, update_holds, wake
from fedsweep.states import TRANSITIONS, Hold, Outcome, TrialState
from fedsweep.store.batches import batches
from fedsweep.store.planning import take_turns
from fedsweep.store.tables import (
    attempts,
    members,
    sweeps,
    trials,
)


def cancel(connection: Connection, ids: Sequence[int], why: str | None = None) -> int:
    """Cancel waiting and running trials, by their row ids, with a reason. Return how many were
    cancelled.

    A running attempt notices it at its next write.
    """
    count = 0
    for batch in batches(ids):
        gone = connection.execute(
            sa.update(trials)
            .where(trials.c.id.in_(batch), QUEUED | RUNNING)
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
    """Queue failed and cancelled trials again, by their row ids. Return their number.

    Raises:
        Refused: one of them is finished, running or queued. Nothing is changed.

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
        update_holds(connection, trials.c.id.in_(batch))
    wake(connection)
    return count


def hold(connection: Connection, ids: Sequence[int], wish: Hold | None) -> int:
    """Hold waiting or running trials, by their row ids. None ends the hold. Return how many trials
    changed.

    A running attempt notices it when its lease is renewed.
    """
    take_turns(connection)
    count = 0
    for batch in batches(ids):
        in_batch = trials.c.id.in_(batch)
        update = sa.update(trials).where(in_batch, QUEUED | RUNNING)
        count += connection.execute(update.values(wish=wish and wish.value)).rowcount
        update_holds(connection, in_batch)
    wake(connection)
    return count


def hold_sweep(connection: Connection, sweep: str, why: Hold | None) -> None:
    """Hold the trials that belong only to this sweep. None ends the hold."""
    take_turns(connection)
    update = sa.update(sweeps).where(sweeps.c.name == sweep)
    connection.execute(update.values(held=why and why.value))
    update_sweep_holds(connection, sweep)


def planned(connection: Connection, sweep: str, budget_: Budget | None) -> None:
    """Follow up the planning of a sweep: end its cancellation, set its budget if the plan has one,
    and update the holds of its trials.

    A paused sweep stays paused.
    """
    take_turns(connection)
    update = sa.update(sweeps).where(sweeps.c.name == sweep)
    connection.execute(update.where(sweeps.c.held == Hold.CANCEL.value).values(held=None))
    if budget_ is not None:
        budget(connection, sweep, rounds=budget_.rounds, hours=budget_.hours)
    elif connection.execute(sa.select(sweeps.c.id).where(sweeps.c.held.is_not(None))).first():
        update_sweep_holds(connection, sweep)
    wake(connection)


def update_sweep_holds(connection: Connection, sweep: str) -> None:
    """Update the hold of each of a sweep's trials from all the sweeps that have it, and wake
    workers.
    """
    key = sa.select(sweeps.c.id).where(sweeps.c.name == sweep).scalar_subquery()
    update_holds(
        connection, trials.c.id.in_(sa.select(members.c.trial).where(members.c.sweep == key))
    )
    wake(connection)


def prioritize(connection: Connection, ids: Sequence[int], priority: int) -> int:
    """Set the priority of trials that are not done. Return how many changed.

    Trials of higher priority are claimed first.
    """
    count = 0
    for batch in batches(ids):
        update = sa.update(trials).where(trials.c.id.in_(batch), QUEUED | RUNNING)
        count += connection.execute(update.values(priority=priority)).rowcount
    return count


def budget(connection: Connection, sweep: str, *, rounds: int | None, hours: float | None) -> None:
    """Limit the rounds and hours that a sweep may train in all. None sets no limit.

    A sweep that its budget held continues if the new budget allows it.
    """
    take_turns(connection)
    update = sa.update(sweeps).where(sweeps.c.name == sweep)
    connection.execute(update.values(budget_rounds=rounds, budget_hours=hours))
    connection.execute(update.where(sweeps.c.held == Hold.BUDGET.value).values(held=None))
    update_sweep_holds(connection, sweep)
    spend(connection)


def overspent(connection: Connection) -> list[str]:
    """Return the sweeps that have used up their budget and are not held yet (see the view
    `ledger`).
    """
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
    """Hold the sweeps that have used up their budget. Return their names."""
    over = overspent(connection)
    for name in over:
        hold_sweep(connection, name, Hold.BUDGET)
    return over

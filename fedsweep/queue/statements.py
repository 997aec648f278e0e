"""Conditions and statements that several modules of the queue use."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import LeaseLost
from fedsweep.states import FailureKind, Hold, Outcome, TrialState
from fedsweep.store import trunks
from fedsweep.store.claim import Claim
from fedsweep.store.clock import AHEAD_SECONDS
from fedsweep.store.dialects import dialect_of
from fedsweep.store.prepared import Prepared
from fedsweep.store.tables import (
    BACKING_OFF,
    CLAIMABLE,
    attempts,
    members,
    sweeps,
    trials,
)

CHANNEL = "fedsweep_work"
"""The channel of Postgres that is notified when there may be a trial to claim."""


# Literals, not parameters: a planner uses a partial index only if it sees the value.
QUEUED = trials.c.state == sa.literal_column(f"'{TrialState.QUEUED.value}'")


RUNNING = trials.c.state == sa.literal_column(f"'{TrialState.RUNNING.value}'")


OPEN = sa.text("state IN ('queued', 'running')")


def key_of(claim: Claim) -> dict[str, int]:
    """Return the parameters of a statement that a claim's fence guards."""
    return {"of_trial": claim.trial, "of_fence": claim.fence}


SWEEP = sa.select(sweeps.c.id).where(sweeps.c.name == sa.bindparam("sweep", type_=sa.Text()))


OWN = trials.c.sweep == SWEEP.scalar_subquery()


_SHARED = (members.c.sweep == SWEEP.scalar_subquery()) & (
    members.c.shared == sa.literal_column("1")
)


AMONG_SHARED = trials.c.id.in_(sa.select(members.c.trial).where(_SHARED))


PARTS = {
    "claimable": CLAIMABLE,
    "backing_off": BACKING_OFF,
    "ahead": str(AHEAD_SECONDS),
}
"""Conditions of the statements in the SQL files: the indexes have the same ones."""


DUE = Prepared.named("due", PARTS)


END_ATTEMPT = Prepared.named("end_attempt")


def pass_on(connection: Connection, trunk: str | None) -> None:
    """Let another trial train a trunk after its trial has ended or must stop."""
    if trunk is not None and trunks.pass_on(connection, trunk):
        wake(connection)


def update_holds(connection: Connection, condition: sa.ColumnElement[bool]) -> None:
    """Set the column `held` of some trials, from their own wish and from their sweeps."""
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
        .where(condition, QUEUED | RUNNING, trials.c.held.is_distinct_from(held))
        .values(held=held)
    )


def wake(connection: Connection) -> None:
    """Wake idle workers when this transaction commits, because there may be a trial to claim."""
    dialect_of(connection).notify(connection, CHANNEL)


def lease_lost(connection: Connection, claim: Claim) -> LeaseLost:
    """Return the error that tells why a guarded write met no row."""
    query = sa.select(trials.c.state).where(trials.c.id == claim.trial)
    if connection.execute(query).scalar_one_or_none() == TrialState.CANCELLED:
        return LeaseLost(f"trial {claim.trial_id} was cancelled")
    return LeaseLost(f"trial {claim.trial_id} is no longer held by attempt {claim.fence}")


def is_held(connection: Connection, claim: Claim) -> bool:
    """Return whether the claim still holds its trial."""
    return connection.execute(sa.select(trials.c.id).where(held_by(claim))).first() is not None


def held_by(claim: Claim) -> sa.ColumnElement[bool]:
    """Return the condition of the trial's row while the claim holds it."""
    return (trials.c.id == claim.trial) & (trials.c.fence == claim.fence) & RUNNING


def attempt_of(claim: Claim) -> sa.ColumnElement[bool]:
    """Return the condition of the claim's attempt."""
    return (attempts.c.trial == claim.trial) & (attempts.c.fence == claim.fence)


def ending(
    claim: Claim,
    outcome: Outcome,
    failure: FailureKind | None = None,
    error: str | None = None,
    traceback: str | None = None,
) -> dict[str, Any]:
    """Return the parameters of the statements `end_attempt` and `finish`."""
    return key_of(claim) | {
        "ended_at": time.time(),
        "outcome": outcome.value,
        "failure": failure and failure.value,
        "error": error,
        "traceback": traceback,
    }

"""The end of an attempt by its own worker: finished, failed or released."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import FedsweepError
from fedsweep.measures import FROM_LAST_ROUND
from fedsweep.queue.statements import (
    END_ATTEMPT,
    QUEUED,
    attempt_of,
    ending,
    held_by,
    is_held,
    key_of,
    lease_lost,
    pass_on,
    wake,
)
from fedsweep.states import RETRIED, FailureKind, Outcome, TrialState
from fedsweep.store import trunks
from fedsweep.store.claim import Claim
from fedsweep.store.clock import as_sql
from fedsweep.store.moment import Moment
from fedsweep.store.prepared import Prepared, Steps
from fedsweep.store.tables import (
    SHARING,
    attempts,
    trials,
)

MAX_ATTEMPTS = 3
"""Failures after which a trial stays failed."""


def finish(connection: Connection, claim: Claim) -> None:
    """Finish a trial whose rounds are all stored, and copy its final numbers from them.

    Raises:
        LeaseLost: the claim does not hold the trial any more.
        FedsweepError: a round is missing.

    """
    if _FINISH(connection, **ending(claim, Outcome.FINISHED)).rowcount != 1:
        if is_held(connection, claim):
            raise FedsweepError(f"trial {claim.trial_id} cannot finish: a round is missing")
        raise lease_lost(connection, claim)
    pass_on(connection, claim.trunk)


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
    """End a failed attempt. Queue the trial again after a delay, or leave it failed.

    Return the delay in seconds, or None if the trial stays failed.
    """
    held = held_by(claim)
    row = connection.execute(sa.select(trials.c.failures).where(held)).one_or_none()
    if row is None:
        raise lease_lost(connection, claim)
    failures = row.failures + 1
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
        .where(held)
        .values(
            **(for_good if delay is None else again),
            lease_until=None,
            failures=failures,
            device=sa.select(attempts.c.device).where(attempt_of(claim)).scalar_subquery(),
        )
    )
    if ended.rowcount != 1:
        raise lease_lost(connection, claim)
    END_ATTEMPT(connection, **ending(claim, Outcome.FAILED, kind, error, traceback))
    if kind is FailureKind.DIVERGED and claim.trunk is not None:
        _fail_siblings(connection, claim, error)
    pass_on(connection, claim.trunk)
    return delay


def reach_round(connection: Connection, claim: Claim, round: int) -> int | None:
    """Let the trials begin that fork at or before a stored round of the claim's trunk.

    Return the next round at which another trial forks, or this one. Return None if there is none.
    Call it in the transaction that stores the snapshot of that round.
    """
    if claim.trunk is None:
        return None
    freed = trunks.free_forks(connection, claim.trunk, min(round, claim.fork_round))
    if round >= claim.fork_round:
        freed += trunks.pass_on(connection, claim.trunk)
    if freed:
        wake(connection)
    ahead = trunks.next_fork(connection, claim.trunk, round)
    last = min(claim.fork_round, claim.config["rounds"] - 1)  # no trial resumes at the last round
    return ahead if ahead is not None and ahead <= last else None


def _fail_siblings(connection: Connection, claim: Claim, error: str) -> None:
    """Fail the trials that fork from the trunk later. The trunk diverged, so each would diverge in
    the same round.
    """
    query = sa.select(sa.func.coalesce(trials.c.final_round, 0)).where(trials.c.id == claim.trial)
    last = connection.execute(query).scalar_one()
    if last >= claim.fork_round:
        return
    siblings = sa.select(trials.c.id).where(
        sa.text(SHARING),
        trials.c.trunk == claim.trunk,
        trials.c.waits.in_([0, 1]),
        trials.c.fork_round > last,
        QUEUED,
    )
    connection.execute(
        sa.update(trials)
        .where(trials.c.id.in_(siblings.with_for_update(skip_locked=True)))
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
    """Give the trial back at no cost, because the worker must stop or the trial must wait.

    `why` tells if anything else ended the attempt: a fault of the machine or of the store.
    """
    if _RELEASE(connection, **key_of(claim)).rowcount != 1:
        raise lease_lost(connection, claim)
    END_ATTEMPT(connection, **ending(claim, Outcome.RELEASED, None, why, traceback))
    pass_on(connection, claim.trunk)
    wake(connection)


_RELEASE = Prepared.named("release")


def retry_delay(
    kind: FailureKind, failures: int, trial_id: str, *, max_attempts: int = MAX_ATTEMPTS
) -> float | None:
    """Return the seconds before the next attempt, or None if there is no next attempt.

    The delays are 5, 10, 20 … up to 300 seconds, each varied by up to 50 % either way.
    """
    if kind not in RETRIED or failures >= max_attempts:
        return None
    digest = hashlib.sha256(f"{trial_id}/{failures}".encode()).digest()
    jitter = 0.5 + int.from_bytes(digest[:4], "little") / 2**32
    return float(min(5.0 * 2 ** (failures - 1), 300.0) * jitter)

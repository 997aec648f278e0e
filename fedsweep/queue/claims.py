"""Claims: take a trial, and renew its lease."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.queue.losses import end_waits_ahead, rescue
from fedsweep.queue.statements import DUE, PARTS, RUNNING, key_of, lease_lost
from fedsweep.states import Hold
from fedsweep.store import trunks
from fedsweep.store.claim import Claim
from fedsweep.store.dialects import dialect_of
from fedsweep.store.identity import store_name
from fedsweep.store.moment import Moment
from fedsweep.store.prepared import Prepared
from fedsweep.store.stops import Lack
from fedsweep.store.tables import (
    attempts,
    trials,
)

LEASE_SECONDS = 15.0
"""Seconds until a claim that is not renewed ends."""


@dataclass(frozen=True)
class Claimant:
    """The slot of a `fedsweep work` process that claims trials."""

    name: str
    device: str
    host: str = platform.node()
    pid: int = os.getpid()


def claim(
    connection: Connection,
    worker: Claimant,
    now: Moment,
    *,
    lease: float = LEASE_SECONDS,
    sweep: str | None = None,
    rescuing: bool = True,
    served: float = math.inf,
    passed_over: frozenset[Lack] = frozenset(),
) -> Claim | None:
    """Claim the first trial that may run, by priority and then by age. Return None if there is
    none.

    Trials whose worker is lost, and trials that have backed off for long enough, are queued again.
    They are claimed if no other trial waits. The same holds for trials that wait for a trunk that
    no trial trains.

    Without `rescuing`, trials stay with workers whose leases have ended. After an outage, these
    workers renew their leases. `served` is the number of seconds for which the database has
    answered the caller without a break (see `rescue`). Trials that need something in `passed_over`
    are left to other machines.
    """
    values = {
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
    claiming = partial(_claim_free, connection, take, values)
    taken, due = claiming()
    if rescuing and due and rescue(connection, now, served) and taken is None:
        taken, _ = claiming()
    if taken is None and end_waits_ahead(connection, now):
        taken, _ = claiming()
    if taken is None and trunks.anybody_waits(connection) and trunks.free(connection, sweep):
        taken, _ = claiming()
    return None if taken is None else _claim_of(connection, taken)


def reclaim(
    connection: Connection, worker: str, now: Moment, *, lease: float = LEASE_SECONDS
) -> Claim | None:
    """Return the claim that a worker's name already holds, with a renewed lease. Return None if it
    holds none.

    The answer to a claim can be lost after its commit. The worker then trains that trial.
    """
    row = connection.execute(
        sa.select(*_OF_A_CLAIM)
        .join(attempts, (attempts.c.trial == trials.c.id) & (attempts.c.fence == trials.c.fence))
        .where(RUNNING, attempts.c.worker == worker, attempts.c.outcome.is_(None))
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


def _claim_free(connection: Connection, take: Prepared, values: dict[str, Any]) -> tuple[Any, bool]:
    """Claim the first trial that does not need rounds that another trial is training.

    Returns its row or None, and True if a trial is due to be queued again. If another trial trains
    the shared trunk in the meantime, the claimed trial goes back to waiting.
    """
    dialect = dialect_of(connection)
    while True:
        taken, due = dialect.claim(connection, take, _NOTE, DUE, values)
        if taken is None or taken.trunk is None:
            return taken, due
        trunks.lock(connection, taken.trunk)
        if not trunks.busy(connection, taken.id, taken.trunk):
            return taken, due
        _UNDO(connection, of_trial=taken.id)
        attempt = (attempts.c.trial == taken.id) & (attempts.c.fence == taken.fence)
        connection.execute(sa.delete(attempts).where(attempt))


def _any_shared(connection: Connection, sweep: str) -> bool:
    """Return whether a sweep has trials that belong to other sweeps too. An index holds the trials
    of each sweep that has none.
    """
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


_ANY_SHARED = Prepared.named("any_shared")


_NOTE = Prepared.named("note_claim")


_UNDO = Prepared.named("undo_claim")


@lru_cache(maxsize=16)
def _statements(passed_over: frozenset[Lack]) -> dict[bool | None, Prepared]:
    """Return the statements of a claim, by scope: any sweep (None), a sweep with shared trials
    (True), a sweep without (False).

    If nothing is passed over, they equal the statements of any other claim.
    """
    lacks = sorted(passed_over, key=repr)
    values = {
        f"lack_{n}_{name}": value
        for n, lack in enumerate(lacks)
        for name, value in lack
        if value is not None
    }
    parts = PARTS | {"wanted": "".join(_unlike(n, lack) for n, lack in enumerate(lacks))}

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
    """The answer to a renewal: how far the trial is, and whether it must be given back."""

    final_round: int
    """The last stored round, 0 if there is none."""
    give_back: bool
    """True if a person, or the sweep's budget, asks to save the trial and give it back."""


def renew(
    connection: Connection, claim: Claim, now: Moment, *, lease: float = LEASE_SECONDS
) -> Held:
    """Prove that the claim still holds its trial, and hold it for another lease.

    Every write of an attempt comes after this call. On Postgres it locks the row until the commit.

    Raises:
        LeaseLost: the trial was cancelled, or another attempt took it over.

    """
    row = _RENEW(connection, now=now.seconds, clock=now.clock, lease=lease, **key_of(claim)).first()
    if row is None:
        raise lease_lost(connection, claim)
    return Held(row.final_round or 0, row.held in (Hold.PAUSE, Hold.BUDGET))


_RENEW = Prepared.named("renew")

"""Steps of two workers on a queue, at times set by hand."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep import queue
from fedsweep.plans import Round, TrainConfig
from fedsweep.store import round_rows
from fedsweep.store.claim import Claim
from fedsweep.store.moment import Moment
from fedsweep.store.tables import attempts, trials

ALICE = queue.Claimant("alice", "cpu", "host-a", 1)


BOB = queue.Claimant("bob", "cpu", "host-b", 2)


LEASE = 15.0


def at(seconds: float, clock: str = "boot-1") -> Moment:
    return Moment(1000.0 + seconds, clock)


def claimed(c: Connection, worker: queue.Claimant = ALICE, seconds: float = 0) -> Claim:
    claim = queue.claim(c, worker, at(seconds), lease=LEASE)
    assert claim is not None
    return claim


def state(c: Connection, claim: Claim) -> str:
    return str(c.execute(sa.select(trials.c.state).where(trials.c.id == claim.trial)).scalar_one())


def outcomes(c: Connection, claim: Claim) -> list[str | None]:
    found = sa.select(attempts.c.outcome).where(attempts.c.trial == claim.trial)
    return list(c.execute(found.order_by(attempts.c.fence)).scalars())


def measured(number: int, accuracy: float | None = 0.5) -> Round:
    return Round(number, "explore", 1.0 / number, 0.7, accuracy, None, None, 10, 20, 0.25)


def train(c: Connection, claim: Claim, first: int, last: int) -> None:
    assert round_rows.add_rounds(c, claim, [measured(r) for r in range(first, last + 1)]) is None


ROUNDS = 3


def config(seed: int) -> TrainConfig:
    """A trial of three rounds."""
    return TrainConfig(
        dataset="digits",
        model="cnn",
        normalizer="bn",
        partition="iid",
        clients=4,
        rounds=ROUNDS,
        local_steps=2,
        batch_size=8,
        lr=0.05,
        seed=seed,
    )

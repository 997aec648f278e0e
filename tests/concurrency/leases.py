"""Leases of killed workers, which expire at once so that no test waits for them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep.store.tables import attempts, trials
from fedsweep.store.transactions import transaction


def expire(store: Engine, worker: str) -> None:
    """Let the leases of a killed worker expire, as they do after a while."""
    held = sa.select(attempts.c.trial).where(
        attempts.c.worker == worker, attempts.c.outcome.is_(None)
    )
    of_worker = sa.update(trials).where(trials.c.state == "running", trials.c.id.in_(held))
    with transaction(store) as c:
        c.execute(of_worker.values(lease_until=0.0))

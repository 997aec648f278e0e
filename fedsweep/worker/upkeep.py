"""Upkeep of the sweeps: jobs that every worker does about once per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.errors import SchemaNew, StoreForeign
from fedsweep.store import arms, identity, schema
from fedsweep.store.engine import close_idle
from fedsweep.store.outage import OUTAGE
from fedsweep.store.transactions import reading, transaction

Job = Callable[[], None]


QUICK_SECONDS = 0.05
"""If a pass over the jobs is faster than this, the progress is also read after every attempt."""


REST_PER_SECOND = 20
"""Seconds between two passes per second that a pass takes: a worker spends 5 % on upkeep."""


class Upkeep:
    """A list of jobs, and the time when they are due again.

    They run once per second at most, and less often if they take long. During an outage of the
    store, the rest of the jobs is left to the next pass.
    """

    def __init__(self, engine: Engine, jobs: Sequence[Job]) -> None:
        self.engine = engine
        self.jobs = jobs
        self.due = 0.0
        """Time of the next pass, on the monotonic clock."""
        self.cost = 0.0
        """Seconds that the last pass took."""

    def run(self, *, now: bool = False) -> None:
        """Run the jobs if they are due. `now` runs quick jobs even if they are not due."""
        quick = self.cost < QUICK_SECONDS
        if time.monotonic() < self.due and not (now and quick):
            return
        began = time.monotonic()
        try:
            for job in self.jobs:
                job()
            close_idle(self.engine)
        except OUTAGE:
            pass
        self.cost = time.monotonic() - began
        self.due = time.monotonic() + max(1.0, REST_PER_SECOND * self.cost)


def schema_refusal(engine: Engine) -> str | None:
    """Return why the database cannot be used anymore, or None if its schema is still ours.

    Someone may have upgraded it since this worker opened it.

    Raises:
        StoreReplaced: another database is at the same address now.

    """
    identity.require_file(engine)
    with reading(engine) as connection:
        identity.require_store(connection)
        try:
            schema.check(connection)
        except (SchemaNew, StoreForeign) as error:
            return str(error)
    return None


def hold_overspent(engine: Engine) -> None:
    """Hold the sweeps whose budget is spent."""
    with reading(engine) as connection:
        over = queue.overspent(connection)
    if over:
        with transaction(engine) as connection:
            queue.spend(connection)


def prune_arms(engine: Engine) -> None:
    """Prune the trials of open searches that cannot win."""
    with reading(engine) as connection:
        if not arms.any_open(connection) or not arms.pruning(connection):
            return
    from fedsweep.search.planner import prune

    prune(engine)

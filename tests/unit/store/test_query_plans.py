"""The cost of a claim does not depend on the other trials that wait.

Query plans and counted work prove it for 5,000 trials. FEDSWEEP_TEST_ROWS sets another number
(`make million` a million).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.plans import read_plan
from fedsweep.queue import claims, ends, waiting
from fedsweep.states import Hold
from fedsweep.store import planning, trunks
from fedsweep.store.clock import read_clock
from fedsweep.store.moment import Moment
from fedsweep.store.prepared import Prepared
from fedsweep.store.tables import attempts, members, sweeps, trials
from fedsweep.store.transactions import transaction
from tests.builders import WORKER

ROWS = int(os.environ.get("FEDSWEEP_TEST_ROWS", "5000"))
HOURS = 4 * 3600.0
"""A lease that outlasts the filling of a million rows."""
GIVEN = {
    "lease": 15.0, "worker": "w", "host": "host", "pid": 1, "device": "cpu", "started_at": 0.0,
    "sweep": "tiny", "of_trial": 1, "of_fence": 1, "of_trunk": "0", "of_round": 1,
    "ended_at": 0.0, "outcome": "failed", "failure": None, "error": None, "traceback": None,
}  # fmt: skip


def fill(c: Connection, count: int) -> None:
    """Queued trials, copies of the first under other ids, members of its sweep."""
    copied = [c for c in trials.c if c.name not in ("id", "trial_id")]
    n = sa.select(sa.literal(1).label("i")).cte("n", recursive=True)
    n = n.union_all(sa.select(n.c.i + 1).where(n.c.i < count))
    named = sa.literal("copy") + sa.cast(n.c.i, sa.Text())
    rows = sa.select(named, *copied).select_from(n.join(trials, trials.c.id == 1))
    c.execute(sa.insert(trials).from_select(["trial_id", *(c.name for c in copied)], rows))
    joined = sa.select(trials.c.sweep, trials.c.id).where(trials.c.trial_id.like("copy%"))
    c.execute(sa.insert(members).from_select(["sweep", "trial"], joined))


@pytest.fixture
def filled(store: Engine, tiny: Path) -> Engine:
    """The tiny sweep, and many queued trials behind it."""
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
        fill(c, ROWS)
    with store.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        c.exec_driver_sql("ANALYZE")
    return store


def plan(c: Connection, statement: Prepared, now: Moment) -> str:
    """Return the database's plan of a statement, as text."""
    text, given = statement.text(c, {**GIVEN, "now": now.seconds, "clock": now.clock})
    if c.dialect.name == "sqlite":
        rows = c.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", given).all()
        return "\n".join(row[3] for row in rows)
    rows = c.exec_driver_sql(f"EXPLAIN {text}", given).all()
    return "\n".join(row[0] for row in rows)


SOME = frozenset({(("dataset", "camvid"), ("fingerprint", None)), (("normalizer", "mine"),)})
"""The needs that a worker on a machine without a data set passes over."""

BY_INDEX = [
    (claims._statements(frozenset())[None], "ix_trials_claimable"),
    (claims._statements(frozenset())[False], "ix_trials_claimable_of"),
    (claims._statements(SOME)[None], "ix_trials_claimable"),
    (claims._statements(SOME)[False], "ix_trials_claimable_of"),
    (queue.DUE, "ix_trials_running"),
    (queue.DUE, "ix_trials_backing_off"),
    (waiting._OUTSTANDING, "ix_trials_outstanding"),
    (waiting._OUTSTANDING_IN, "ix_trials_outstanding"),
    (claims._RENEW, "trials"),
    (queue.END_ATTEMPT, "attempts"),
    (trunks._BUSY, "ix_trials_training"),
    (trunks._FREE_FORKS, "ix_trials_sharing"),
    (trunks._PASS_ON, "ix_trials_next"),
    (trunks._NEXT, "ix_trials_sharing"),
]


def test_the_statements_of_every_trial_read_by_index(filled: Engine) -> None:
    """No scan of the trials. (Empty tables, of attempts and rounds, Postgres scans with right.)"""
    with transaction(filled) as c:
        finish = ends._FINISH.steps(c)[0]
        for statement, index in [*BY_INDEX, (finish, "rounds")]:
            found = plan(c, statement, read_clock(c))
            assert index in found.replace(f"{index}_", ""), (index, found)
            assert "Seq Scan on trials" not in found, found
            scans = [line for line in found.splitlines() if line.startswith("SCAN trials")]
            assert all("INDEX ix_" in line for line in scans), found


def work_of_a_claim(store: Engine, sweep: str | None) -> int:
    """Steps of SQLite's machine, or rows that Postgres touched, for one claim of a trial."""

    def claim(c: Connection) -> None:
        assert queue.claim(c, WORKER, read_clock(c), sweep=sweep) is not None

    return work_of(store, claim)


def work_of(store: Engine, do: Callable[[Connection], object]) -> int:
    """The same, for anything, which is undone."""
    with transaction(store) as c:
        before = _touched(c)
        steps = _counted(c) if c.dialect.name == "sqlite" else None
        do(c)
        done = steps() if steps else _touched(c) - before
        c.rollback()
    return done


def _touched(c: Connection) -> int:
    if c.dialect.name == "sqlite":
        return 0
    c.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    text = "SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_xact_all_tables s, "
    text += "LATERAL (SELECT s.idx_tup_fetch + s.seq_tup_read AS idx_tup_read) x "
    text += "WHERE s.relname IN ('trials', 'sweep_members', 'sweeps', 'attempts')"
    return int(c.exec_driver_sql(text).scalar_one())


def _counted(c: Connection) -> Callable[[], int]:
    driver: Any = c.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    driver.set_progress_handler(step, 1)

    def total() -> int:
        driver.set_progress_handler(None, 1)
        return count

    return total


def held(c: Connection) -> None:
    """All but the last of the sweep's own are paused."""
    wished = sa.update(trials).where(trials.c.trial_id.like("copy%"))
    c.execute(wished.values(held=Hold.PAUSE.value, priority=9))


def backing_off(c: Connection) -> None:
    now = read_clock(c)
    later = (now.seconds or 4e9) + 1e6
    wished = sa.update(trials).where(trials.c.trial_id.like("copy%"))
    c.execute(wished.values(not_before=later, clock=now.clock, priority=9))


def of_another_sweep(c: Connection) -> None:
    other = c.execute(sa.insert(sweeps).values(name="other", created_at=0.0)).inserted_primary_key
    assert other is not None
    copies = sa.select(trials.c.id).where(trials.c.trial_id.like("copy%"))
    c.execute(sa.update(members).where(members.c.trial.in_(copies)).values(sweep=other[0]))
    c.execute(
        sa.update(trials).where(trials.c.trial_id.like("copy%")).values(sweep=other[0], priority=9)
    )


def of_another_sweep_but_one(c: Connection) -> None:
    """Which both sweeps have: not the first of the other's."""
    of_another_sweep(c)
    both = sa.select(sa.func.max(trials.c.id)).where(trials.c.trial_id.like("copy%"))
    shared = {"trial": c.execute(both).scalar_one(), "shared": 1}
    c.execute(
        sa.insert(members).from_select(
            ["sweep", *shared],
            sa.select(sweeps.c.id, *map(sa.literal, shared.values())).where(
                sweeps.c.name == "tiny"
            ),
        )
    )


@pytest.mark.parametrize(
    ("change", "scope"),
    [(None, None), (None, "tiny"), (held, None), (held, "tiny"), (backing_off, None),
     (of_another_sweep, "tiny"), (of_another_sweep_but_one, "tiny")],
)  # fmt: skip
def test_a_claim_does_the_same_work_whatever_else_waits(
    store: Engine, tiny: Path, change: Callable[[Connection], None] | None, scope: str | None
) -> None:
    """Six trials, or six and thousands more that are queued, held, backing off or elsewhere."""
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
    alone = work_of_a_claim(store, scope)
    with transaction(store) as c:
        fill(c, ROWS)
        if change is not None:
            change(c)
    with store.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        c.exec_driver_sql("ANALYZE" if store.dialect.name == "sqlite" else "VACUUM ANALYZE")
    work_of_a_claim(store, scope)
    assert 0 < work_of_a_claim(store, scope) <= 2 * alone + 50
    with store.connect() as c:
        assert c.execute(sa.select(sa.func.count()).select_from(attempts)).scalar_one() == 0


def test_the_cost_of_a_trunk_does_not_depend_on_the_trials_that_wait_for_it(
    store: Engine, tiny: Path
) -> None:
    """A claim that finds nothing else, and the carrier's steps: one waits, or thousands do."""
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny, ["seed=0"]))
        carrier = queue.claim(c, WORKER, read_clock(c), lease=HOURS)
        assert carrier is not None
        others = c.execute(sa.select(trials.c.id).where(trials.c.waits == 0, trials.c.id != 1))
        queue.cancel(c, others.scalars().all())
    assert (carrier.trial, carrier.fork_round) == (1, 3)

    def find_nothing(c: Connection) -> None:
        assert queue.claim(c, WORKER, read_clock(c)) is None

    def get_on(c: Connection) -> None:
        assert queue.reach_round(c, carrier, 0) == 1

    def lose(c: Connection) -> None:
        queue.lose(c, carrier, "gone")

    few = [work_of(store, do) for do in (find_nothing, get_on, lose)]
    with transaction(store) as c:
        fill(c, ROWS)
        waiting = sa.update(trials).where(trials.c.trial_id.like("copy%"))
        c.execute(
            waiting.values(
                state="queued", waits=1, fork_round=2, lease_until=None, clock=None, fence=0
            )
        )
    with store.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        c.exec_driver_sql("ANALYZE" if store.dialect.name == "sqlite" else "VACUUM ANALYZE")
    many = [work_of(store, do) for do in (find_nothing, get_on, lose)]
    assert all(m <= 2 * f + 200 for f, m in zip(few, many, strict=True)), (few, many)
    assert min(few) > 0

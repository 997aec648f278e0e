"""Eight processes, some of them killed, train what T* trials share once."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.execution.attempt import execute
from fedsweep.execution.place import Place
from fedsweep.plans import read_plan
from fedsweep.store.clock import read_clock
from fedsweep.store.schema import open_store
from fedsweep.store.tables import trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer import integrity
from tests.acceptance.command import eventually
from tests.concurrency.leases import expire
from tests.concurrency.processes import FORKS, fork
from tests.trunks import PLAN, Curves, T, has_stored, measured, plan
from tests.walk import SECONDS

pytestmark = pytest.mark.usefixtures("walk", "own_data_folder")

WORKERS, KILLS, LEASE = 8, 3, 15.0


def work(url: str, name: str, barrier: Any) -> None:
    """Claim and train until nothing is left anywhere."""
    store = open_store(url)
    worker, place = queue.Claimant(name, "cpu", pid=os.getpid()), Place(lease=LEASE)
    if barrier is not None:
        barrier.wait()
    while True:
        with transaction(store) as c:
            claim = queue.claim(c, worker, read_clock(c), lease=LEASE)
        if claim is not None:
            execute(store, claim, place, lambda: False, lambda _: None)
            continue
        with reading(store) as c:
            if not queue.outstanding(c):
                return
        time.sleep(0.05)


def started(url: str, n: int, barrier: Any = None) -> BaseProcess:
    return fork(work, url, f"w{n}", barrier)


def in_some_order(store: Engine, rng: random.Random) -> None:
    """Shuffle the trials' order. The first that is claimed carries the trunk."""
    with transaction(store) as c:
        for row in c.execute(sa.select(trials.c.id)).scalars().all():
            statement = sa.update(trials).where(trials.c.id == row)
            c.execute(statement.values(priority=rng.randrange(5)))


@pytest.fixture(autouse=True)
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a trial last, so that its worker can be killed meanwhile."""
    monkeypatch.setenv(SECONDS, "0.05")


@pytest.mark.quick_on("postgres")
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_eight_workers_train_six_and_a_half_trials(
    database: str, alone: Curves, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Eleven trials come out, bit for bit. Rounds that killed workers had not stored do not count
    as trained or lost.
    """
    url = request.getfixturevalue(f"{database}_url")
    (tmp_path / "shared.toml").write_text(PLAN)
    store = open_store(url)
    plan(store, read_plan(tmp_path / "shared.toml"))
    rng = random.Random(database)
    in_some_order(store, rng)
    barrier = FORKS.Barrier(WORKERS)
    processes = [started(url, n, barrier) for n in range(WORKERS)]
    names = [f"w{n}" for n in range(WORKERS)]
    for n in range(KILLS):
        eventually(partial(has_stored, store, 12 * n))
        victim = rng.randrange(WORKERS)
        pid = processes[victim].pid
        assert pid is not None
        if processes[victim].is_alive():
            os.kill(pid, signal.SIGKILL)
        processes[victim].join()
        expire(store, names[victim])
        processes[victim], names[victim] = started(url, WORKERS + n), f"w{WORKERS + n}"
    for process in processes:
        process.join(480)
    assert [process.exitcode for process in processes] == [0] * WORKERS
    with reading(store) as c:
        ends = sa.select(trials.c.state, trials.c.fork_round, trials.c.error)
        assert [row for row in c.execute(ends) if row.state != "finished"] == []
    assert measured(store) == alone
    with reading(store) as c:
        counts = sa.text("SELECT rounds_trained - rounds_lost, rounds_shared FROM ledger")
        assert tuple(c.execute(counts).one()) == (6.5 * T, 4.5 * T)
    assert integrity.faults(store) == []
    store.dispose()

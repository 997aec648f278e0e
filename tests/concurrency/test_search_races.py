"""Processes that ask, train and die: a search is one search all the same."""

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
from fedsweep.search.planner import plan_next
from fedsweep.store.clock import read_clock
from fedsweep.store.schema import open_store
from fedsweep.store.tables import lattices, proposals, proposed, snapshots, trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer import integrity
from tests.acceptance.command import eventually
from tests.concurrency.leases import expire
from tests.concurrency.processes import FORKS, fork
from tests.trunks import has_stored
from tests.unit.search.searches import PLAN, of, plan, the_arm
from tests.walk import SECONDS

pytestmark = pytest.mark.usefixtures("walk", "own_data_folder")

WORKERS, KILLS, LEASE = 5, 2, 15.0


def work(url: str, name: str, barrier: Any) -> None:
    """Claim and train, and ask where there is nothing to claim, until nothing is left anywhere."""
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
        if plan_next(store):
            continue
        with reading(store) as c:
            if not queue.outstanding(c):
                return
        time.sleep(0.05)


def started(url: str, n: int, barrier: Any = None) -> BaseProcess:
    return fork(work, url, f"w{n}", barrier)


def numbers(store: Engine) -> list[int]:
    with reading(store) as c:
        query = sa.select(proposals.c.number).order_by(proposals.c.number)
        return list(c.execute(query).scalars())


@pytest.fixture(autouse=True)
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a trial last, so that its worker can be killed meanwhile."""
    monkeypatch.setenv(SECONDS, "0.05")


@pytest.mark.quick_on("postgres")
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_five_workers_of_which_some_die_search_once(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """No T* is proposed twice, no number is missing, and only lost rounds are trained twice."""
    url = request.getfixturevalue(f"{database}_url")
    store = open_store(url)
    plan(store, of(tmp_path, PLAN.replace("extra_seeds = 1", "extra_seeds = 0")))
    barrier, rng = FORKS.Barrier(WORKERS), random.Random(database)
    processes = [started(url, n, barrier) for n in range(WORKERS)]
    names = [f"w{n}" for n in range(WORKERS)]
    for n in range(KILLS):
        eventually(partial(has_stored, store, 25 + 12 * n))
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
    arm = the_arm(store)
    assert arm.ended in ("settled", "budget", "tried")
    proposed_numbers = numbers(store)
    assert proposed_numbers == list(range(1, len(proposed_numbers) + 1))
    assert 3 <= len(proposed_numbers) <= arm.spec.search.probes_per_arm
    with reading(store) as c:
        tried = list(c.execute(sa.select(proposals.c.freeze_round)).scalars())
        states = set(c.execute(sa.select(trials.c.state)).scalars())
        own = sa.select(sa.func.sum(trials.c.rounds - trials.c.freeze_round))
        of_it = own.join(proposed, proposed.c.trial == trials.c.id)
        tails = c.execute(of_it).scalar_one()
        net = sa.text("SELECT rounds_trained - rounds_lost FROM ledger")
        assert c.execute(net).scalar_one() == 2 * 2 * 10 + tails  # BN and GN, of two seeds
        for table in (lattices, snapshots):
            assert c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 0
    assert len(set(tried)) == len(tried)
    assert states == {"finished"}
    assert integrity.faults(store) == []
    store.dispose()

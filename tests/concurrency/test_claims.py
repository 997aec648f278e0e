"""Races, with real processes and counted rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fedsweep import queue
from fedsweep.plans import Round, read_plan
from fedsweep.store import planning, round_rows
from fedsweep.store.clock import read_clock
from fedsweep.store.schema import open_store
from fedsweep.store.tables import attempts, rounds, trials
from fedsweep.store.transactions import reading, transaction
from tests.concurrency.processes import FORKS, fork

WORKERS, TRIALS = 8, 160


def drain(url: str, name: str, barrier: Any, out: Any) -> None:
    """Claim and finish until nothing is left; report what was claimed."""
    store = open_store(url)
    worker = queue.Claimant(name, "cpu")
    barrier.wait()
    done = []
    while True:
        with transaction(store) as c:
            claim = queue.claim(c, worker, read_clock(c))
        if claim is None:
            break
        with transaction(store) as c:
            queue.renew(c, claim, read_clock(c))
            row = Round(1, "explore", 1.0, 1.0, 0.5, None, None, 1, 1, 0.1)
            assert round_rows.add_rounds(c, claim, [row]) is None
            queue.finish(c, claim)
        done.append(claim.trial_id)
    store.dispose()
    out.put(done)


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_eight_processes_share_160_trials_each_claimed_once(
    database: str, tiny: Path, request: pytest.FixtureRequest
) -> None:
    """No trial twice, none forgotten; every table has as many rows as it must."""
    url = request.getfixturevalue(f"{database}_url")
    tiny.write_text(tiny.read_text().replace("seed = [0, 1]", f"seed = {list(range(TRIALS))}"))
    store = open_store(url)
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny, ["rounds=1", "normalizer=bn"]))
    barrier, out = FORKS.Barrier(WORKERS), FORKS.Queue()
    processes = [fork(drain, url, f"w{i}", barrier, out) for i in range(WORKERS)]
    claimed = [trial for _ in processes for trial in out.get(timeout=120)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * WORKERS
    assert Counter(claimed).most_common(1)[0][1] == 1
    assert len(claimed) == TRIALS
    with reading(store) as c:
        counted = [
            c.execute(sa.select(sa.func.count()).select_from(t)).scalar_one()
            for t in (trials, attempts, rounds)
        ]
        finished = sa.select(sa.func.count()).where(
            trials.c.state == "finished", trials.c.fence == 1
        )
        assert c.execute(finished).scalar_one() == TRIALS
    assert counted == [TRIALS] * 3
    store.dispose()


def plan_at_once(url: str, file: str, barrier: Any, out: Any) -> None:
    """Plan the same file as everybody else, at the same moment."""
    sweep = read_plan(Path(file))
    store = open_store(url)
    barrier.wait()
    with transaction(store) as c:
        out.put(planning.add_sweep(c, sweep).new)
    store.dispose()


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_planners_at_once_never_double_a_trial(
    database: str, tiny: Path, request: pytest.FixtureRequest
) -> None:
    """Four planners of one file: six trials, six members, one text."""
    url = request.getfixturevalue(f"{database}_url")
    barrier, out = FORKS.Barrier(4), FORKS.Queue()
    processes = [fork(plan_at_once, url, str(tiny), barrier, out) for _ in range(4)]
    new = [out.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(new) == [0, 0, 0, 6]
    store = open_store(url)
    with reading(store) as c:
        for table, rows in (("trials", 6), ("sweep_members", 6), ("plans", 1), ("sweeps", 1)):
            assert c.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one() == rows
    store.dispose()

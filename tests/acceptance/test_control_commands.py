"""Real workers that are paused, drained, cancelled, limited and frozen; and a server's restart.

Their trials are random walks: the claims are about leases, fences and signals.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fedsweep.errors import StoreBusy
from fedsweep.store import engine, transactions
from fedsweep.store.dialects import sqlite_engine
from tests.acceptance.command import (
    assert_equal_to_calm,
    at_once,
    eventually,
    query,
    start,
    trainers,
)
from tests.chaos.stores import Postgres
from tests.walk import slow_down, speed_up

pytestmark = pytest.mark.usefixtures("walk")

ONE = ["--set", "seed=0", "--set", "normalizer=bn"]
ROUNDS = 300
LONG = [*ONE, "--set", f"rounds={ROUNDS}"]
"""One trial that lasts until a test has disturbed it, and then finishes."""
ENDLESS = [*ONE, "--set", "rounds=1000000"]
WORK = ("work", "--device", "cpu", "--until-empty")
STATE = "SELECT state, held FROM trials"
OUTCOMES = "SELECT outcome FROM attempts ORDER BY trial, fence"


@pytest.fixture(scope="module")
def calm(walk: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The long trial, trained by one undisturbed worker on SQLite."""
    from tests.builders import TINY

    folder = tmp_path_factory.mktemp("calm")
    (folder / "tiny.toml").write_text(TINY)
    url = f"sqlite:///{folder}/calm.db"
    at_once("plan", f"{folder}/tiny.toml", "--db", url, *LONG)
    at_once(*WORK, "--db", url)
    return url


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh store on the database that the test names."""
    return str(request.getfixturevalue(f"{request.param}_url"))


Work = subprocess.Popen[str]


@pytest.fixture
def working() -> Iterator[list[Work]]:
    """A list of workers, which are killed at the end of the test."""
    started: list[Work] = []
    yield started
    for worker in started:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
        worker.communicate()


def running(
    working: list[Work], url: str, plan: Path, *kind: str, options: tuple[str, ...] = ()
) -> Work:
    """A worker on a planned trial, with its first rounds stored. It is slow until `speed_up`."""
    at_once("plan", str(plan), "--db", url, *kind)
    worker = start(*WORK, *options, "--db", url, **slow_down(plan.parent))
    working.append(worker)
    eventually(lambda: query(url, "SELECT 1 FROM rounds LIMIT 1"))
    return worker


def ended(worker: Work) -> str:
    """Wait until a worker has ended with exit code 0. Return its output."""
    output, _ = worker.communicate(timeout=180)
    assert worker.returncode == 0, output
    assert "Traceback" not in output
    return output


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_paused_trial_is_saved_and_given_back_and_resumed_by_its_waiting_worker(
    url: str, calm: str, tiny: Path, working: list[Work]
) -> None:
    """No round is trained twice. The result is that of a calm run, bit for bit."""
    worker = running(working, url, tiny, *LONG)
    at_once("sweep", "pause", "tiny", "--db", url)
    eventually(lambda: query(url, STATE) == [("queued", "pause")])
    ((saved, stored),) = query(url, "SELECT round, final_round FROM snapshots, trials")
    assert saved == stored < ROUNDS
    assert worker.poll() is None
    at_once("sweep", "resume", "tiny", "--db", url)
    speed_up(tiny.parent)
    assert "1 given back" in ended(worker)
    assert_equal_to_calm(calm, url)
    assert query(url, OUTCOMES) == [("released",), ("finished",)]
    assert query(url, "SELECT rounds_trained, rounds_lost FROM ledger") == [(ROUNDS, 0)]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_slot_drops_a_cancelled_trial_and_claims_another(
    url: str, tiny: Path, working: list[Work]
) -> None:
    """It takes seconds, and the cancelled trial gets no further round."""
    worker = running(working, url, tiny, *ENDLESS, options=("--lease", "3"))
    other = tiny.with_name("other.toml")
    other.write_text(tiny.read_text().replace('"tiny"', '"other"'))
    at_once("plan", str(other), "--db", url, *ONE)
    at_once("sweep", "cancel", "tiny", "--db", url)
    rounds = query(url, "SELECT max(round) FROM rounds WHERE trial = 1")
    assert "1 trial finished, 0 failed, 1 lost" in ended(worker)
    assert query(url, OUTCOMES) == [("cancelled",), ("finished",)]
    assert query(url, "SELECT state FROM trials ORDER BY id") == [("cancelled",), ("finished",)]
    assert query(url, "SELECT max(round) FROM rounds WHERE trial = 1") == rounds


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_drained_sweep_s_running_trial_ends_and_nobody_waits_for_the_rest(
    url: str, calm: str, tiny: Path, working: list[Work]
) -> None:
    """The trial takes one attempt. `--until-empty` leaves the queued trials of the sweep."""
    at_once("plan", str(tiny), "--db", url, *LONG)
    every = ("--set", f"rounds={ROUNDS}")
    worker = running(working, url, tiny, *every, options=("--lease", "600"))
    freeze(worker, url)  # the trial must not end before the sweep is drained
    at_once("sweep", "drain", "tiny", "--db", url)
    os.killpg(worker.pid, signal.SIGCONT)
    speed_up(tiny.parent)
    assert "1 trial finished, 0 failed" in ended(worker)
    counts = query(url, "SELECT state, count(*) FROM results GROUP BY state ORDER BY state")
    assert counts == [("finished", 1), ("queued", 5)]
    assert query(url, OUTCOMES) == [("finished",)]
    final = "SELECT trial_id, test_accuracy, test_loss FROM results WHERE state = 'finished'"
    assert query(url, final) == query(calm, final)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_sweep_that_has_used_up_its_rounds_is_held_by_a_worker(
    url: str, tiny: Path, working: list[Work]
) -> None:
    """Its trial is saved and given back, and no worker waits. A higher budget lets it go on."""
    at_once("plan", str(tiny), "--db", url, *ENDLESS)
    at_once("sweep", "budget", "tiny", "--rounds", "10", "--db", url)
    worker = running(working, url, tiny, *ENDLESS)
    assert "1 given back" in ended(worker)
    assert query(url, STATE) == [("queued", "budget")]
    assert query(url, OUTCOMES) == [("released",)]
    ((trained,),) = query(url, "SELECT rounds_trained FROM ledger")
    assert trained >= 10
    assert query(url, "SELECT round FROM snapshots") == [(trained,)]
    refused = at_once("sweep", "resume", "tiny", "--db", url, code=2)
    assert "has used up its budget: raise it with" in refused.stderr
    assert query(url, STATE) == [("queued", "budget")]
    at_once("sweep", "budget", "tiny", "--none", "--db", url)
    assert query(url, STATE) == [("queued", None)]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_worker_stops_by_itself_after_its_hours(
    url: str, tiny: Path, working: list[Work]
) -> None:
    """The limit is four seconds. The running trial is saved and given back."""
    at_once("plan", str(tiny), "--db", url, *ENDLESS)
    worker = start(*WORK, "--max-hours", "0.0011", "--db", url, **slow_down(tiny.parent))
    working.append(worker)
    assert "stopped: 0 trials finished" in ended(worker)
    assert query(url, STATE) == [("queued", None)]
    assert set(query(url, OUTCOMES)) <= {("released",)}


def freeze(worker: Work, url: str) -> None:
    """Stop a whole session between its writes: a frozen writer would hold up all of SQLite."""
    store = engine.make_engine(url)
    while True:
        os.killpg(worker.pid, signal.SIGSTOP)
        processes = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children()]
        eventually(lambda: all(p.status() == psutil.STATUS_STOPPED for p in processes))  # noqa: B023
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sqlite_engine, "LOCK_WAIT_SECONDS", 0.5)
                with transactions.transaction(store):
                    break
        except StoreBusy:
            os.killpg(worker.pid, signal.SIGCONT)
    store.dispose()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_worker_frozen_beyond_its_lease_writes_nothing_more_and_goes_on_with_another_trial(
    url: str, calm: str, tiny: Path, working: list[Work]
) -> None:
    """Another worker has its trial, whose attempts, rounds and logs do not change."""
    frozen = running(working, url, tiny, *LONG, options=("--lease", "2"))
    assert trainers(frozen.pid)
    freeze(frozen, url)
    at_once(*WORK, "--max-trials", "1", "--lease", "2", "--db", url)
    assert_equal_to_calm(calm, url)
    tables = ("attempts", "rounds", "logs", "snapshots", "trials")
    before = [query(url, f"SELECT * FROM {table}") for table in tables]
    assert query(url, OUTCOMES) == [("expired",), ("finished",)]
    other = tiny.with_name("other.toml")
    other.write_text(tiny.read_text().replace('"tiny"', '"other"'))
    at_once("plan", str(other), "--db", url, *ONE)
    os.killpg(frozen.pid, signal.SIGCONT)
    assert "1 trial finished, 0 failed, 1 lost" in ended(frozen)
    conditions = ("trial = 1",) * 4 + ("id = 1",)
    after = [
        query(url, f"SELECT * FROM {table} WHERE {which}")
        for table, which in zip(tables, conditions, strict=True)
    ]
    assert after == before
    assert query(url, "SELECT outcome FROM attempts WHERE trial = 2") == [("finished",)]
    slots = query(url, "SELECT DISTINCT pid FROM attempts WHERE trial = 2 OR outcome = 'expired'")
    assert len(slots) == 1


def test_a_trial_survives_a_restart_of_its_server(
    calm: str, tiny: Path, working: list[Work]
) -> None:
    """The server restarts during the training. The trial takes one attempt."""
    server = Postgres()
    try:
        worker = running(working, server.url, tiny, *LONG)
        server.stop("fast")
        server.mend()
        speed_up(tiny.parent)
        output = ended(worker)
        assert "1 trial finished, 0 failed" in output
        assert_equal_to_calm(calm, server.url)
        assert query(server.url, OUTCOMES) == [("finished",)]
    finally:
        server.close()

"""Real workers: what they give, and what happens when they are stopped and killed.

Their trials are random walks: the claims are about leases, snapshots, signals and files.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.acceptance.command import (
    LONG,
    ROUNDS,
    assert_equal_to_calm,
    at_once,
    eventually,
    query,
    start,
    trainers,
)
from tests.walk import slow_down

pytestmark = pytest.mark.usefixtures("walk")


@pytest.fixture(scope="module")
def calm(walk: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The long trial, trained by one undisturbed worker on SQLite."""
    from tests.builders import TINY

    folder = tmp_path_factory.mktemp("calm")
    (folder / "tiny.toml").write_text(TINY)
    url = f"sqlite:///{folder}/calm.db"
    at_once("plan", f"{folder}/tiny.toml", "--db", url, *LONG)
    done = at_once("work", "--db", url, "--device", "cpu", "--until-empty")
    assert "1 trial finished, 0 failed" in done.stdout
    return url


def long_trial(url: str) -> str:
    return str(query(url, f"SELECT trial_id FROM results WHERE rounds = {ROUNDS}")[0][0])


def running_long(url: str, tiny: Path, *more: str, rounds: int = 1) -> object:
    """Start a slow worker on the long trial, and wait for its first stored rounds."""
    slowly = slow_down(tiny.parent)
    at_once("plan", str(tiny), "--db", url, *LONG)
    worker = start("work", "--db", url, "--device", "cpu", "--until-empty", *more, **slowly)
    eventually(lambda: query(url, f"SELECT 1 FROM curves WHERE round = {rounds}"))
    return worker


def test_sigterm_saves_gives_back_and_exits_0_and_nothing_is_trained_twice(
    calm: str, tiny: Path, sqlite_url: str
) -> None:
    """The next worker goes on from there, bit for bit."""
    worker = running_long(sqlite_url, tiny)
    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    assert "1 given back" in output
    (row,) = query(sqlite_url, "SELECT state, final_round FROM results")
    assert row[0] == "queued"
    assert 0 < row[1] < ROUNDS
    at_once("work", "--db", sqlite_url, "--device", "cpu", "--until-empty")
    assert_equal_to_calm(calm, sqlite_url)
    assert query(sqlite_url, "SELECT rounds_trained, rounds_lost FROM ledger") == [(ROUNDS, 0)]
    outcomes = query(sqlite_url, "SELECT outcome FROM attempts ORDER BY fence")
    assert outcomes == [("released",), ("finished",)]


def test_ctrl_c_reaches_the_whole_group_and_stops_it_as_softly(
    calm: str, tiny: Path, sqlite_url: str
) -> None:
    """A terminal sends SIGINT to parent and slots at once."""
    worker = running_long(sqlite_url, tiny)
    os.killpg(worker.pid, signal.SIGINT)
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    assert "1 given back" in output
    assert "Traceback" not in output
    assert query(sqlite_url, "SELECT state FROM results") == [("queued",)]


@pytest.mark.quick_on("postgres")
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_killed_worker_s_trial_is_taken_over_when_its_lease_ends(
    database: str, calm: str, tiny: Path, request: pytest.FixtureRequest
) -> None:
    """All its processes are killed. A waiting worker finishes the trial, bit for bit."""
    url = request.getfixturevalue(f"{database}_url")
    worker = running_long(url, tiny, "--lease", "2")
    slots = trainers(worker.pid)
    second = start("work", "--db", url, "--device", "cpu", "--until-empty", "--lease", "2")
    os.killpg(worker.pid, signal.SIGKILL)
    worker.communicate()
    psutil.wait_procs(slots, timeout=30)
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    assert_equal_to_calm(calm, url)
    outcomes = query(url, "SELECT outcome FROM attempts ORDER BY fence")
    assert outcomes == [("expired",), ("finished",)]


def test_a_slot_whose_watch_is_killed_saves_and_gives_back(tiny: Path, sqlite_url: str) -> None:
    """It does not go on as an orphan, because no process renews its lease."""
    worker = running_long(sqlite_url, tiny)
    slots = trainers(worker.pid)
    assert slots
    worker.kill()
    worker.communicate()
    gone, alive = psutil.wait_procs(slots, timeout=60)
    assert not alive
    assert len(gone) == len(slots)
    assert query(sqlite_url, "SELECT state, attempts FROM results") == [("queued", 1)]


def test_a_killed_idle_slot_is_replaced_and_does_not_block_the_end(sqlite_url: str) -> None:
    """The waiting slot is killed. The worker then ends with exit code 0 after SIGTERM."""
    worker = start("work", "--db", sqlite_url, "--device", "cpu")
    slot = eventually(lambda: trainers(worker.pid))[0]
    slot.kill()
    psutil.wait_procs([slot], timeout=30)
    eventually(lambda: [child for child in trainers(worker.pid) if child.pid != slot.pid])
    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output


def test_a_reader_that_goes_away_leaves_no_slot_behind(tiny: Path, sqlite_url: str) -> None:
    """After `fedsweep work | head -1`, the watch, its slots and its claims have ended."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    worker = start("work", "--db", sqlite_url, "--device", "cpu", "--until-empty")
    slots = eventually(lambda: trainers(worker.pid))
    assert worker.stdout is not None
    worker.stdout.close()
    worker.wait(timeout=120)
    _, alive = psutil.wait_procs(slots, timeout=60)
    assert not alive


def test_max_trials_is_shared_by_the_slots(tiny: Path, sqlite_url: str) -> None:
    """Two slots with a limit of three trials make three attempts."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    slots = ("--slots", "2", "--max-trials", "3")
    done = at_once("work", "--db", sqlite_url, "--device", "cpu", *slots)
    assert "3 trials finished" in done.stdout
    states = query(sqlite_url, "SELECT state, count(*) FROM results GROUP BY 1 ORDER BY 1")
    assert states == [("finished", 3), ("queued", 3)]


def test_a_diverged_trial_does_not_stop_the_worker(tiny: Path, sqlite_url: str) -> None:
    """It is counted, and named in the report. Only --strict changes the exit code."""
    text = tiny.read_text().replace("lr = 0.05", "clip_norm = 0\nlr = 0.05")
    tiny.write_text(text + '[[grid]]\nnormalizer = "gn"\nlr = 1e25\n')
    at_once("plan", str(tiny), "--db", sqlite_url)
    work = ("work", "--db", sqlite_url, "--device", "cpu", "--until-empty")
    done = at_once(*work)
    assert "6 trials finished, 1 failed" in done.stdout
    assert "1 trial in scope failed" in done.stdout
    at_once(*work, "--strict", code=1)
    report = at_once("report", "--db", sqlite_url).stdout
    assert "1 diverged" in report
    (trial,) = query(sqlite_url, "SELECT trial_id FROM results WHERE failure = 'diverged'")[0]
    shown = at_once("trial", "show", trial[:6], "--db", sqlite_url).stdout
    assert "failed (diverged)" in shown


def test_two_sweeps_are_worked_apart_by_name(tiny: Path, sqlite_url: str) -> None:
    """--sweep takes that sweep's trials, and ends when they have ended."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    other = tiny.with_name("other.toml")
    other.write_text(tiny.read_text().replace('"tiny"', '"other"').replace("[0, 1]", "[5]"))
    at_once("plan", str(other), "--db", sqlite_url)
    at_once("work", "--db", sqlite_url, "--device", "cpu", "--sweep", "other", "--until-empty")
    counted = query(
        sqlite_url, "SELECT sweep, count(*) FROM results WHERE state = 'finished' GROUP BY 1"
    )
    assert counted == [("other", 3)]


@pytest.mark.parametrize(
    "replaced",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["deleted", "replaced"],
)
def test_a_database_that_is_deleted_under_a_worker_ends_it(replaced: bool, tiny: Path) -> None:
    """It exits with 2 and one sentence. No trial is reported as finished, no database is made."""
    url = f"sqlite:///{tiny.parent}/fedsweep.db"
    at_once("plan", str(tiny), "--db", url, *LONG)
    slowly = slow_down(tiny.parent)
    worker = start("work", "--db", url, "--device", "cpu", "--until-empty", **slowly)
    eventually(lambda: query(url, "SELECT 1 FROM rounds"))
    if replaced:
        at_once("plan", str(tiny), "--db", f"sqlite:///{tiny.parent}/other.db")
        (tiny.parent / "other.db").replace(tiny.parent / "fedsweep.db")
    ends = ("-wal", "-shm") if replaced else ("", "-wal", "-shm", "-turn")
    for end in ends:
        (tiny.parent / f"fedsweep.db{end}").unlink(missing_ok=True)
    output = worker.communicate(timeout=120)[0]
    assert worker.returncode == 2, output
    assert "fedsweep.db was " + ("replaced" if replaced else "deleted") in output
    assert "finished" not in output
    assert len(output.strip().splitlines()) == 1, output
    if replaced:
        assert query(url, "SELECT count(*), max(attempts) FROM results") == [(6, 0)]
    else:
        assert not (tiny.parent / "fedsweep.db").exists()

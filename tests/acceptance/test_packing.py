"""Several trials that train in one process on one GPU, in threads, with a made-up GPU."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import Engine

from fedsweep import queue, worker
from fedsweep.states import Hold
from fedsweep.store.clock import read_clock
from fedsweep.store.schema import open_store
from fedsweep.store.transactions import transaction
from fedsweep.worker import Slot, Tally, WorkStatus
from tests import walk
from tests.acceptance.command import (
    assert_equal_to_calm,
    at_once,
    eventually,
    query,
    start,
    trainers,
)
from tests.builders import TINY, WORKER

ROUNDS = 60
MANY = 300
"""Rounds of a trial that cannot end before a test speeds it up."""
SEEDS = "seed = [0, 1, 2, 3, 4, 5]"
PACE = 0.03
"""Seconds of a round."""
HOUR = 3600.0

OUTCOMES = "SELECT outcome, error FROM attempts ORDER BY trial, fence"
CHARGES = "SELECT sum(losses), sum(failures) FROM trials"
STATES = "SELECT state, count(*) FROM results GROUP BY state ORDER BY state"
SEED = "SELECT id FROM trials WHERE json_extract(config, '$.seed') = "


@pytest.fixture(autouse=True)
def walk_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process, and all that the test starts, use the engine of `tests.walk_cuda`."""
    walk.install(monkeypatch, "walk_cuda")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of deeds. Its trials take a while."""
    deeds = tmp_path / "deeds"
    deeds.mkdir()
    for name, value in walk.slow_down(deeds, PACE).items():
        monkeypatch.setenv(name, value)
    return deeds


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """The plan file of six trials that differ in their seeds."""
    file = tmp_path / "seeds.toml"
    file.write_text(TINY.split("[[grid]]", maxsplit=1)[0] + f'[[grid]]\nnormalizer = "bn"\n{SEEDS}')
    return file


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Engine]:
    engine = open_store(sqlite_url)
    yield engine
    engine.dispose()


def plan(url: str, file: Path, rounds: int) -> None:
    at_once("plan", str(file), "--db", url, "--set", f"rounds={rounds}")


def options(url: str, **more: object) -> worker.WorkOptions:
    chosen: dict[str, object] = {"slots": 8, "packed": True, "until_empty": True} | more
    return worker.WorkOptions(url, devices=("cuda:0",), **chosen)  # type: ignore[arg-type]


def training(view: WorkStatus) -> list[Slot]:
    """Return the slots whose trials have trained a round."""
    return [slot for slot in view.slots if slot.claim is not None and slot.last is not None]


def seeds_of(slots: Sequence[Slot]) -> set[int]:
    return {slot.claim.config["seed"] for slot in slots if slot.claim is not None}


def ended(tally: Tally) -> tuple[int, int, int, int]:
    return tally.finished, tally.failed, tally.lost, tally.released


def outcomes(url: str, seed: int) -> list[str]:
    """Return how the attempts at the trial of a seed ended."""
    text = f"SELECT outcome FROM attempts WHERE trial IN ({SEED}{seed}) ORDER BY fence"
    return [outcome for (outcome,) in query(url, text)]


def test_packed_trials_give_what_trials_alone_give(
    sqlite_url: str, tiny: Path, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Four trials fit into the memory. Each is trained in one attempt, and logs its own lines."""
    plan(sqlite_url, tiny, ROUNDS)
    most = 0

    def look(view: WorkStatus) -> None:
        nonlocal most
        most = max(most, sum(slot.claim is not None for slot in view.slots))

    assert ended(worker.work(options(sqlite_url), look)) == (6, 0, 0, 0)
    assert most == 4
    decisions = capfd.readouterr().err.splitlines()
    assert decisions[0] == "fedsweep: cuda:0: a trial of cnn takes 200 B: 4 trials fit"
    assert decisions[-1].endswith("stay at 4, the limit")
    assert query(sqlite_url, "SELECT count(*), max(fence) FROM attempts") == [(6, 1)]
    lines = "SELECT trial, count(*) FROM logs WHERE message LIKE {} GROUP BY trial"
    for text in ("'attempt 1: %'", "'a walk with ' || normalizer || ' and seed ' || seed"):
        joined = lines.format(text).replace("FROM logs", "FROM logs JOIN trials ON id = trial")
        assert [n for _, n in query(sqlite_url, joined)] == [1] * 6
    assert query(sqlite_url, "SELECT count(*) FROM logs WHERE message LIKE 'a walk%'") == [(6,)]
    walk.speed_up(folder)
    (tmp_path / "calm").mkdir()
    calm = f"sqlite:///{tmp_path}/calm/fedsweep.db"
    open_store(calm, create=True).dispose()
    plan(calm, tiny, ROUNDS)
    worker.work(options(calm, slots=1, packed=False), lambda _view: None)
    assert_equal_to_calm(calm, sqlite_url)


def test_a_stalled_trial_fails_and_the_others_are_given_back(
    sqlite_url: str, seeds: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed. The other trials are not charged, and finish later."""
    monkeypatch.setattr("fedsweep.worker.stalls.TRAINER_STALL_SECONDS", 5.0)
    plan(sqlite_url, seeds, MANY)
    walk.slow_down(folder)
    hang = folder / "hang-seed-1"
    others: set[int] = set()

    def look(view: WorkStatus) -> None:
        if not others and not hang.exists() and {0, 1} <= seeds_of(training(view)):
            hang.touch()
        if view.tally.failed and hang.exists():
            hang.unlink()
            walk.speed_up(folder)
            others.add(view.tally.released)

    tally = worker.work(options(sqlite_url, max_attempts=1), look)
    (released,) = others
    assert released >= 1
    assert ended(tally) == (5, 1, 0, released)
    assert outcomes(sqlite_url, 1) == ["failed"]
    ((failure, error),) = query(sqlite_url, "SELECT failure, error FROM trials WHERE failures > 0")
    assert failure == "stalled"
    assert error.startswith("the trainer made no step for ")
    assert query(sqlite_url, CHARGES) == [(0, 1)]


@pytest.mark.slow
def test_trials_that_all_stall_at_the_same_time_are_not_charged(
    sqlite_url: str, seeds: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hanging GPU stops them all. They train one at a time after that."""
    monkeypatch.setattr("fedsweep.worker.stalls.TRAINER_STALL_SECONDS", 4.0)
    plan(sqlite_url, seeds, MANY)
    walk.slow_down(folder)
    together = 0

    def look(view: WorkStatus) -> None:
        nonlocal together
        if not together and len(slots := training(view)) >= 2:
            together = len(slots)
            (folder / walk.SLOW).write_text(str(HOUR))
        if view.tally.released and (folder / walk.SLOW).exists():
            walk.speed_up(folder)

    tally = worker.work(options(sqlite_url), look)
    assert tally.released >= together >= 2
    assert ended(tally) == (6, 0, 0, tally.released)
    assert query(sqlite_url, CHARGES) == [(0, 0)]
    errors = {error for outcome, error in query(sqlite_url, OUTCOMES) if outcome == "released"}
    assert any(error.endswith(" more of its process") for error in errors)


def test_a_process_that_is_killed_gives_its_trials_back_and_they_train_alone(
    sqlite_url: str, seeds: Path, folder: Path
) -> None:
    """Nobody knows which of them is to blame."""
    plan(sqlite_url, seeds, MANY)
    killed: list[int] = []
    alone: set[int] = set()

    def look(view: WorkStatus) -> None:
        process = view.slots[0].process
        if not killed and len(training(view)) >= 3:
            assert process.handle is not None
            assert process.handle.pid is not None
            os.kill(process.handle.pid, signal.SIGKILL)
            killed.append(process.handle.pid)
        if view.tally.released and (folder / walk.SLOW).exists():
            walk.speed_up(folder)
        if process.alone:
            alone.add(len(process.claiming()))

    tally = worker.work(options(sqlite_url), look)
    released = tally.released
    assert released >= 3
    assert ended(tally) == (6, 0, 0, released)
    assert alone == {0, 1}
    assert query(sqlite_url, CHARGES) == [(0, 0)]
    errors = [error for outcome, error in query(sqlite_url, OUTCOMES) if outcome == "released"]
    assert errors == [f"its process died with {released} trials (SIGKILL)"] * released


def test_a_trial_that_crashes_its_process_is_charged_when_it_trains_alone(
    sqlite_url: str, seeds: Path, folder: Path
) -> None:
    """In company, the others may be to blame."""
    plan(sqlite_url, seeds, MANY)
    crashes: list[set[int]] = []

    def look(view: WorkStatus) -> None:
        slots = seeds_of(training(view))
        if (not crashes and {0, 1} <= slots) or (
            len(crashes) == 1 and view.tally.released and slots == {1}
        ):
            (folder / "crash-seed-1").write_text("out of paper\n")
            crashes.append(slots)
        if crashes and view.tally.released and 0 in slots and (folder / walk.SLOW).exists():
            walk.speed_up(folder)

    tally = worker.work(options(sqlite_url), look)
    assert ended(tally) == (6, 0, 1, tally.released)
    assert len(crashes[0]) > 1
    assert crashes[1:] == [{1}]
    assert outcomes(sqlite_url, 1) == ["released", "expired", "finished"]
    assert outcomes(sqlite_url, 0) == ["released", "finished"]
    (error,) = [error for outcome, error in query(sqlite_url, OUTCOMES) if outcome == "expired"]
    assert error == "its trainer died (SIGABRT): out of paper"


def test_a_trial_that_finds_no_memory_among_others_is_given_back(
    sqlite_url: str, seeds: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No failure is counted, and one trial less trains after that."""
    plan(sqlite_url, seeds, MANY)
    full: list[int] = []
    most = 0

    def look(view: WorkStatus) -> None:
        nonlocal most
        if not full and len(training(view)) == 4:
            (folder / "fill-seed-1").touch()
            full.append(4)
        if view.tally.released:
            most = max(most, len(training(view)))
            if most and (folder / walk.SLOW).exists():
                walk.speed_up(folder)

    assert ended(worker.work(options(sqlite_url), look)) == (6, 0, 0, 1)
    assert most == 3
    assert outcomes(sqlite_url, 1) == ["released", "finished"]
    assert query(sqlite_url, CHARGES) == [(0, 0)]
    assert "out of memory with 4 trials: one is given back, 3 may stay" in capfd.readouterr().err


def test_a_broken_device_gives_all_trials_back_and_ends_the_worker(
    sqlite_url: str, seeds: Path, folder: Path
) -> None:
    """No trial is charged, because nobody knows which of them has broken it."""
    plan(sqlite_url, seeds, MANY)
    broken: list[set[int]] = []

    def look(view: WorkStatus) -> None:
        if not broken and len(training(view)) >= 3:
            (folder / "fail-seed-1").write_text("CUDA error: an illegal memory access")
            broken.append(seeds_of(training(view)))

    tally = worker.work(options(sqlite_url), look)
    why = "cuda:0 is out of service: RuntimeError: CUDA error: "
    assert tally.broken is not None
    assert tally.broken.startswith(why)
    assert query(sqlite_url, STATES) == [("queued", 6)]
    assert query(sqlite_url, CHARGES) == [(0, 0)]
    ends = [outcome for outcome, _ in query(sqlite_url, OUTCOMES)]
    assert len(ends) >= 3
    assert set(ends) == {"released"}


def test_a_stop_signal_gives_all_trials_back_after_their_rounds(
    sqlite_url: str, seeds: Path, folder: Path
) -> None:
    """No round is trained twice."""
    plan(sqlite_url, seeds, MANY)
    stopped: list[int] = []

    def look(view: WorkStatus) -> None:
        if not stopped and len(slots := training(view)) >= 3:
            stopped.append(len(slots))
            os.kill(os.getpid(), signal.SIGTERM)

    tally = worker.work(options(sqlite_url), look)
    assert tally.stopped
    assert tally.released >= 3
    assert ended(tally) == (0, 0, 0, tally.released)
    assert query(sqlite_url, STATES) == [("queued", 6)]
    walk.speed_up(folder)
    tally = worker.work(options(sqlite_url), lambda _view: None)
    assert ended(tally) == (6, 0, 0, 0)
    assert query(sqlite_url, "SELECT rounds_trained, rounds_lost FROM ledger") == [(6 * MANY, 0)]


def test_a_second_stop_signal_drops_the_rounds(sqlite_url: str, seeds: Path, folder: Path) -> None:
    """All trials are given back at once, although no round ends."""
    plan(sqlite_url, seeds, MANY)
    slow = folder / walk.SLOW
    seen: list[list[int]] = []
    signals: list[int] = []

    def look(view: WorkStatus) -> None:
        rounds = [slot.last.round for slot in training(view) if slot.last is not None]
        if len(rounds) >= 3 and not seen:
            slow.write_text(str(HOUR))
        if seen or len(rounds) >= 3:
            seen.append(rounds)
        hangs = len(seen) > 10 and seen[-10:] == [rounds] * 10
        if len(signals) < 2 and (hangs or signals):
            signals.append(len(rounds))
            os.kill(os.getpid(), signal.SIGTERM)

    tally = worker.work(options(sqlite_url, grace=HOUR), look)
    assert ended(tally) == (0, 0, 0, signals[0])
    assert signals[0] >= 3
    assert query(sqlite_url, STATES) == [("queued", 6)]
    why = "its worker stopped before the round was over"
    assert set(query(sqlite_url, OUTCOMES)) == {("released", why)}


def test_a_process_whose_watch_is_killed_gives_all_trials_back(
    sqlite_url: str, seeds: Path, folder: Path
) -> None:
    """Its waiting slots end, too."""
    plan(sqlite_url, seeds, MANY)
    watch = start("work", "--db", sqlite_url, "--device", "cuda", "--slots", "auto")
    trained = "SELECT 1 FROM attempts WHERE rounds_trained > 0"
    eventually(lambda: len(query(sqlite_url, trained)) >= 2)
    slots = trainers(watch.pid)
    assert len(slots) == 1
    watch.kill()
    watch.communicate()
    gone, alive = psutil.wait_procs(slots, timeout=60)
    assert (len(gone), alive) == (1, [])
    assert query(sqlite_url, STATES) == [("queued", 6)]
    assert query(sqlite_url, CHARGES) == [(0, 0)]
    ends = [outcome for outcome, _ in query(sqlite_url, OUTCOMES)]
    assert len(ends) >= 2
    assert set(ends) == {"released"}


def test_trials_that_are_paused_cancelled_or_lost_leave_the_others_alone(
    sqlite_url: str, seeds: Path, folder: Path, store: Engine
) -> None:
    """The paused one is saved after its round. The others train on in the same process."""
    plan(sqlite_url, seeds, MANY)
    rows = {seed: query(sqlite_url, f"{SEED}{seed}")[0][0] for seed in range(6)}
    steps: list[str] = []

    def look(view: WorkStatus) -> None:
        slots = seeds_of(training(view))
        if not steps and {0, 1, 2, 3} <= slots:
            steps.append("disturbed")
            with transaction(store) as c:
                queue.hold(c, [rows[1]], Hold.PAUSE)
                assert queue.cancel(c, [rows[2]]) == 1
                lost = f"UPDATE trials SET lease_until = 0 WHERE id = {rows[3]}"
                c.exec_driver_sql(lost)
                c.exec_driver_sql("UPDATE trials SET priority = 9 WHERE id = 4")
                other = queue.claim(c, WORKER, read_clock(c))
                assert other is not None
                c.exec_driver_sql("UPDATE trials SET priority = 0 WHERE id = 4")
        if steps == ["disturbed"] and view.tally.released == 1 and view.tally.lost == 2:
            steps.append("over")
            assert 0 in slots
            with transaction(store) as c:
                queue.hold(c, [rows[1]], None)
                held = queue.reclaim(c, WORKER.name, read_clock(c))
                assert held is not None
                queue.release(c, held)
            walk.speed_up(folder)

    tally = worker.work(options(sqlite_url), look)
    assert steps == ["disturbed", "over"]
    assert ended(tally) == (5, 0, 2, 1)
    assert outcomes(sqlite_url, 0) == ["finished"]
    assert outcomes(sqlite_url, 1) == ["released", "finished"]
    assert query(sqlite_url, STATES) == [("cancelled", 1), ("finished", 5)]
    assert query(sqlite_url, "SELECT sum(failures) FROM trials") == [(0,)]


def test_no_more_trials_are_trained_than_the_limit(
    sqlite_url: str, seeds: Path, folder: Path
) -> None:
    """All slots of the process share it."""
    plan(sqlite_url, seeds, 10)
    tally = worker.work(options(sqlite_url, max_trials=3, until_empty=False), lambda _view: None)
    assert ended(tally) == (3, 0, 0, 0)
    assert query(sqlite_url, "SELECT count(*) FROM attempts") == [(3,)]


def test_two_trials_that_use_the_generator_never_train_at_the_same_time(
    sqlite_url: str, seeds: Path, folder: Path
) -> None:
    """Other trials train at the same time as each of them."""
    text = seeds.read_text()
    seeds.write_text(text.replace('normalizer = "bn"', 'normalizer = ["gn", "bn"]'))
    plan(sqlite_url, seeds, 20)
    tally = worker.work(options(sqlite_url), lambda _view: None)
    assert (tally.finished, tally.failed, tally.lost) == (12, 0, 0)
    times = (
        "SELECT started_at, ended_at FROM attempts JOIN trials ON trials.id = trial "
        "WHERE rounds_trained > 0 AND normalizer = '{}' ORDER BY started_at"
    )
    users, others = (query(sqlite_url, times.format(name)) for name in ("gn", "bn"))
    assert len(users) == 6
    assert all(end <= start for (_, end), (start, _) in pairwise(users))
    assert any(a < end and start < b for a, b in users for start, end in others)
    released = [error for outcome, error in query(sqlite_url, OUTCOMES) if outcome == "released"]
    assert len(released) == tally.released <= 1
    assert set(released) <= {"another trial of this process uses its random generator"}

"""Stalled trainers: the rules of the watch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from fedsweep import worker
from fedsweep.plans import Round
from fedsweep.store.claim import Claim
from fedsweep.worker import WorkStatus
from fedsweep.worker.stalls import (
    LONGEST_CHECK,
    SILENT_SECONDS,
    TRAINER_STALL_ROUNDS,
    TRAINER_STALL_SECONDS,
    cpu_seconds,
    has_stalled,
    is_stopped,
)
from fedsweep.worker.watch import _Watch
from tests.acceptance.command import at_once, query

SECONDS = 10.0
"""Seconds between two checks."""
CLAIM = Claim(1, "0" * 64, 1, {"rounds": 12}, None, None, 0)


class Process:
    """A process of a slot. Only its processor time matters."""

    pid = os.getpid()

    @staticmethod
    def is_alive() -> bool:
        return True

    def kill(self) -> None:
        """There is no process to kill."""

    def join(self) -> None:
        """There is no process to wait for."""


class Cpu:
    """Processor seconds of the process, as the test sets them."""

    used = 0.0


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Cpu:
    cpu = Cpu()
    monkeypatch.setattr("fedsweep.worker.stalls.cpu_seconds", lambda _slot: cpu.used)
    return cpu


@pytest.fixture
def watch(sqlite_url: str, cpu: Cpu) -> Iterator[Any]:
    """A watch with one slot, which has claimed a trial."""
    watch = _Watch(worker.WorkOptions(sqlite_url), lambda _view: None)
    slot: Any = watch.slots[0]
    slot.process.handle = Process()
    watch.note(slot, CLAIM)
    with watch.boxes:
        yield watch
    watch.engine.dispose()


def measured(number: int, seconds: float, *, evaluated: bool) -> Round:
    accuracy = 0.5 if evaluated else None
    return Round(number, "explore", 1.0, accuracy, accuracy, None, None, 0, 0, seconds)


def until_stalled(watch: Any, most: float = 50_000.0) -> float | None:
    """Return the seconds without a step until the trainer has stalled; None for never."""
    slot, passed = watch.slots[0], 0.0
    while passed < most:
        passed += SECONDS
        if has_stalled(slot, SECONDS):
            return passed
    return None


def test_a_trainer_that_takes_steps_never_stalls(watch: Any) -> None:
    """A step counts in a round of any length, even if no processor time can be read."""
    for round in range(1, 12):
        watch.note(watch.slots[0], measured(round, 0.1, evaluated=False))
    for _ in range(10_000):
        watch.slots[0].shared.steps += 1
        assert not has_stalled(watch.slots[0], 0.9 * TRAINER_STALL_SECONDS)


def test_a_trainer_without_a_step_and_without_processor_time_stalls(watch: Any) -> None:
    """It has stalled after five minutes, before its first round and after it."""
    assert until_stalled(watch) == TRAINER_STALL_SECONDS + SECONDS
    watch.note(watch.slots[0], measured(1, 1.0, evaluated=True))
    assert until_stalled(watch) == TRAINER_STALL_SECONDS + SECONDS


def test_processor_time_counts_as_progress_for_an_hour(
    watch: Any, cpu: Cpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step may take long. Waiting for a hanging GPU uses processor time without end."""
    monkeypatch.setattr("fedsweep.worker.stalls.STEP_CPU_SECONDS", 0.0)
    watch.note(watch.slots[0], measured(1, 1.0, evaluated=False))
    assert until_stalled(watch) == SILENT_SECONDS + SECONDS


def test_rounds_with_and_without_an_evaluation_have_their_own_medians(watch: Any) -> None:
    """Many quick rounds do not make a trainer stall in a slow evaluation."""
    for round in range(1, 101):
        evaluated = round % 4 == 0
        watch.note(
            watch.slots[0], measured(round, 600.0 if evaluated else 1.0, evaluated=evaluated)
        )
    assert watch.slots[0].usual_round() == 600.0
    assert until_stalled(watch) == TRAINER_STALL_ROUNDS * 600.0 + SECONDS


@pytest.mark.parametrize("away", [0.0, 3600.0, 86_400.0])
def test_a_suspended_watch_ends_no_trainer(
    away: float, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the machine was suspended, one check adds ten seconds at most."""
    clock = SimpleNamespace(monotonic=lambda: now, time=time.time, sleep=time.sleep)
    ended: list[object] = []
    now = watch.checked
    monkeypatch.setattr("fedsweep.worker.watch.time", clock)
    monkeypatch.setattr(watch, "end_stalled", ended.append)
    now += away
    watch.check_stalls()
    assert watch.slots[0].idle == min(away, LONGEST_CHECK)
    assert not ended
    for _ in range(int(TRAINER_STALL_SECONDS / SECONDS) + 1):
        now += SECONDS
        watch.check_stalls()
    assert ended


def test_a_slot_without_a_trial_cannot_stall(watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may wait for a trial for days."""
    watch.slots[0].claim = None
    watch.checked -= 1_000_000
    watch.slots[0].idle = 1_000_000.0
    monkeypatch.setattr(watch, "end_stalled", lambda _slot: pytest.fail("it was ended"))
    watch.check_stalls()


@pytest.mark.parametrize(
    "error", [psutil.NoSuchProcess(1), psutil.AccessDenied(1), FileNotFoundError(), ValueError()]
)
def test_unreadable_processes_count_as_running(
    error: Exception, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without /proc, only steps count as progress of a living trainer."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(psutil, "Process", refuse)
    slot: Any = worker.Slot(0, worker.SlotProcess("cpu"))
    slot.process.handle = Process()
    assert cpu_seconds(slot) == 0.0
    assert not is_stopped(slot.process)


@pytest.mark.slow
def test_a_stopped_trainer_fails_its_trial_as_stalled(
    sqlite_url: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real trainer is stopped by SIGSTOP. The worker goes on with the next trial."""
    at_once("plan", str(tiny), "--db", sqlite_url, "--set", "seed=0", "--set", "normalizer=bn")
    at_once("plan", str(tiny), "--db", sqlite_url, "--set", "seed=0", "--set", "rounds=500")
    monkeypatch.setattr("fedsweep.worker.stalls.TRAINER_STALL_SECONDS", 3.0)
    frozen: list[str] = []

    def freeze(view: WorkStatus) -> None:
        slot = view.slots[0]
        if not frozen and slot.claim is not None and slot.last is not None:
            assert slot.process.handle is not None
            assert slot.process.handle.pid is not None
            os.kill(slot.process.handle.pid, signal.SIGSTOP)
            frozen.append(slot.claim.trial_id)

    options = worker.WorkOptions(sqlite_url, until_empty=True, max_attempts=1, max_trials=2)
    tally = worker.work(options, freeze)
    assert (tally.finished, tally.failed) == (1, 1)
    failed = query(
        sqlite_url, "SELECT trial_id, failure, error FROM results WHERE state = 'failed'"
    )
    assert failed[0][:2] == (frozen[0], "stalled")
    assert failed[0][2].startswith("the trainer made no step for ")

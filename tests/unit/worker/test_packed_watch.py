"""The watch of a process with several trials: its deaths, its stalls, and unwanted trials."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue, worker
from fedsweep.plans import Round, read_plan
from fedsweep.states import Outcome
from fedsweep.store import planning
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.schema import open_store
from fedsweep.store.tables import attempts, trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.worker import Broken, Ended, kind_of
from fedsweep.worker.deaths import death_of
from fedsweep.worker.stalls import cpu_seconds, stalled_together
from fedsweep.worker.watch import UNFINISHED, _Watch
from tests.acceptance.command import eventually
from tests.builders import WORKER

ROUND = Round(1, "explore", 1.0, 0.5, 0.5, None, None, 0, 0, 60.0)
SLOTS = 4


class Process:
    """A process of slots that can be killed."""

    pid = None
    exitcode = -6
    killed = False

    def join(self) -> None:
        """It has ended."""

    def kill(self) -> None:
        self.killed = True

    def is_alive(self) -> bool:
        return not self.killed


class Pipe:
    """A pipe whose other end is closed."""

    def close(self) -> None:
        """There is nothing to close."""

    def poll(self) -> bool:
        raise EOFError


@pytest.fixture
def planned(sqlite_url: str, tiny: Path) -> Iterator[Engine]:
    store = open_store(sqlite_url)
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny).alone())
    yield store
    store.dispose()


@pytest.fixture
def watch(planned: Engine, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A watch of one made-up process with four slots, and with a limit of ten trials."""
    options = worker.WorkOptions(
        sqlite_url, devices=("cuda:0",), slots=SLOTS, packed=True, max_trials=10
    )
    watch = _Watch(options, lambda _view: None)

    def start(process: Any) -> None:
        process.handle = Process()
        process.box.write_text("")
        for slot in process.slots:
            slot.pipe, slot.name = Pipe(), f"w{slot.number}"

    monkeypatch.setattr(watch, "start", start)
    watch.start(watch.processes[0])
    with watch.boxes:
        yield watch
    watch.engine.dispose()


def claim(watch: Any, store: Engine, *numbers: int, rounds: bool = True) -> list[Claim]:
    """Let some slots claim trials, and report a round of each."""
    claims = []
    for number in numbers:
        with transaction(store) as c:
            claimed = queue.claim(c, WORKER, read_clock(c))
        assert claimed is not None
        watch.note(watch.slots[number], claimed)
        if rounds:
            watch.note(watch.slots[number], ROUND)
        claims.append(claimed)
    watch.budget -= len(numbers)
    return claims


def ends(store: Engine) -> list[tuple[str, str | None]]:
    """Return the outcome and the error of each attempt that has ended."""
    query = sa.select(attempts.c.outcome, attempts.c.error).where(attempts.c.outcome.is_not(None))
    with reading(store) as c:
        return [(row.outcome, row.error) for row in c.execute(query.order_by(attempts.c.id))]


def charges(store: Engine) -> tuple[int, int]:
    """Return the number of losses and of failures of all trials."""
    sums = sa.select(sa.func.sum(trials.c.losses), sa.func.sum(trials.c.failures))
    with reading(store) as c:
        losses, failures = c.execute(sums).one()
    return losses, failures


def test_a_death_with_several_trials_charges_none_and_lets_them_train_alone(
    watch: Any, planned: Engine
) -> None:
    """The device has trained, so that the next death is charged. No trial counts as trained."""
    (process,) = watch.processes
    claim(watch, planned, 0, 1, 3)
    watch.reap(process)
    why = "its process died with 3 trials (SIGABRT)"
    assert ends(planned) == [("released", why)] * 3
    assert charges(planned) == (0, 0)
    assert (process.alone, process.deaths, process.closed) == (3, [], False)
    assert watch.budget == 10
    (killer,) = claim(watch, planned, 2)
    watch.reap(process)
    assert ends(planned)[3:] == [("expired", "its trainer died (SIGABRT)")]
    assert charges(planned) == (1, 0)
    assert (process.alone, process.deaths) == (2, [kind_of(killer)])
    assert watch.budget == 9


def test_trials_train_alone_for_as_many_attempts_as_died_together(
    watch: Any, planned: Engine
) -> None:
    """A restart of the process in the meantime does not begin with several trials again."""
    (process,) = watch.processes
    claim(watch, planned, 0, 1)
    watch.reap(process)
    for left in (1, 0, 0):
        (held,) = claim(watch, planned, 0)
        watch.note(watch.slots[0], Ended(0, held, Outcome.FINISHED, ROUND, 1.0))
        assert process.alone == left


def test_three_deaths_with_several_trials_before_any_round_close_the_process(
    watch: Any, planned: Engine
) -> None:
    """The machine is at fault. No trial is charged."""
    (process,) = watch.processes
    for _ in range(3):
        assert not process.closed
        claim(watch, planned, 0, 1, rounds=False)
        watch.reap(process)
    assert process.closed
    assert watch.tally.broken == "slot 0 keeps dying before a trial's first round (SIGABRT)"
    assert charges(planned) == (0, 0)


@pytest.mark.parametrize("rounds", [True, False])
def test_a_stalled_trial_fails_alone_if_the_others_have_made_steps(
    rounds: bool, watch: Any, planned: Engine
) -> None:
    """It is charged before its own first round too, because the others have trained."""
    (process,) = watch.processes
    claim(watch, planned, 0, 1)
    (stalled,) = claim(watch, planned, 2, rounds=rounds)
    for slot, silent in zip(watch.slots, (1.0, 149.0, 300.0, 0.0), strict=True):
        slot.silent = slot.idle = silent
    watch.end_stalled(watch.slots[2])
    why = "the trainer made no step for 300 s and used no processor time for 300 s"
    assert ends(planned) == [("released", UNFINISHED), ("released", UNFINISHED), ("failed", why)]
    assert charges(planned) == (0, 1)
    assert (process.alone, process.handle.killed) == (0, True)
    assert process.stalled == (kind_of(stalled), why)
    assert (watch.tally.failed, watch.tally.released, watch.budget) == (1, 2, 9)
    watch.reap(process)
    assert (process.closed, process.stalled) == (False, None)
    assert watch.leases.give_up(watch.slots[2], why="again") is False
    assert len(ends(planned)) == 3


def test_trials_that_stall_together_are_not_charged_and_train_alone(
    watch: Any, planned: Engine
) -> None:
    """One of them may have stopped the others. The reason is stored for the silent trials."""
    (process,) = watch.processes
    claim(watch, planned, 0, 1, 2)
    for slot, silent in zip(watch.slots, (0.0, 151.0, 300.0, 0.0), strict=True):
        slot.silent = slot.idle = silent
    watch.end_stalled(watch.slots[2])
    why = "the trainer made no step for 300 s and used no processor time for 300 s, nor did 1 more"
    assert ends(planned) == [
        ("released", UNFINISHED),
        ("released", f"{why} of its process"),
        ("released", f"{why} of its process"),
    ]
    assert charges(planned) == (0, 0)
    assert (process.alone, watch.budget) == (2, 10)


def test_slots_without_a_trial_are_not_suspected_of_a_stall(watch: Any, planned: Engine) -> None:
    """A slot that waits for its turn makes no steps either."""
    claim(watch, planned, 0, 1)
    for slot, silent in zip(watch.slots, (300.0, 150.0, 300.0, 300.0), strict=True):
        slot.silent = silent
    assert stalled_together(watch.slots[0]) == [watch.slots[0]]
    watch.slots[1].silent = 150.5
    assert stalled_together(watch.slots[0]) == watch.slots[:2]


def test_an_unwanted_trial_among_others_gets_the_time_of_two_rounds(
    watch: Any, planned: Engine
) -> None:
    """Its rounds take a minute. The others would lose theirs when the process is killed."""
    (process,) = watch.processes
    claim(watch, planned, 0, 1)
    watch.slots[0].unwanted = time.monotonic() - 119
    watch.take_back()
    assert not process.handle.killed
    assert ends(planned) == []
    watch.slots[0].unwanted -= 2
    watch.take_back()
    assert process.handle.killed
    assert ends(planned) == [("released", UNFINISHED)] * 2
    assert charges(planned) == (0, 0)
    assert watch.budget == 9  # the unwanted one has used up its own


def test_a_trial_that_was_given_back_is_not_wanted_back_again(watch: Any, planned: Engine) -> None:
    """The slot may claim it again at once, before the watch knows."""
    (held,) = claim(watch, planned, 0)
    watch.slots[0].shared.give_back = held.trial
    watch.note(watch.slots[0], Ended(0, held, Outcome.RELEASED, ROUND, 1.0))
    assert watch.slots[0].shared.give_back == 0


def test_unwanted_trials_without_others_get_the_grace_period(watch: Any, planned: Engine) -> None:
    """No other trial loses a round."""
    claim(watch, planned, 0, 1)
    for slot in watch.slots[:2]:
        slot.unwanted = time.monotonic() - 21
    watch.take_back()
    assert ends(planned) == [("released", UNFINISHED)] * 2


def test_the_first_error_of_a_process_is_its_reason(watch: Any, planned: Engine) -> None:
    """Errors of other threads follow from it. A trial is not charged if one of them is blameless.

    The trial of a slot whose thread has ended is given back.
    """
    (process,) = watch.processes
    process.handle.exitcode = 1
    claim(watch, planned, 0, 1)
    watch.note(watch.slots[0], Broken("cuda:0 is out of service", blameless=True))
    watch.note(watch.slots[1], Broken("a bug", blameless=False))
    watch.reap(process)
    assert process.closed
    assert watch.tally.broken == process.broken == "cuda:0 is out of service"
    assert ends(planned) == [("released", "cuda:0 is out of service")] * 2
    assert charges(planned) == (0, 0)


def test_a_claim_that_was_not_reported_is_given_back(watch: Any, planned: Engine) -> None:
    """The process died between the claim and its message. The other trial is to blame."""
    (process,) = watch.processes
    watch.stored(watch.slots[0])
    with transaction(planned) as c:
        claimant = queue.Claimant("w3", "cuda:0", "host", 1)
        assert queue.claim(c, claimant, read_clock(c)) is not None
    claim(watch, planned, 1)
    watch.reap(process)
    assert sorted(outcome for outcome, _ in ends(planned)) == ["expired", "released"]
    assert charges(planned) == (1, 0)
    assert process.alone == 0


@pytest.mark.parametrize(
    ("trials", "broken", "together", "why"),
    [
        (0, None, False, "its trainer died (SIGABRT): out of paper"),
        (1, None, False, "its trainer died (SIGABRT): out of paper"),
        (2, None, True, "its process died with 2 trials (SIGABRT): out of paper"),
        (2, "no disk", False, "no disk"),
    ],
)
def test_a_death_tells_with_how_many_trials_a_process_died(
    trials: int, broken: str | None, together: bool, why: str, watch: Any, planned: Engine
) -> None:
    """With several trials, no kind of trial is to blame."""
    (process,) = watch.processes
    claims = claim(watch, planned, *range(trials))
    process.box.write_text("out of paper\n")
    process.broken = broken
    death = death_of(process)
    assert (death.trials, death.together, death.why) == (trials, together, why)
    assert (death.planned, death.killed) == (False, True)
    assert death.kind == (kind_of(claims[0]) if trials == 1 else None)


def test_the_processor_time_of_a_slot_is_that_of_its_thread() -> None:
    """The time of a busy thread counts for its own slot only. A slot without a thread has the time
    of the process.
    """
    over = threading.Event()
    slots: list[Any] = [worker.Slot(n, worker.SlotProcess("cuda:0")) for n in range(3)]
    ready = [threading.Event() for _ in slots[:2]]

    def use(slot: Any, seconds: float) -> None:
        slot.shared.thread = threading.get_native_id()
        while time.thread_time() < seconds:
            pass
        ready[slot.number].set()
        over.wait()

    threads = [
        threading.Thread(target=use, args=part) for part in zip(slots[:2], (0.0, 0.2), strict=True)
    ]
    for thread, event in zip(threads, ready, strict=True):
        thread.start()
        event.wait()
    for slot in slots:
        slot.process.handle = Process()
        slot.process.handle.pid = os.getpid()
    seconds = [cpu_seconds(slot) for slot in slots]
    assert seconds[0] < 0.1 < seconds[1] <= seconds[2]
    over.set()
    for thread in threads:
        thread.join()
    eventually(lambda: cpu_seconds(slots[1]) == 0.0)

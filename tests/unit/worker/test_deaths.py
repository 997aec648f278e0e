"""Attempts that end before their first round: the reaction of a watch and its slots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue, stderr_tail, worker
from fedsweep.errors import DataMissing, MachineError, MachineLacks, PackageMissing
from fedsweep.plans import Round, read_plan
from fedsweep.states import FailureKind, Outcome
from fedsweep.store import planning, round_rows, stops
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.tables import attempts, trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.worker import Ended, kind_of, worn_out
from fedsweep.worker.watch import _Watch
from tests.builders import WORKER
from tests.slots import slot_loop

pytestmark = pytest.mark.quick_on("sqlite")

BN = (("dataset", "digits"), ("model", "cnn"), ("normalizer", "bn"))
GN, LN = (*BN[:2], ("normalizer", "gn")), (*BN[:2], ("normalizer", "ln"))
DATA = (("dataset", "digits"), ("fingerprint", None))
ROUND = Round(1, "explore", 1.0, 0.5, 0.5, None, None, 0, 0, 0.1)


@pytest.mark.parametrize(
    ("failed", "unproven", "proven"),
    [
        ([], False, False),
        ([BN, BN], False, False),
        ([BN, BN, BN], True, False),
        ([BN, GN, BN, GN], True, False),
        ([BN, GN, LN], True, True),
        ([None, None, None], True, True),
        ([None, BN, GN], True, True),
    ],
)
def test_a_slot_stops_after_three_failures_in_a_row(
    failed: list[Any], unproven: bool, proven: bool
) -> None:
    """On a device that has trained, failures of one kind of trial count once."""
    assert worn_out(failed, proven=False) is unproven
    assert worn_out(failed, proven=True) is proven


class Process:
    """A process of a slot that has ended."""

    pid = os.getpid()
    exitcode = -6

    def join(self) -> None:
        """It has ended."""

    def is_alive(self) -> bool:
        return False


class Pipe:
    """A pipe whose other end is closed."""

    def close(self) -> None:
        """There is nothing to close."""

    def poll(self) -> bool:
        raise EOFError


@pytest.fixture
def planned(store: Engine, tiny: Path) -> Engine:
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny).alone())
    return store


@pytest.fixture
def watch(planned: Engine, store_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A watch that starts no real processes."""
    watch = _Watch(worker.WorkOptions(store_url), lambda _view: None)

    def start(process: Any) -> None:
        process.handle = Process()
        for slot in process.slots:
            slot.pipe, slot.name = Pipe(), "w"

    monkeypatch.setattr(watch, "start", start)
    watch.start(watch.processes[0])
    with watch.boxes:
        yield watch
    watch.engine.dispose()


def claim(store: Engine, but: frozenset[stops.Lack] = frozenset()) -> Claim:
    with transaction(store) as c:
        claimed = queue.claim(c, WORKER, read_clock(c), passed_over=but)
    assert claimed is not None
    return claimed


def die(watch: Any, held: Claim | None, words: str = "") -> None:
    slot = watch.slots[0]
    if held is not None:
        watch.note(slot, held)
    slot.process.box.write_text(words)
    watch.reap(slot.process)


def losses(store: Engine, held: Claim) -> tuple[Any, ...]:
    columns = (trials.c.state, trials.c.losses)
    with reading(store) as c:
        return tuple(c.execute(sa.select(*columns).where(trials.c.id == held.trial)).one())


def test_three_deaths_before_a_stored_round_close_the_slot(
    watch: Any, planned: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    """A claim does not reset the count. No trial is charged. The reason is stored and printed."""
    slot = watch.slots[0]
    for number in range(3):
        assert not slot.closed, number
        held = claim(planned)
        die(watch, held, "terminate called\n  what():  std::bad_alloc\n")
    assert slot.closed
    assert losses(planned, held) == ("queued", 0)
    reason = "slot 0 keeps dying before a trial's first round (SIGABRT: what():  std::bad_alloc)"
    assert watch.tally.broken == reason
    with reading(planned) as c:
        assert [row["reason"] for row in stops.recent(c)] == [reason]
        ends = c.execute(sa.select(attempts.c.outcome, attempts.c.error)).all()
    assert [tuple(end) for end in ends] == [
        ("expired", "its trainer died (SIGABRT): what():  std::bad_alloc")
    ] * 3
    assert "std::bad_alloc" in capfd.readouterr().err


def test_a_stored_round_resets_the_deaths_of_a_slot(watch: Any, planned: Engine) -> None:
    """The next death is charged to its trial. The round may be of an attempt that died later."""
    slot = watch.slots[0]
    first = claim(planned)
    die(watch, first)
    die(watch, None)
    watch.note(slot, first)
    watch.note(slot, Ended(0, first, Outcome.RELEASED, ROUND, 1.0))
    assert slot.process.deaths == []
    held = claim(planned)
    die(watch, held)
    assert losses(planned, held) == ("queued", 1)
    assert slot.process.deaths == [kind_of(held)]
    held = claim(planned)
    with transaction(planned) as c:
        assert round_rows.add_rounds(c, held, [ROUND]) is None
    die(watch, held)
    assert losses(planned, held) == ("queued", 0)
    assert slot.process.deaths == [kind_of(held)]
    assert not slot.closed


def test_a_claim_without_a_round_does_not_reset_deaths(watch: Any, planned: Engine) -> None:
    """The attempt may also have ended without dying."""
    slot = watch.slots[0]
    die(watch, claim(planned))
    held = claim(planned)
    watch.note(slot, held)
    watch.note(slot, Ended(0, held, Outcome.RELEASED, None, 1.0, "no data"))
    assert len(slot.process.deaths) == 1


def test_a_lack_is_printed_and_stored_once(
    watch: Any, planned: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each process of a slot reports it again."""
    for _ in range(2):
        watch.note(watch.slots[0], worker.Lacking("no folder\x1b[2J", DATA))
    output = capsys.readouterr().err
    assert output.count("passing over trials: no folder") == 1
    assert "\x1b" not in output
    with reading(planned) as c:
        ((times, lacks),) = [(row["times"], row["lacks"]) for row in stops.recent(c)]
    assert (times, lacks) == (1, 1)


@pytest.fixture
def slot(planned: Engine) -> Any:
    """A slot's loop without its process."""
    slot = slot_loop(planned)
    slot.sent = []
    slot.send = slot.sent.append
    return slot


def test_a_slot_prefers_other_kinds_of_trials_after_a_failure(slot: Any, planned: Engine) -> None:
    """If no other kind is left, it claims the same kind again."""
    slot.record.failed = (BN,)
    other = slot.take()
    assert kind_of(other) == GN
    with transaction(planned) as c:
        queue.release(c, other)
        c.execute(sa.update(trials).where(trials.c.normalizer != "bn").values(state="cancelled"))
    again = slot.take()
    assert kind_of(again) == BN


def test_a_slot_judges_its_machine_by_how_attempts_end(slot: Any, planned: Engine) -> None:
    """A round proves the machine, and three errors in a row stop it. Bad data do not count."""
    held = claim(planned)
    for kind in (None, FailureKind.DIVERGED, FailureKind.BAD_DATA):
        slot.judge(held, kind, "x")
    assert (slot.record.failed, slot.record.proven) == ((), False)
    slot.judge(held, FailureKind.ERROR, "x")
    slot.judge(held, FailureKind.OUT_OF_MEMORY, "x")
    assert slot.record.failed == (BN, BN)
    slot.last = ROUND
    slot.judge(held, FailureKind.ERROR, "x")
    assert (slot.record.failed, slot.record.proven) == ((), True)
    slot.last, slot.record.proven = None, False
    for _ in range(2):
        slot.judge(held, FailureKind.ERROR, "x")
    with pytest.raises(MachineError, match="3 attempts in a row failed on cpu .* error: a bug"):
        slot.judge(held, FailureKind.ERROR, "error: a bug")


def test_the_slots_of_a_process_judge_its_device_together(planned: Engine) -> None:
    """Failures of all slots count. A round of one slot shows that the device can train for all."""
    held, slots = claim(planned), [slot_loop(planned) for _ in range(3)]
    for slot in slots:
        slot.record, slot.send = slots[0].record, lambda _message: None
    for slot in slots[:2]:
        slot.judge(held, FailureKind.ERROR, "x")
    with pytest.raises(MachineError, match="3 attempts in a row"):
        slots[2].judge(held, FailureKind.ERROR, "x")
    slots[0].report_round(ROUND)
    assert slots[1].record.proven
    for _ in range(5):
        slots[2].judge(held, FailureKind.ERROR, "x")  # trials of one kind may be the reason
    assert slots[1].record.failed == (BN,) * 5


def test_a_slot_stops_only_if_no_open_trial_can_be_trained(slot: Any, planned: Engine) -> None:
    """A trial that another worker trains may be queued again. Unneeded lacks do not count."""
    slot.pass_over(PackageMissing("no gn", (("normalizer", "gn"),)))
    slot.require_work()
    slot.pass_over(DataMissing("no digits", DATA))
    with pytest.raises(MachineLacks, match="no gn; no digits"):
        slot.require_work()
    assert [message.lack for message in slot.sent] == [(("normalizer", "gn"),), DATA]
    slot.record.proven = True
    slot.require_work()  # it has trained, and waits for other sweeps
    slot.options = worker.WorkOptions("", until_empty=True)
    with pytest.raises(MachineLacks):
        slot.require_work()
    with transaction(planned) as c:
        c.execute(sa.update(trials).values(state="cancelled"))
    slot.require_work()  # all is done


def test_data_that_no_machine_has_are_not_passed_over(slot: Any, planned: Engine) -> None:
    """Their trials are claimed and fail, so that a person looks at them."""
    with transaction(planned) as c:
        about = {"pid": 1, "device": "cpu", "reason": "no digits", "lack": DATA}
        stops.note(c, host="another", **about)
    slot.pass_over(DataMissing("no digits", DATA))
    assert not slot.lacks


@pytest.mark.parametrize(
    ("words", "gist"),
    [
        ([], ""),
        (["a warning", "ZeroDivisionError: x"], "ZeroDivisionError: x"),
        (["terminate", "  what():  y", "Fatal Python error: Aborted", "", "File z"], "what():  y"),
        (["Fatal Python error: Segmentation fault", "", "File z"], "Fatal Python error: Segmen"),
        (["x" * 1000], "x" * stderr_tail.GIST_LENGTH + " …"),
    ],
)
def test_the_gist_of_last_words_is_the_reason_of_a_death(words: list[str], gist: str) -> None:
    """It is the line before the stack of a crash, or the last line."""
    assert stderr_tail.gist(words).startswith(gist)


def test_a_death_is_named_by_its_signal_or_exit() -> None:
    """A real-time signal has only a number."""
    names = [stderr_tail.death(code) for code in (-9, -6, 1, None, -40)]
    assert names == ["SIGKILL", "SIGABRT", "exit 1", "exit None", "signal 40"]

"""What an attempt said, as it is stored, on every database."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.errors import DeviceError, LeaseLost, PackageMissing
from fedsweep.execution import attempt
from fedsweep.execution.attempt import execute
from fedsweep.execution.place import Place
from fedsweep.log_handler import Line
from fedsweep.plan import Round
from fedsweep.states import RETRIED, RULES, FailureKind, Outcome
from fedsweep.store import attempt_rows, trial_rows
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.transactions import reading, transaction
from tests.builders import WORKER
from tests.execution import claim, planned, run

pytestmark = [pytest.mark.quick_on("sqlite"), pytest.mark.usefixtures("own_data_folder")]


def log_of(store: Engine, claimed: Claim, last: int | None = None) -> list[tuple[str, str]]:
    with reading(store) as c:
        rows = trial_rows.trial_logs(c, claimed.trial, claimed.fence, last)
    return [(row["level"], row["message"]) for row in rows]


def test_each_attempt_says_what_it_begins_with_on_what_and_how_it_fails(
    store: Engine, tiny: Path
) -> None:
    """And what fedsweep, the trainers and others say meanwhile."""
    planned(store, tiny, "normalizer='gn'", "seed=0", "lr=100.0", "clip_norm=0.0", "rounds=5")
    first = claim(store)

    def chatty(row: Round) -> None:
        logging.getLogger("trainers.x").info("a round of %s", row.phase)
        logging.getLogger("others").info("not kept")
        logging.getLogger("others").warning("careful")

    execute(store, first, Place(), lambda: True, chatty)
    lines = log_of(store, first)
    assert lines[0] == ("info", "attempt 1: 0 of 5 rounds are stored")
    assert lines[1][1].startswith("digits loaded in ")
    assert lines[2][1].startswith("on cpu (")
    assert lines[3:] == [
        ("info", "begins with round 1"),
        ("info", "a round of explore"),
        ("warning", "others: careful"),
    ]
    second = claim(store)
    run(store, second)
    lines = log_of(store, second)
    assert lines[0] == ("info", "attempt 2: 1 of 5 rounds are stored")
    assert lines[3:] == [
        ("info", "goes on after round 1"),
        ("error", "diverged: the training loss of round 3 is nan"),
    ]
    assert log_of(store, second, last=1) == lines[-1:]
    assert len(log_of(store, first)) == 6


def test_a_snapshot_of_no_use_and_rounds_that_are_lost_are_said(
    store: Engine, tiny: Path, tmp_path: Path
) -> None:
    """With the reason."""
    planned(store, tiny)
    run(store, claim(store), stop_after=1)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"rubbish")
    second = claim(store)
    run(store, second, stop_after=1)
    said = [message for _, message in log_of(store, second)]
    assert any("begins again, its snapshot is missing, damaged" in line for line in said)
    assert said[-1] == "begins with round 1"
    third = claim(store)
    run(store, third, Place(threads=2))
    said = [message for _, message in log_of(store, third)]
    assert any("the stored rounds were computed under other numerics" in line for line in said)


def test_a_worker_that_lost_its_trial_adds_nothing_to_a_log(store: Engine, tiny: Path) -> None:
    """Neither to its own nor to its successor's."""
    planned(store, tiny)
    first = claim(store)
    taken: list[Claim | None] = []

    def stolen(_: Round) -> None:
        logging.getLogger("fedsweep").warning("too late")
        if not taken:
            with transaction(store) as c:
                queue.release(c, first)
                taken.append(queue.claim(c, WORKER, read_clock(c)))

    assert execute(store, first, Place(), lambda: False, stolen) is None
    assert taken[0] is not None
    assert "too late" not in str(log_of(store, first))
    assert log_of(store, taken[0]) == []

    def bury() -> None:
        with transaction(store) as c:
            attempt_rows.add_last_words(c, first, ["too late"])
            queue.lose(c, first, "it died")

    with pytest.raises(LeaseLost):
        bury()
    assert "too late" not in str(log_of(store, first))


def test_lines_that_are_stored_twice_are_there_once(store: Engine, tiny: Path) -> None:
    """An answer can be lost after the commit; the last words come behind them, cut to size."""
    planned(store, tiny)
    claimed = claim(store)
    lines = [Line(n, 1.0, "info", f"line {n}") for n in (1, 2)]
    for _ in range(2):
        with transaction(store) as c:
            attempt_rows.add_logs(c, claimed, lines)
    with transaction(store) as c:
        attempt_rows.add_logs(c, claimed, [Line(2, 2.0, "warning", "another")])
        attempt_rows.add_last_words(c, claimed, ["a\x00b", "x" * 3000])
    found = log_of(store, claimed)
    assert found[:3] == [("info", "line 1"), ("warning", "another"), ("stderr", "a\ufffdb")]
    assert len(found[3][1]) == 2000


def test_what_goes_wrong_outside_the_training_is_said_too(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that is missing, a device that broke down, an error that no store would take."""

    def fails(error: Exception) -> Any:
        def run(*_: object) -> None:
            raise error

        return run

    planned(store, tiny)
    first = claim(store)
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "require_packages", fails(PackageMissing("no such package")))
        with pytest.raises(PackageMissing):
            run(store, first)
    assert log_of(store, first) == [("error", "no such package")]

    second = claim(store)
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "sound_data", fails(RuntimeError("CUDA error: unspecified")))
        with pytest.raises(DeviceError):
            run(store, second)
    assert log_of(store, second)[-1] == ("error", "RuntimeError: CUDA error: unspecified")

    third = claim(store)
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "sound_data", fails(OSError("postgres://a:hush@b \x00 \ud800")))
        end = execute(store, third, Place(), lambda: False, lambda _: None)
    assert end is not None
    assert (end.outcome, end.failure) == (Outcome.FAILED, FailureKind.ERROR)
    assert end.error == "OSError: postgres://a:***@b \ufffd ?"
    assert end.again is not None
    assert 2.5 <= end.again <= 7.5
    with reading(store) as c:
        last = trial_rows.trial_attempts(c, third.trial)[-1]
        standing = trial_rows.trial_standing(c, third.trial)
    assert "hush" not in last["traceback"]
    assert (standing["failures"], standing["held"], standing["held_by"]) == (1, None, [])
    assert 0 < standing["seconds_off"] <= end.again


def test_an_attempt_s_provenance_is_stored(store: Engine, tiny: Path) -> None:
    """With the device that its numerics name."""
    planned(store, tiny)
    claimed = claim(store)
    run(store, claimed)
    with reading(store) as c:
        (only,) = trial_rows.trial_attempts(c, claimed.trial)
    found = json.loads(only["provenance"])
    assert found["device"] == json.loads(only["numerics"])["processor"]
    assert found["packages"]["torch"] in json.loads(only["numerics"])["torch"]


def test_every_kind_of_failure_has_a_rule_that_says_whether_it_is_tried_again() -> None:
    """As the queue does it."""
    assert set(RULES) == set(FailureKind)
    assert {kind for kind in RULES if RULES[kind].startswith("tried again")} == RETRIED

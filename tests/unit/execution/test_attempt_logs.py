"""Logs of an attempt, as they are stored, on every database."""

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
from fedsweep.plans import Round
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


def test_an_attempt_logs_its_start_its_device_and_its_failure(store: Engine, tiny: Path) -> None:
    """It also stores log lines of fedsweep, the trainers and other packages."""
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


def test_unusable_snapshots_and_lost_rounds_are_logged(
    store: Engine, tiny: Path, tmp_path: Path
) -> None:
    """The line has the reason."""
    planned(store, tiny)
    run(store, claim(store), stop_after=1)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"rubbish")
    second = claim(store)
    run(store, second, stop_after=1)
    messages = [message for _, message in log_of(store, second)]
    assert any("begins again, its snapshot is missing, damaged" in line for line in messages)
    assert messages[-1] == "begins with round 1"
    third = claim(store)
    run(store, third, Place(threads=2))
    messages = [message for _, message in log_of(store, third)]
    assert any("the stored rounds were computed under other numerics" in line for line in messages)


def test_an_attempt_that_lost_its_trial_stores_no_lines(store: Engine, tiny: Path) -> None:
    """Neither its own log nor that of the next attempt gets a line."""
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


def test_lines_that_are_stored_twice_appear_once(store: Engine, tiny: Path) -> None:
    """The answer of a commit can be lost. Last words follow the lines, clipped."""
    planned(store, tiny)
    claimed = claim(store)
    lines = [Line(n, 1.0, "info", f"line {n}") for n in (1, 2)]
    for _ in range(2):
        with transaction(store) as c:
            attempt_rows.add_logs(c, claimed, lines)
    with transaction(store) as c:
        attempt_rows.add_logs(c, claimed, [Line(2, 2.0, "warning", "another")])
        attempt_rows.add_last_words(c, claimed, ["a\x00b", "x" * 3000])
    lines_read = log_of(store, claimed)
    assert lines_read[:3] == [("info", "line 1"), ("warning", "another"), ("stderr", "a\ufffdb")]
    assert len(lines_read[3][1]) == 2000


def test_errors_outside_the_training_are_logged(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package is missing, a device breaks, or an error has text that no store accepts."""

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
    """It contains the device that its numerics name."""
    planned(store, tiny)
    claimed = claim(store)
    run(store, claimed)
    with reading(store) as c:
        (only,) = trial_rows.trial_attempts(c, claimed.trial)
    provenance = json.loads(only["provenance"])
    assert provenance["device"] == json.loads(only["numerics"])["processor"]
    assert provenance["packages"]["torch"] in json.loads(only["numerics"])["torch"]


def test_every_kind_of_failure_has_a_retry_rule() -> None:
    """The text of each rule agrees with the queue."""
    assert set(RULES) == set(FailureKind)
    assert {kind for kind in RULES if RULES[kind].startswith("retried")} == RETRIED

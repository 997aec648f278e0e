"""Who tells what, and that it is told once: several announcers over one store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.errors import LeaseLost
from fedsweep.notify import announcer, deduplicate
from fedsweep.notify.announcer import Announcer
from fedsweep.plan import Round, read_plan
from fedsweep.states import FailureKind, Hold
from fedsweep.store import planning, progress, round_rows, sweep_rows, trial_rows
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.transactions import reading, transaction
from tests import study

WORKER = queue.Claimant("w", "cpu", "h", 1)
SENT: list[dict[str, Any]] = []


class Post:
    """A webhook that keeps what it is given."""

    def __init__(self, _url: str) -> None:
        pass

    def post(self, content: dict[str, Any]) -> None:
        SENT.append(content)


@pytest.fixture(autouse=True)
def posts(monkeypatch: pytest.MonkeyPatch) -> None:
    SENT.clear()
    monkeypatch.setattr(announcer, "Webhook", Post)


class Watch:
    """An announcer, and the clock on its wall."""

    def __init__(self, store: Engine) -> None:
        self.store, self.now = store, 0.0
        self.announcer = Announcer(store, ["https://host/x"], clock=lambda: self.now)

    def look(self, seconds: float = 1.0) -> list[str]:
        """What it tells after so many seconds."""
        self.now += seconds
        before = len(SENT)
        with reading(self.store) as connection:
            standing = progress.sweep_progress(connection)
        self.announcer.look(standing)
        return [sent["event"] for sent in SENT[before:]]


@pytest.fixture
def planned(store: Engine, tmp_path: Path) -> Engine:
    """A store with the study, queued."""
    (tmp_path / "study.toml").write_text(study.PLAN)
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tmp_path / "study.toml").alone())
    return store


def claim(store: Engine) -> Claim:
    with transaction(store) as connection:
        claimed = queue.claim(connection, WORKER, read_clock(connection))
    assert claimed is not None
    return claimed


def finish(store: Engine, *claims: Claim) -> None:
    for claimed in claims:
        with transaction(store) as connection:
            study.run(connection, claimed)


def fail(store: Engine, *claims: Claim) -> None:
    for claimed in claims:
        with transaction(store) as connection:
            now = read_clock(connection)
            queue.fail(connection, claimed, now, FailureKind.BAD_DATA, "s3cret")


def store_rounds(store: Engine, claimed: Claim, seconds: Sequence[float]) -> None:
    """Store rounds of these lengths, every fourth of them with an evaluation."""
    with transaction(store) as connection:
        for number, length in enumerate(seconds, start=1):
            accuracy = 0.5 if number % 4 == 0 else None
            measured = Round(number, "explore", 1.0, accuracy, accuracy, None, None, 0, 0, length)
            round_rows.add_rounds(connection, claimed, [measured])


def test_the_end_is_told_once_by_whoever_looks_first(planned: Engine) -> None:
    """Three workers see it: one tells, with the counts and the host."""
    watches = [Watch(planned) for _ in range(3)]
    assert [watch.look() for watch in watches] == [[], [], []]
    finish(planned, *(claim(planned) for _ in range(12)))
    assert [watch.look() for watch in watches] == [["finished"], [], []]
    (sent,) = SENT
    assert sent["sweep"] == "study"
    assert sent["text"] == "Sweep study is over: 11 of 12 trials finished, 1 failed."
    assert sent["counts"] == {
        "queued": 0, "running": 0, "finished": 11, "failed": 1, "cancelled": 0,
    }  # fmt: skip
    assert set(sent) == {"event", "sweep", "text", "counts", "host", "at"}
    assert [watch.look() for watch in watches] == [[], [], []]


def test_who_comes_later_tells_no_old_news(planned: Engine) -> None:
    """A sweep that was over when it looked first."""
    finish(planned, *(claim(planned) for _ in range(12)))
    late = Watch(planned)
    assert (late.look(), late.look()) == ([], [])


def test_a_sweep_that_goes_on_ends_again(planned: Engine) -> None:
    """A failed trial is tried again: a second end, told by one of two."""
    watches = [Watch(planned), Watch(planned)]
    [watch.look() for watch in watches]
    *most, last = [claim(planned) for _ in range(12)]
    finish(planned, *most)
    fail(planned, last)
    assert [watch.look() for watch in watches] == [["finished"], []]
    with transaction(planned) as connection:
        queue.retry(connection, [last.trial])
    assert [watch.look() for watch in watches] == [[], []]
    finish(planned, claim(planned))
    assert [watch.look() for watch in watches] == [["finished"], []]


def test_a_cancelled_sweep_is_no_news(planned: Engine) -> None:
    """Somebody did that."""
    watch = Watch(planned)
    watch.look()
    finish(planned, claim(planned))
    with transaction(planned) as connection:
        queue.hold_sweep(connection, "study", Hold.CANCEL)
        queue.cancel(connection, sweep_rows.sweep_trials(connection, "study"))
    assert watch.look() == []


def test_a_burst_of_failures_is_told_once_and_not_again_for_an_hour(planned: Engine) -> None:
    """By one of two, though more fail before the other looks; nothing that an error said is."""
    watches = [Watch(planned), Watch(planned)]
    [watch.look() for watch in watches]
    fail(planned, *(claim(planned) for _ in range(4)))
    assert [watch.look() for watch in watches] == [[], []]
    fail(planned, claim(planned))
    assert watches[0].look() == ["failures"]
    fail(planned, claim(planned))
    assert [watch.look() for watch in watches] == [[], []]
    assert "5 attempts failed in 10 minutes (5 bad_data)" in SENT[0]["text"]
    assert "s3cret" not in str(SENT)


def test_a_stall_is_told_once_until_something_moves(planned: Engine) -> None:
    """Fifteen minutes without a round, though trials are queued; by one of two workers."""
    watches = [Watch(planned), Watch(planned)]
    finish(planned, claim(planned))
    steps = [[watch.look(100.0) for watch in watches] for _ in range(12)]
    assert steps == [[[], []]] * 9 + [[["stalled"], []]] + [[[], []]] * 2
    finish(planned, claim(planned))
    steps = [[watch.look(100.0) for watch in watches] for _ in range(10)]
    assert steps == [[[], []]] * 9 + [[["stalled"], []]]


def test_a_long_evaluation_is_no_stall(planned: Engine) -> None:
    """Three times the usual round with an evaluation, however quick the many others are.

    Another trial's rounds are the measure before the running trial has evaluated.
    """
    watch = Watch(planned)
    store_rounds(planned, claim(planned), (10.0, 10.0, 10.0, 400.0) * 3)
    store_rounds(planned, claim(planned), (10.0, 10.0, 10.0))
    watch.look()
    steps = [watch.look(100.0) for _ in range(13)]
    assert steps == [[]] * 11 + [["stalled"], []]


def test_the_usual_round_is_a_median_of_each_kind(planned: Engine) -> None:
    """One slow round of many is not usual; the trial whose usual round is longest counts."""
    with reading(planned) as connection:
        assert deduplicate.longest_usual_round(connection, "study") is None
    claims = [claim(planned) for _ in range(3)]
    store_rounds(planned, claims[0], (1.0, 1.0, 900.0, 8.0, 1.0, 1.0, 1.0, 700.0) * 2)
    store_rounds(planned, claims[1], (2.0, 3.0, 4.0))
    with reading(planned) as connection:
        assert deduplicate.longest_usual_round(connection, "study") == (8.0 + 700.0) / 2
    store_rounds(planned, claims[2], (500.0,))
    with reading(planned) as connection:
        assert deduplicate.longest_usual_round(connection, "study") == 500.0
        assert deduplicate.longest_usual_round(connection, "another") is None


def test_the_usual_round_is_that_of_the_latest_rounds(planned: Engine) -> None:
    """Older rounds, and rounds of older trials, are not read."""
    early, late = claim(planned), claim(planned)
    store_rounds(planned, early, (600.0,))
    store_rounds(planned, late, (80.0,) * 40 + (5.0,) * 3 * deduplicate.LATEST_ROUNDS)
    with reading(planned) as connection:
        assert deduplicate.longest_usual_round(connection, "study") == 600.0
    with pytest.MonkeyPatch.context() as patch, reading(planned) as connection:
        patch.setattr(deduplicate, "LATEST_TRIALS", 1)
        assert deduplicate.longest_usual_round(connection, "study") == 5.0


@pytest.mark.parametrize("alone", [False, True])
def test_what_is_held_back_does_not_stall(alone: bool, planned: Engine) -> None:
    """A paused sweep, or one whose trials are paused each for itself."""
    watch = Watch(planned)
    with transaction(planned) as connection:
        if alone:
            queue.hold(connection, sweep_rows.sweep_trials(connection, "study"), Hold.PAUSE)
        else:
            queue.hold_sweep(connection, "study", Hold.PAUSE)
    assert [watch.look(100.0) for _ in range(20)] == [[]] * 20


def test_who_could_not_look_does_not_take_that_for_a_stall(planned: Engine) -> None:
    """A database that was away for an hour."""
    watch = Watch(planned)
    watch.look()
    assert watch.look(3600.0) == []


def test_a_notice_stands_in_the_log_of_the_last_attempt(planned: Engine) -> None:
    """Behind what was said there."""
    watch = Watch(planned)
    watch.look()
    claims = [claim(planned) for _ in range(12)]
    finish(planned, *claims)
    watch.look()
    with reading(planned) as connection:
        found = trial_rows.trial_logs(connection, claims[-1].trial, claims[-1].fence)
        count = connection.execute(sa.text("SELECT count(*) FROM logs")).scalar_one()
    assert [(line["level"], line["message"]) for line in found] == [("notice", SENT[0]["text"])]
    assert count == 1
    with pytest.raises(LeaseLost), transaction(planned) as connection:
        queue.finish(connection, claims[-1])

"""Several announcers on one store send each notice once."""

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
from fedsweep.plans import Round, read_plan
from fedsweep.states import FailureKind, Hold
from fedsweep.store import planning, progress, round_rows, sweep_rows, trial_rows
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.transactions import reading, transaction
from tests import study

WORKER = queue.Claimant("w", "cpu", "h", 1)
SENT: list[dict[str, Any]] = []


class Post:
    """A webhook that keeps the posted notices."""

    def __init__(self, _url: str) -> None:
        pass

    def post(self, content: dict[str, Any]) -> None:
        SENT.append(content)


@pytest.fixture(autouse=True)
def posts(monkeypatch: pytest.MonkeyPatch) -> None:
    SENT.clear()
    monkeypatch.setattr(announcer, "Webhook", Post)


class Watch:
    """An announcer with a clock that the test moves."""

    def __init__(self, store: Engine) -> None:
        self.store, self.now = store, 0.0
        self.announcer = Announcer(store, ["https://host/x"], clock=lambda: self.now)

    def update(self, seconds: float = 1.0) -> list[str]:
        """Move the clock, update the announcer, and return the events that it reports."""
        self.now += seconds
        before = len(SENT)
        with reading(self.store) as connection:
            sweeps = progress.sweep_progress(connection)
        self.announcer.update(sweeps)
        return [sent["event"] for sent in SENT[before:]]


@pytest.fixture
def planned(store: Engine, tmp_path: Path) -> Engine:
    """A store in which the study is queued."""
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
    """Store rounds of the given lengths. Every fourth one has an evaluation."""
    with transaction(store) as connection:
        for number, length in enumerate(seconds, start=1):
            accuracy = 0.5 if number % 4 == 0 else None
            measured = Round(number, "explore", 1.0, accuracy, accuracy, None, None, 0, 0, length)
            round_rows.add_rounds(connection, claimed, [measured])


def test_the_end_is_reported_once_by_the_first_worker_that_sees_it(planned: Engine) -> None:
    """One of three workers sends the notice, with the counts and the host."""
    watches = [Watch(planned) for _ in range(3)]
    assert [watch.update() for watch in watches] == [[], [], []]
    finish(planned, *(claim(planned) for _ in range(12)))
    assert [watch.update() for watch in watches] == [["finished"], [], []]
    (sent,) = SENT
    assert sent["sweep"] == "study"
    assert sent["text"] == "Sweep study is over: 11 of 12 trials finished, 1 failed."
    assert sent["counts"] == {
        "queued": 0, "running": 0, "finished": 11, "failed": 1, "cancelled": 0,
    }  # fmt: skip
    assert set(sent) == {"event", "sweep", "text", "counts", "host", "at"}
    assert [watch.update() for watch in watches] == [[], [], []]


def test_a_late_worker_reports_no_old_event(planned: Engine) -> None:
    """The sweep was over before the worker first saw it."""
    finish(planned, *(claim(planned) for _ in range(12)))
    late = Watch(planned)
    assert (late.update(), late.update()) == ([], [])


def test_a_retried_sweep_ends_again(planned: Engine) -> None:
    """After a failed trial is retried, one of two workers reports the second end."""
    watches = [Watch(planned), Watch(planned)]
    [watch.update() for watch in watches]
    *most, last = [claim(planned) for _ in range(12)]
    finish(planned, *most)
    fail(planned, last)
    assert [watch.update() for watch in watches] == [["finished"], []]
    with transaction(planned) as connection:
        queue.retry(connection, [last.trial])
    assert [watch.update() for watch in watches] == [[], []]
    finish(planned, claim(planned))
    assert [watch.update() for watch in watches] == [["finished"], []]


def test_a_cancelled_sweep_is_not_reported(planned: Engine) -> None:
    """A person cancelled it, and knows."""
    watch = Watch(planned)
    watch.update()
    finish(planned, claim(planned))
    with transaction(planned) as connection:
        queue.hold_sweep(connection, "study", Hold.CANCEL)
        queue.cancel(connection, sweep_rows.sweep_trials(connection, "study"))
    assert watch.update() == []


def test_a_burst_of_failures_is_reported_once_per_hour(planned: Engine) -> None:
    """One of two workers reports it, without the text of an error."""
    watches = [Watch(planned), Watch(planned)]
    [watch.update() for watch in watches]
    fail(planned, *(claim(planned) for _ in range(4)))
    assert [watch.update() for watch in watches] == [[], []]
    fail(planned, claim(planned))
    assert watches[0].update() == ["failures"]
    fail(planned, claim(planned))
    assert [watch.update() for watch in watches] == [[], []]
    assert "5 attempts failed in 10 minutes (5 bad_data)" in SENT[0]["text"]
    assert "s3cret" not in str(SENT)


def test_a_stall_is_reported_once_until_the_next_round(planned: Engine) -> None:
    """One of two workers reports 15 minutes without a round while trials are queued."""
    watches = [Watch(planned), Watch(planned)]
    finish(planned, claim(planned))
    steps = [[watch.update(100.0) for watch in watches] for _ in range(12)]
    assert steps == [[[], []]] * 9 + [[["stalled"], []]] + [[[], []]] * 2
    finish(planned, claim(planned))
    steps = [[watch.update(100.0) for watch in watches] for _ in range(10)]
    assert steps == [[[], []]] * 9 + [[["stalled"], []]]


def test_a_long_evaluation_is_not_a_stall(planned: Engine) -> None:
    """A stall lasts three usual rounds with an evaluation, even if other rounds are fast.

    Before the running trial has evaluated, the rounds of another trial count.
    """
    watch = Watch(planned)
    store_rounds(planned, claim(planned), (10.0, 10.0, 10.0, 400.0) * 3)
    store_rounds(planned, claim(planned), (10.0, 10.0, 10.0))
    watch.update()
    steps = [watch.update(100.0) for _ in range(13)]
    assert steps == [[]] * 11 + [["stalled"], []]


def test_the_usual_round_is_a_median_of_each_kind(planned: Engine) -> None:
    """One slow round of many does not count. The trial with the longest usual round counts."""
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
    """Older rounds and the rounds of older trials are not read."""
    early, late = claim(planned), claim(planned)
    store_rounds(planned, early, (600.0,))
    store_rounds(planned, late, (80.0,) * 40 + (5.0,) * 3 * deduplicate.ROUNDS_READ)
    with reading(planned) as connection:
        assert deduplicate.longest_usual_round(connection, "study") == 600.0
    with pytest.MonkeyPatch.context() as patch, reading(planned) as connection:
        patch.setattr(deduplicate, "TRIALS_READ", 1)
        assert deduplicate.longest_usual_round(connection, "study") == 5.0


@pytest.mark.parametrize("by_trial", [False, True])
def test_held_trials_do_not_stall(by_trial: bool, planned: Engine) -> None:
    """The sweep is paused, or each of its trials is."""
    watch = Watch(planned)
    with transaction(planned) as connection:
        if by_trial:
            queue.hold(connection, sweep_rows.sweep_trials(connection, "study"), Hold.PAUSE)
        else:
            queue.hold_sweep(connection, "study", Hold.PAUSE)
    assert [watch.update(100.0) for _ in range(20)] == [[]] * 20


def test_an_outage_of_the_database_is_not_a_stall(planned: Engine) -> None:
    """The worker could not read the database for an hour."""
    watch = Watch(planned)
    watch.update()
    assert watch.update(3600.0) == []


def test_a_notice_is_recorded_in_the_log_of_the_last_attempt(planned: Engine) -> None:
    """No other log has the line."""
    watch = Watch(planned)
    watch.update()
    claims = [claim(planned) for _ in range(12)]
    finish(planned, *claims)
    watch.update()
    with reading(planned) as connection:
        lines = trial_rows.trial_logs(connection, claims[-1].trial, claims[-1].fence)
        count = connection.execute(sa.text("SELECT count(*) FROM logs")).scalar_one()
    assert [(line["level"], line["message"]) for line in lines] == [("notice", SENT[0]["text"])]
    assert count == 1
    with pytest.raises(LeaseLost), transaction(planned) as connection:
        queue.finish(connection, claims[-1])

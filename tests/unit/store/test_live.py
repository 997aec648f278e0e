"""The reads of the live page on both databases, with small numbers calculated by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.measures import OPTIONAL
from fedsweep.plans import read_plan
from fedsweep.states import FailureKind, Hold
from fedsweep.store import browse, live, planning, trial_rows
from fedsweep.store.browse import TrialFilter
from fedsweep.store.clock import read_clock
from fedsweep.store.tables import attempts, trials
from fedsweep.store.transactions import reading, transaction
from tests.unit.serve.pages import claimed, failed, finished


@pytest.fixture
def planned(store: Engine, tiny: Path) -> Engine:
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tiny))
    return store


def test_each_trial_is_counted_once_by_its_state(planned: Engine) -> None:
    """All five states are named."""
    finished(planned)
    claimed(planned, 0)
    with reading(planned) as connection:
        states = live.states(connection)
    assert states == {"queued": 4, "running": 1, "finished": 1, "failed": 0, "cancelled": 0}


def test_a_running_attempt_has_a_lease_and_a_lost_one_has_none(planned: Engine) -> None:
    """The seconds are those until it ends, on the database's clock. A lease of another boot has
    expired.
    """
    claimed(planned, 2)
    with reading(planned) as connection:
        (row,) = live.running(connection)
    assert (row["worker"], row["final_round"], row["seconds_trained"]) == ("host-1-0-abc", 2, 0.25)
    assert 0 < row["lease_left"] <= queue.LEASE_SECONDS
    with transaction(planned) as connection:
        connection.execute(sa.update(trials).values(clock="another boot"))
    with reading(planned) as connection:
        assert live.running(connection)[0]["lease_left"] == -1


def test_a_worker_s_training_is_counted_within_the_hour(planned: Engine) -> None:
    """An attempt that began earlier counts by its fraction. Here 10 s of 20 s lie after second 110,
    and the next attempt adds 3 s.
    """
    finished(planned)
    finished(planned)
    with transaction(planned) as connection:
        for fence_of, began, ended, trained in ((1, 100.0, 120.0, 8.0), (2, 120.0, 130.0, 3.0)):
            update = sa.update(attempts).where(attempts.c.id == fence_of)
            connection.execute(
                update.values(started_at=began, ended_at=ended, seconds_trained=trained)
            )
    with reading(planned) as connection:
        (row,) = live.workers(connection, 110.0)
        assert live.workers(connection, 140.0) == []
    assert row["trained"] == pytest.approx(8.0 * 10 / 20 + 3.0)
    assert (row["first"], row["last"], row["finished"], row["attempts"]) == (100, 130, 2, 2)


def test_the_queue_is_counted_by_reason(planned: Engine) -> None:
    """One trial runs, and one backs off. T* trials wait for their trunks, which these two carry."""
    claimed(planned, 0)
    failed(planned, FailureKind.ERROR, "once")
    with reading(planned) as connection:
        counts = live.queue(connection)
        off = live.backing_off(connection, 9)
        upcoming = live.upcoming(connection, 9)
        waiting = live.waiting(connection, 9)
    assert sum(counts.values()) == 5
    assert counts["backing off"] == 1
    assert [(row["failure"], row["error"], row["failures"]) for row in off] == [
        ("error", "once", 1)
    ]
    assert len(upcoming) == counts["next"]
    assert sum(row["n"] for row in waiting) == counts.get("waiting", 0)
    with transaction(planned) as connection:
        queue.hold_sweep(connection, "tiny", Hold.DRAIN)
    with reading(planned) as connection:
        assert live.queue(connection) == {"drain": 5}
        assert live.upcoming(connection, 9) == []


def test_upcoming_trials_are_in_the_order_of_their_claims(planned: Engine) -> None:
    """The order is by priority, then by age."""
    with reading(planned) as connection:
        last = live.upcoming(connection, 9)[-1]["trial_id"]
        key, _ = trial_rows.find_trial(connection, last)
    with transaction(planned) as connection:
        queue.prioritize(connection, [key], 7)
    with reading(planned) as connection:
        first = live.upcoming(connection, 1)[0]
    assert (first["trial_id"], first["priority"], first["sweep"]) == (last, 7, "tiny")
    with transaction(planned) as connection:
        taken = queue.claim(connection, queue.Claimant("w", "cpu"), read_clock(connection))
    assert taken is not None
    assert taken.trial_id == last


def test_failures_are_counted_by_trial_and_by_attempt(planned: Engine) -> None:
    """If a trunk diverges, its sibling fails too, without an attempt."""
    failed(planned, FailureKind.DIVERGED, "inf", "Traceback")
    with reading(planned) as connection:
        assert live.failure_counts(connection) == {"diverged": (2, 1)}
        (row,) = live.failures(connection, "diverged", 9)
        assert live.failures(connection, "error", 9) == []
    assert (row["error"], row["traceback"], row["state"]) == ("inf", "Traceback", "failed")


def test_the_ledger_is_equal_to_the_view(planned: Engine) -> None:
    """It does not read the rounds."""
    finished(planned)
    claimed(planned, 2)
    with reading(planned) as connection:
        (ledger,) = live.ledgers(connection)
        view = connection.execute(sa.text("SELECT * FROM ledger")).mappings().one()
    assert ledger["rounds_trained"] == 5
    assert ledger == {name: view[name] for name in ledger}


def test_trials_are_read_in_pages(planned: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two trials per page, the pages have all trials, each once."""
    monkeypatch.setattr(browse, "PAGE", 2)
    with reading(planned) as connection:
        pages = [browse.trials_page(connection, TrialFilter(page=n)) for n in (1, 2, 3, 4)]
    assert [(count, len(rows)) for count, rows in pages] == [(6, 2), (6, 2), (6, 2), (6, 0)]
    assert len({row["trial_id"] for _, rows in pages for row in rows}) == 6


def test_a_prefix_is_not_a_pattern(planned: Engine) -> None:
    """The special characters of LIKE have no meaning in it."""
    with reading(planned) as connection:
        for prefix in ("%", "_", "\\", "' OR 1 = 1 --"):
            assert browse.trials_page(connection, TrialFilter(prefix=prefix)) == (0, [])


def test_rounds_are_read_after_the_last_known_one(planned: Engine) -> None:
    """They are in order."""
    claim = claimed(planned, 3)
    with reading(planned) as connection:
        rows = browse.rounds_after(connection, claim.trial, 1)
    assert [row[:2] for row in rows] == [(2, 0.5), (3, 0.75)]


def test_groups_count_and_average_a_sweep_s_trials(planned: Engine) -> None:
    """They are by cell, state and failure: BN's two seeds end at 0.75 here, and GN's wait."""
    finished(planned)
    finished(planned)
    with reading(planned) as connection:
        groups = browse.groups(connection, "tiny", ("test_accuracy", *OPTIONAL))
        cells = browse.cells(connection, "tiny")
        finals = browse.finals(connection, "tiny")
    (done,) = [group for group in groups if group.state == "finished"]
    assert (done.n, done.means["test_accuracy"]) == (2, 0.75)
    assert done.squares["test_accuracy"] == 0.75**2
    assert [cell["normalizer"] for cell in cells] == ["bn", "gn", "fixbn"]
    assert [row["test_accuracy"] for row in finals].count(0.75) == 2


def test_mean_curves_contain_only_the_sweep_s_trials(planned: Engine) -> None:
    """They are by state."""
    finished(planned)
    with reading(planned) as connection:
        cells = [cell["cell_id"] for cell in browse.cells(connection, "tiny")]
        curves = browse.mean_curves(connection, "tiny", cells)
        assert browse.mean_curves(connection, "another", cells) == {}
    (states,) = curves.values()
    assert [(m.round, m.mean, m.n) for m in states["finished"]] == [
        (1, 0.25, 1),
        (2, 0.5, 1),
        (3, 0.75, 1),
    ]

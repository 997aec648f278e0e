"""The actions of the commands, called from Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from fedsweep.actions import plan as plans
from fedsweep.actions import report as reports
from fedsweep.actions import sql, status, work
from fedsweep.actions import sweep as sweeps
from fedsweep.actions import trial as trials
from fedsweep.errors import NotFound, Refused
from fedsweep.execution import device
from fedsweep.plans import SweepSpec
from fedsweep.states import Hold, TrialState

pytestmark = pytest.mark.quick_on("sqlite")


@pytest.fixture
def sweep(store: Engine, tiny: Path) -> SweepSpec:
    """A plan of six trials that is read but not added."""
    url = store.url.render_as_string(hide_password=False)
    return plans.read(tiny, (), lambda _points: None, url=url).sweep


def test_the_forecast_counts_the_trials_that_are_then_added(
    store: Engine, sweep: SweepSpec
) -> None:
    """The forecast of a plan that is in the database is empty."""
    before = plans.forecast(store, sweep)
    added = plans.add(store, sweep)
    after = plans.forecast(store, sweep)
    assert before.new == added.planned.new == after.kept == 6
    assert before == plans.forecast(None, sweep)
    assert (after.new, after.rounds, after.seconds) == (0, 0, None)


def test_a_sweep_is_paused_resumed_and_cancelled(store: Engine, sweep: SweepSpec) -> None:
    """A cancelled sweep is neither paused nor resumed, and an unknown one is not found."""
    plans.add(store, sweep)
    sweeps.hold(store, "tiny", Hold.PAUSE)
    assert [progress.held for progress in status.progress_of(store)] == ["pause"]
    sweeps.hold(store, "tiny", None)
    assert sweeps.prioritize(store, "tiny", 5) == 6
    assert sweeps.cancel(store, "tiny") == sweeps.Cancelled(cancelled=6, kept=0)
    with pytest.raises(Refused, match="is cancelled"):
        sweeps.hold(store, "tiny", None)
    with pytest.raises(NotFound, match="there is no sweep 'other'"):
        sweeps.cancel(store, "other")


def test_one_wrong_trial_leaves_all_trials_as_they_are(store: Engine, sweep: SweepSpec) -> None:
    """Nothing is cancelled if one of the trials cannot be cancelled."""
    plans.add(store, sweep)
    first, second = (row["trial_id"] for row in trials.list_trials(store, "tiny", limit=2))
    assert trials.cancel(store, [first]) == 1
    with pytest.raises(Refused, match="only queued and running ones"):
        trials.cancel(store, [second, first])
    assert trials.show(store, second, log_lines=1).result["state"] == TrialState.QUEUED
    assert trials.retry(store, [first]) == 1
    assert trials.logs(store, first) == {}


def test_results_are_returned_as_values(store: Engine, sweep: SweepSpec) -> None:
    """A report and the rows of a statement need no console."""
    plans.add(store, sweep)
    report = reports.gather(store, None, reports.question(where=["normalizer=bn"]))
    assert [one.summary.sweep for one in report.sweeps] == ["tiny"]
    assert report.left_out == []
    assert "tiny" in reports.TEXTS["markdown"](report)
    statement = "SELECT count(*) AS n FROM members WHERE sweep = :sweep"
    assert sql.answer(store, statement, "tiny", limit=1, seconds=30.0).rows == [(6,)]


def test_actions_print_nothing(
    store: Engine, sweep: SweepSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the commands print."""
    plans.add(store, sweep)
    plans.add(store, sweep)
    plans.forecast(store, sweep)
    status.glance(store)
    sweeps.cancel(store, "tiny")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("slots", "gpus", "number"),
    [("auto", 0, 1), ("auto", 1, 8), ("auto", 3, 24), ("1", 3, 1), ("5", 0, 5)],
)
def test_a_worker_has_slots_for_all_trials_of_its_gpus_or_as_many_as_the_user_names(
    slots: str, gpus: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With auto, a GPU has slots for eight trials, and a CPU for one."""
    monkeypatch.setattr(device, "_count_gpus", lambda: gpus)
    options = work.options(
        "sqlite:///none.db",
        "auto",
        slots=slots,
        threads=1,
        engine="auto",
        sweep=None,
        until_empty=False,
        max_trials=None,
        max_hours=None,
        max_attempts=3,
        data=None,
        lease=15.0,
        grace=20.0,
        artifacts=(),
        artifacts_variable=None,
        notify=(),
    )
    assert (options.slots, len(options.devices)) == (number, max(1, gpus))
    assert options.packed is (slots == "auto" and gpus > 0)

"""Values that the templates show."""

from __future__ import annotations

from typing import Any

import pytest

from fedsweep.forecast import TimeLeft
from fedsweep.serve import presentation
from fedsweep.serve.totals import deviation
from fedsweep.store.progress import SweepProgress


def test_a_segment_is_as_wide_as_its_fraction_of_trials() -> None:
    """States without trials have no segment."""
    segments = presentation.bar({"queued": 5, "running": 1, "finished": 2, "failed": 0})
    assert [(p.state, p.n, p.start, p.width) for p in segments] == [
        ("finished", 2, 0.0, 25.0),
        ("running", 1, 25.0, 12.5),
        ("queued", 5, 37.5, 62.5),
    ]
    assert presentation.bar({}) == []


def progress(**more: Any) -> SweepProgress:
    counts = {"queued": 1, "running": 1, "finished": 2, "failed": 0, "cancelled": 0}
    done = {"rounds_done": 20, "rounds_total": 40, "seconds_left": 150.0}
    return SweepProgress("s", **counts | done | more)


def test_the_time_left_is_an_interval_as_far_as_it_is_known() -> None:
    """If no worker trains, it is the time that one slot would take. A done sweep has none."""
    left = TimeLeft(slots=2, middle=75.0, low=60.0, high=120.0)
    assert presentation.time_left(progress(queued=0, running=0)) == "–"
    assert presentation.time_left(progress(seconds_left=None)) == "?"
    assert presentation.time_left(progress(running=0)) == "2m30s of one slot"
    assert presentation.time_left(progress(time_left=left)) == "1m15s (1m00s to 2m00s)"
    assert presentation.time_left(progress(time_left=left, searching=2)).endswith("2m00s) or more")


def work(worker: str, **changes: Any) -> dict[str, Any]:
    row = {"worker": worker, "host": "h", "device": "cpu", "pid": 1, "provenance": None}
    row |= {"memory": None}
    row |= {"started_at": 9_900.0, "seconds_trained": 50.0, "lease_left": 5.0}
    return row | changes


def known(worker: str, **changes: Any) -> dict[str, Any]:
    row = {"worker": worker, "host": "h", "device": "cpu", "pid": 1, "provenance": None}
    row |= {
        "memory": None,
        "first": 9_700.0,
        "last": 9_900.0,
        "trained": 100.0,
        "finished": 2,
        "attempts": 3,
    }
    return row | {"outcome": "finished"} | changes


def test_idle_workers_come_last() -> None:
    """A worker is silent if its lease has expired, and vanished if its last attempt expired."""
    running = [work("b"), work("c", lease_left=-1.0)]
    recent = [known("a"), known("d", outcome="expired"), known("b")]
    workers = presentation.workers(running, recent, 10_000.0)
    assert [(s.name, s.standing) for s in workers] == [
        ("b", "training"),
        ("c", "silent"),
        ("d", "vanished"),
        ("a", "idle"),
    ]


def test_utilization_is_a_fraction_of_the_last_hour_or_of_the_lifetime() -> None:
    """A new worker counts from its start, an idle one until it was last seen."""
    both, new, gone = (
        presentation.workers([work("w")], [known("w")], 10_000.0),
        presentation.workers([work("w")], [], 10_000.0),
        presentation.workers([], [known("w")], 10_000.0),
    )
    assert [s.utilization for (s,) in (both, new, gone)] == [0.5, 0.5, 0.5]


def test_a_long_attempt_counts_in_proportion() -> None:
    """If half of two hours was training, so was half of the last hour."""
    (worker,) = presentation.workers(
        [work("w", started_at=0.0, seconds_trained=3600.0)], [], 7200.0
    )
    assert worker.utilization == 0.5


def test_the_model_of_a_device_comes_from_the_provenance() -> None:
    """It is the provenance of the running attempt."""
    (worker,) = presentation.workers(
        [work("w", provenance='{"device": "NVIDIA H200"}')], [], 10_000.0
    )
    assert worker.processor == "NVIDIA H200"


def test_a_deviation_is_computed_from_mean_and_mean_square() -> None:
    """The values 1, 2 and 3 have deviation 1. One value has 0."""
    assert deviation(2.0, 14 / 3, 3) == pytest.approx(1.0)
    assert deviation(2.0, 4.0, 1) == 0.0


def test_a_long_text_is_shortened_and_its_length_shown() -> None:
    """NULL becomes an empty text."""
    assert presentation.cell_text("x" * 5, most=3) == "xxx… (5 characters)"
    assert presentation.cell_text(None) == ""


def test_the_memory_is_that_of_the_last_attempt_and_its_device() -> None:
    """It is shown for training and idle workers. Attempts of older versions have none."""
    noted = {"provenance": '{"device": "NVIDIA H200", "memory": 150}', "memory": 50}
    workers = presentation.workers(
        [work("a", **noted), work("b")], [known("a"), known("c", **noted)], 1e4
    )
    assert [(s.name, s.memory, s.room) for s in workers] == [
        ("a", 50, 150),
        ("b", None, None),
        ("c", 50, 150),
    ]

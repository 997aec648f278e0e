"""Rows as what a page shows of them."""

from __future__ import annotations

from typing import Any

import pytest

from fedsweep.forecast import TimeLeft
from fedsweep.serve import presentation
from fedsweep.serve.sweep import deviation
from fedsweep.store.progress import SweepProgress


def test_a_bar_s_pieces_are_as_wide_as_their_shares() -> None:
    """2, 1 and 5 of 8; states without trials have none."""
    pieces = presentation.bar({"queued": 5, "running": 1, "finished": 2, "failed": 0})
    assert [(p.state, p.n, p.start, p.width) for p in pieces] == [
        ("finished", 2, 0.0, 25.0),
        ("running", 1, 25.0, 12.5),
        ("queued", 5, 37.5, 62.5),
    ]
    assert presentation.bar({}) == []


def standing(**more: Any) -> SweepProgress:
    counts = {"queued": 1, "running": 1, "finished": 2, "failed": 0, "cancelled": 0}
    done = {"rounds_done": 20, "rounds_total": 40, "seconds_left": 150.0}
    return SweepProgress("s", **counts | done | more)


def test_the_time_left_is_an_interval_as_far_as_it_is_known() -> None:
    """Nothing is left of a sweep that is done; nobody at work: what one slot would take."""
    left = TimeLeft(slots=2, middle=75.0, low=60.0, high=120.0)
    assert presentation.time_left(standing(queued=0, running=0)) == "–"
    assert presentation.time_left(standing(seconds_left=None)) == "?"
    assert presentation.time_left(standing(running=0)) == "2m30s of one slot"
    assert presentation.time_left(standing(time_left=left)) == "1m15s (1m00s to 2m00s)"
    assert presentation.time_left(standing(time_left=left, searching=2)).endswith("2m00s) or more")


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


def test_who_trains_comes_first_and_who_is_gone_is_told_apart() -> None:
    """By its lease, and by how its last attempt ended."""
    running = [work("b"), work("c", lease_left=-1.0)]
    recent = [known("a"), known("d", outcome="expired"), known("b")]
    seen = presentation.workers(running, recent, 10_000.0)
    assert [(s.name, s.standing) for s in seen] == [
        ("b", "training"),
        ("c", "silent"),
        ("d", "vanished"),
        ("a", "idle"),
    ]


def test_utilization_is_the_share_of_the_hour_or_of_a_life() -> None:
    """150 s of 300 with what runs; 50 of 100 where that is all; 100 of 200 of who has left."""
    both, new, gone = (
        presentation.workers([work("w")], [known("w")], 10_000.0),
        presentation.workers([work("w")], [], 10_000.0),
        presentation.workers([], [known("w")], 10_000.0),
    )
    assert [s.utilization for (s,) in (both, new, gone)] == [0.5, 0.5, 0.5]


def test_an_attempt_of_two_hours_counts_for_one() -> None:
    """Half of each was training."""
    (seen,) = presentation.workers([work("w", started_at=0.0, seconds_trained=3600.0)], [], 7200.0)
    assert seen.utilization == 0.5


def test_the_device_s_model_is_told_where_it_was_noted() -> None:
    """In the attempt's provenance."""
    (seen,) = presentation.workers(
        [work("w", provenance='{"device": "NVIDIA H200"}')], [], 10_000.0
    )
    assert seen.processor == "NVIDIA H200"


def test_a_deviation_comes_from_mean_and_mean_square() -> None:
    """Of 1, 2 and 3: 1; of one value none."""
    assert deviation(2.0, 14 / 3, 3) == pytest.approx(1.0)
    assert deviation(2.0, 4.0, 1) == 0.0


def test_a_long_text_says_how_long_it_is() -> None:
    """And NULL is nothing."""
    assert presentation.cell_text("x" * 5, most=3) == "xxx… (5 characters)"
    assert presentation.cell_text(None) == ""


def test_the_memory_is_that_of_the_last_attempt_and_of_its_device() -> None:
    """Of who trains, and of who did; what an older version did not note is not known."""
    noted = {"provenance": '{"device": "NVIDIA H200", "memory": 150}', "memory": 50}
    seen = presentation.workers(
        [work("a", **noted), work("b")], [known("a"), known("c", **noted)], 1e4
    )
    assert [(s.name, s.memory, s.room) for s in seen] == [
        ("a", 50, 150),
        ("b", None, None),
        ("c", 50, 150),
    ]

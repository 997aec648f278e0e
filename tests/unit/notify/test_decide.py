"""The decision which notices a sweep's status calls for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedsweep.notify.decide import EndedAttempt, Event, SweepStatus, decide

COUNTS = {"queued": 3, "running": 2, "finished": 4, "failed": 1, "cancelled": 0}
CALM = SweepStatus("digits", COUNTS, (), over=False, free=True, idle=0.0)
NOW = 10_000.0


def ends(*failures: str | None, apart: float = 1.0) -> tuple[EndedAttempt, ...]:
    """Return attempts that ended `apart` seconds after each other, the last one now."""
    first = NOW - apart * (len(failures) - 1)
    return tuple(
        EndedAttempt(i, 1, f"{i:016x}", first + apart * i, kind) for i, kind in enumerate(failures)
    )


def events(status: SweepStatus) -> list[Event]:
    return [notice.event for notice in decide(status, NOW)]


def test_a_sweep_that_makes_progress_needs_no_notice() -> None:
    """A few failures need no notice either."""
    assert events(CALM) == []
    assert events(replace(CALM, ended=ends(None, "error", "error", None, "error", "error"))) == []


def test_the_end_of_a_sweep_is_reported_with_its_counts() -> None:
    """The text is one sentence."""
    counts = {"queued": 0, "running": 0, "finished": 9, "failed": 1, "cancelled": 0}
    (notice,) = decide(replace(CALM, counts=counts, over=True, free=False), NOW)
    assert notice.event is Event.FINISHED
    assert notice.text == "Sweep digits is over: 9 of 10 trials finished, 1 failed."
    assert notice.counts == counts


def test_five_failures_in_ten_minutes_are_a_burst() -> None:
    """The notice counts them by kind. If the first is older than ten minutes, there is no burst."""
    failed = ends("diverged", "error", "error", "lost", "error", apart=150.0)
    (notice,) = decide(replace(CALM, ended=failed), NOW)
    assert notice.event is Event.FAILURES
    assert notice.text == (
        "Sweep digits: 5 attempts failed in 10 minutes (3 error, 1 diverged, 1 lost), the latest "
        "of 00000000."
    )
    assert events(replace(CALM, ended=ends(*["error"] * 5, apart=151.0))) == []


def test_ten_failures_of_the_last_twenty_attempts_are_a_burst() -> None:
    """They may be an hour apart. Nine failures, or ten of nineteen, or an old burst are not."""
    half = ends(*[None, "error"] * 10, apart=3600.0)
    (notice,) = decide(replace(CALM, ended=half), NOW)
    assert "10 attempts failed of the last 20 (10 error)" in notice.text
    nine = ends(None, None, *[None, "error"] * 9, apart=3600.0)
    assert events(replace(CALM, ended=nine)) == []
    assert events(replace(CALM, ended=half[1:])) == []
    assert decide(replace(CALM, ended=half), NOW + 601.0) == []


@pytest.mark.parametrize(
    ("idle", "round_seconds", "free", "stalled"),
    [
        (899.0, None, True, False),
        (900.0, None, True, True),
        (900.0, 400.0, True, False),
        (1200.0, 400.0, True, True),
        (9000.0, None, False, False),
    ],
)
def test_a_sweep_stalls_if_nothing_is_stored_and_a_trial_is_free(
    idle: float, round_seconds: float | None, free: bool, stalled: bool
) -> None:
    """It must last for 15 minutes and for three usual rounds."""
    status = replace(CALM, idle=idle, round_seconds=round_seconds, free=free)
    assert events(status) == ([Event.STALLED] if stalled else [])


def test_the_notice_of_a_stall_says_how_long_it_lasts() -> None:
    """It also counts the running and queued trials."""
    (notice,) = decide(replace(CALM, idle=960.0), NOW)
    assert notice.text == (
        "Sweep digits has stalled: no round was stored for 16 minutes, with 2 trials running and "
        "3 queued."
    )

"""The number of workers of a launch on Ray, and the time of their starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedsweep.errors import RequestError
from fedsweep.launch import fleet
from fedsweep.launch.fleet import Need, Record, Seen, Size, Step

SIZE = Size(1, 4)
NOW = 1_000_000.0


def need(left: int, *, open: bool | None = None, stopped: bool = False, busy: str = "") -> Need:
    goes_on = left > 0 if open is None else open
    return Need(left=left, open=goes_on, stopped=stopped, busy=set(busy.split()))


def record(**states: str) -> Record:
    return Record().with_workers({name: Seen(state) for name, state in states.items()})


@pytest.mark.parametrize(
    ("text", "size"), [("3", Size(0, 3)), ("2:16", Size(2, 16)), ("0:1", Size(0, 1))]
)
def test_workers_are_a_number_or_a_range(text: str, size: Size) -> None:
    assert fleet.size_of(text) == size


@pytest.mark.parametrize("text", ["", "0", "4:2", "-1", "2:", "a:b", "1:2:3"])
def test_other_numbers_of_workers_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"--workers"):
        fleet.size_of(text)


def test_there_are_as_many_workers_as_trials_within_the_size() -> None:
    assert [Size(2, 4).wanted(left) for left in (0, 1, 3, 9)] == [0, 2, 3, 4]


def test_a_launch_grows_with_the_trials_that_are_left() -> None:
    assert fleet.step(SIZE, Record(), need(2), NOW) == Step(start=2)
    assert fleet.step(SIZE, record(a="running", b="pending"), need(9), NOW) == Step(start=2)


def test_a_launch_that_is_too_large_stops_only_idle_workers() -> None:
    """Workers that wait for a node go first."""
    state = record(a="running", b="running", c="running", d="pending")
    assert fleet.step(SIZE, state, need(3, busy="a"), NOW) == Step(drop=("d",))
    assert fleet.step(SIZE, state, need(2, busy="a b"), NOW) == Step(stop=("c",), drop=("d",))
    assert fleet.step(SIZE, state, need(1, busy="a b c"), NOW) == Step(drop=("d",))


def test_workers_end_by_themselves_when_no_trial_is_left() -> None:
    """A worker that waits for a node is not needed any more."""
    state = record(a="running", b="pending")
    assert fleet.step(SIZE, state, need(0), NOW) == Step(drop=("b",))
    assert fleet.step(SIZE, record(a="ended"), need(0), NOW) == Step(over=True)


def test_a_launch_waits_for_a_paused_sweep_without_workers() -> None:
    assert fleet.step(SIZE, record(a="running"), need(0, open=True), NOW) == Step(stop=("a",))
    assert fleet.step(SIZE, record(a="ended"), need(0, open=True), NOW) == Step()


def test_a_stopped_launch_drains_and_ends() -> None:
    state = record(a="running", b="stopping", c="pending")
    assert fleet.step(SIZE, state, need(9, stopped=True), NOW) == Step(stop=("a",), drop=("c",))
    assert fleet.step(SIZE, record(a="ended"), need(9, stopped=True), NOW) == Step(over=True)


def test_a_worker_that_trains_is_not_dropped_while_its_node_is_silent() -> None:
    state = record(a="pending")
    assert fleet.step(SIZE, state, need(9, stopped=True, busy="a"), NOW) == Step()


def test_failures_delay_the_next_start() -> None:
    """Each failure doubles the delay, up to a limit. Later ones at the same time do not."""
    failed = Record().after_failure(NOW)
    assert failed.after_failure(NOW + 1) == failed
    assert "after 1 failure" in fleet.step(SIZE, failed, need(1), NOW + 1).note
    assert fleet.step(SIZE, failed, need(1), NOW + fleet.FIRST_DELAY) == Step(start=1)
    now, delays = NOW, []
    for _ in range(10):
        failed = failed.after_failure(now := failed.next_start)
        delays.append(failed.next_start - now)
    assert delays[:3] == [10.0, 20.0, 40.0]
    assert delays[-1] == fleet.LONGEST_DELAY


def test_old_failures_are_forgotten() -> None:
    failed = replace(Record(), failures=9, failed_at=NOW)
    assert failed.after_failure(NOW + fleet.FORGIVEN + 1).failures == 1


@pytest.mark.parametrize(
    ("code", "seconds", "asked", "left", "failed"),
    [
        (1, 900.0, False, 1, True),
        (None, 900.0, False, 1, True),
        (0, 1.0, False, 1, True),
        (0, 1.0, False, 0, False),
        (0, 1.0, True, 1, False),
        (0, 900.0, False, 1, False),
    ],
)
def test_an_error_or_an_early_end_is_a_failure(
    code: int | None, seconds: float, asked: bool, left: int, failed: bool
) -> None:
    assert fleet.has_failed(code, seconds, asked=asked, left=left) is failed


def test_a_record_survives_its_storage() -> None:
    state = replace(record(a="running", b="ended"), failures=2, failed_at=NOW, note="x")
    assert fleet.load(state.dump()) == state


def test_a_record_forgets_the_oldest_ended_workers() -> None:
    """The numbers of new workers go on after the forgotten ones."""
    state = record(live="running")
    for number in range(fleet.KEPT + 5):
        state = state.with_workers({f"w{number}": Seen("ended")})
    assert len(state.workers) == fleet.KEPT + 1
    assert "live" in state.workers
    assert "w4" not in state.workers
    assert state.names("x", 2) == [f"x-{fleet.KEPT + 7}", f"x-{fleet.KEPT + 8}"]

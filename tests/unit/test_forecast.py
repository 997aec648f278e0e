"""Forecasts of replayed sweeps, compared with the time that was really left."""

from __future__ import annotations

import heapq
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedsweep.forecast import Pace, TimeLeft, Work, time_left

RECORDED = Path(__file__).parent / "recorded_seconds.json"
"""Real trials of digits: kind, rounds, seconds of the rounds, seconds of the attempt."""


@dataclass(frozen=True)
class Job:
    """A trial to replay."""

    kind: str
    rounds: int
    seconds: float
    """Seconds per round."""
    around: float = 1.0
    """Ratio of the attempt's seconds to its rounds' seconds."""


@dataclass(frozen=True)
class Run:
    job: Job
    begun: float

    @property
    def over(self) -> float:
        return self.begun + self.job.rounds * self.job.seconds * self.job.around

    def done(self, now: float) -> int:
        """Return the number of stored rounds."""
        if now >= self.over:
            return self.job.rounds
        each = self.job.seconds * self.job.around
        return max(0, min(self.job.rounds, int((now - self.begun) / each)))


def replay(jobs: Sequence[Job], slots: int) -> list[Run]:
    """Return the start of each trial if the slots take the trials in order."""
    free, runs = [0.0] * slots, []
    for job in jobs:
        run = Run(job, heapq.heappop(free))
        heapq.heappush(free, run.over)
        runs.append(run)
    return runs


def forecast(runs: Sequence[Run], now: float) -> TimeLeft | None:
    """Return the forecast of the store at this moment."""
    rounds: dict[str, list[tuple[int, float]]] = defaultdict(list)
    left: dict[str, list[int]] = defaultdict(list)
    for run in runs:
        done = run.done(now)
        if done:
            rounds[run.job.kind].append((done, done * run.job.seconds))
        left[run.job.kind].append(run.job.rounds - done)
    paces = {kind: pace(of) for kind, of in rounds.items()}
    over = [run for run in runs if run.over <= now]
    trained = sum(run.job.rounds * run.job.seconds for run in over)
    around = sum(run.over - run.begun for run in over) / trained if over else 1.0
    running = sum(run.begun <= now < run.over for run in runs)
    work = [Work(kind, sum(of), max(of)) for kind, of in left.items()]
    return time_left(work, paces, running, max(1.0, around))


def pace(of: Sequence[tuple[int, float]]) -> Pace:
    """Return the pace from the rounds and seconds of each trial."""
    squares = sum(seconds * seconds / rounds for rounds, seconds in of)
    return Pace(
        len(of), sum(rounds for rounds, _ in of), sum(seconds for _, seconds in of), squares
    )


def coverage(sweeps: Sequence[Sequence[Run]]) -> tuple[float, float]:
    """Return the fraction of moments at which the interval held the truth, and its median width.

    The moments begin after 5 % of the rounds. The width is relative to the truth.
    """
    held, widths = [], []
    for runs in sweeps:
        end, total = max(run.over for run in runs), sum(run.job.rounds for run in runs)
        for step in range(1, 100, 3):
            now = end * step / 100
            if sum(run.done(now) for run in runs) < 0.05 * total:
                continue
            left = forecast(runs, now)
            if left is None:
                continue
            held.append(left.low <= end - now <= left.high)
            widths.append((left.high - left.low) / (end - now))
    return sum(held) / len(held), sorted(widths)[len(widths) // 2]


def invented(seed: int) -> tuple[list[Job], int]:
    """Return trials of kinds with different costs and a drifting pace, and a number of slots."""
    generator = random.Random(seed)
    kinds = {f"k{i}": generator.lognormvariate(0, 0.5) for i in range(generator.randint(1, 6))}
    spread, drift = generator.uniform(0.02, 0.2), generator.uniform(-0.15, 0.15)
    count, rounds = generator.randint(12, 120), generator.choice([20, 50, 128])
    jobs = [Job(kind, rounds, mean) for kind, mean in kinds.items() for _ in range(count)]
    jobs = generator.sample(jobs, count) if generator.random() < 0.5 else jobs[:count]
    paces = [generator.lognormvariate(0, spread) * (1 + drift * i / count) for i in range(count)]
    jobs = [Job(j.kind, j.rounds, j.seconds * p, 1.1) for j, p in zip(jobs, paces, strict=True)]
    return jobs, generator.choice([1, 2, 4, 8])


def test_the_interval_holds_the_truth_in_90_percent_of_invented_sweeps() -> None:
    """The interval is checked at every 3 % of the time of 60 sweeps, after 5 % of the rounds."""
    sweeps = [replay(*invented(seed)) for seed in range(60)]
    fraction, width = coverage(sweeps)
    assert fraction >= 0.9
    assert width < 0.6


def test_the_interval_holds_the_truth_in_90_percent_of_recorded_sweeps() -> None:
    """The real trials are replayed in their order and in 20 others, on 1 to 8 slots."""
    rows = json.loads(RECORDED.read_text())
    recorded = [Job(kind, n, own / n, max(1.0, took / own)) for kind, n, own, took in rows]
    orders = [recorded, *(random.Random(i).sample(recorded, len(recorded)) for i in range(20))]
    sweeps = [replay(jobs, slots) for jobs in orders for slots in (1, 2, 4, 8)]
    fraction, width = coverage(sweeps)
    assert fraction >= 0.9
    assert width < 1.0


PACE = Pace(trials=4, rounds=40, seconds=20.0, squares=10.0)
"""Half a second per round, always."""


def test_equal_trials_on_one_slot_take_as_long_as_before() -> None:
    """100 rounds of half a second take 50 s in the middle of the interval."""
    left = time_left([Work("a", 100, 10)], {"a": PACE}, 1)
    assert left is not None
    assert left.middle == pytest.approx(50)
    assert left.low < 50 < left.high


@pytest.mark.parametrize(
    ("change", "wider"),
    [
        (lambda: time_left([Work("new", 100, 10)], {"a": PACE}, 1), True),
        (lambda: time_left([Work("a", 100, 10)], {"a": Pace(1, 10, 5.0, 2.5)}, 1), True),
        (lambda: time_left([Work("a", 100, 10)], {"a": Pace(400, 4000, 2000.0, 1000.0)}, 1), False),
    ],
)
def test_the_interval_is_wider_for_a_kind_with_fewer_measurements(
    change: Callable[[], TimeLeft], wider: bool
) -> None:
    """A kind measured never or once has a wider interval than one measured often."""
    usual = time_left([Work("a", 100, 10)], {"a": PACE}, 1)
    assert usual is not None
    other = change()
    assert (other.high - other.low > usual.high - usual.low) == wider


def test_more_slots_end_sooner_but_wait_for_the_last_trial() -> None:
    """Four slots take a quarter of the time, and up to one trial more."""
    left = time_left([Work("a", 400, 100)], {"a": PACE}, 4)
    assert left is not None
    assert 50 < left.middle < 100
    assert left.high > 50 + 37.5


def test_the_forecast_is_unknown_without_measurements_or_slots() -> None:
    """The forecast is None without measured rounds or slots, and zero without work."""
    assert time_left([Work("a", 10, 10)], {}, 1) is None
    assert time_left([Work("a", 10, 10)], {"a": PACE}, 0) is None
    assert time_left([Work("a", 0, 0)], {}, 0) == TimeLeft(0, 0.0, 0.0, 0.0)

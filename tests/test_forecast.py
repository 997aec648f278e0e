"""Time left: what is foretold of replayed sweeps, against what came."""

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
"""Of real trials of digits: kind, rounds, seconds of the rounds, seconds of the attempt."""


@dataclass(frozen=True)
class Job:
    """A trial to replay."""

    kind: str
    rounds: int
    seconds: float
    """Of each of its rounds."""
    around: float = 1.0
    """Seconds of its attempt a second of its rounds."""


@dataclass(frozen=True)
class Run:
    job: Job
    begun: float

    @property
    def over(self) -> float:
        return self.begun + self.job.rounds * self.job.seconds * self.job.around

    def done(self, now: float) -> int:
        """Rounds stored."""
        if now >= self.over:
            return self.job.rounds
        each = self.job.seconds * self.job.around
        return max(0, min(self.job.rounds, int((now - self.begun) / each)))


def replay(jobs: Sequence[Job], slots: int) -> list[Run]:
    """Who ran when, if so many slots take the trials in order."""
    free, runs = [0.0] * slots, []
    for job in jobs:
        run = Run(job, heapq.heappop(free))
        heapq.heappush(free, run.over)
        runs.append(run)
    return runs


def foretell(runs: Sequence[Run], now: float) -> TimeLeft | None:
    """What the store would say at this moment."""
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
    """From rounds and seconds of each trial."""
    squares = sum(seconds * seconds / rounds for rounds, seconds in of)
    return Pace(
        len(of), sum(rounds for rounds, _ in of), sum(seconds for _, seconds in of), squares
    )


def coverage(sweeps: Sequence[Sequence[Run]]) -> tuple[float, float]:
    """How often the truth lay within, at moments from 5 % of the rounds on; the median width of
    the interval, as a share of the truth.
    """
    held, widths = [], []
    for runs in sweeps:
        end, total = max(run.over for run in runs), sum(run.job.rounds for run in runs)
        for step in range(1, 100, 3):
            now = end * step / 100
            if sum(run.done(now) for run in runs) < 0.05 * total:
                continue
            found = foretell(runs, now)
            if found is None:
                continue
            held.append(found.low <= end - now <= found.high)
            widths.append((found.high - found.low) / (end - now))
    return sum(held) / len(held), sorted(widths)[len(widths) // 2]


def invented(seed: int) -> tuple[list[Job], int]:
    """Kinds of different cost, in order or mixed, trials that differ, a pace that drifts."""
    draw = random.Random(seed)
    kinds = {f"k{i}": draw.lognormvariate(0, 0.5) for i in range(draw.randint(1, 6))}
    spread, drift = draw.uniform(0.02, 0.2), draw.uniform(-0.15, 0.15)
    count, rounds = draw.randint(12, 120), draw.choice([20, 50, 128])
    jobs = [Job(kind, rounds, mean) for kind, mean in kinds.items() for _ in range(count)]
    jobs = draw.sample(jobs, count) if draw.random() < 0.5 else jobs[:count]
    paces = [draw.lognormvariate(0, spread) * (1 + drift * i / count) for i in range(count)]
    jobs = [Job(j.kind, j.rounds, j.seconds * p, 1.1) for j, p in zip(jobs, paces, strict=True)]
    return jobs, draw.choice([1, 2, 4, 8])


def test_the_interval_holds_the_truth_nine_times_in_ten_on_invented_sweeps() -> None:
    """60 of them, at every third hundredth of their time once 5 % is done."""
    sweeps = [replay(*invented(seed)) for seed in range(60)]
    share, width = coverage(sweeps)
    assert share >= 0.9
    assert width < 0.6


def test_the_interval_holds_the_truth_nine_times_in_ten_on_recorded_sweeps() -> None:
    """Trials that were really run, in their order and in 20 others, on 1 to 8 slots."""
    rows = json.loads(RECORDED.read_text())
    recorded = [Job(kind, n, own / n, max(1.0, took / own)) for kind, n, own, took in rows]
    orders = [recorded, *(random.Random(i).sample(recorded, len(recorded)) for i in range(20))]
    sweeps = [replay(jobs, slots) for jobs in orders for slots in (1, 2, 4, 8)]
    share, width = coverage(sweeps)
    assert share >= 0.9
    assert width < 1.0


PACE = Pace(trials=4, rounds=40, seconds=20.0, squares=10.0)
"""Half a second a round, always."""


def test_equal_trials_on_one_slot_take_what_they_took() -> None:
    """100 rounds of half a second: 50 s in the middle."""
    found = time_left([Work("a", 100, 10)], {"a": PACE}, 1)
    assert found is not None
    assert found.middle == pytest.approx(50)
    assert found.low < 50 < found.high


@pytest.mark.parametrize(
    ("change", "wider"),
    [
        (lambda: time_left([Work("new", 100, 10)], {"a": PACE}, 1), True),
        (lambda: time_left([Work("a", 100, 10)], {"a": Pace(1, 10, 5.0, 2.5)}, 1), True),
        (lambda: time_left([Work("a", 100, 10)], {"a": Pace(400, 4000, 2000.0, 1000.0)}, 1), False),
    ],
)
def test_the_less_is_known_the_wider_it_is(change: Callable[[], TimeLeft], wider: bool) -> None:
    """A kind that was never measured; a kind measured once; one measured often."""
    usual = time_left([Work("a", 100, 10)], {"a": PACE}, 1)
    assert usual is not None
    other = change()
    assert (other.high - other.low > usual.high - usual.low) == wider


def test_more_slots_are_sooner_but_the_last_trial_is_waited_for() -> None:
    """Four slots: a quarter of the work, and up to one trial more."""
    found = time_left([Work("a", 400, 100)], {"a": PACE}, 4)
    assert found is not None
    assert 50 < found.middle < 100
    assert found.high > 50 + 37.5


def test_nothing_is_foretold_of_nothing() -> None:
    """No round measured, nobody at work: None; nothing left: nothing."""
    assert time_left([Work("a", 10, 10)], {}, 1) is None
    assert time_left([Work("a", 10, 10)], {"a": PACE}, 0) is None
    assert time_left([Work("a", 0, 0)], {}, 0) == TimeLeft(0, 0.0, 0.0, 0.0)

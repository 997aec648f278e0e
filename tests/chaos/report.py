"""The figures of a run."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.eye import Key, Seen
from tests.chaos.stage import Event, Stage
from tests.chaos.verdict import Row
from tests.chaos.workers import Worker


@dataclass(frozen=True)
class Recovery:
    """The time that a trial waited for its next attempt."""

    trial: str
    fence: int
    harm: str
    noticed: float
    """Seconds from the harm until its loss was seen and it was queued again."""
    running: float
    """Seconds from the harm until its next attempt: a slot must be free, and its sweep not held."""


@dataclass
class Report:
    """The events of a run, and its faults."""

    database: str
    seed: int
    minutes: float
    """Minutes of disturbances."""
    trials: int
    rounds: int
    workers: int
    """Number of started workers."""
    disturbances: dict[str, int]
    left_out: list[str]
    """Disturbances that are not possible on this machine, with the reasons."""
    attempts: dict[str, int]
    failures: dict[str, int]
    """Number of failed attempts by message."""
    rounds_trained: int
    rounds_lost: int
    stale_writers: int
    """Trainers that were frozen, and continued after another had taken over their trial."""
    said_lost: int
    retried: int
    """Trials that lost their worker three times in a row, without a round, and were retried."""
    recoveries: list[Recovery]
    files_left: int
    not_begun: list[str]
    """Workers that ended because the store did not answer when they were started."""
    gave_up: list[str]
    """Workers that ended with an error after they had begun."""
    tracebacks: dict[str, int]
    verified: int
    """Trials that `fedsweep verify` trained again with equal results, bit for bit."""
    faults: dict[str, list[str]]
    events: list[str] = field(default_factory=list)

    def print(self, console: Console) -> None:
        table = Table(title=f"chaos on {self.database}", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in self._rows():
            table.add_row(name, value)
        console.print(table)
        for message in self.gave_up:
            console.print(f"gave up: {message}", markup=False, soft_wrap=True)
        for message, count in self.tracebacks.items():
            console.print(f"traceback, {count} times: {message}", markup=False)
        for check, faults in self.faults.items():
            console.print(f"FAULT: {check}: {len(faults)}", style="red", markup=False)
            for fault in faults[:10]:
                console.print(f"  {fault}", markup=False)

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("seed, minutes of disturbance", f"{self.seed}, {self.minutes:.2f}"),
            ("trials, rounds", f"{self.trials}, {self.rounds}"),
            ("workers started", str(self.workers)),
            ("disturbances", _counted(self.disturbances)),
            *[("left out", message) for message in self.left_out],
            ("attempts", _counted(self.attempts)),
            ("failed attempts", _counted(self.failures)),
            ("rounds trained, again", f"{self.rounds_trained}, {self.rounds_lost}"),
            ("stale writers, and said so", f"{self.stale_writers}, {self.said_lost}"),
            ("trials retried as lost", str(self.retried)),
            ("from harm to queued again", _spread([r.noticed for r in self.recoveries])),
            ("from harm to running again", _spread([r.running for r in self.recoveries])),
            ("files left behind", str(self.files_left)),
            ("workers that could not begin", str(len(self.not_begun))),
            ("workers that gave up", str(len(self.gave_up))),
            ("differences to the calm run", self._differences()),
            ("trials verified", str(self.verified)),
            ("faults", str(sum(map(len, self.faults.values()))) if self.faults else "none"),
        ]

    def _differences(self) -> str:
        faults = self.faults.get("numbers equal the calm run", [])
        return str(len(faults)) if faults else "none"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "none"


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    median = statistics.median(ordered)
    return f"p50 {median:.1f} s, p95 {high:.1f} s, max {ordered[-1]:.1f} s (n = {len(ordered)})"


def ends(workers: list[Worker], began: float) -> list[str]:
    """Return the time, the exit code and the last line of each ended worker."""
    return [
        f"worker {w.number}, {(w.ended or began) - began:.1f} s, exit {w.process.returncode}: "
        f"{w.last_line()}"
        for w in workers
    ]


def by_kind(events: list[Event]) -> dict[str, int]:
    return dict(Counter(event.kind for event in events))


def outcomes(attempts: list[Row]) -> dict[str, int]:
    return dict(Counter(str(row["outcome"]) for row in attempts))


def failures(attempts: list[Row]) -> dict[str, int]:
    failed = [row for row in attempts if row["outcome"] == "failed"]
    return dict(Counter(f"{row['failure']}: {row['error']}" for row in failed))


def total(rows: list[dict[str, Any]], column: str) -> int:
    return sum(int(row[column]) for row in rows)


def recoveries(stage: Stage) -> list[Recovery]:
    """Return the times from the harm of an expired attempt to the next attempt of its trial."""
    waits = []
    for (trial, fence), seen in stage.eye.seen.items():
        after, harm = _next(stage, trial, fence), _harm(stage.events, seen)
        if seen.expired_at is None or after is None or harm is None:
            continue
        if (trial, fence) not in stage.retried:
            times = (seen.expired_at - harm.at, after.at - harm.at)
            waits.append(Recovery(trial, fence, harm.kind, *times))
    return waits


def _next(stage: Stage, trial: str, fence: int) -> Seen | None:
    key: Key = (trial, fence + 1)
    return stage.eye.seen.get(key)


def _harm(events: list[Event], seen: Seen) -> Event | None:
    """Return the last event that met an attempt's trainer, otherwise the last outage."""
    if seen.expired_at is None:
        return None
    during = [event for event in events if seen.at <= event.at <= seen.expired_at]
    direct = [event for event in during if seen.pid in event.pids]
    outages = [event for event in during if event.everyone]
    return next(reversed(direct or outages), None)


def stale_writers(stage: Stage) -> int:
    """Count the attempts that continued after a freeze in which another took over."""
    count = 0
    for (trial, fence), seen in stage.eye.seen.items():
        after = _next(stage, trial, fence)
        count += after is not None and any(
            seen.pid in alive and seen.at <= since < after.at <= until
            for since, until, alive in stage.frozen
        )
    return count

"""The workers of a launch on Ray: how many there should be, and when the next ones start.

These are values and functions without Ray. `fedsweep.launch.actors` starts and stops the workers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fedsweep.errors import RequestError
from fedsweep.words import counted, duration

FIRST_DELAY = 5.0
"""Seconds until a worker is started again after a first failure. Each further one doubles them."""
LONGEST_DELAY = 300.0
"""The most seconds between two starts, on a machine that stays broken."""
SHORT_LIFE = 30.0
"""A worker that ends sooner, although trials are left, has failed."""
FORGIVEN = 900.0
"""Seconds without a failure after which earlier failures no longer count."""
KEPT = 100
"""Ended workers that a record keeps. A machine that stays broken makes one every few minutes."""

ACTIVE = ("pending", "running")
LIVE = (*ACTIVE, "stopping")


@dataclass(frozen=True)
class Size:
    """The least and the most workers of a launch."""

    least: int
    most: int

    def wanted(self, left: int) -> int:
        """Return the number of workers for so many trials that are left: none for no trial."""
        return max(self.least, min(left, self.most)) if left else 0


def size_of(text: str) -> Size:
    """Return the size that "N" or "MIN:MAX" names. N workers are fewer if fewer trials are left.

    Raises:
        RequestError: it is neither.

    """
    match = re.fullmatch(r"(?:(\d{1,6}):)?(\d{1,6})", text.strip())
    if match is None or int(match[2]) < 1:
        raise RequestError(f"--workers {text}: write a number, or MIN:MAX as in 2:16")
    size = Size(int(match[1] or 0), int(match[2]))
    if size.least > size.most:
        raise RequestError(f"--workers {text}: {size.least} is more than {size.most}")
    return size


@dataclass(frozen=True)
class Seen:
    """A worker, as its actor last reported it."""

    state: str = "pending"
    """One of "pending", "running", "stopping" and "ended"."""
    node: str = ""
    """The machine's name; "" before the worker starts."""
    reason: str = ""
    """The reason of its end."""
    log: str = ""
    """The log's path on the worker's machine."""
    shared: bool = False
    """True if the log is in the launch's folder."""


@dataclass(frozen=True)
class Record:
    """Everything that a supervisor knows. It is stored in Ray, and outlives its process."""

    workers: Mapping[str, Seen] = field(default_factory=dict)
    """Each worker by its actor's name, the oldest first."""
    started: int = 0
    """The number of workers that were started until now."""
    failures: int = 0
    """Failures in a row."""
    failed_at: float = 0.0
    """The wall time of the last failure."""
    note: str = ""
    """The reason why no worker starts at the moment."""
    over: bool = False
    """True after the launch's end."""

    @property
    def live(self) -> dict[str, Seen]:
        """Return the workers that have not ended."""
        return {name: seen for name, seen in self.workers.items() if seen.state in LIVE}

    def names(self, launch: str, count: int) -> list[str]:
        """Return the names of the next workers."""
        return [f"{launch}-{self.started + n}" for n in range(1, count + 1)]

    def with_workers(self, changed: Mapping[str, Seen]) -> Record:
        """Return the record with changed or new workers. It forgets the oldest ended ones."""
        workers = {**self.workers, **changed}
        ended = [name for name, seen in workers.items() if seen.state not in LIVE]
        for name in ended[:-KEPT]:
            del workers[name]
        started = self.started + len(changed.keys() - self.workers.keys())
        return replace(self, workers=workers, started=started)

    def after_failure(self, now: float) -> Record:
        """Return the record after a worker has failed. Failures at the same time count as one."""
        if self.failures and now < self.next_start:
            return self
        failures = 1 if now - self.failed_at > FORGIVEN else self.failures + 1
        return replace(self, failures=failures, failed_at=now)

    @property
    def next_start(self) -> float:
        """Return the wall time before which no worker starts."""
        if not self.failures:
            return 0.0
        return self.failed_at + min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self.failures - 1, 16))

    def dump(self) -> str:
        """Return the record as JSON."""
        return json.dumps(asdict(self))


def load(text: str) -> Record:
    """Return the record from its JSON. It ignores fields of a newer version."""
    stored = json.loads(text)
    known = {name: stored[name] for name in Record.__dataclass_fields__ if name in stored}
    return Record(**{**known, "workers": {n: _seen(w) for n, w in known["workers"].items()}})


def _seen(stored: Mapping[str, Any]) -> Seen:
    return Seen(**{name: stored[name] for name in Seen.__dataclass_fields__ if name in stored})


@dataclass(frozen=True)
class Need:
    """The work that is left, as the database tells it."""

    left: int
    """Trials that are queued or running."""
    open: bool
    """True if the launch has to go on. Paused trials count too."""
    stopped: bool
    """True if a person stopped the launch."""
    busy: Collection[str]
    """The workers that train a trial."""


@dataclass(frozen=True)
class Step:
    """The next actions of a supervisor."""

    start: int = 0
    """The number of workers to start."""
    stop: tuple[str, ...] = ()
    """Workers that finish their round and end."""
    drop: tuple[str, ...] = ()
    """Workers that have not started yet, and are not needed any more."""
    over: bool = False
    """True if the launch has ended."""
    note: str = ""
    """The reason why fewer workers start than trials need."""


def step(size: Size, record: Record, need: Need, now: float) -> Step:
    """Return the next actions, from the record and the work that is left.

    A launch that grows too large stops only workers that train nothing. Workers end by themselves
    when no trial is left.
    """
    live = record.live
    if need.stopped or not need.open:
        pending = tuple(
            name
            for name, seen in live.items()
            if seen.state == "pending" and name not in need.busy  # its lease has to end first
        )
        running = tuple(name for name, seen in live.items() if seen.state == "running")
        return Step(stop=running if need.stopped else (), drop=pending, over=not live)
    active = [name for name, seen in live.items() if seen.state in ACTIVE]
    wanted = size.wanted(need.left)
    if len(active) > wanted:
        idle = [name for name in reversed(active) if name not in need.busy]
        idle.sort(key=lambda name: live[name].state == "running")  # pending ones first
        surplus = idle[: len(active) - wanted]
        return Step(
            stop=tuple(name for name in surplus if live[name].state == "running"),
            drop=tuple(name for name in surplus if live[name].state == "pending"),
        )
    missing = wanted - len(active)
    if missing and now < record.next_start:
        times = counted(record.failures, "failure")
        return Step(
            note=f"the next worker starts in {duration(record.next_start - now)}, after {times}"
        )
    return Step(start=missing)


def has_failed(code: int | None, seconds: float, *, asked: bool, left: int) -> bool:
    """Return whether a worker's end is a failure: an exit code, or an early end with trials left.

    `code` is None if the actor died with its worker. `asked` is True if the worker was to stop.
    """
    return code != 0 or (not asked and left > 0 and seconds < SHORT_LIFE)

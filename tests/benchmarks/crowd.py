"""Processes that begin together, and the work of each of them.

It imports nothing of fedsweep, because peers use it too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from queue import Empty
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 300.0
"""Longest wait in seconds until all processes are ready."""
AGAIN = 0.01
"""Seconds between two reads of a queue whose last trials run in other processes."""


@dataclass(frozen=True)
class Limit:
    """The limit at which a process stops although more can be claimed."""

    seconds: float = float("inf")
    claims: float = float("inf")


@dataclass(frozen=True)
class Shift:
    """The work of one process. Times are the machine's monotonic seconds."""

    began: float
    ended: float
    waits: list[float]
    """Seconds of each claim."""
    done: list[float]
    """The time at which each claim was finished within the limit."""
    trials: list[int]
    """The claimed trials, with the one before the start."""


@dataclass(frozen=True)
class Work:
    """The work of all processes together."""

    shifts: list[Shift]

    @property
    def rate(self) -> float:
        """Finished claims per second, from the first start to the last end."""
        began, ended = min(s.began for s in self.shifts), max(s.ended for s in self.shifts)
        return sum(len(s.done) for s in self.shifts) / (ended - began)

    def wait(self, share: float) -> float:
        """Return a quantile of the claims' times in milliseconds."""
        waits = sorted(wait for s in self.shifts for wait in s.waits)
        return 1000 * waits[min(int(share * len(waits)), len(waits) - 1)]

    def rates(self, parts: int) -> list[float]:
        """Return finished claims per second in equal parts of the claims, in order."""
        done = sorted(at for s in self.shifts for at in s.done)
        marks = [min(s.began for s in self.shifts)]
        marks += [done[len(done) * part // parts - 1] for part in range(1, parts + 1)]
        each = len(done) / parts
        return [each / (end - begin) for begin, end in pairwise(marks)]

    @property
    def trials(self) -> list[int]:
        """All claimed trials, each as often as it was claimed."""
        return [trial for s in self.shifts for trial in s.trials]


def shift(
    claim: Callable[[], T | None],
    finish: Callable[[T], int],
    limit: Limit,
    barrier: Any,
    left: Callable[[], bool] = lambda: False,
) -> Shift:
    """Claim and finish until the limit, or until nothing is `left`.

    One claim comes before the start. `finish` returns the key of the claimed trial.
    """
    first = claim()
    trials = [] if first is None else [finish(first)]
    waits: list[float] = []
    done: list[float] = []
    barrier.wait(PATIENCE)
    began = now = time.perf_counter()
    while len(done) < limit.claims and now < began + limit.seconds:
        taken = claim()
        claimed = time.perf_counter()
        if taken is not None:
            waits.append(claimed - now)
            trials.append(finish(taken))
            if (ended := time.perf_counter()) <= began + limit.seconds:
                done.append(ended)
        elif left():
            time.sleep(AGAIN)
        else:
            break
        now = time.perf_counter()
    return Shift(began, min(now, began + limit.seconds), waits, done, trials)


def crowd(count: int, target: Callable[..., None], *arguments: Any, timeout: float = 600) -> Work:
    """Let processes call `target(*arguments, barrier, out)`. Each puts its Shift into `out`.

    Raises:
        RuntimeError: one of them died, or did not answer.

    """
    spawn = get_context("spawn")
    barrier, out = spawn.Barrier(count), spawn.Queue()
    processes = [
        spawn.Process(target=target, args=(*arguments, barrier, out), daemon=True)
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    shifts: list[Shift] = []
    until = time.monotonic() + timeout
    try:
        while len(shifts) < count:
            try:
                shifts.append(out.get(timeout=1))
            except Empty:
                if any(process.exitcode for process in processes) or time.monotonic() > until:
                    raise RuntimeError(f"{target.__name__}: a process died or hangs") from None
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()
    return Work(shifts)

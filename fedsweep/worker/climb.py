"""Number of trials that one GPU trains at the same time: climb while another one pays.

The number begins at 1. It rises while memory allows it and the last trial raised the throughput. It
never changes a result, because each trial is computed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fedsweep.words import counted, size

MOST_TRIALS = 8
"""Trials of one GPU, at most."""

MEMORY_FRACTION = 0.85
"""Fraction of the device's memory that trials may take.

With less room, cuDNN may select slower algorithms for lack of a workspace.
"""

LEAST_GAIN = 0.05
"""Fraction by which another trial must raise the throughput, so that one more is tried."""

MEASURED_SECONDS = 2.0
"""Seconds of training of each trial that a throughput is computed from, at least."""


class Workload(NamedTuple):
    """Fields that decide how much of a GPU a trial uses. Trials with equal fields use the same."""

    model: str
    batch_size: int
    cohort: int
    """Clients of a round."""
    dtype: str


@dataclass
class _Running:
    """A trial that is training."""

    workload: Workload
    warm: bool = False
    """True after its first round."""
    images: int = 0
    """Images of the rounds that count for the throughput."""
    seconds: float = 0.0
    """Seconds of these rounds."""


class Climb:
    """Decides how many trials one GPU trains at the same time.

    Its caller reports what happens, in the order in which it happens. Each decision is reported as
    a sentence. Nothing here is safe for threads.
    """

    def __init__(self, memory: int, report: Callable[[str], object]) -> None:
        self._memory = memory
        """Bytes of the device's memory."""
        self._report = report
        self._target = 1
        self._running: dict[int, _Running] = {}
        self._bytes: dict[Workload, int] = {}
        """The most memory that a trial of a workload took in its first round, bytes."""
        self._caps: dict[Workload, int] = {}
        """The most trials that may train together with one of a workload, after a full memory."""
        self._since: float | None = None
        """Start of the rounds that count. None while a trial is missing, too many, or cold."""
        self._mix: frozenset[Workload] | None = None
        """The workloads of the trials when the throughput was measured."""
        self._rates: dict[int, float] = {}
        """Images per second of this mix, by the number of trials."""
        self._settled = False
        """True if the climb has ended for this mix."""

    @property
    def slots(self) -> int:
        """Trials that may train at the same time now. No trial is given back to reach it."""
        return max(1, min(self._target, self._limit()))

    def begin(self, trial: int, workload: Workload) -> None:
        """Note that a trial was claimed."""
        self._running[trial] = _Running(workload)
        self._since = None

    def knows(self, workload: Workload) -> bool:
        """Return whether the memory of a trial of this workload is known."""
        return workload in self._bytes

    def first_round(self, trial: int, rise: int, now: float) -> None:
        """Note the end of a trial's first round.

        `rise` is the number of bytes by which the process's memory on the device rose since the
        claim. The trial's copy of the data set is part of it. `now` is in seconds.
        """
        running = self._running[trial]
        running.warm = True
        if rise > self._bytes.get(running.workload, 0):
            self._bytes[running.workload] = rise
            fit = counted(self._fitting(rise), "trial")
            self._report(f"a trial of {running.workload.model} takes {size(rise)}: {fit} fit")
        self._measure_from(now)

    def add_round(self, trial: int, images: int, began: float, ended: float) -> None:
        """Note a later round of a trial: its local steps times their images, and its seconds.

        A round counts if all trials trained during the whole round and none was in its first one.
        """
        if self._settled or self._since is None or began < self._since:
            return
        running = self._running[trial]
        running.images += images
        running.seconds += ended - began
        trials = self._running.values()
        if all(one.seconds >= MEASURED_SECONDS for one in trials):
            self._decide(sum(one.images / one.seconds for one in trials))

    def out_of_memory(self) -> bool:
        """Return whether a trial that found no memory is given back, at no cost.

        It is given back if others train too. Otherwise it is too large for the device, and fails.
        The caller reports its end after that.
        """
        n = len(self._running)
        if n == 1:
            self._report("out of memory with 1 trial: it fails")
            return False
        for workload in self._workloads():
            self._caps[workload] = min(n - 1, self._caps.get(workload, n - 1))
        self._target, self._settled = min(self._target, n - 1), True
        self._report(f"out of memory with {n} trials: one is given back, {n - 1} may stay")
        return True

    def end(self, trial: int, now: float) -> None:
        """Note that a trial has ended or was given back, at the time `now` in seconds."""
        del self._running[trial]
        self._since = None
        self._measure_from(now)

    def _workloads(self) -> frozenset[Workload]:
        return frozenset(one.workload for one in self._running.values())

    def _fitting(self, rise: int) -> int:
        """Return how many trials of so many bytes fit into the memory."""
        return max(1, int(MEMORY_FRACTION * self._memory / rise))

    def _limit(self) -> int:
        """Return how many trials memory allows, if all are as large as the largest that trains.

        A trial that reuses the memory of an ended one may show no rise. It counts as the largest of
        all.
        """
        if not self._bytes:
            return 1
        largest = max(self._bytes.values())
        workloads = self._workloads()
        fits = [self._fitting(self._bytes.get(workload, largest)) for workload in workloads]
        caps = [self._caps[workload] for workload in workloads if workload in self._caps]
        return min([MOST_TRIALS, *fits, *caps])

    def _measure_from(self, now: float) -> None:
        """Begin to measure, if as many trials as are wanted are past their first rounds."""
        trials = self._running.values()
        if len(trials) != self.slots or not all(one.warm for one in trials):
            return
        self._since = now
        for one in trials:
            one.images, one.seconds = 0, 0.0
        mix = self._workloads()
        if mix == self._mix:
            return
        if self._mix is not None:
            again = counted(len(trials), "trial")
            self._report(f"the mix of trials has changed: begin again from {again}")
        self._mix, self._target, self._settled = mix, len(trials), False
        self._rates.clear()

    def _decide(self, rate: float) -> None:
        """Raise or lower the number of trials, or leave it as it is, given the images/s of all."""
        n = len(self._running)
        self._rates[n], before = rate, self._rates.get(n - 1)
        gain = rate / before - 1 if before else None
        text = f"{counted(n, 'trial')} train{'s' * (n == 1)} {rate:.0f} images/s"
        if gain is not None:
            text += f", {abs(gain):.1%} {'more' if gain >= 0 else 'less'} than {n - 1}"
        if gain is not None and gain < LEAST_GAIN:
            self._target, self._settled = n if gain >= 0 else n - 1, True
            self._report(f"{text}: stay at {self._target}")
        elif n >= self._limit():
            self._target, self._settled = n, True
            self._report(f"{text}: stay at {n}, the limit")
        else:
            self._target, self._since = n + 1, None
            self._report(f"{text}: try {n + 1}")

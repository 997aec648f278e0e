"""Number of trials that one GPU trains at the same time: climb while another one pays.

The number begins at 1. It rises while memory allows it and the last trial raised the throughput.
Each mix of trials has a number of its own, which is kept for later. It never changes a result,
because each trial is computed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass
class _Mix:
    """The climb with the trials of some workloads."""

    target: int
    """The number of trials that is tried, or that is the best one."""
    rates: dict[int, float] = field(default_factory=dict)
    """Images per second, by the number of trials."""
    settled: bool = False
    """True if the climb has ended."""


class Climb:
    """Decides how many trials one GPU trains at the same time.

    Its caller reports what happens, in the order in which it happens. Each decision is reported as
    a sentence. Nothing here is safe for threads.
    """

    def __init__(self, memory: int, report: Callable[[str], object]) -> None:
        self._memory = memory
        """Bytes of the device's memory."""
        self._report = report
        self._running: dict[int, _Running] = {}
        self._bytes: dict[Workload, int] = {}
        """The most memory that a trial of a workload took in its first round, bytes."""
        self._caps: dict[frozenset[Workload], int] = {}
        """The most trials that may train together with one of these workloads, after a full
        memory."""
        self._since: float | None = None
        """Start of the rounds that count. None while a trial is missing, too many, or cold."""
        self._workloads: frozenset[Workload] | None = None
        """The workloads of the trials when the throughput was last measured."""
        self._mix = _Mix(1)
        """The climb with these workloads."""
        self._mixes: dict[frozenset[Workload], _Mix] = {}

    @property
    def slots(self) -> int:
        """Trials that may train at the same time now. No trial is given back to reach it."""
        return max(1, min(self._mix.target, self._limit()))

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
        if self._mix.settled or self._since is None or began < self._since:
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
            self._forget_caps()
            return False
        running = self._running_workloads()
        self._caps[running] = min(n - 1, self._caps.get(running, n - 1))
        self._mix.settled = True
        self._report(f"out of memory with {n} trials: one is given back, {n - 1} may stay")
        return True

    def end(self, trial: int, now: float) -> None:
        """Note that a trial has ended or was given back, at the time `now` in seconds."""
        del self._running[trial]
        self._since = None
        self._measure_from(now)

    def _running_workloads(self) -> frozenset[Workload]:
        return frozenset(one.workload for one in self._running.values())

    def _forget_caps(self) -> None:
        """Lift the limits that a trial has caused which is too large even without others."""
        too_large = self._running_workloads()
        caps = {mix: cap for mix, cap in self._caps.items() if not mix & too_large}
        if len(caps) < len(self._caps):
            for mix in self._mixes.values():
                mix.settled = False
        self._caps = caps

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
        workloads = self._running_workloads()
        fits = [self._fitting(self._bytes.get(workload, largest)) for workload in workloads]
        caps = [cap for mix, cap in self._caps.items() if mix & workloads]
        return min([MOST_TRIALS, *fits, *caps])

    def _measure_from(self, now: float) -> None:
        """Begin to measure, if as many trials as are wanted are past their first rounds."""
        trials = self._running.values()
        if len(trials) != self.slots or not all(one.warm for one in trials):
            return
        self._since = now
        for one in trials:
            one.images, one.seconds = 0, 0.0
        workloads = self._running_workloads()
        if workloads != self._workloads:
            self._change_mix(workloads)

    def _change_mix(self, workloads: frozenset[Workload]) -> None:
        """Go on with the climb of these workloads, or begin it with the trials that train now."""
        n, known = len(self._running), self._mixes.get(workloads)
        if known is not None:
            self._mix = known
            again = counted(self.slots, "trial")
            self._report(f"the mix of trials is an earlier one: go on with {again}")
            if self.slots != n:
                self._since = None
        else:
            if self._workloads is not None:
                again = counted(n, "trial")
                self._report(f"the mix of trials has changed: begin again from {again}")
            self._mix = self._mixes[workloads] = _Mix(n)
        self._workloads = workloads

    def _decide(self, rate: float) -> None:
        """Try another number of trials, or settle for the best one, given the images/s of all."""
        n, rates = len(self._running), self._mix.rates
        rates[n] = rate
        text = f"{counted(n, 'trial')} train{'s' * (n == 1)} {rate:.0f} images/s"
        other = next((other for other in (n - 1, n + 1) if other in rates), None)
        if other is not None and rates[other] > 0:
            gain = rate / rates[other] - 1
            text += f", {abs(gain):.1%} {'more' if gain >= 0 else 'less'} than {other}"
        low, high = self._tried(n)
        untried = self._untried(low, high)
        if untried is not None:
            self._mix.target, self._since = untried, None
            self._report(f"{text}: try {untried}")
            return
        best = max(range(low, high + 1), key=lambda number: (rates[number], number))
        self._mix.target, self._mix.settled = best, True
        self._report(f"{text}: stay at {best}{', the limit' * (best == self._limit())}")

    def _tried(self, n: int) -> tuple[int, int]:
        """Return the least and the greatest of the numbers around `n` that were all measured."""
        rates, low, high = self._mix.rates, n, n
        while low - 1 in rates:
            low -= 1
        while high + 1 in rates and high < self._limit():
            high += 1
        return low, high

    def _untried(self, low: int, high: int) -> int | None:
        """Return the number of trials to try next. Return None if the best one is known.

        All numbers from `low` to `high` were measured. A mix that begins with several trials may
        need fewer.
        """
        rates = self._mix.rates
        rises = low == high or rates[high] >= (1 + LEAST_GAIN) * rates[high - 1]
        if high < self._limit() and rises:
            return high + 1
        falls = low == high or rates[low + 1] < rates[low]
        return low - 1 if low > 1 and falls else None

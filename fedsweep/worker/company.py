"""The trials of one process that train on one GPU at the same time, each in a thread of a slot.

A slot asks when it may look for a trial, and reports what becomes of it. The process has one slot
for each trial that could ever train at the same time. `climb` decides how many of them may.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsweep.plans import TrainConfig
from fedsweep.store.claim import Claim
from fedsweep.store.stops import Lack
from fedsweep.worker.climb import Climb, Workload
from fedsweep.worker.kinds import kind_of

if TYPE_CHECKING:
    from fedsweep.execution.device import DeviceMemory
    from fedsweep.execution.others import Others

WAIT_SECONDS = 0.2
"""Seconds between two checks of a waiting slot whether it is to stop."""

UNREADABLE = Workload("", 0, 0, "")
"""The workload of a trial whose configuration cannot be read. It ends before its first round."""

TakeTrial = Callable[[frozenset[Lack]], Claim | None]
"""Claims a trial of none of these kinds."""

Stopping = Callable[[], bool]


@dataclass
class _Trial:
    """A trial that a slot has claimed."""

    workload: Workload
    before: int
    """Bytes of the process's memory on the device at the claim."""
    uses_generator: bool
    cold: bool = True
    """True until the end of its first round."""
    apart: bool = True
    """False if another trial's first round overlaps its own, so that its memory is not known."""


class Company:
    """The slots of one process, and their trials. All slots call it from their threads."""

    def __init__(
        self,
        memory: DeviceMemory,
        uses_generator: Callable[[TrainConfig], bool],
        report: Callable[[str], object],
        *,
        alone: int = 0,
    ) -> None:
        self._memory = memory
        self._uses_generator = uses_generator
        self._changed = threading.Condition()
        self._climb = Climb(memory.total(), report)
        self._alone = alone
        """Attempts that still train alone, because earlier ones died together."""
        self._inside = 0
        """Slots that look for a trial or have one."""
        self._claiming = False
        """True while a slot claims."""
        self._closed = False
        """True if no more slots begin, because nothing is left for them."""
        self._trials: dict[int, _Trial] = {}
        """The trials by the numbers of their slots."""
        self._with_generator: set[Lack] = set()
        """The kinds of trials that were seen to use the process's random generator."""
        self._faulty = False
        """True after a fault of the device that several trials may have caused."""

    def begin(self, stopping: Stopping) -> bool:
        """Wait until a slot that has not begun is needed. Return False if it never will be.

        It may then look for a trial: it has entered.
        """
        return self.enter(lambda: self._closed or stopping())

    def close(self) -> None:
        """Begin no more slots, because a slot has found that nothing is left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def enter(self, stopping: Stopping) -> bool:
        """Wait until one more slot may look for a trial. Return False if the slot is to stop."""
        with self._changed:
            while not stopping():
                if self._inside < self._most():
                    self._inside += 1
                    return True
                self._changed.wait(WAIT_SECONDS)
            return False

    def leave(self) -> None:
        """Let another slot look for a trial."""
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def claim(self, slot: int, take: TakeTrial, stopping: Stopping) -> Claim | None:
        """Claim a trial by `take`. One slot claims at a time.

        It waits while a trial of unknown size is in its first round, because the memory of two new
        trials could not be told apart.
        """
        with self._changed:
            while self._claiming or self._is_measuring():
                if stopping():
                    return None
                self._changed.wait(WAIT_SECONDS)
            self._claiming = True
            in_use = any(trial.uses_generator for trial in self._trials.values())
            passed_over = frozenset(self._with_generator if in_use else ())
        claimed = None
        try:
            claimed = take(passed_over)
        finally:
            with self._changed:
                self._claiming = False
                if claimed is not None:
                    self._begin(slot, claimed)
                self._changed.notify_all()
        return claimed

    def excludes(self, slot: int) -> bool:
        """Return whether the slot's trial needs the generator that another slot's trial uses."""
        with self._changed:
            users = [one for one, trial in self._trials.items() if trial.uses_generator]
            return slot in users and len(users) > 1

    def end(self, slot: int) -> None:
        """Note that the slot's trial has ended, and free the memory that it has left behind."""
        with self._changed:
            if self._trials.pop(slot, None) is None:
                return
            self._climb.end(slot, time.monotonic())
            self._alone = max(0, self._alone - 1)
            self._changed.notify_all()
        with suppress(RuntimeError):  # a broken device, which the next step of a trial reports
            self._memory.free()

    def has_others(self, slot: int) -> bool:
        """Return whether other slots have trials."""
        with self._changed:
            return bool(self._trials.keys() - {slot})

    def took_memory_of(self, slot: int) -> bool:
        """Note that the slot's trial found no memory. Return whether it is given back."""
        with self._changed:
            return slot in self._trials and self._climb.out_of_memory()

    def may_have_broken_device(self, slot: int) -> bool:
        """Note a fault of the device. Return whether another trial than the slot's may be to
        blame for the first fault.
        """
        with self._changed:
            self._faulty = self._faulty or bool(self._trials.keys() - {slot})
            return self._faulty

    def note_round(self, slot: int, images: int, seconds: float) -> None:
        """Note a round of the slot's trial."""
        now = time.monotonic()
        with self._changed:
            trial = self._trials[slot]
            if trial.cold:
                trial.cold = False
                rise = self._memory.reserved() - trial.before if trial.apart else 0
                self._climb.first_round(slot, rise, now)
            else:
                self._climb.add_round(slot, images, now - seconds, now)
            self._changed.notify_all()

    def others_of(self, slot: int) -> OthersOf:
        """Return the other trials, as the slot's attempt sees them."""
        return OthersOf(self, slot)

    def _most(self) -> int:
        """Return how many slots may look for a trial or have one."""
        return 1 if self._alone else self._climb.slots

    def _is_measuring(self) -> bool:
        """Return whether a trial of unknown size is in its first round."""
        trials = self._trials.values()
        return any(trial.cold and not self._climb.knows(trial.workload) for trial in trials)

    def _begin(self, slot: int, claim: Claim) -> None:
        workload, uses_generator = UNREADABLE, False
        with suppress(ValueError, TypeError):  # its attempt fails by the same error
            config = TrainConfig(**claim.config)
            workload, uses_generator = workload_of(config), self._uses_generator(config)
        if uses_generator:
            self._with_generator.add(kind_of(claim))
        cold = [trial for trial in self._trials.values() if trial.cold]
        for trial in cold:
            trial.apart = False
        before = self._memory.reserved()
        self._trials[slot] = _Trial(workload, before, uses_generator, apart=not cold)
        self._climb.begin(slot, workload)


@dataclass(frozen=True)
class OthersOf:
    """The trials of a company, except that of one slot: see `execution.others`."""

    company: Company
    slot: int

    def exist(self) -> bool:
        """Return whether other trials train now."""
        return self.company.has_others(self.slot)

    def took_memory(self) -> bool:
        """Return whether a trial that found no memory is given back."""
        return self.company.took_memory_of(self.slot)

    def may_have_broken_device(self) -> bool:
        """Return whether another trial may have caused the first fault of the device."""
        return self.company.may_have_broken_device(self.slot)

    def note_round(self, images: int, seconds: float) -> None:
        """Note a round of the slot's trial."""
        self.company.note_round(self.slot, images, seconds)


class Solo:
    """The only slot of a process."""

    def enter(self, stopping: Stopping) -> bool:
        """Look for a trial at any time, unless the slot is to stop."""
        return not stopping()

    def close(self) -> None:
        """Let no other slot begin: there is none."""

    def leave(self) -> None:
        """Let nobody else look."""

    def claim(self, _slot: int, take: TakeTrial, _stopping: Stopping) -> Claim | None:
        """Claim a trial by `take`."""
        return take(frozenset())

    def excludes(self, _slot: int) -> bool:
        """Return False."""
        return False

    def end(self, _slot: int) -> None:
        """Keep the memory for the next trial."""

    def others_of(self, _slot: int) -> Others:
        """Return that there are none."""
        from fedsweep.execution.others import NOBODY

        return NOBODY


def workload_of(config: TrainConfig) -> Workload:
    """Return the fields of a configuration that decide how much of a GPU a trial uses."""
    cohort = config.cohort_size(config.clients or 1)
    return Workload(config.model, config.batch_size, cohort, config.dtype)

"""Status of the work: its counts, and one moment of it for the screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedsweep.states import Outcome
from fedsweep.store.progress import SweepProgress
from fedsweep.worker.messages import Ended
from fedsweep.worker.slot_state import Slot


@dataclass
class Tally:
    """Counts of a run of `fedsweep work`, by the outcome of its attempts."""

    finished: int = 0
    """Trials that finished."""
    failed: int = 0
    """Attempts that failed."""
    released: int = 0
    """Trials that were given back."""
    lost: int = 0
    """Trials whose lease was lost to another worker."""
    failed_in_scope: int = 0
    """Failed trials of the scope, of all workers."""
    stopped: bool = False
    """True if the run was asked to stop."""
    broken: str | None = None
    """The reason why the run ended early."""

    def count(self, outcome: Outcome | None) -> None:
        """Add an attempt's outcome. None: the claim was lost."""
        if outcome is Outcome.FINISHED:
            self.finished += 1
        elif outcome is Outcome.FAILED:
            self.failed += 1
        elif outcome is Outcome.RELEASED:
            self.released += 1
        else:
            self.lost += 1


@dataclass(frozen=True)
class WorkStatus:
    """One moment of the work, to be shown."""

    slots: list[Slot]
    progress: list[SweepProgress]
    """The sweeps in scope that have had work since the run began."""
    tally: Tally
    ended: Ended | None = None
    """The attempt whose end is shown, if it is one."""
    varying: tuple[str, ...] = ()
    """The fields that vary within a sweep, apart from those that always describe a trial."""


Show = Callable[[WorkStatus], None]

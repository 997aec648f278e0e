"""Deaths of processes: how a process ended, and which of its trials is to blame."""

from __future__ import annotations

from dataclasses import dataclass

from fedsweep import stderr_tail
from fedsweep.store.stops import Lack
from fedsweep.worker.kinds import kind_of
from fedsweep.worker.slot_state import SlotProcess


@dataclass(frozen=True)
class Death:
    """The end of a process of slots."""

    code: int | None
    """Its exit code, negative for a signal."""
    words: list[str]
    """Its last words; none if it has reported the reason itself."""
    trials: int
    """The number of trials that it held."""
    kind: Lack | None
    """The kind of the trial that it died with; None without a trial, or with several."""
    broken: str | None
    """The reason that it has reported."""

    @property
    def planned(self) -> bool:
        """True if the process has given its trials back."""
        return self.code == 0

    @property
    def killed(self) -> bool:
        """True if a signal ended it."""
        return self.code is not None and self.code < 0

    @property
    def together(self) -> bool:
        """True if it died with several trials, of which each may be to blame."""
        return self.trials > 1 and self.broken is None

    @property
    def died(self) -> str:
        """The signal or exit code, and the last line that it wrote."""
        line = stderr_tail.gist(self.words)
        return f"{stderr_tail.death(self.code)}{f': {line}' if line else ''}"

    @property
    def why(self) -> str:
        """The reason that is stored for its trials."""
        who = f"its process died with {self.trials} trials" if self.together else "its trainer died"
        line = stderr_tail.gist(self.words)
        gist = f": {line}" if line else ""
        return self.broken or f"{who} ({stderr_tail.death(self.code)}){gist}"


def death_of(process: SlotProcess) -> Death:
    """Return how a process ended. All its messages are handled already."""
    assert process.handle is not None
    claims = [slot.claim for slot in process.slots if slot.claim is not None]
    return Death(
        process.handle.exitcode,
        [] if process.broken else stderr_tail.last_words(process.box),
        len(claims),
        kind_of(claims[0]) if len(claims) == 1 else None,
        process.broken,
    )

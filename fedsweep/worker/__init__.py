"""`fedsweep work`: a watch and its slots."""

from fedsweep.worker.messages import Broken, Ended, Lacking, Options
from fedsweep.worker.slot import kind_of, worn_out
from fedsweep.worker.watch import (
    LONGEST_LOOK,
    SILENT_SECONDS,
    STALL_ROUNDS,
    STALL_SECONDS,
    Slot,
    Snapshot,
    Tally,
    note_stop,
    work,
)

__all__ = [
    "LONGEST_LOOK",
    "SILENT_SECONDS",
    "STALL_ROUNDS",
    "STALL_SECONDS",
    "Broken",
    "Ended",
    "Lacking",
    "Options",
    "Slot",
    "Snapshot",
    "Tally",
    "kind_of",
    "note_stop",
    "work",
    "worn_out",
]

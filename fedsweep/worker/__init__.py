"""`fedsweep work`: a watch and its slots."""

from fedsweep.worker.messages import Broken, Ended, Lacking, WorkOptions
from fedsweep.worker.slot import kind_of, worn_out
from fedsweep.worker.slot_state import Slot
from fedsweep.worker.status import Tally, WorkStatus
from fedsweep.worker.watch import note_stop, work

__all__ = [
    "Broken",
    "Ended",
    "Lacking",
    "Slot",
    "Tally",
    "WorkOptions",
    "WorkStatus",
    "kind_of",
    "note_stop",
    "work",
    "worn_out",
]

"""`fedsweep work`: a watch and its slots."""

from fedsweep.worker.climb import MOST_TRIALS
from fedsweep.worker.kinds import kind_of, worn_out
from fedsweep.worker.messages import Broken, Ended, Lacking, WorkOptions
from fedsweep.worker.slot_state import Slot, SlotProcess
from fedsweep.worker.status import Tally, WorkStatus
from fedsweep.worker.watch import note_stop, work

__all__ = [
    "MOST_TRIALS",
    "Broken",
    "Ended",
    "Lacking",
    "Slot",
    "SlotProcess",
    "Tally",
    "WorkOptions",
    "WorkStatus",
    "kind_of",
    "note_stop",
    "work",
    "worn_out",
]

"""`fedsweep work`: a watch and its slots."""

from fedsweep.worker.messages import Broken, Ended, Lacking, Options
from fedsweep.worker.slot import kind_of, worn_out
from fedsweep.worker.slot_state import Slot
from fedsweep.worker.status import Snapshot, Tally
from fedsweep.worker.watch import note_stop, work

__all__ = [
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

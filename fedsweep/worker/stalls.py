"""Stalled trainers: the check of one slot's steps and processor time."""

from __future__ import annotations

import psutil

from fedsweep.worker.slot_state import Slot, SlotProcess

TRAINER_STALL_SECONDS = 300.0
"""Seconds without a step and without processor time after which a trainer has stalled.

A long round extends this time: see `TRAINER_STALL_ROUNDS`.
"""


TRAINER_STALL_ROUNDS = 10
"""A trainer has not stalled before this many times its median round.

Rounds with and without an evaluation have medians of their own. The longer one counts.
"""


SILENT_SECONDS = 3600.0
"""Seconds without a step after which a trainer has stalled, however much processor time it uses.

A process that waits for a hanging GPU uses a whole core.
"""


STEP_CPU_SECONDS = 0.05
"""Processor time between two checks that shows a trainer at work in a long step."""


STALL_CHECK_SECONDS = 1.0
"""Seconds between two checks of the trainers' progress."""


TOGETHER = 0.5
"""The part of a stalled trial's silence after which another trial of its process is suspected too.
"""


LONGEST_CHECK = 10.0
"""Seconds without progress that one check can add.

A watch that did not run for longer cannot tell what the trainers did in the meantime. Its machine
may have been suspended, or the store may not have answered.
"""


def has_stalled(slot: Slot, passed: float) -> bool:
    """Return whether a slot's trainer has made no progress for too long.

    `passed` is the number of seconds since the last check.
    """
    if slot.shared.steps != slot.steps:
        slot.steps = slot.shared.steps
        slot.progressed()
        return False
    slot.silent += passed
    slot.idle += passed
    # A single step, an import or a check of all files may take minutes.
    busy = cpu_seconds(slot)
    if busy >= slot.busy + STEP_CPU_SECONDS:
        slot.busy, slot.idle = busy, 0.0
    rounds = TRAINER_STALL_ROUNDS * slot.usual_round()
    return slot.idle > max(TRAINER_STALL_SECONDS, rounds) or slot.silent > max(
        SILENT_SECONDS, rounds
    )


def stalled_together(stalled: Slot) -> list[Slot]:
    """Return the slots of a process that may have stalled it: all that are silent for long.

    If one trial hangs in compiled code, or hangs the GPU, the others of its process wait for it.
    """
    return [
        slot
        for slot in stalled.process.claiming()
        if slot is stalled or slot.silent > TOGETHER * stalled.silent
    ]


def is_stopped(process: SlotProcess) -> bool:
    """Return whether a process is stopped by SIGSTOP or a debugger, or is a zombie."""
    assert process.handle is not None
    try:
        return psutil.Process(process.handle.pid).status() in (
            psutil.STATUS_STOPPED,
            psutil.STATUS_ZOMBIE,
        )
    except PSUTIL_ERRORS:
        return not process.is_alive()


def cpu_seconds(slot: Slot) -> float:
    """Return the processor seconds that a slot's trainer has used; 0 if they cannot be read.

    They are those of its thread, or of the whole process if the slot has one of its own.
    """
    assert slot.process.handle is not None
    try:
        process = psutil.Process(slot.process.handle.pid)
        if slot.shared.thread:
            times = [t for t in process.threads() if t.id == slot.shared.thread]
            return sum((t.user_time + t.system_time for t in times), 0.0)
        used = process.cpu_times()
        return float(used.user + used.system)
    except PSUTIL_ERRORS:
        return 0.0


PSUTIL_ERRORS = (psutil.Error, OSError, ValueError)
"""Errors of psutil for a process that has ended, or if /proc is missing or hides it."""

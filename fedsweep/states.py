"""What a trial can be, why it can fail, how an attempt can end, and what may follow what.

claim                 finish
queued ─────────► running ───────────────► finished
▲ ▲               │ │
│ └─ release, ────┘ ├─ fail, for good ─► failed
│    rescue, fail   │                       │
│    with a retry   └─ cancel ─► cancelled  │
└────────────── retry, plan again ◄┴────────┘
"""

from __future__ import annotations

from enum import StrEnum


class TrialState(StrEnum):
    """Where a trial stands. Only `fedsweep.queue` changes it."""

    QUEUED = "queued"
    """Waiting for a worker. Set by planning, by a worker that gives the trial back or loses it,
    and by a failure that is worth another attempt (then with the time before which nobody may
    claim it). Left by a claim, or by a cancellation."""

    RUNNING = "running"
    """Held by one attempt, under a lease that the worker renews. Set by a claim alone. Left by the
    attempt's outcome; when the lease ends without one, any worker's rescue queues it again."""

    FINISHED = "finished"
    """All rounds are stored. Set by the attempt that stored the last. Never left: what a trial
    measured is a fact."""

    FAILED = "failed"
    """No further attempt is worth making; `failure` says why. A diverged trial is a result too.
    Left by `trial retry`."""

    CANCELLED = "cancelled"
    """A person does not want it. Set from queued or running; a running attempt notices at its next
    write. Left by `trial retry` or by planning it again."""


class FailureKind(StrEnum):
    """Why an attempt failed, and whether trying again can help."""

    DIVERGED = "diverged"
    """A loss or a weight was not finite. A result: never tried again."""
    OUT_OF_MEMORY = "out_of_memory"
    """The device had too little memory; it may have been shared. Tried again."""
    BAD_DATA = "bad_data"
    """The data are missing, damaged or others than planned. Not tried again: a person must look."""
    STALLED = "stalled"
    """The trainer made no step for long. Tried again."""
    LOST = "lost"
    """The worker vanished three times in a row without a new round."""
    ERROR = "error"
    """Anything else; the traceback is kept. Tried again, in case it was the machine."""


class Outcome(StrEnum):
    """How an attempt ended; an attempt without one still runs."""

    FINISHED = "finished"
    FAILED = "failed"
    RELEASED = "released"
    """Given back by a worker that was asked to stop. Free."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Its lease ended first."""


class Hold(StrEnum):
    """Why nothing of a sweep, or not this trial, is claimed. Left by `resume`."""

    PAUSE = "pause"
    """A person wants the machines for something else: running trials are saved and given back."""
    DRAIN = "drain"
    """Nothing new is begun; what runs goes on to its end."""
    BUDGET = "budget"
    """The sweep's rounds or hours are used up; running trials are saved and given back."""
    CANCEL = "cancel"
    """The sweep is not wanted any more; of sweeps alone. Left by planning it again."""


TRANSITIONS: dict[TrialState, frozenset[TrialState]] = {
    TrialState.QUEUED: frozenset({TrialState.RUNNING, TrialState.CANCELLED}),
    TrialState.RUNNING: frozenset(
        {TrialState.QUEUED, TrialState.FINISHED, TrialState.FAILED, TrialState.CANCELLED}
    ),
    TrialState.FINISHED: frozenset(),
    TrialState.FAILED: frozenset({TrialState.QUEUED}),
    TrialState.CANCELLED: frozenset({TrialState.QUEUED}),
}

_AGAIN = "tried again after 5, 10, 20 … 300 s (each ±50 %), up to `work --max-attempts` failures"
RULES: dict[FailureKind, str] = {
    FailureKind.DIVERGED: "a result: never tried again",
    FailureKind.OUT_OF_MEMORY: _AGAIN,
    FailureKind.BAD_DATA: "set aside until somebody looks: fedsweep trial retry",
    FailureKind.STALLED: _AGAIN,
    FailureKind.LOST: "its workers die of it: set aside until somebody looks: fedsweep trial retry",
    FailureKind.ERROR: _AGAIN,
}
"""What becomes of a trial after each kind of failure, in words; `queue.retry_delay` does it."""

RETRIED = frozenset({FailureKind.OUT_OF_MEMORY, FailureKind.STALLED, FailureKind.ERROR})
"""The kinds of failure that another attempt may mend."""

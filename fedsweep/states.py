"""The states of a trial and their transitions, kinds of failure, and outcomes of attempts.

             claim                 finish
    queued ─────────► running ───────────────► finished
     ▲  ▲               │ │
     │  └─ release, ────┘ ├─ fail, for good ───► failed
     │     rescue, or     │                        │
     │     fail with      └─ cancel ─► cancelled   │
     │     a retry                         │       │
     └───────── retry, or plan again ◄─────┴───────┘

A queued trial can be cancelled, too.
"""

from __future__ import annotations

from enum import StrEnum


class TrialState(StrEnum):
    """The state of a trial. Only `fedsweep.queue` changes it."""

    QUEUED = "queued"
    """The trial waits for a worker. Planning sets it, and so does a worker that gives the trial
    back or loses it. A failure that is worth another attempt sets it too, with the time before
    which no worker may claim the trial. A claim or a cancellation ends it."""

    RUNNING = "running"
    """One attempt holds the trial under a lease, which its worker renews. Only a claim sets it. The
    attempt's outcome ends it. If the lease expires first, the rescue of any worker queues the trial
    again."""

    FINISHED = "finished"
    """All rounds are stored. The attempt that stored the last round sets it. It never ends, because
    the measurements of a trial are facts."""

    FAILED = "failed"
    """No further attempt is worth making; `failure` is the reason. A diverged trial is a result
    too. `trial retry` ends it."""

    CANCELLED = "cancelled"
    """A user has cancelled the trial while it was queued or running. A running attempt notices at
    its next write. `trial retry` ends it, and so does planning the trial again."""


class FailureKind(StrEnum):
    """The kinds of failure of an attempt. `RETRIED` are those that another attempt may mend."""

    DIVERGED = "diverged"
    """A loss or a weight was not finite. This is a result, and is never retried."""
    OUT_OF_MEMORY = "out_of_memory"
    """The device had too little memory, perhaps because it was shared. The trial is retried."""
    BAD_DATA = "bad_data"
    """The data are missing, damaged or not as planned. Not retried: a user must look."""
    STALLED = "stalled"
    """The trainer made no step for a long time. The trial is retried."""
    LOST = "lost"
    """The worker vanished three times in a row without a new round."""
    ERROR = "error"
    """Any other error; its traceback is kept. Retried, in case the machine caused it."""


class Outcome(StrEnum):
    """The outcome of an attempt. An attempt without an outcome still runs."""

    FINISHED = "finished"
    """The attempt stored the last round."""
    FAILED = "failed"
    """The attempt ended with a failure."""
    RELEASED = "released"
    """A worker gave the trial back because it was told to stop. It does not count as a failure."""
    CANCELLED = "cancelled"
    """A user has cancelled the trial while the attempt trained it."""
    EXPIRED = "expired"
    """The lease ended before the attempt did."""


class Hold(StrEnum):
    """The reasons why no trial of a sweep, or not this trial, is claimed. `resume` ends a hold."""

    PAUSE = "pause"
    """A user wants the machines for other work. Running trials are saved and given back."""
    DRAIN = "drain"
    """No new trial is started. Running trials continue to their end."""
    BUDGET = "budget"
    """The sweep's budget is used up. Running trials are saved and given back."""
    CANCEL = "cancel"
    """A user has cancelled the sweep; single trials do not have it. Planning again ends it."""


TRANSITIONS: dict[TrialState, frozenset[TrialState]] = {
    TrialState.QUEUED: frozenset({TrialState.RUNNING, TrialState.CANCELLED}),
    TrialState.RUNNING: frozenset(
        {TrialState.QUEUED, TrialState.FINISHED, TrialState.FAILED, TrialState.CANCELLED}
    ),
    TrialState.FINISHED: frozenset(),
    TrialState.FAILED: frozenset({TrialState.QUEUED}),
    TrialState.CANCELLED: frozenset({TrialState.QUEUED}),
}

_AGAIN = "retried after 5, 10, 20 … 300 s (each ±50 %), up to `work --max-attempts` failures"
RULES: dict[FailureKind, str] = {
    FailureKind.DIVERGED: "a result: never retried",
    FailureKind.OUT_OF_MEMORY: _AGAIN,
    FailureKind.BAD_DATA: "set aside: mend the data, then run fedsweep trial retry",
    FailureKind.STALLED: _AGAIN,
    FailureKind.LOST: "set aside: it kills its workers; find the cause, then fedsweep trial retry",
    FailureKind.ERROR: _AGAIN,
}
"""The consequence of each kind of failure in words; `queue.retry_delay` computes the delay."""

RETRIED = frozenset({FailureKind.OUT_OF_MEMORY, FailureKind.STALLED, FailureKind.ERROR})
"""The kinds of failure that another attempt may mend."""

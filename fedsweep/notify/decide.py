"""The decision which notices a sweep's status calls for. Pure: the time is an argument.

`announcer` reads the status and sends the notices. `deduplicate` ensures that each is sent once.
`webhook` posts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

BURST = 5
"""So many failures within BURST_SECONDS are a burst."""
BURST_SECONDS = 600.0
LAST = 20
"""If half of the last LAST attempts failed, that is a burst too, however long they took."""
SILENCE_SECONDS = 3600.0
"""Seconds after the notice of a burst in which no other burst is reported."""
STALL_SECONDS = 900.0
"""A sweep has stalled only if nothing was stored for at least so many seconds."""
STALL_ROUNDS = 3
"""A sweep has stalled only if nothing was stored for STALL_ROUNDS times its longest usual round.

The usual length is a median, separate for rounds with and without an evaluation.
"""


class Event(StrEnum):
    """The event that a notice reports."""

    FINISHED = "finished"
    """Every trial of the sweep has ended: finished, failed or cancelled."""
    FAILURES = "failures"
    """Many attempts failed."""
    STALLED = "stalled"
    """A trial is open and not held, but no trial makes progress."""


@dataclass(frozen=True)
class EndedAttempt:
    """An attempt that finished, failed, or was lost with its worker."""

    trial: int
    fence: int
    trial_id: str
    ended_at: float
    """Wall-clock seconds."""
    failure: str | None
    """The kind of its failure. "lost" if it lost its worker, None if it finished."""


@dataclass(frozen=True)
class SweepStatus:
    """The status of a sweep, from which notices are decided."""

    sweep: str
    counts: Mapping[str, int]
    """Trials by state."""
    ended: Sequence[EndedAttempt]
    """The attempts that ended last, in the order of their ends."""
    over: bool
    """True if no trial is open and no search will plan another one."""
    free: bool
    """True if a trial is open and not held."""
    idle: float
    """Seconds since the announcer last saw a new round or the end of a trial."""
    round_seconds: float | None = None
    """The longest median of round seconds of any trial. None if it was not read or has no value."""


@dataclass(frozen=True)
class Notice:
    """A notice, to be sent once."""

    event: Event
    sweep: str
    text: str
    """One sentence. It names trials by their ids, and contains no text of an error."""
    counts: Mapping[str, int]


def decide(status: SweepStatus, now: float) -> list[Notice]:
    """Return the notices that a sweep calls for at a wall-clock time, also those sent before."""
    texts = {
        Event.FINISHED: _finished(status),
        Event.FAILURES: _failures(status, now),
        Event.STALLED: _stalled(status),
    }
    return [
        Notice(event, status.sweep, text, status.counts)
        for event, text in texts.items()
        if text is not None
    ]


def _finished(status: SweepStatus) -> str | None:
    if not status.over:
        return None
    counts = status.counts
    total = sum(counts.values())
    parts = [f"{counts.get('finished', 0)} of {total} trials finished"]
    parts += [f"{n} {state}" for state in ("failed", "cancelled") if (n := counts.get(state, 0))]
    return f"Sweep {status.sweep} is over: {', '.join(parts)}."


def _failures(status: SweepStatus, now: float) -> str | None:
    failed = [a for a in status.ended if a.failure is not None]
    recent = [a for a in failed if now - a.ended_at <= BURST_SECONDS]
    last = status.ended[-LAST:]
    of_last = [a for a in last if a.failure is not None]
    if len(recent) >= BURST:
        return _burst(status.sweep, recent, f"in {BURST_SECONDS / 60:g} minutes")
    if recent and len(last) == LAST and 2 * len(of_last) >= LAST:
        return _burst(status.sweep, of_last, f"of the last {LAST}")
    return None


def _burst(sweep: str, failed: Sequence[EndedAttempt], when: str) -> str:
    kinds = Counter(attempt.failure for attempt in failed).most_common()
    texts = ", ".join(f"{n} {kind}" for kind, n in kinds)
    latest = failed[-1].trial_id[:8]
    return f"Sweep {sweep}: {len(failed)} attempts failed {when} ({texts}), the latest of {latest}."


def _stalled(status: SweepStatus) -> str | None:
    longest = max(STALL_SECONDS, STALL_ROUNDS * (status.round_seconds or 0.0))
    if status.over or not status.free or status.idle < longest:
        return None
    running, queued = (status.counts.get(state, 0) for state in ("running", "queued"))
    return (
        f"Sweep {status.sweep} has stalled: no round was stored for {status.idle / 60:.0f} "
        f"minutes, with {running} trials running and {queued} queued."
    )

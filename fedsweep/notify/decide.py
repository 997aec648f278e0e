"""When somebody who is not looking should be told: decided purely, from what is known of a sweep.

How it is known and who tells it: `announcer`. How it gets there: `webhook`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

BURST = 5
"""Failures within BURST_SECONDS that are a burst."""
BURST_SECONDS = 600.0
LAST = 20
"""Of the last so many attempts, half are a burst as well, however long they took."""
SILENCE_SECONDS = 3600.0
"""After a burst was told, the next one is not, for so long."""
STALL_SECONDS = 900.0
STALL_ROUNDS = 3
"""A sweep has stalled if nothing was stored for so many seconds, and for so many times its longest
usual round. Rounds with and without an evaluation have medians of their own."""


class Event(StrEnum):
    """What a notice is about."""

    FINISHED = "finished"
    """Every trial of the sweep is over, whatever became of it."""
    FAILURES = "failures"
    """Many attempts failed."""
    STALLED = "stalled"
    """Trials are open and nobody holds them back, but none gets on."""


@dataclass(frozen=True)
class Attempt:
    """An attempt that came to an end of its own: finished, failed, or lost with its worker."""

    trial: int
    fence: int
    trial_id: str
    ended_at: float
    """Wall-clock seconds."""
    failure: str | None
    """Its failure's kind, "lost" where it lost its worker; None where it finished."""


@dataclass(frozen=True)
class Standing:
    """What is known of a sweep."""

    sweep: str
    counts: Mapping[str, int]
    """Trials by state."""
    ended: Sequence[Attempt]
    """The latest ones, in the order of their ends."""
    over: bool
    """No trial is open, and none will come."""
    free: bool
    """A trial is open that nobody holds back."""
    idle: float
    """Seconds since a round, or an end, was seen to be stored."""
    round_seconds: float | None = None
    """Longest median seconds of a trial's rounds with or without an evaluation, None if unknown."""


@dataclass(frozen=True)
class Notice:
    """What is to be told, once."""

    event: Event
    sweep: str
    text: str
    """One sentence. It names trials by their ids, and nothing that an error said."""
    counts: Mapping[str, int]


def decide(standing: Standing, now: float) -> list[Notice]:
    """What there is to tell of a sweep at a wall-clock time; telling it once is another matter."""
    told = {
        Event.FINISHED: _finished(standing),
        Event.FAILURES: _failures(standing, now),
        Event.STALLED: _stalled(standing),
    }
    return [
        Notice(event, standing.sweep, text, standing.counts)
        for event, text in told.items()
        if text is not None
    ]


def _finished(standing: Standing) -> str | None:
    if not standing.over:
        return None
    counts = standing.counts
    total = sum(counts.values())
    said = [f"{counts.get('finished', 0)} of {total} trials finished"]
    said += [f"{n} {state}" for state in ("failed", "cancelled") if (n := counts.get(state, 0))]
    return f"Sweep {standing.sweep} is over: {', '.join(said)}."


def _failures(standing: Standing, now: float) -> str | None:
    failed = [a for a in standing.ended if a.failure is not None]
    recent = [a for a in failed if now - a.ended_at <= BURST_SECONDS]
    last = standing.ended[-LAST:]
    of_last = [a for a in last if a.failure is not None]
    if len(recent) >= BURST:
        return _burst(standing.sweep, recent, f"in {BURST_SECONDS / 60:g} minutes")
    if recent and len(last) == LAST and 2 * len(of_last) >= LAST:
        return _burst(standing.sweep, of_last, f"of the last {LAST}")
    return None


def _burst(sweep: str, failed: Sequence[Attempt], when: str) -> str:
    kinds = Counter(attempt.failure for attempt in failed).most_common()
    said = ", ".join(f"{n} {kind}" for kind, n in kinds)
    latest = failed[-1].trial_id[:8]
    return f"Sweep {sweep}: {len(failed)} attempts failed {when} ({said}), the latest of {latest}."


def _stalled(standing: Standing) -> str | None:
    longest = max(STALL_SECONDS, STALL_ROUNDS * (standing.round_seconds or 0.0))
    if standing.over or not standing.free or standing.idle < longest:
        return None
    running, queued = (standing.counts.get(state, 0) for state in ("running", "queued"))
    return (
        f"Sweep {standing.sweep} has stalled: no round was stored for {standing.idle / 60:.0f} "
        f"minutes, with {running} trials running and {queued} queued."
    )

"""The screens "Overview" (sweeps and workers), "Queue" and "Failures"."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fedsweep.serve import presentation
from fedsweep.serve.read_cache import PROGRESS_TICKS, ReadCache
from fedsweep.serve.screen import Screen, part
from fedsweep.states import RULES, FailureKind
from fedsweep.store import live, progress, stops

NEXT = 50
"""The number of queued, backing-off and waiting rows that the queue shows of each."""
EACH = 20
"""The number of failures that are shown of each kind."""
MANY = 200
"""The number of failures that are shown if the address names one kind."""
MINUTE = 60
"""The start of the last hour is rounded down to a full minute, so that pages share a read."""


def overview(cache: ReadCache, _query: Mapping[str, str]) -> Screen:
    """Return the screen with each sweep's progress and the workers."""
    now = time.time()
    since = (now - presentation.RECENT_SECONDS) // MINUTE * MINUTE
    running, recent = cache.read(live.running), cache.read(live.workers, since)
    workers = presentation.workers(running, recent, now)
    sweeps = cache.read(progress.sweep_progress, ticks=PROGRESS_TICKS)
    parts = [
        part("sweeps", "sweeps.html", sweeps=sweeps, presentation=presentation),
        part("workers", "workers.html", workers=workers, stops=cache.read(stops.recent)),
    ]
    return Screen("overview", "Overview", parts)


def queue(cache: ReadCache, _query: Mapping[str, str]) -> Screen:
    """Return the screen with the trials that are claimed next, back off, or wait for a trunk."""
    counts = cache.read(live.queue)
    parts = [
        part("counts", "queue_counts.html", counts=counts, held=presentation.HELD),
        part("next", "queue_next.html", rows=cache.read(live.upcoming, NEXT)),
        part(
            "waits",
            "queue_waits.html",
            off=cache.read(live.backing_off, NEXT),
            waiting=cache.read(live.waiting, NEXT),
        ),
    ]
    return Screen("queue", "Queue", parts)


def failures(cache: ReadCache, query: Mapping[str, str]) -> Screen:
    """Return the screen with failures by kind. If the address names one kind, it shows more."""
    counts = cache.read(live.failure_counts)
    chosen = query.get("kind")
    kinds = [kind for kind in counts if chosen in (None, kind)]
    limit = MANY if chosen else EACH
    rows_by_kind = {kind: cache.read(live.failures, kind, limit) for kind in kinds}
    rules = {kind: RULES[FailureKind(kind)] for kind in kinds}
    parts = [
        part("kinds", "failure_kinds.html", counts=counts, chosen=chosen),
        part("failed", "failures.html", rows_by_kind=rows_by_kind, rules=rules, limit=limit),
    ]
    return Screen("failures", "Failures", parts)

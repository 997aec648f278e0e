"""What goes on: sweeps and workers, the queue, the failures."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fedsweep.serve import views
from fedsweep.serve.look import OFTEN, Look
from fedsweep.serve.screen import Screen, part
from fedsweep.states import RULES, FailureKind
from fedsweep.store import live, progress, stops

NEXT = 50
"""Trials of the queue that are shown."""
EACH = 20
"""Failures of a kind that are shown; of one that is asked for, MANY."""
MANY = 200
MINUTE = 60
"""What is read by the hour is read anew at full minutes: pages that ask together share it."""


def overview(look: Look, _asked: Mapping[str, str]) -> Screen:
    """Each sweep, and who trains."""
    now = time.time()
    since = (now - views.SHOWN_SECONDS) // MINUTE * MINUTE
    seen = views.workers(look.read(live.running), look.read(live.workers, since), now)
    sweeps = look.read(progress.sweep_progress, keep=OFTEN)
    parts = [
        part("sweeps", "sweeps.html", sweeps=sweeps, views=views),
        part("workers", "workers.html", workers=seen, stops=look.read(stops.recent)),
    ]
    return Screen("overview", "Overview", parts)


def queue(look: Look, _asked: Mapping[str, str]) -> Screen:
    """What is claimed next, and what waits for what."""
    counts = look.read(live.queue)
    parts = [
        part("counts", "queue_counts.html", counts=counts, held=views.HELD),
        part("next", "queue_next.html", rows=look.read(live.upcoming, NEXT)),
        part(
            "waits",
            "queue_waits.html",
            off=look.read(live.backing_off, NEXT),
            waiting=look.read(live.waiting, NEXT),
        ),
    ]
    return Screen("queue", "Queue", parts)


def failures(look: Look, asked: Mapping[str, str]) -> Screen:
    """Failures by kind; of one kind, where it is asked for, more."""
    counts = look.read(live.failure_counts)
    wanted = asked.get("kind")
    kinds = [kind for kind in counts if wanted in (None, kind)]
    limit = MANY if wanted else EACH
    found = {kind: look.read(live.failures, kind, limit) for kind in kinds}
    rules = {kind: RULES[FailureKind(kind)] for kind in kinds}
    parts = [
        part("kinds", "failure_kinds.html", counts=counts, wanted=wanted),
        part("failed", "failures.html", found=found, counts=counts, rules=rules, limit=limit),
    ]
    return Screen("failures", "Failures", parts)

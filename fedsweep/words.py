"""Durations, sizes, counts, and where a trial stands, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fedsweep.states import TrialState

if TYPE_CHECKING:
    from fedsweep.store.progress import SweepProgress


HELD = {"pause": "paused", "drain": "drained", "budget": "budget used up", "cancel": "cancelled"}
"""What a hold is called (`states.Hold`)."""


def duration(seconds: float | None) -> str:
    """41s, 3m20s, 5h07m, 3d04h."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 48 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def time_left(progress: SweepProgress) -> str:
    """1h20m (58m to 2h10m), with the slots at work now; without any, what one would take."""
    if progress.queued + progress.running == 0:
        return "–"
    left, more = progress.time_left, " or more" if progress.searching else ""
    if left is None:
        alone = progress.seconds_left
        return "?" if alone is None else f"{duration(alone)} of one slot{more}"
    return f"{duration(left.middle)} ({duration(left.low)} to {duration(left.high)}){more}"


def size(count: float) -> str:
    """512 B, 1.1 MB, 3.0 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def counted(count: int, noun: str) -> str:
    """1 trial, 2 trials."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def standing(trial_id: str, result: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """What a trial's failures cost so far, and why it waits (`store.reads.trial_standing`)."""
    if count := found["failures"]:
        off = found["seconds_off"]
        when = f", tried again in {duration(max(off, 0))}" if off is not None else ""
        kind = f" ({result['failure']})" if result["failure"] else ""
        yield f"{counted(count, 'failure')} so far{kind}{when}"
    if count := found["losses"]:
        yield f"{counted(count, 'worker')} lost in a row without a new round; the third ends it"
    if count := result["rounds_shared"]:
        shared = counted(count, "round")
        yield f"shares {shared} with a trial of another freeze round, which trained them"
    if found["waits"] and result["state"] == TrialState.QUEUED:
        carrier = found["carrier"]
        who = f" {carrier[:8]} trains them" if carrier else " it begins when somebody trains them"
        yield f"waits for rounds that it shares with others:{who}"
    if found["held"] and result["state"] in (TrialState.QUEUED, TrialState.RUNNING):
        if found["wish"]:
            yield f"held ({found['held']}): fedsweep trial resume {trial_id[:8]} lets it go on"
        else:
            held = [f"{s['name']} ({s['held']})" for s in found["held_by"]]
            yield f"held with {', '.join(held)}: fedsweep sweep resume lets it go on"


def ran_with(attempt: Mapping[str, Any]) -> Iterator[str]:
    """An attempt's code, packages and machine, as far as they were noted."""
    if attempt["provenance"]:
        found = json.loads(attempt["provenance"])
        commit = f" {found['commit'][:10]}" if found["commit"] else ""
        changed = " (changed)" if found["dirty"] else ""
        packages = dict(found["packages"])
        own = f"fedsweep {packages.pop('fedsweep', '?')}{commit}{changed}"
        others = "".join(f", {name} {version}" for name, version in packages.items())
        yield f"{own}{others}, Python {found['python']}"
        driver = f", driver {found['driver']}" if found["driver"] else ""
        yield f"{found['device']}{driver}, {found['platform']}"
    if attempt["numerics"]:
        found = json.loads(attempt["numerics"])
        yield f"numerics {attempt['numerics_id']}: " + ", ".join(
            f"{name} {value}" for name, value in found.items() if value and name != "processor"
        )

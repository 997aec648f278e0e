"""Durations, sizes, counts and the state of a trial in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fedsweep.states import TrialState

if TYPE_CHECKING:
    from fedsweep.store.progress import SweepProgress


HELD = {"pause": "paused", "drain": "drained", "budget": "budget used up", "cancel": "cancelled"}
"""The name of each hold (`states.Hold`) in a text."""


def duration(seconds: float | None) -> str:
    """Return a duration such as 41s, 3m20s, 5h07m or 3d04h; "?" for None."""
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
    """Return the time left with the slots that run now, such as 1h20m (58m to 2h10m).

    Without a running slot it is the time of one slot. It is "–" if nothing is left.
    """
    if progress.queued + progress.running == 0:
        return "–"
    left, more = progress.time_left, " or more" if progress.searching else ""
    if left is None:
        seconds = progress.seconds_left
        return "?" if seconds is None else f"{duration(seconds)} of one slot{more}"
    return f"{duration(left.middle)} ({duration(left.low)} to {duration(left.high)}){more}"


def size(count: float) -> str:
    """Return a number of bytes such as 512 B, 1.1 MB or 3 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as 1 trial or 2 trials."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def standing(trial_id: str, result: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each failure, loss, shared trunk and hold of a trial.

    `row` is the result of `store.trial_rows.trial_standing`.
    """
    if count := row["failures"]:
        seconds = row["seconds_off"]
        when = f", tried again in {duration(max(seconds, 0))}" if seconds is not None else ""
        kind = f" ({result['failure']})" if result["failure"] else ""
        yield f"{counted(count, 'failure')} so far{kind}{when}"
    if count := row["losses"]:
        yield f"{counted(count, 'worker')} lost in a row without a new round; the third ends it"
    if count := result["rounds_shared"]:
        shared = counted(count, "round")
        yield f"shares {shared} with a trial of another freeze round, which trained them"
    if row["waits"] and result["state"] == TrialState.QUEUED:
        carrier = row["carrier"]
        trainer = (
            f" {carrier[:8]} trains them" if carrier else " it begins when a trial trains them"
        )
        yield f"waits for rounds that it shares with others:{trainer}"
    if row["held"] and result["state"] in (TrialState.QUEUED, TrialState.RUNNING):
        if row["wish"]:
            yield f"held ({row['held']}): fedsweep trial resume {trial_id[:8]} lets it go on"
        else:
            held = [f"{s['name']} ({s['held']})" for s in row["held_by"]]
            yield f"held with {', '.join(held)}: fedsweep sweep resume lets it go on"


def memory_of(attempt: Mapping[str, Any]) -> str | None:
    """Return the most memory that an attempt has taken, as text; None if it is not stored.

    It is that of the whole process if other trials may have trained in it.
    """
    if not attempt["memory"]:
        return None
    stored = json.loads(attempt["provenance"] or "{}")
    whose = "of its process's memory" if stored.get("packed") else "of memory"
    return f"{size(attempt['memory'])} {whose} at most"


def ran_with(attempt: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines with an attempt's code, packages, machine and numerics, if they are stored."""
    if attempt["provenance"]:
        stored = json.loads(attempt["provenance"])
        commit = f" {stored['commit'][:10]}" if stored["commit"] else ""
        changed = " (changed)" if stored["dirty"] else ""
        packages = dict(stored["packages"])
        own = f"fedsweep {packages.pop('fedsweep', '?')}{commit}{changed}"
        others = "".join(f", {name} {version}" for name, version in packages.items())
        yield f"{own}{others}, Python {stored['python']}"
        driver = f", driver {stored['driver']}" if stored["driver"] else ""
        yield f"{stored['device']}{driver}, {stored['platform']}"
        if job := stored.get("launch"):
            yield f"launch {job['id']}, job {job['job']} of {job['kind']}: log {job['log']}"
    if attempt["numerics"]:
        numerics = json.loads(attempt["numerics"])
        yield f"numerics {attempt['numerics_id']}: " + ", ".join(
            f"{name} {value}" for name, value in numerics.items() if value and name != "processor"
        )

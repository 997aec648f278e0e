"""Values that the templates show, computed from rows of the store. Pure: `now` is an argument."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsweep import words
from fedsweep.appearance import arm_styles
from fedsweep.states import Outcome, TrialState
from fedsweep.store.progress import SweepProgress
from fedsweep.store.rows import Row

time_left = words.time_left
"""The time left of a sweep as text, for the templates."""

RECENT_SECONDS = 3600.0
"""Seconds for which a worker is shown after it was last seen. Utilization has the same span."""

HELD = words.HELD

BAR = ("finished", "running", "failed", "cancelled", "queued")
"""The order of the states in a bar."""


@dataclass(frozen=True)
class Segment:
    """The part of a bar that stands for one state. Start and width are percent of the bar."""

    state: str
    n: int
    start: float
    width: float


def bar(counts: Mapping[str, int]) -> list[Segment]:
    """Return the segments of a bar of trials by state. States without trials have no segment."""
    total, start, segments = sum(counts.values()), 0.0, []
    for state in BAR:
        if n := counts.get(state, 0):
            width = 100 * n / total
            segments.append(Segment(state, n, round(start, 3), round(width, 3)))
            start += width
    return segments


def counts(progress: SweepProgress) -> dict[str, int]:
    """Return the number of a sweep's trials in each state."""
    return {state.value: getattr(progress, state.value) for state in TrialState}


@dataclass(frozen=True)
class WorkerState:
    """The state of a worker, derived from its attempts."""

    name: str
    host: str
    device: str
    pid: int
    processor: str | None
    """The device's model."""
    standing: str
    """One of training, silent (its lease has expired), vanished, and idle."""
    trial: Row | None
    last: float | None
    """The wall time at which its last attempt ended. None if it trains."""
    lease_left: float | None
    finished: int
    attempts: int
    utilization: float | None
    """The fraction of the last hour in which it trained. A younger worker counts from its start."""
    memory: int | None
    """Bytes of its device's memory that its last attempt took at most."""
    room: int | None
    """Bytes of memory that its device has."""
    launch: Row | None
    """The `id`, `kind`, `job` and `log` of the launch that started it; None without one."""


def workers(running: Sequence[Row], recent: Sequence[Row], now: float) -> list[WorkerState]:
    """Return the workers that train or were seen within the last hour. Idle ones come last."""
    at_work = {row["worker"]: row for row in running}
    known = {row["worker"]: row for row in recent}
    names = {**at_work, **known}
    states = [_worker_state(known.get(name), at_work.get(name), now) for name in names]
    return sorted(states, key=lambda s: (s.standing == "idle", s.host, s.name))


def _worker_state(known: Row | None, work: Row | None, now: float) -> WorkerState:
    row = work or known
    assert row is not None
    began = [known["first"]] if known else []
    first: float = min([*began, work["started_at"]] if work else began)
    trained = (known["trained"] or 0.0) if known else 0.0
    if work is not None:
        trained += _recently_trained(work, now)
    ran_with = json.loads(row["provenance"]) if row["provenance"] else {}
    last: float | None = known["last"] if known and work is None else None
    span = (last or now) - max(first, now - RECENT_SECONDS)
    return WorkerState(
        name=row["worker"],
        host=row["host"],
        device=row["device"],
        pid=row["pid"],
        processor=ran_with.get("device"),
        standing=_standing(known, work),
        trial=work,
        last=last,
        lease_left=work["lease_left"] if work else None,
        finished=known["finished"] if known else 0,
        attempts=known["attempts"] if known else 1,
        utilization=min(1.0, trained / span) if span > 0 else None,
        memory=row["memory"],
        room=ran_with.get("memory"),
        launch=ran_with.get("launch"),
    )


def _recently_trained(work: Row, now: float) -> float:
    """Return the seconds within the last hour in which a running attempt trained."""
    length = max(now - work["started_at"], 1e-9)
    return float(work["seconds_trained"] * min(1.0, RECENT_SECONDS / length))


def _standing(known: Row | None, work: Row | None) -> str:
    if work is not None:
        return "silent" if work["lease_left"] < 0 else "training"
    return "vanished" if known and known["outcome"] == Outcome.EXPIRED else "idle"


def line_styles(normalizers: Sequence[str]) -> list[dict[str, Any]]:
    """Return the style of each of a page's lines, as plotly names it.

    `normalizers` are those of the lines, in order. `color` has a value for a light and for a dark
    ground, `dash` is the kind of line, and `marker` is the symbol of its points.
    """
    return [
        {
            "color": {"light": style.light, "dark": style.dark},
            "dash": style.dash,
            "marker": style.marker if style.is_filled else f"{style.marker}-open",
        }
        for style in arm_styles(normalizers)
    ]


def cell_text(value: Any, most: int = 2000) -> str:
    """Return a database value as the text of a table cell, of `most` characters at most."""
    text = "" if value is None else str(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"

"""Rows of the store as what a page shows of them. Pure: `now` is an argument."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsweep import words
from fedsweep.states import Outcome, TrialState
from fedsweep.store.progress import SweepProgress
from fedsweep.store.rows import Row

time_left = words.time_left
"""For the templates."""

SHOWN_SECONDS = 3600.0
"""How long a worker is shown after it was last seen, and the span of its utilization."""

HELD = words.HELD

BAR = ("finished", "running", "failed", "cancelled", "queued")
"""The order of the states in a bar."""


@dataclass(frozen=True)
class Piece:
    """One state's part of a bar, in hundredths of its width."""

    state: str
    n: int
    start: float
    width: float


def bar(counts: Mapping[str, int]) -> list[Piece]:
    """Trials by state as pieces of one bar; states without trials have none."""
    total, start, pieces = sum(counts.values()), 0.0, []
    for state in BAR:
        if n := counts.get(state, 0):
            width = 100 * n / total
            pieces.append(Piece(state, n, round(start, 3), round(width, 3)))
            start += width
    return pieces


def counts(progress: SweepProgress) -> dict[str, int]:
    """A sweep's trials by state."""
    return {state.value: getattr(progress, state.value) for state in TrialState}


@dataclass(frozen=True)
class Seen:
    """A worker, as far as its attempts tell."""

    name: str
    host: str
    device: str
    pid: int
    processor: str | None
    """The device's model."""
    standing: str
    """training, silent (its lease is over), vanished, or idle."""
    trial: Row | None
    last: float | None
    """The wall time of the end of its last attempt, where it does not train."""
    lease_left: float | None
    finished: int
    attempts: int
    utilization: float | None
    """The share of the last hour, or of its life, that it trained."""
    memory: int | None
    """Bytes that its last attempt took of its device at most."""
    room: int | None
    """Bytes that its device has."""


def workers(running: Sequence[Row], recent: Sequence[Row], now: float) -> list[Seen]:
    """Everybody who trains, and whoever was seen within the hour; who trains first."""
    at_work = {row["worker"]: row for row in running}
    known = {row["worker"]: row for row in recent}
    seen = [_seen(known.get(name), at_work.get(name), now) for name in {**at_work, **known}]
    return sorted(seen, key=lambda s: (s.standing == "idle", s.host, s.name))


def _seen(known: Row | None, work: Row | None, now: float) -> Seen:
    row = work or known
    assert row is not None
    began = [known["first"]] if known else []
    first: float = min([*began, work["started_at"]] if work else began)
    trained = (known["trained"] or 0.0) if known else 0.0
    if work is not None:
        trained += _within(work, now)
    ran_with = json.loads(row["provenance"]) if row["provenance"] else {}
    last: float | None = known["last"] if known and work is None else None
    span = (last or now) - max(first, now - SHOWN_SECONDS)
    return Seen(
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
    )


def _within(work: Row, now: float) -> float:
    """The seconds within the last hour that a running attempt has trained."""
    length = max(now - work["started_at"], 1e-9)
    return float(work["seconds_trained"] * min(1.0, SHOWN_SECONDS / length))


def _standing(known: Row | None, work: Row | None) -> str:
    if work is not None:
        return "silent" if work["lease_left"] < 0 else "training"
    return "vanished" if known and known["outcome"] == Outcome.EXPIRED else "idle"


def shown(value: Any, most: int = 2000) -> str:
    """A value of the database as the text of a cell."""
    text = "" if value is None else str(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"

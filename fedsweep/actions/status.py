"""Read the progress of sweeps, and the work of the moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Engine

from fedsweep.store import live, stops, sweep_rows
from fedsweep.store.progress import SweepProgress, sweep_progress
from fedsweep.store.rows import Row
from fedsweep.store.transactions import reading
from fedsweep.store.varying import varying_fields


@dataclass(frozen=True)
class Glance:
    """The progress of the sweeps and the state of the queue at one moment."""

    progress: Sequence[SweepProgress]
    running: Sequence[Row]
    queue: Mapping[str, int]
    """Queued trials by the reason why they are not claimed yet."""
    failures: Mapping[str, tuple[int, int]]
    """Failed trials and failed attempts by kind of failure."""
    stops: Sequence[Row]
    """The workers that a machine stopped within the last day."""
    varying: Sequence[str] = ()
    """The fields that vary within a sweep, apart from those that always describe a trial."""


def progress_of(engine: Engine, sweep: str | None = None) -> list[SweepProgress]:
    """Return the progress of a sweep, or of all sweeps (None).

    Raises:
        NotFound: There is no such sweep.

    """
    with reading(engine) as connection:
        if sweep is not None:
            sweep_rows.require_sweep(connection, sweep)
        return sweep_progress(connection, sweep)


def recent_stops(engine: Engine) -> list[Row]:
    """Return the workers that a machine stopped within the last day."""
    with reading(engine) as connection:
        return stops.recent(connection)


def glance(engine: Engine, sweep: str | None = None) -> Glance:
    """Return the progress of a sweep, or of all sweeps (None), and the state of the queue.

    Raises:
        NotFound: There is no such sweep.

    """
    progress = progress_of(engine, sweep)
    with reading(engine) as connection:
        return Glance(
            progress,
            live.running(connection),
            live.queue(connection),
            live.failure_counts(connection),
            stops.recent(connection),
            varying_fields(connection, sweep),
        )

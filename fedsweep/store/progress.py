"""Progress of sweeps: counts by state, and how long rounds have taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.fields import TIMED
from fedsweep.forecast import Pace, TimeLeft, Work, time_left
from fedsweep.states import Outcome, TrialState
from fedsweep.store.sweep_rows import sweep_names
from fedsweep.store.tables import (
    arms,
    attempts,
    members,
    sweeps,
    trials,
)

LATEST_ATTEMPTS = 1_000
"""Attempts from which the time between rounds is estimated."""


MOST_OVERHEAD = 10.0
"""Maximum ratio of an attempt's time to that of its rounds. A higher ratio means that the clock was
set.
"""


@dataclass(frozen=True)
class SweepProgress:
    """The progress of a sweep: its trials by state, its rounds, and the time that is left."""

    sweep: str
    queued: int
    running: int
    finished: int
    failed: int
    cancelled: int
    rounds_done: int
    rounds_total: int
    """Rounds of the trials that are not cancelled. A failed trial counts as far as it was
    trained.
    """
    seconds_left: float | None
    """Work of one slot in seconds, from measured seconds per round. None before the first round."""
    held: str | None = None
    """The reason if no trial of it is claimed: paused, drained, out of budget, or cancelled."""
    time_left: TimeLeft | None = None
    """The time until its last trial ends, with the slots that work on it now."""
    searching: int = 0
    """Number of arms whose best T* is still searched for. They will add trials."""

    @property
    def trials(self) -> int:
        """All of the sweep's trials."""
        return self.queued + self.running + self.finished + self.failed + self.cancelled

    @property
    def done(self) -> int:
        """The trials that need no more work."""
        return self.finished + self.failed + self.cancelled


def sweep_progress(connection: Connection, sweep: str | None = None) -> list[SweepProgress]:
    """Return the progress of each sweep, or of the one that is named."""
    is_open = trials.c.state.in_([TrialState.QUEUED, TrialState.RUNNING])
    done = sa.func.coalesce(trials.c.final_round, 0)
    left = sa.case((is_open, trials.c.rounds - done), else_=0)
    # What waits for its trunk will not train the trunk's rounds.
    shared = sa.case((is_open & (trials.c.waits == 1), trials.c.fork_round - done), else_=0)
    kind = _cost_key()
    query = (
        sa.select(
            sweeps.c.name,
            trials.c.state,
            *kind,
            sa.func.count().label("n"),
            _total(left).label("rounds_left"),
            _total(left - shared).label("rounds_to_train"),
            sa.func.max(left - shared).label("longest"),
            _total(done).label("rounds_done"),
        )
        .select_from(sweeps.join(members, members.c.sweep == sweeps.c.id))
        .join(trials, trials.c.id == members.c.trial)
        .group_by(sweeps.c.id, sweeps.c.name, trials.c.state, *kind)
        .order_by(sweeps.c.id)
    )
    if sweep is not None:
        query = query.where(sweeps.c.name == sweep)
    kinds, around = paces(connection), overhead(connection)
    grouped: dict[str, list[Any]] = {
        name: [] for name in ([sweep] if sweep else sweep_names(connection))
    }
    for row in connection.execute(query):
        grouped[row.name].append(row)
    held = {
        row.name: row.held for row in connection.execute(sa.select(sweeps.c.name, sweeps.c.held))
    }
    of_sweep = sa.select(sweeps.c.name, sa.func.count().label("n"))
    still = of_sweep.select_from(arms.join(sweeps, sweeps.c.id == arms.c.sweep))
    still = still.where(sa.text("arms.ended IS NULL")).group_by(sweeps.c.name)
    open_arms = {row.name: row.n for row in connection.execute(still)}
    return [
        _progress(name, rows, kinds, around, held.get(name), open_arms.get(name, 0))
        for name, rows in grouped.items()
    ]


def _progress(
    name: str,
    rows: Sequence[Any],
    paces: dict[tuple[Any, ...], Pace],
    around: float,
    held: str | None,
    searching: int,
) -> SweepProgress:
    counts = dict.fromkeys(TrialState, 0)
    done = left = 0
    work = []
    for row in rows:
        counts[TrialState(row.state)] += row.n
        if row.state == TrialState.CANCELLED:
            continue
        done += row.rounds_done
        left += row.rounds_left
        kind = tuple(getattr(row, c.name) for c in _cost_key())
        work.append(Work(kind, row.rounds_to_train, row.longest))
    slots = counts[TrialState.RUNNING]
    alone = time_left(work, paces, 1, around)
    return SweepProgress(
        sweep=name,
        **{state.value: n for state, n in counts.items()},
        rounds_done=done,
        rounds_total=done + left,
        seconds_left=alone.middle if alone is not None else None,
        time_left=time_left(work, paces, slots, around),
        held=held,
        searching=searching,
    )


def failed_trials(connection: Connection, sweep: str | None = None) -> int:
    """Return the failed trials, of one sweep if it is named, each once."""
    query = (
        sa.select(sa.func.count()).select_from(trials).where(trials.c.state == TrialState.FAILED)
    )
    if sweep is not None:
        query = query.join(members, members.c.trial == trials.c.id)
        query = query.join(sweeps, sweeps.c.id == members.c.sweep).where(sweeps.c.name == sweep)
    return int(connection.execute(query).scalar_one())


def _total(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Return a sum that is an integer on Postgres too, instead of a decimal."""
    return sa.cast(sa.func.sum(column), sa.BigInteger)


def _cost_key() -> list[sa.Column[Any]]:
    """Return the columns that the time of a round depends on, except the machine."""
    return [trials.c[name] for name in TIMED]


def paces(connection: Connection) -> dict[tuple[Any, ...], Pace]:
    """Return the time that rounds have taken, for each kind of trial that has any."""
    own, seconds = trials.c.final_round - trials.c.rounds_shared, trials.c.seconds
    query = (
        sa.select(
            *_cost_key(),
            sa.func.count().label("trials"),
            _total(own).label("rounds"),
            sa.func.sum(seconds).label("seconds"),
            sa.func.sum(seconds * seconds / own).label("squares"),
        )
        .where(own > 0, seconds.is_not(None))
        .group_by(*_cost_key())
    )
    return {
        tuple(row)[:-4]: Pace(row.trials, row.rounds, row.seconds, row.squares)
        for row in connection.execute(query)
    }


def seconds_a_round(connection: Connection) -> dict[tuple[Any, ...], float]:
    """Return the mean seconds per round, for each kind of trial that has any."""
    return {kind: pace.mean for kind, pace in paces(connection).items()}


def overhead(connection: Connection) -> float:
    """Return the seconds of the latest attempts per second of their rounds, at least 1."""
    latest = (
        sa.select(attempts).order_by(attempts.c.id.desc()).limit(LATEST_ATTEMPTS).subquery("latest")
    )
    took = sa.func.sum(latest.c.ended_at - latest.c.started_at)
    query = sa.select(took, sa.func.sum(latest.c.seconds_trained))
    query = query.where(latest.c.outcome == Outcome.FINISHED, latest.c.rounds_trained > 0)
    wall, trained = connection.execute(query).one()
    return max(1.0, min(wall / trained, MOST_OVERHEAD)) if trained else 1.0


def cost_key(config: Any) -> tuple[Any, ...]:
    """Return a configuration's key in `seconds_a_round`."""
    return tuple(getattr(config, column.name) for column in _cost_key())

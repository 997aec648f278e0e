"""Trials as trackers need them: configurations, rounds and times."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fedsweep.measures import BY_GROUP
from fedsweep.store import sweep_rows
from fedsweep.store.tables import attempts, members, sweeps, trials
from fedsweep.store.transactions import reading

TRIALS_IN_MEMORY = 50
"""The most trials in memory at the same time."""


@dataclass(frozen=True)
class MeasuredRound:
    """The measures of one round."""

    round: int
    at: float
    """The wall-clock time of the round's end, in seconds.

    The time of a round is not stored. This is the start of the trial plus the seconds of the rounds
    that it trained itself.
    """
    values: dict[str, float]
    """The values of the measures that the round has."""


@dataclass(frozen=True)
class Trial:
    """A trial with its rounds."""

    trial_id: str
    result: dict[str, Any]
    """The trial's row of the view `results`."""
    began: float
    """The start of its first attempt, in wall-clock seconds. 0 if there is none."""
    ended: float | None
    """The end of its last attempt, in wall-clock seconds."""
    rounds: list[MeasuredRound]

    @property
    def config(self) -> dict[str, Any]:
        """The canonical configuration, without values at their default."""
        config: dict[str, Any] = json.loads(self.result["config"])
        return config

    @property
    def name(self) -> str:
        """A name for people. The first digits of the trial id make it unique."""
        r = self.result
        parts = [r["normalizer"]]
        parts += [f"T{r['freeze_round']}"] if r["freeze_round"] is not None else []
        parts += [f"alpha{r['alpha']:g}"] if r["alpha"] is not None else []
        parts += [f"E{r['local_steps']}"] if r["local_steps"] is not None else []
        return "-".join([*parts, r["momentum"], f"seed{r['seed']}", self.trial_id[:8]])


def trial_ids_by_sweep(engine: Engine, sweep: str | None) -> dict[str, list[str]]:
    """Return the trial ids of one sweep or of each, by the name of the sweep.

    The ids are in the order in which the trials were planned.

    Raises:
        NotFound: there is no such sweep.

    """
    with reading(engine) as connection:
        names = sweep_rows.sweep_names(connection)
        if sweep is not None:
            names = [sweep_rows.require_sweep(connection, sweep)]
        return {name: _trial_ids(connection, name) for name in names}


def _trial_ids(connection: Connection, sweep: str) -> list[str]:
    joined = members.join(sweeps, sweeps.c.id == members.c.sweep)
    query = sa.select(trials.c.trial_id).select_from(
        joined.join(trials, trials.c.id == members.c.trial)
    )
    query = query.where(sweeps.c.name == sweep).order_by(trials.c.id)
    return list(connection.execute(query).scalars())


def read_trials(engine: Engine, ids: Sequence[str]) -> Iterator[Trial]:
    """Read these trials, a few at a time, so that no transaction stays open during an export."""
    for start in range(0, len(ids), TRIALS_IN_MEMORY):
        batch = ids[start : start + TRIALS_IN_MEMORY]
        with reading(engine) as connection:
            by_id = _read(connection, batch)
        yield from (by_id[trial_id] for trial_id in batch if trial_id in by_id)


def _read(connection: Connection, ids: Sequence[str]) -> dict[str, Trial]:
    bound: sa.BindParameter[list[str]] = sa.bindparam("ids", value=list(ids), expanding=True)
    results = sa.text("SELECT * FROM results WHERE trial_id IN :ids").bindparams(bound)
    curves = sa.text(
        "SELECT * FROM curves WHERE trial_id IN :ids ORDER BY trial_id, round"
    ).bindparams(bound)
    times = _times(connection, ids)
    rows = connection.execute(curves).mappings()
    rounds = {key: list(group) for key, group in itertools.groupby(rows, lambda r: r["trial_id"])}
    by_id = {}
    for result in connection.execute(results).mappings():
        key = result["trial_id"]
        began, ended = times.get(key, (0.0, None))
        by_id[key] = Trial(key, dict(result), began, ended, _measured(rounds.get(key, []), began))
    return by_id


def _times(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[float, float | None]]:
    """Return when the first attempt of each trial began and the last one ended."""
    query = (
        sa.select(
            trials.c.trial_id,
            sa.func.min(attempts.c.started_at).label("began"),
            sa.func.max(attempts.c.ended_at).label("ended"),
        )
        .join(attempts, attempts.c.trial == trials.c.id)
        .where(trials.c.trial_id.in_(ids))
        .group_by(trials.c.trial_id)
    )
    return {row.trial_id: (row.began, row.ended) for row in connection.execute(query)}


def _measured(rows: Sequence[Any], began: float) -> list[MeasuredRound]:
    names = [name for group in BY_GROUP.values() for name in group]
    at, measured = began, []
    for row in rows:
        at += 0.0 if row["inherited"] else row["seconds"]
        values = {name: float(row[name]) for name in names if row[name] is not None}
        measured.append(MeasuredRound(row["round"], at, values))
    return measured

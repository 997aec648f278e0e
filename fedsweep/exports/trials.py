"""Trials as the trackers want them: a configuration, its rounds, and when they were."""

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

TOGETHER = 50
"""Trials that are in memory at once."""


@dataclass(frozen=True)
class Measured:
    """The numbers of one round."""

    round: int
    at: float
    """Wall-clock seconds, counted from the trial's begin over the rounds that it trained itself: no
    round's own time is stored."""
    values: dict[str, float]
    """The measures that were taken."""


@dataclass(frozen=True)
class Trial:
    """One trial."""

    trial_id: str
    result: dict[str, Any]
    """Its row of the view `results`."""
    began: float
    """Wall-clock seconds of its first attempt; 0 before that."""
    ended: float | None
    rounds: list[Measured]

    @property
    def config(self) -> dict[str, Any]:
        """Its canonical configuration: values at their default are left out."""
        config: dict[str, Any] = json.loads(self.result["config"])
        return config

    @property
    def name(self) -> str:
        """What tells it apart, for people; its id's first digits make it unique."""
        r = self.result
        parts = [r["normalizer"]]
        parts += [f"T{r['freeze_round']}"] if r["freeze_round"] is not None else []
        parts += [f"alpha{r['alpha']:g}"] if r["alpha"] is not None else []
        parts += [f"E{r['local_steps']}"] if r["local_steps"] is not None else []
        return "-".join([*parts, r["momentum"], f"seed{r['seed']}", self.trial_id[:8]])


def sweeps_of(engine: Engine, sweep: str | None) -> dict[str, list[str]]:
    """The trials of a sweep, or of each, by the sweep's name, in the order of planning.

    Raises:
        NotFound: there is no such sweep.

    """
    with reading(engine) as connection:
        names = sweep_rows.sweep_names(connection)
        if sweep is not None:
            names = [sweep_rows.require_sweep(connection, sweep)]
        return {name: _members(connection, name) for name in names}


def _members(connection: Connection, sweep: str) -> list[str]:
    joined = members.join(sweeps, sweeps.c.id == members.c.sweep)
    query = sa.select(trials.c.trial_id).select_from(
        joined.join(trials, trials.c.id == members.c.trial)
    )
    query = query.where(sweeps.c.name == sweep).order_by(trials.c.id)
    return list(connection.execute(query).scalars())


def read(engine: Engine, ids: Sequence[str]) -> Iterator[Trial]:
    """These trials, each as it is when it comes up: a long export holds no transaction open."""
    for start in range(0, len(ids), TOGETHER):
        some = ids[start : start + TOGETHER]
        with reading(engine) as connection:
            found = _read(connection, some)
        yield from (found[trial_id] for trial_id in some if trial_id in found)


def _read(connection: Connection, ids: Sequence[str]) -> dict[str, Trial]:
    these: sa.BindParameter[list[str]] = sa.bindparam("ids", value=list(ids), expanding=True)
    results = sa.text("SELECT * FROM results WHERE trial_id IN :ids").bindparams(these)
    curves = sa.text(
        "SELECT * FROM curves WHERE trial_id IN :ids ORDER BY trial_id, round"
    ).bindparams(these)
    times = _times(connection, ids)
    rows = connection.execute(curves).mappings()
    rounds = {key: list(of_it) for key, of_it in itertools.groupby(rows, lambda r: r["trial_id"])}
    found = {}
    for result in connection.execute(results).mappings():
        key = result["trial_id"]
        began, ended = times.get(key, (0.0, None))
        found[key] = Trial(key, dict(result), began, ended, _measured(rounds.get(key, []), began))
    return found


def _times(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[float, float | None]]:
    """When each trial's first attempt began, and its last one ended."""
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


def _measured(rows: Sequence[Any], began: float) -> list[Measured]:
    names = [name for group in BY_GROUP.values() for name in group]
    at, found = began, []
    for row in rows:
        at += 0.0 if row["inherited"] else row["seconds"]
        values = {name: float(row[name]) for name in names if row[name] is not None}
        found.append(Measured(row["round"], at, values))
    return found

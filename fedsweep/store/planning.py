"""Planning: add a sweep, its trials and their rows. Nothing is ever removed."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.fields import config_columns
from fedsweep.plans import (
    OUTSIDE_IDENTITY,
    SweepSpec,
    TrainConfig,
    Trials,
    TrialSpec,
    fork_round,
    more_measured,
)
from fedsweep.states import TrialState
from fedsweep.store.batches import STATEMENT_ROWS, adding, batches
from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.base import Lock
from fedsweep.store.tables import (
    SHARING,
    arms,
    members,
    plans,
    proposed,
    sweeps,
    trials,
)


@dataclass(frozen=True)
class Planned:
    """The result of planning a sweep."""

    new: int
    """Trials that the database did not have."""
    kept: int
    """Trials of the plan that the database already had."""
    dropped: int
    """Members of the sweep that the text no longer names. They stay members."""
    earlier: str | None
    """The text under which the sweep was planned before, if it differs."""
    cancelled: tuple[str, ...]
    """Trials of the plan that are cancelled: the caller queues them again."""
    otherwise: int = 0
    """Kept trials that were planned to measure or keep other things, and have begun so."""


def add_sweep(connection: Connection, sweep: SweepSpec, priority: int = 0) -> Planned:
    """Add a sweep, its text and its trials. Existing rows are kept as they are."""
    take_turns(connection)
    key, earlier = _sweep_key(connection, sweep)
    planned = Trials.of(sweep.trials)
    before = {row.trial_id: row for row in _known(connection, planned.ids)}
    if earlier != sweep.text:
        connection.execute(
            sa.insert(plans).values(sweep=key, text=sweep.text, created_at=time.time())
        )
    begun = 0
    for trial in planned if before else ():
        row = before.get(trial.trial_id)
        if row is not None and _differs(row, trial):
            begun += not _measure_more(connection, row, trial)
    had = _members(connection, key)
    fresh, keys = add_trials(connection, key, planned, priority, before)
    return Planned(
        new=len(fresh),
        kept=len(before),
        dropped=len(had - set(keys.values()) - _proposed(connection, key)) if had else 0,
        earlier=earlier if earlier not in (None, sweep.text) else None,
        cancelled=tuple(i for i, row in before.items() if row.state == TrialState.CANCELLED),
        otherwise=begun,
    )


def add_trials(
    connection: Connection,
    sweep: int,
    wanted: Sequence[TrialSpec],
    priority: int,
    before: Mapping[str, Any] | None = None,
) -> tuple[set[str], dict[str, int]]:
    """Add the trials that do not exist yet, and make all of them members of a sweep.

    `before` has the rows of the existing trials if they are known. Return the ids of the new
    trials, and the rows of all trials by id. Call it after `take_turns`.
    """
    packed = Trials.of(wanted)
    if before is None:
        before = {row.trial_id: row for row in _known(connection, packed.ids)}
    fresh = packed.without(before)
    carriers = _carriers(connection, fresh, priority)
    rows = (_trial_row(trial, sweep, priority, carriers) for trial in fresh)
    while batch := list(itertools.islice(rows, STATEMENT_ROWS)):
        _ADD_TRIAL.many(connection, batch)
    had = _members(connection, sweep)
    keys: dict[str, int] = {}
    joining: list[dict[str, int]] = []
    for row in itertools.chain(before.values(), _known(connection, fresh.ids)):
        keys[row.trial_id] = row.id
        if row.id not in had:
            joining.append({"sweep": sweep, "trial": row.id, "shared": int(row.sweep != sweep)})
        if len(joining) == STATEMENT_ROWS:
            _ADD_MEMBER.many(connection, joining)
            joining = []
    if joining:
        _ADD_MEMBER.many(connection, joining)
    return set(fresh.ids), keys


def _members(connection: Connection, sweep: int) -> set[int]:
    return set(
        connection.execute(sa.select(members.c.trial).where(members.c.sweep == sweep)).scalars()
    )


def _proposed(connection: Connection, sweep: int) -> set[int]:
    """Return the trials that a sweep's searches chose. No plan names them."""
    of_it = sa.select(proposed.c.trial).join(arms, arms.c.id == proposed.c.arm)
    return set(connection.execute(of_it.where(arms.c.sweep == sweep)).scalars())


def _differs(row: Any, trial: TrialSpec) -> bool:
    """Return whether a stored trial measures or keeps something else than the plan asks for."""
    return any(getattr(row, name) != getattr(trial.config, name) for name in OUTSIDE_IDENTITY)


def _measure_more(connection: Connection, row: Any, trial: TrialSpec) -> bool:
    """Let a trial that has not begun also measure and keep what the plan asks for. Return False if
    it has begun.
    """
    stored = connection.execute(
        sa.select(trials.c.config).where(trials.c.id == row.id)
    ).scalar_one()
    more = more_measured(TrainConfig(**json.loads(stored)), trial.config)
    fields = {name: getattr(more, name) for name in OUTSIDE_IDENTITY}
    waiting = (trials.c.state == TrialState.QUEUED) & trials.c.final_round.is_(None)
    done = connection.execute(
        sa.update(trials)
        .where(trials.c.id == row.id, waiting)
        .values(
            config=json.dumps(more.model_dump(exclude_none=True)),
            trunk=sa.case((trials.c.trunk.is_not(None), TrialSpec.of(more).trunk)),
            **fields,
        )
    )
    return done.rowcount == 1


def take_turns(connection: Connection) -> None:
    """Lock out other planners, and other commands that hold sweeps, until the commit.

    Two planners that share trials in different orders would otherwise deadlock. Two commands that
    hold shared trials would not see each other's change.
    """
    dialect_of(connection).lock(connection, Lock.PLAN)


def _sweep_key(connection: Connection, sweep: SweepSpec) -> tuple[int, str | None]:
    """Return the sweep's row, created if it is missing, and the text of its latest plan."""
    _ADD_SWEEP(connection, name=sweep.name, created_at=time.time())
    key = connection.execute(sa.select(sweeps.c.id).where(sweeps.c.name == sweep.name)).scalar_one()
    last = sa.select(plans.c.text).where(plans.c.sweep == key).order_by(plans.c.id.desc()).limit(1)
    return key, connection.execute(last).scalar_one_or_none()


def _known(connection: Connection, ids: Sequence[str]) -> Iterator[Any]:
    """Return the existing ones of these trials: their rows, states and measures."""
    outside = [trials.c[name] for name in sorted(OUTSIDE_IDENTITY)]
    columns = sa.select(trials.c.trial_id, trials.c.id, trials.c.sweep, trials.c.state, *outside)
    for batch in batches(ids):
        yield from connection.execute(columns.where(trials.c.trial_id.in_(batch)))


def _carriers(connection: Connection, fresh: Trials, priority: int) -> dict[str, str | None]:
    """Return, by trunk, the new trial that will train it: the one that forks last.

    The value is None if an existing trial carries the trunk, and runs or is claimed no later than
    the new ones.
    """
    furthest: dict[str, tuple[int, str]] = {}
    for trial_id, trunk, fork in fresh.forks:
        if fork > furthest.get(trunk, (-1, ""))[0]:
            furthest[trunk] = (fork, trial_id)
    carriers: dict[str, str | None] = {k: carrier for k, (_, carrier) in furthest.items()}
    for names in batches(list(carriers)):
        carried = sa.select(trials.c.trunk).where(
            sa.text(SHARING),
            trials.c.trunk.in_(names),
            trials.c.waits == 0,
            (trials.c.priority >= priority) | (trials.c.state == TrialState.RUNNING),
        )
        carriers.update(dict.fromkeys(connection.execute(carried.distinct()).scalars()))
    return carriers


def _trial_row(
    trial: TrialSpec, sweep: int, priority: int, carriers: Mapping[str, str | None]
) -> dict[str, Any]:
    fields = trial.config.model_dump()
    shares = trial.trunk is not None
    waits = shares and carriers[trial.trunk or ""] != trial.trial_id
    return fields | {
        "trial_id": trial.trial_id,
        "cell_id": trial.cell_id,
        "sweep": sweep,
        "config": json.dumps({key: v for key, v in fields.items() if v is not None}),
        "state": TrialState.QUEUED.value,
        "priority": priority,
        "trunk": trial.trunk,
        "fork_round": fork_round(trial.config) if shares else None,
        "waits": int(waits),
    }


_PLANNED = (
    *("trial_id", "cell_id", "sweep", "config", "state", "priority"),
    *("trunk", "fork_round", "waits"),
)


_ADD_TRIAL = adding(trials, *_PLANNED, *config_columns())


_ADD_MEMBER = adding(members, "sweep", "trial", "shared")


_ADD_SWEEP = adding(sweeps, "name", "created_at")

"""Trials by filter, and a trial's rounds as they come; a sweep's cells and their mean curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.fields import config_columns
from fedsweep.measures import SHOWN_BY_ROUND
from fedsweep.states import TrialState
from fedsweep.store.live_views import TOLD
from fedsweep.store.rows import Row
from fedsweep.store.tables import attempts, members, rounds, sweeps, trials

PAGE = 100
"""Trials of a page."""

EXACT = ("state", "failure", "normalizer", "alpha", "local_steps", "momentum", "seed")
"""The columns that a filter compares."""

SORTS = {
    "planned": trials.c.id,
    **{name: trials.c[name] for name in EXACT if name != "failure"},
    **{name: trials.c[name] for name in ("freeze_round", "final_round", "test_accuracy")},
    **{name: trials.c[name] for name in ("validation_accuracy", "seconds", "priority")},
}
"""What trials can be sorted by."""


@dataclass(frozen=True)
class Wanted:
    """Which trials, in which order; what is None does not matter."""

    sweep: str | None = None
    prefix: str | None = None
    """The beginning of their ids."""
    exact: tuple[tuple[str, Any], ...] = ()
    """Columns of EXACT, each with its value."""
    sort: str = "planned"
    down: bool = False
    page: int = 1


def found(connection: Connection, wanted: Wanted) -> tuple[int, list[Row]]:
    """How many trials are wanted, and one page of them."""
    query = sa.select(trials.c.id).where(*_conditions(wanted))
    count = connection.execute(
        sa.select(sa.func.count()).select_from(query.subquery())
    ).scalar_one()
    column = SORTS[wanted.sort]
    order = (column.is_(None), column.desc() if wanted.down else column, trials.c.id)
    tried = sa.select(sa.func.count()).where(attempts.c.trial == trials.c.id).scalar_subquery()
    more = ("failure", "error", "test_accuracy", "validation_accuracy", "seconds", "held")
    rows = (
        sa.select(
            *(trials.c[name] for name in (*TOLD, *more)),
            sweeps.c.name.label("sweep"),
            tried.label("attempts"),
        )
        .join(sweeps, sweeps.c.id == trials.c.sweep)
        .where(*_conditions(wanted))
        .order_by(*order)
        .limit(PAGE)
        .offset(PAGE * (wanted.page - 1))
    )
    return count, [dict(row) for row in connection.execute(rows).mappings()]


def _conditions(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    conditions = [trials.c[name] == value for name, value in wanted.exact]
    if wanted.prefix:
        conditions.append(trials.c.trial_id.startswith(wanted.prefix, autoescape=True))
    if wanted.sweep is not None:
        conditions.append(trials.c.id.in_(_of(wanted.sweep)))
    return conditions


def _of(sweep: str) -> sa.Select[Any]:
    of_sweep = sa.select(members.c.trial).join(sweeps, sweeps.c.id == members.c.sweep)
    return of_sweep.where(sweeps.c.name == sweep)


def choices(connection: Connection) -> dict[str, list[Any]]:
    """The values that the configurations of all trials have, of what a filter compares."""
    names = ("normalizer", "alpha", "local_steps", "momentum")
    query = sa.select(*(trials.c[name] for name in names)).distinct()
    rows = connection.execute(query).all()
    return {
        name: sorted({row[i] for row in rows} - {None}, key=lambda v: (isinstance(v, str), v))
        for i, name in enumerate(names)
    }


def rounds_after(connection: Connection, trial: int, after: int) -> list[tuple[Any, ...]]:
    """A trial's rounds after this one, in order: (round, *SHOWN_BY_ROUND, phase, inherited)."""
    measured = [measure.name for measure in SHOWN_BY_ROUND]
    columns = [rounds.c[name] for name in ("round", *measured, "phase", "inherited")]
    query = sa.select(*columns).where(rounds.c.trial == trial, rounds.c.round > after)
    return [tuple(row) for row in connection.execute(query.order_by(rounds.c.round))]


@dataclass(frozen=True)
class Group:
    """The trials of a sweep that share cell, state and failure. Accuracies are shares 0..1."""

    cell_id: str
    state: str
    failure: str | None
    n: int
    means: dict[str, float | None]
    """Of the final measures that were asked for."""
    squares: dict[str, float | None]
    """The means of their squares."""


def groups(connection: Connection, sweep: str, measures: tuple[str, ...]) -> list[Group]:
    """A sweep's trials, counted and averaged."""
    taken = [trials.c[name] for name in measures]
    key = (trials.c.cell_id, trials.c.state, trials.c.failure)
    averages = [sa.func.avg(column) for column in taken]
    averages += [sa.func.avg(column * column) for column in taken]
    query = sa.select(*key, sa.func.count(), *averages).where(trials.c.id.in_(_of(sweep)))
    found = []
    for cell, state, failure, n, *values in connection.execute(query.group_by(*key)):
        means, squares = values[: len(taken)], values[len(taken) :]
        by_name = [dict(zip(measures, some, strict=True)) for some in (means, squares)]
        found.append(Group(cell, state, failure, n, *by_name))
    return found


def cells(connection: Connection, sweep: str) -> list[Row]:
    """The configurations of a sweep's cells, in the order of planning, with one seed of each."""
    first = sa.select(sa.func.min(trials.c.id)).where(trials.c.id.in_(_of(sweep)))
    fields = [trials.c[name] for name in ("cell_id", *config_columns())]
    query = sa.select(*fields).where(trials.c.id.in_(first.group_by(trials.c.cell_id)))
    return [dict(row) for row in connection.execute(query.order_by(trials.c.id)).mappings()]


def finals(connection: Connection, sweep: str) -> list[Row]:
    """Each trial's cell, seed and final test accuracy."""
    columns = [trials.c[name] for name in ("cell_id", "seed", "test_accuracy")]
    query = sa.select(*columns).where(trials.c.id.in_(_of(sweep))).order_by(trials.c.id)
    return [dict(row) for row in connection.execute(query).mappings()]


@dataclass(frozen=True)
class Mean:
    """A cell's test accuracy in a round: the mean and the mean square over `n` trials, 0..1."""

    round: int
    mean: float
    square: float
    n: int


def mean_curves(
    connection: Connection, sweep: str, cells: Sequence[str]
) -> dict[str, dict[str, list[Mean]]]:
    """The mean test accuracy by round of a sweep's cells, by cell and state.

    Of its finished trials and, apart, of those that run.
    """
    accuracy = rounds.c.test_accuracy
    query = (
        sa.select(
            *(trials.c.cell_id, trials.c.state, rounds.c.round),
            sa.func.avg(accuracy),
            sa.func.avg(accuracy * accuracy),
            sa.func.count(),
        )
        .select_from(trials.join(rounds, rounds.c.trial == trials.c.id))
        .where(
            trials.c.cell_id.in_(cells),
            trials.c.state.in_([TrialState.FINISHED, TrialState.RUNNING]),
            trials.c.id.in_(_of(sweep)),
            accuracy.is_not(None),
        )
        .group_by(trials.c.cell_id, trials.c.state, rounds.c.round)
        .order_by(trials.c.cell_id, rounds.c.round)
    )
    curves: dict[str, dict[str, list[Mean]]] = {}
    for cell, state, *numbers in connection.execute(query):
        curves.setdefault(cell, {}).setdefault(state, []).append(Mean(*numbers))
    return curves

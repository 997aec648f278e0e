"""Trials by filter, a trial's newest rounds, and a sweep's cells with their mean curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.fields import config_columns
from fedsweep.measures import SHOWN_BY_ROUND
from fedsweep.states import TrialState
from fedsweep.store.live import DESCRIPTION
from fedsweep.store.rows import Row
from fedsweep.store.tables import attempts, members, rounds, sweeps, trials

PAGE = 100
"""Trials per page."""

EXACT = ("state", "failure", "normalizer", "alpha", "local_steps", "momentum", "seed")
"""The columns that a filter compares with a value."""

SORTS = {
    "planned": trials.c.id,
    **{name: trials.c[name] for name in EXACT if name != "failure"},
    **{name: trials.c[name] for name in ("freeze_round", "final_round", "test_accuracy")},
    **{name: trials.c[name] for name in ("validation_accuracy", "seconds", "priority")},
}
"""The columns by which trials can be sorted."""


@dataclass(frozen=True)
class TrialFilter:
    """A filter and an order of trials. A field that is None does not filter."""

    sweep: str | None = None
    prefix: str | None = None
    """The first characters of their ids."""
    exact: tuple[tuple[str, Any], ...] = ()
    """Columns of EXACT, each with the value to compare."""
    sort: str = "planned"
    down: bool = False
    page: int = 1


def trials_page(connection: Connection, chosen: TrialFilter) -> tuple[int, list[Row]]:
    """Return the number of trials that pass a filter, and one page of them."""
    query = sa.select(trials.c.id).where(*_conditions(chosen))
    count = connection.execute(
        sa.select(sa.func.count()).select_from(query.subquery())
    ).scalar_one()
    column = SORTS[chosen.sort]
    order = (column.is_(None), column.desc() if chosen.down else column, trials.c.id)
    of_trial = sa.select(sa.func.count()).where(attempts.c.trial == trials.c.id)
    more = ("failure", "error", "test_accuracy", "validation_accuracy", "seconds", "held")
    rows = (
        sa.select(
            *(trials.c[name] for name in (*DESCRIPTION, *more)),
            sweeps.c.name.label("sweep"),
            of_trial.scalar_subquery().label("attempts"),
        )
        .join(sweeps, sweeps.c.id == trials.c.sweep)
        .where(*_conditions(chosen))
        .order_by(*order)
        .limit(PAGE)
        .offset(PAGE * (chosen.page - 1))
    )
    return count, [dict(row) for row in connection.execute(rows).mappings()]


def _conditions(chosen: TrialFilter) -> list[sa.ColumnElement[bool]]:
    conditions = [trials.c[name] == value for name, value in chosen.exact]
    if chosen.prefix:
        conditions.append(trials.c.trial_id.startswith(chosen.prefix, autoescape=True))
    if chosen.sweep is not None:
        conditions.append(trials.c.id.in_(_trials_of(chosen.sweep)))
    return conditions


def _trials_of(sweep: str) -> sa.Select[Any]:
    of_sweep = sa.select(members.c.trial).join(sweeps, sweeps.c.id == members.c.sweep)
    return of_sweep.where(sweeps.c.name == sweep)


def choices(connection: Connection) -> dict[str, list[Any]]:
    """Return the values of all trials in the columns of the configuration that can be filtered."""
    names = ("normalizer", "alpha", "local_steps", "momentum")
    query = sa.select(*(trials.c[name] for name in names)).distinct()
    rows = connection.execute(query).all()
    return {
        name: sorted({row[i] for row in rows} - {None}, key=lambda v: (isinstance(v, str), v))
        for i, name in enumerate(names)
    }


def rounds_after(connection: Connection, trial: int, after: int) -> list[tuple[Any, ...]]:
    """Return a trial's rounds after a given one, in order.

    A row is (round, *SHOWN_BY_ROUND, phase, inherited).
    """
    measured = [measure.name for measure in SHOWN_BY_ROUND]
    columns = [rounds.c[name] for name in ("round", *measured, "phase", "inherited")]
    query = sa.select(*columns).where(rounds.c.trial == trial, rounds.c.round > after)
    return [tuple(row) for row in connection.execute(query.order_by(rounds.c.round))]


@dataclass(frozen=True)
class Group:
    """The trials of a sweep with the same cell, state and failure. Accuracies are fractions."""

    cell_id: str
    state: str
    failure: str | None
    n: int
    means: dict[str, float | None]
    """The mean of each requested final measure."""
    squares: dict[str, float | None]
    """The mean of the square of each requested final measure."""


def groups(connection: Connection, sweep: str, measures: tuple[str, ...]) -> list[Group]:
    """Return a sweep's trials by cell, state and failure, with the means of these measures."""
    columns = [trials.c[name] for name in measures]
    key = (trials.c.cell_id, trials.c.state, trials.c.failure)
    averages = [sa.func.avg(column) for column in columns]
    averages += [sa.func.avg(column * column) for column in columns]
    query = sa.select(*key, sa.func.count(), *averages).where(trials.c.id.in_(_trials_of(sweep)))
    result = []
    for cell, state, failure, n, *values in connection.execute(query.group_by(*key)):
        means = dict(zip(measures, values[: len(columns)], strict=True))
        squares = dict(zip(measures, values[len(columns) :], strict=True))
        result.append(Group(cell, state, failure, n, means, squares))
    return result


def cells(connection: Connection, sweep: str) -> list[Row]:
    """Return the configuration of each cell of a sweep, in the order of planning.

    Each configuration has the seed of the cell's first trial.
    """
    first = sa.select(sa.func.min(trials.c.id)).where(trials.c.id.in_(_trials_of(sweep)))
    fields = [trials.c[name] for name in ("cell_id", *config_columns())]
    query = sa.select(*fields).where(trials.c.id.in_(first.group_by(trials.c.cell_id)))
    return [dict(row) for row in connection.execute(query.order_by(trials.c.id)).mappings()]


def finals(connection: Connection, sweep: str) -> list[Row]:
    """Return the cell, seed, state and final accuracies of each trial of a sweep."""
    names = ("trial_id", "cell_id", "seed", "state", "test_accuracy", "validation_accuracy")
    columns = [trials.c[name] for name in names]
    query = sa.select(*columns).where(trials.c.id.in_(_trials_of(sweep))).order_by(trials.c.id)
    return [dict(row) for row in connection.execute(query).mappings()]


@dataclass(frozen=True)
class Mean:
    """A cell's test accuracy in a round: mean and mean square over `n` trials, as fractions."""

    round: int
    mean: float
    square: float
    n: int


def mean_curves(
    connection: Connection, sweep: str, cells: Sequence[str]
) -> dict[str, dict[str, list[Mean]]]:
    """Return the mean test accuracy by round, by cell and state of the trials.

    The states are finished and running.
    """
    accuracy = rounds.c.test_accuracy
    query = (
        sa.select(
            trials.c.cell_id,
            trials.c.state,
            rounds.c.round,
            sa.func.avg(accuracy),
            sa.func.avg(accuracy * accuracy),
            sa.func.count(),
        )
        .select_from(trials.join(rounds, rounds.c.trial == trials.c.id))
        .where(
            trials.c.cell_id.in_(cells),
            trials.c.state.in_([TrialState.FINISHED, TrialState.RUNNING]),
            trials.c.id.in_(_trials_of(sweep)),
            accuracy.is_not(None),
        )
        .group_by(trials.c.cell_id, trials.c.state, rounds.c.round)
        .order_by(trials.c.cell_id, rounds.c.round)
    )
    curves: dict[str, dict[str, list[Mean]]] = {}
    for cell, state, *numbers in connection.execute(query):
        curves.setdefault(cell, {}).setdefault(state, []).append(Mean(*numbers))
    return curves

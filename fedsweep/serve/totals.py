"""A sweep's table whose numbers the database has averaged, and its panels."""

from __future__ import annotations

import math
from collections import ChainMap, Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedsweep.fields import TUNABLE, label
from fedsweep.measures import OPTIONAL
from fedsweep.reports.grouping import Cell, Spread, Summary, summarize
from fedsweep.reports.labels import ColumnKey, RowKey, field_text, sort_key
from fedsweep.reports.selection import tune
from fedsweep.states import TrialState
from fedsweep.store.browse import Group, Mean
from fedsweep.store.rows import Row

TABLE_MEASURES = ("test_accuracy", *OPTIONAL)
"""The measures that the table can show."""


@dataclass(frozen=True)
class Shape:
    """A sweep's table without its numbers, and its panels.

    Only a new plan changes them, or new results if fields are tuned.
    """

    cells: Sequence[Row]
    empty: Summary
    fields: tuple[str, ...]
    """The fields that tell rows apart and have several values. A row may pool them."""
    tunable: tuple[str, ...]
    """The hyperparameters with several values. Each cell may choose one on validation."""
    has_freeze_rounds: bool
    """True if the sweep has trials with a T*."""
    panels: Mapping[str, Panel]
    """One per row of the table, by name."""
    first: str | None
    """The name of the panel whose trials were planned first. It is the first one with results, as
    a rule.
    """


@dataclass(frozen=True)
class Panel:
    """One row of the table: the cells of each column, in column order."""

    key: RowKey
    cells: Mapping[ColumnKey, Sequence[Row]]


def tunable(cells: Sequence[Row]) -> tuple[str, ...]:
    """Return the hyperparameters with several values, if all trials have a validation accuracy."""
    if not all(row["validation"] for row in cells):
        return ()
    return tuple(name for name in TUNABLE if len({row[name] for row in cells} - {None}) > 1)


def tuned_cells(cells: Sequence[Row], finals: Sequence[Row], fields: Sequence[str]) -> list[Row]:
    """Return the cells that have the best values of these fields on validation.

    `finals` has the trials of the cells. A trial without a cell is left out: it is newly planned.
    """
    by_id = {row["cell_id"]: row for row in cells}
    rows = [ChainMap(row, by_id[row["cell_id"]]) for row in finals if row["cell_id"] in by_id]
    kept = {row["cell_id"] for row in tune(rows, fields)}
    return [row for row in cells if row["cell_id"] in kept]


def shape_of(
    name: str,
    cells: Sequence[Row],
    group_by: Sequence[str] | None = None,
    tuned: Sequence[str] = (),
    finals: Sequence[Row] = (),
) -> Shape:
    """Return the shape of a sweep's table.

    `group_by` names those of its `fields` that tell rows apart. The others are pooled. By default,
    none is pooled. `tuned` fields are chosen by the results of the trials in `finals`.
    """
    planned, may_tune = cells, tunable(cells)
    if any(row["validation_accuracy"] is None for row in finals if row["state"] == "finished"):
        may_tune = ()  # no client of that trial had a sample left for validation
    tuned = tuple(field for field in may_tune if field in tuned)
    cells = tuned_cells(cells, finals, tuned) if tuned else cells
    queued = dict.fromkeys(("failure", "error")) | {"state": "queued", "trial_id": ""}
    rows = [row | queued for row in cells]
    empty = summarize(name, rows, tuned=tuned)
    fields = tuple(
        axis
        for axis in empty.axes
        if axis != "centralized" and len({row[axis] for row in cells}) > 1
    )
    if group_by is not None:
        chosen = [axis for axis in empty.axes if axis not in fields or axis in group_by]
        empty = summarize(name, rows, group_by=chosen, tuned=tuned)
    panels = _panels(empty, cells)
    names = (panel_name(empty.axes, _key(empty, row)) for row in planned)
    first = next((name for name in names if name in panels), None)
    has_freeze_rounds = any(row["freeze_round"] is not None for row in planned)
    return Shape(cells, empty, fields, may_tune, has_freeze_rounds, panels, first)


def _panels(summary: Summary, rows: Sequence[Row]) -> dict[str, Panel]:
    cells: dict[RowKey, dict[ColumnKey, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[_key(summary, row)][summary.column(row)].append(row)
    panels = {}
    for key in sorted(cells, key=sort_key):
        in_order = {
            column: cells[key][column] for column in summary.columns if column in cells[key]
        }
        panels[panel_name(summary.axes, key)] = Panel(key, in_order)
    return panels


def _key(summary: Summary, row: Row) -> RowKey:
    return tuple(row[axis] for axis in summary.axes)


def panel_name(fields: Sequence[str], key: RowKey) -> str:
    """Return the name of a panel, such as "α = 0.1, E = 5"."""
    values = [(n, v) for n, v in zip(fields, key, strict=True) if v is not None]
    return (
        ", ".join(f"{label(name)} = {field_text(name, value)}" for name, value in values) or "all"
    )


def filled(shape: Shape, groups: Sequence[Group]) -> tuple[Summary, dict[str, int]]:
    """Return a sweep's table with its numbers, and the number of trials by state."""
    by_cell: dict[str, list[Group]] = defaultdict(list)
    states: dict[str, int] = dict.fromkeys(TrialState, 0)
    for group in groups:
        by_cell[group.cell_id].append(group)
        states[group.state] += group.n
    table: dict[RowKey, dict[ColumnKey, Cell]] = {
        panel.key: {
            column: _filled(
                shape.empty.cells[panel.key][column],
                [group for row in rows for group in by_cell[row["cell_id"]]],
            )
            for column, rows in panel.cells.items()
        }
        for panel in shape.panels.values()
    }
    sizes = Counter(cell.n for columns in table.values() for cell in columns.values() if cell.n)
    usual = max(sizes, key=lambda n: (sizes[n], n), default=0)
    return replace(shape.empty, cells=table, usual_n=usual, states=states), states


@dataclass(frozen=True)
class Totals(Cell):
    """A cell whose trials the database has averaged. It has no values per seed to test with."""

    spreads: Mapping[str, Spread]

    def measure(self, name: str) -> Spread:
        """Return the spread of a measure, as computed by the database."""
        return self.spreads[name]


def _filled(cell: Cell, groups: Sequence[Group]) -> Cell:
    done = [group for group in groups if group.state == TrialState.FINISHED]
    failures: Counter[str] = Counter()
    for group in groups:
        if group.state == TrialState.FAILED:
            failures[group.failure or "error"] += group.n
    n = sum(group.n for group in done)
    return Totals(
        fields=cell.fields,
        cell_ids=cell.cell_ids,
        n=n,
        values=cell.values,
        failures=failures,
        unfinished=sum(group.n for group in groups) - n - failures.total(),
        spreads={name: _spread(done, name) for name in TABLE_MEASURES},
    )


def _spread(groups: Sequence[Group], name: str) -> Spread:
    """Return the spread of a measure over the trials of groups that have it."""
    parts = [
        (group.n, mean, square)
        for group in groups
        if (mean := group.means[name]) is not None and (square := group.squares[name]) is not None
    ]
    if not parts:
        return Spread(0, None, None, None, None)
    n, mean, square = _pooled(parts)
    return Spread(n, mean, deviation(mean, square, n) if n > 1 else None, None, None)


def _pooled(parts: Sequence[tuple[int, float, float]]) -> tuple[int, float, float]:
    """Return number, mean and mean square of the values of all parts."""
    if len(parts) == 1:  # without a rounding error
        return parts[0]
    n = sum(part[0] for part in parts)
    mean, square = (math.fsum(part[0] * part[i] for part in parts) / n for i in (1, 2))
    return n, mean, square


def deviation(mean: float, square: float, n: int) -> float:
    """Return the sample standard deviation of n values from their mean and mean square."""
    return math.sqrt(max(0.0, square - mean * mean) * n / (n - 1)) if n > 1 else 0.0


def pooled_curve(curves: Sequence[Sequence[Mean]]) -> list[Mean]:
    """Return the mean curve of the trials of several cells, in the rounds that all trials have."""
    by_round: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
    for point in (point for curve in curves for point in curve):
        by_round[point.round].append((point.n, point.mean, point.square))
    points = [(number, *_pooled(parts)) for number, parts in sorted(by_round.items())]
    most = max((n for _, n, _, _ in points), default=0)
    return [Mean(number, mean, square, n) for number, n, mean, square in points if n == most]

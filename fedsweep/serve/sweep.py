"""One sweep: its table, its mean curves by arm, what its searches found, its plan."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.engine import Connection

from fedsweep.appearance import page_colors
from fedsweep.fields import label
from fedsweep.measures import OPTIONAL
from fedsweep.report import search_results, search_tables, tables
from fedsweep.report.grouping import Cell, Spread, Summary, column_text, summarize
from fedsweep.report.labels import ColumnKey, RowKey, field_text, sort_key
from fedsweep.serve import views
from fedsweep.serve.look import OFTEN, SELDOM, Look
from fedsweep.serve.screen import Part, Screen, part
from fedsweep.states import TrialState
from fedsweep.store import arms, browse, sweep_rows
from fedsweep.store.browse import Group, Mean
from fedsweep.store.progress import sweep_progress
from fedsweep.store.rows import Row

LARGEST = 24
"""Arms that one panel draws."""
SOMETIMES = 5
"""Ticks for which curves and searches are good: they are the dearest to read."""
SHOWN = ("test_accuracy", *OPTIONAL)


def sweep(look: Look, asked: Mapping[str, str]) -> Screen:
    """A sweep as the report tells it.

    Raises:
        NotFound: there is no such sweep.

    """
    name = look.read(sweep_rows.require_sweep, asked.get("sweep", ""))
    known = [p for p in look.read(sweep_progress, keep=OFTEN) if p.sweep == name]
    (progress,) = known or look.read(sweep_progress, name)  # one that was planned just now
    shape = look.once(("shape", name), lambda: shape_of(look, name), SELDOM)
    table, summary, of_state = look.once(("table", name), lambda: _table(look, shape, name), OFTEN)
    panels = shape.panels
    panel = asked.get("panel") if asked.get("panel") in panels else next(iter(panels), None)
    chosen = panels[panel][:LARGEST] if panel is not None else []
    ids = tuple(row["cell_id"] for row in chosen)
    curves = look.read(browse.mean_curves, name, ids, keep=SOMETIMES)
    found = look.read(_searched, name, keep=SOMETIMES)
    plans = look.read(sweep_rows.plan_texts, name, keep=SELDOM)
    parts = [
        part("standing", "sweep_standing.html", p=progress, views=views, of_state=of_state),
        part("panels", "sweep_panels.html", live=False, panels=list(panels), panel=panel, name=name,
             left_out=len(panels[panel]) - len(chosen) if panel is not None else 0),
        table,
        part("search", "sweep_search.html", findings=found),
        part("plan", "sweep_plan.html", live=False, plans=plans),
    ]  # fmt: skip
    figure = {"traces": traces(summary, chosen, curves), "y": "test accuracy, %", "x": "round"}
    return Screen("overview", f"Sweep {name}", parts, figure=figure, draws=True)


def _table(look: Look, shape: Shape, name: str) -> tuple[Part, Summary, dict[str, int]]:
    """The table of a sweep as it is now: many lines, where there are many cells."""
    summary, states = filled(shape, look.read(browse.groups, name, SHOWN))
    return part("table", "sweep_table.html", s=summary, tables=tables), summary, states


def _searched(connection: Connection, name: str) -> dict[str, Any] | None:
    """The lines of what searches found: small, to be kept; None where nothing is searched."""
    if not arms.of_sweep(connection, name):
        return None
    found = search_results.read_search_results(connection, name, browse.finals(connection, name))
    headings, lines = search_tables.rows(found)
    return {"headings": headings, "lines": lines, "notes": search_tables.notes(found)}


@dataclass(frozen=True)
class Shape:
    """A sweep's table without its numbers, and its panels: what only a new plan changes."""

    cells: Sequence[Row]
    empty: Summary
    panels: Mapping[str, list[Row]]


def shape_of(look: Look, name: str) -> Shape:
    """The shape of a sweep as it is planned now."""
    cells = look.read(browse.cells, name)
    nothing = dict.fromkeys(("failure", "error")) | {"state": "queued", "trial_id": ""}
    empty = summarize(name, [row | nothing for row in cells])
    return Shape(cells, empty, panels_of(empty, cells))


def filled(shape: Shape, groups: Sequence[Group]) -> tuple[Summary, dict[str, int]]:
    """A sweep's table with its numbers; and its trials by state."""
    by_cell: dict[str, list[Group]] = defaultdict(list)
    states: dict[str, int] = dict.fromkeys(TrialState, 0)
    for group in groups:
        by_cell[group.cell_id].append(group)
        states[group.state] += group.n
    empty = shape.empty
    table: dict[RowKey, dict[ColumnKey, Cell]] = {
        key: dict(cols) for key, cols in empty.cells.items()
    }
    for row in shape.cells:
        columns, column = table[tuple(row[axis] for axis in empty.axes)], empty.column(row)
        columns[column] = _filled(columns[column], by_cell[row["cell_id"]])
    sizes = Counter(cell.n for columns in table.values() for cell in columns.values() if cell.n)
    usual = max(sizes, key=lambda n: (sizes[n], n), default=0)
    return replace(empty, cells=table, usual_n=usual, states=states), states


@dataclass(frozen=True)
class Totals(Cell):
    """A cell of which the database has summed up the trials: quick, and nothing to test by."""

    spreads: Mapping[str, Spread]

    def measure(self, name: str) -> Spread:
        """As the database told it."""
        return self.spreads[name]


def _filled(cell: Cell, groups: Sequence[Group]) -> Cell:
    done = next((g for g in groups if g.state == TrialState.FINISHED), None)
    failures = {g.failure or "error": g.n for g in groups if g.state == TrialState.FAILED}
    n = done.n if done else 0
    return Totals(
        fields=cell.fields,
        cell_ids=cell.cell_ids,
        n=n,
        values=cell.values,
        failures=failures,
        unfinished=sum(g.n for g in groups) - n - sum(failures.values()),
        spreads={name: _spread(done, name) for name in SHOWN},
    )


def _spread(group: Group | None, name: str) -> Spread:
    mean, square = (group.means[name], group.squares[name]) if group else (None, None)
    if group is None or mean is None or square is None:
        return Spread(0, None, None, None, None)
    std = deviation(mean, square, group.n) if group.n > 1 else None
    return Spread(group.n, mean, std, None, None)


def deviation(mean: float, square: float, n: int) -> float:
    """The sample standard deviation of n values, from their mean and mean square."""
    return math.sqrt(max(0.0, square - mean * mean) * n / (n - 1)) if n > 1 else 0.0


def panels_of(summary: Summary, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The cells of each point of the axes, by that point's name."""
    panels: dict[RowKey, list[Row]] = defaultdict(list)
    for row in rows:
        panels[tuple(row[name] for name in summary.axes)].append(row)

    def place(row: Row) -> int:
        return summary.columns.index(summary.column(row))

    return {
        _point(summary.axes, key) or "all": sorted(panels[key], key=place)
        for key in sorted(panels, key=sort_key)
    }


def _point(fields: Sequence[str], key: RowKey) -> str:
    told = [(n, v) for n, v in zip(fields, key, strict=True) if v is not None]
    return ", ".join(f"{label(name)} = {field_text(name, value)}" for name, value in told)


def traces(
    summary: Summary, rows: Sequence[Row], curves: Mapping[str, Mapping[str, Sequence[Mean]]]
) -> list[dict[str, Any]]:
    """A line an arm, in percent: of its finished trials; where it has none, of those that run.

    Where BN is drawn, FIXBN forks off it.
    """
    found: list[dict[str, Any]] = []
    trunk = any(row["normalizer"] == "bn" and curves.get(row["cell_id"]) for row in rows)
    for row in rows:
        states = curves.get(row["cell_id"], {})
        points = states.get(TrialState.FINISHED) or states.get(TrialState.RUNNING) or []
        most = max((p.n for p in points), default=0)
        shared = [p for p in points if p.n == most]  # the rounds that all of them have
        if trunk and row["normalizer"] == "fixbn":  # up to T* it is BN, bit for bit
            shared = [p for p in shared if p.round >= (row["freeze_round"] or 0)]
        if shared:
            found.append(_trace(summary, row, shared))
    colors = page_colors([trace["normalizer"] for trace in found])
    return [trace | {"color": color} for trace, color in zip(found, colors, strict=True)]


def _trace(summary: Summary, row: Row, points: Sequence[Mean]) -> dict[str, Any]:
    return {
        "name": column_text(summary, summary.column(row)),
        "normalizer": row["normalizer"],
        "n": points[0].n,
        "x": [p.round for p in points],
        "y": [round(100 * p.mean, 3) for p in points],
        "std": [round(100 * deviation(p.mean, p.square, p.n), 3) for p in points],
    }

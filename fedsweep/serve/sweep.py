"""The screen of one sweep: its table, mean curves by arm, search results and plan."""

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
from fedsweep.reports import search_results, search_tables, tables
from fedsweep.reports.grouping import Cell, Spread, Summary, column_text, summarize
from fedsweep.reports.labels import ColumnKey, RowKey, field_text, sort_key
from fedsweep.serve import presentation
from fedsweep.serve.read_cache import PLAN_TICKS, PROGRESS_TICKS, ReadCache
from fedsweep.serve.screen import Part, Screen, part
from fedsweep.states import TrialState
from fedsweep.store import arms, browse, sweep_rows
from fedsweep.store.browse import Group, Mean
from fedsweep.store.progress import sweep_progress
from fedsweep.store.rows import Row

MAX_ARMS = 24
"""Arms that one panel draws."""
CURVE_TICKS = 5
"""Ticks for which curves and search results are cached, because they are the slowest reads."""
TABLE_MEASURES = ("test_accuracy", *OPTIONAL)
"""The measures that the table can show."""


def sweep(cache: ReadCache, query: Mapping[str, str]) -> Screen:
    """Return the screen of a sweep, with the table of `fedsweep report`.

    Raises:
        NotFound: there is no sweep of that name.

    """
    name = cache.read(sweep_rows.require_sweep, query.get("sweep", ""))
    listed = [p for p in cache.read(sweep_progress, ticks=PROGRESS_TICKS) if p.sweep == name]
    (progress,) = listed or cache.read(sweep_progress, name)  # the cached list may be older
    shape = cache.get(("shape", name), lambda: shape_of(cache, name), PLAN_TICKS)
    table, summary, states = cache.get(
        ("table", name), lambda: _table(cache, shape, name), PROGRESS_TICKS
    )
    panels = shape.panels
    panel = query.get("panel") if query.get("panel") in panels else next(iter(panels), None)
    chosen = panels[panel][:MAX_ARMS] if panel is not None else []
    ids = tuple(row["cell_id"] for row in chosen)
    curves = cache.read(browse.mean_curves, name, ids, ticks=CURVE_TICKS)
    findings = cache.read(_search_tables, name, ticks=CURVE_TICKS)
    plans = cache.read(sweep_rows.plan_texts, name, ticks=PLAN_TICKS)
    parts = [
        part("standing", "sweep_standing.html", p=progress, presentation=presentation,
             states=states),
        part("panels", "sweep_panels.html", live=False, panels=list(panels), panel=panel, name=name,
             left_out=len(panels[panel]) - len(chosen) if panel is not None else 0),
        table,
        part("search", "sweep_search.html", findings=findings),
        part("plan", "sweep_plan.html", live=False, plans=plans),
    ]  # fmt: skip
    figure = {"traces": traces(summary, chosen, curves), "y": "test accuracy, %", "x": "round"}
    return Screen("overview", f"Sweep {name}", parts, figure=figure, draws=True)


def _table(cache: ReadCache, shape: Shape, name: str) -> tuple[Part, Summary, dict[str, int]]:
    """Return the rendered table of a sweep, its summary, and the number of trials by state."""
    summary, states = filled(shape, cache.read(browse.groups, name, TABLE_MEASURES))
    return part("table", "sweep_table.html", s=summary, tables=tables), summary, states


def _search_tables(connection: Connection, name: str) -> dict[str, Any] | None:
    """Return the search results of a sweep as text, or None if it has no search."""
    if not arms.of_sweep(connection, name):
        return None
    findings = search_results.read_search_results(connection, name, browse.finals(connection, name))
    headings, lines = search_tables.rows(findings)
    return {"headings": headings, "lines": lines, "notes": search_tables.notes(findings)}


@dataclass(frozen=True)
class Shape:
    """A sweep's table without its numbers, and its panels. Only a new plan changes them."""

    cells: Sequence[Row]
    empty: Summary
    panels: Mapping[str, list[Row]]


def shape_of(cache: ReadCache, name: str) -> Shape:
    """Return the shape of a sweep as it is planned now."""
    cells = cache.read(browse.cells, name)
    queued = dict.fromkeys(("failure", "error")) | {"state": "queued", "trial_id": ""}
    empty = summarize(name, [row | queued for row in cells])
    return Shape(cells, empty, panels_of(empty, cells))


def filled(shape: Shape, groups: Sequence[Group]) -> tuple[Summary, dict[str, int]]:
    """Return a sweep's table with its numbers, and the number of trials by state."""
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
    """A cell whose trials the database has averaged. It has no values per seed to test with."""

    spreads: Mapping[str, Spread]

    def measure(self, name: str) -> Spread:
        """Return the spread of a measure, as computed by the database."""
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
        spreads={name: _spread(done, name) for name in TABLE_MEASURES},
    )


def _spread(group: Group | None, name: str) -> Spread:
    mean, square = (group.means[name], group.squares[name]) if group else (None, None)
    if group is None or mean is None or square is None:
        return Spread(0, None, None, None, None)
    std = deviation(mean, square, group.n) if group.n > 1 else None
    return Spread(group.n, mean, std, None, None)


def deviation(mean: float, square: float, n: int) -> float:
    """Return the sample standard deviation of n values from their mean and mean square."""
    return math.sqrt(max(0.0, square - mean * mean) * n / (n - 1)) if n > 1 else 0.0


def panels_of(summary: Summary, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the cells of each point of the axes, by the point's name, in column order."""
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
    values = [(n, v) for n, v in zip(fields, key, strict=True) if v is not None]
    return ", ".join(f"{label(name)} = {field_text(name, value)}" for name, value in values)


def traces(
    summary: Summary, rows: Sequence[Row], curves: Mapping[str, Mapping[str, Sequence[Mean]]]
) -> list[dict[str, Any]]:
    """Return one curve per arm, in percent, and its color.

    A curve is the mean over finished trials, or over running ones if none has finished. If BN is
    drawn, FIXBN's curve begins at T⋆.
    """
    result: list[dict[str, Any]] = []
    trunk = any(row["normalizer"] == "bn" and curves.get(row["cell_id"]) for row in rows)
    for row in rows:
        states = curves.get(row["cell_id"], {})
        points = states.get(TrialState.FINISHED) or states.get(TrialState.RUNNING) or []
        most = max((p.n for p in points), default=0)
        common = [p for p in points if p.n == most]  # the rounds that all trials have
        if trunk and row["normalizer"] == "fixbn":  # up to T⋆ it equals BN, bit for bit
            common = [p for p in common if p.round >= (row["freeze_round"] or 0)]
        if common:
            result.append(_trace(summary, row, common))
    colors = page_colors([trace["normalizer"] for trace in result])
    return [trace | {"color": color} for trace, color in zip(result, colors, strict=True)]


def _trace(summary: Summary, row: Row, points: Sequence[Mean]) -> dict[str, Any]:
    return {
        "name": column_text(summary, summary.column(row)),
        "normalizer": row["normalizer"],
        "n": points[0].n,
        "x": [p.round for p in points],
        "y": [round(100 * p.mean, 3) for p in points],
        "std": [round(100 * deviation(p.mean, p.square, p.n), 3) for p in points],
    }

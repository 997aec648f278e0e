"""The figures of a sweep's screen: their lines for the browser, and their data as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedsweep.reports.freeze_rounds import (
    SHARE,
    FreezePanel,
    at_freeze_round,
    fork_of,
    is_trunk,
    place_of,
)
from fedsweep.reports.grouping import Cell, Summary, column_text
from fedsweep.reports.labels import ColumnKey, Row
from fedsweep.serve.choice import Choice
from fedsweep.serve.csv_table import CsvTable
from fedsweep.serve.presentation import line_styles
from fedsweep.serve.totals import deviation, pooled_curve
from fedsweep.states import TrialState
from fedsweep.store.browse import Mean

CellCurves = Mapping[str, Mapping[str, Sequence[Mean]]]
"""The mean curves by cell and state."""


@dataclass(frozen=True)
class ArmCurve:
    """The mean test accuracy of an arm by round."""

    column: ColumnKey
    state: TrialState
    """The state of the trials: finished, or running if none has finished."""
    points: Sequence[Mean]
    cells: Sequence[Row] = ()
    """The cells that the points average."""
    first: int = 0
    """The first round that is drawn. The data have all rounds."""

    @property
    def n(self) -> int:
        """Return the number of trials."""
        return self.points[0].n if self.points else 0


def arm_curves(choice: Choice, curves: CellCurves) -> list[ArmCurve]:
    """Return the curves of the chosen arms that have one.

    If BN is drawn with the same settings, FIXBN's curve is drawn from T⋆ on: up to T⋆ both are
    equal, bit for bit.
    """
    every = [_arm_curve(choice, column, curves) for column in choice.drawn]
    bn = next((curve for curve in every if curve.column[0] == "bn"), None)
    forks = [
        fork_of(curve.cells) or 0
        if bn and curve.column[0] == "fixbn" and bn.n == curve.n and is_trunk(bn.cells, curve.cells)
        else 0
        for curve in every
    ]
    return [
        replace(curve, first=fork)
        for curve, fork in zip(every, forks, strict=True)
        if curve.points and curve.points[-1].round >= fork
    ]


def _arm_curve(choice: Choice, column: ColumnKey, curves: CellCurves) -> ArmCurve:
    cells = choice.panel.cells[column]
    by_state = [
        [row for row in cells if state in curves.get(row["cell_id"], {})]
        for state in (TrialState.FINISHED, TrialState.RUNNING)
    ]
    state = TrialState.FINISHED if by_state[0] else TrialState.RUNNING
    drawn = by_state[0] or by_state[1]
    return ArmCurve(
        column, state, pooled_curve([curves[r["cell_id"]][state] for r in drawn]), drawn
    )


def by_round(choice: Choice, curves: Sequence[ArmCurve]) -> dict[str, Any]:
    """Return the figure of the accuracy by round, in percent."""
    summary = choice.shape.empty
    styles = _styles(choice)
    lines = [
        {
            "name": column_text(summary, curve.column),
            "kind": "curve",
            **styles[curve.column],
            "n": curve.n,
            "first": curve.first,
            "x": [p.round for p in curve.points],
            "y": [round(100 * p.mean, 3) for p in curve.points],
            "std": [round(100 * deviation(p.mean, p.square, p.n), 3) for p in curve.points],
        }
        for curve in curves
    ]
    return {"traces": lines, "y": "test accuracy, %", "x": "round"}


def _styles(choice: Choice) -> dict[ColumnKey, dict[str, Any]]:
    """Return the style of each arm of the sweep, as in its report.

    It does not depend on the panel, nor on the arms that are chosen.
    """
    columns = choice.shape.empty.columns
    return dict(zip(columns, line_styles([column[0] for column in columns]), strict=True))


def by_freeze_round(choice: Choice, panel: FreezePanel | None) -> dict[str, Any]:
    """Return the figure of the final accuracy by T⋆, in percent. It is empty without a panel."""
    axes = {"y": "final test accuracy, %", "x": panel.heading if panel else "T⋆, rounds"}
    if panel is None:
        return axes | {"traces": []}
    summary, styles = choice.shape.empty, _styles(choice)
    colors = line_styles([column[0] for column in panel.lines])
    traces = [
        {
            "name": column_text(summary, column),
            "kind": "points",
            **style,
            "x": [place_of(frozen) for frozen, _ in points],
            "y": [_percent(cell.mean) for _, cell in points],
            "std": [_percent(cell.std) for _, cell in points],
        }
        for (column, points), style in zip(panel.lines.items(), colors, strict=True)
    ]
    at = [place_of(frozen) for points in panel.lines.values() for frozen, _ in points]
    ends = [0, panel.end or max(at)]
    for column, cell in panel.levels.items():
        level = {"name": column_text(summary, column), "kind": "level", **styles[column]}
        traces.append(level | {"x": ends, "y": [_percent(cell.mean)] * 2, "std": []})
    names = [column[0] for column in (*panel.lines, *panel.levels)]
    places = [column[0] for column in summary.columns]
    order = sorted(range(len(traces)), key=lambda i: places.index(names[i]))
    return axes | {"traces": [traces[i] for i in order]}


def _percent(value: float | None) -> float:
    return round(100 * (value or 0.0), 3)


NUMBERS = ("n", "mean_test_accuracy", "std_test_accuracy")
"""The columns of numbers, as in the view `cells`."""


def by_round_table(choice: Choice, curves: Sequence[ArmCurve]) -> CsvTable:
    """Return the data of the figure by round. The names are those of the views."""

    def rows() -> Iterator[tuple[Any, ...]]:
        for curve in curves:
            fields = _fields(choice, curve.column)
            for p in curve.points:
                std = deviation(p.mean, p.square, p.n) if p.n > 1 else None
                yield (*fields, curve.state.value, p.round, p.n, p.mean, std)

    summary = choice.shape.empty
    columns = (*_field_names(summary), "state", "round", *NUMBERS)
    return CsvTable(f"{summary.sweep}-accuracy-by-round", columns, rows())


def by_freeze_round_table(choice: Choice, panel: FreezePanel | None) -> CsvTable:
    """Return the data of the figure by T⋆. A level has no freeze_round."""

    def rows() -> Iterator[tuple[Any, ...]]:
        if panel is None:
            return
        for arm, points in panel.lines.items():
            for frozen, cell in points:
                row = _cell_row(choice, at_freeze_round(summary, arm, frozen), cell)
                yield (*row, frozen) if more else row
        for column, cell in panel.levels.items():
            row = _cell_row(choice, column, cell)
            yield (*row, None) if more else row

    summary = choice.shape.empty
    more = [SHARE] if summary.has_shares else []
    columns = (*_field_names(summary), *NUMBERS, *more)
    return CsvTable(f"{summary.sweep}-accuracy-by-freeze-round", columns, rows())


def _cell_row(choice: Choice, column: ColumnKey, cell: Cell) -> tuple[Any, ...]:
    return (*_fields(choice, column), cell.n, cell.mean, cell.std)


def _field_names(summary: Summary) -> tuple[str, ...]:
    return ("sweep", "normalizer", *summary.arm_fields, *summary.axes, *summary.tuned)


def _fields(choice: Choice, column: ColumnKey) -> tuple[Any, ...]:
    summary, key = choice.shape.empty, choice.panel.key
    point = dict(zip(summary.axes, key, strict=True))
    tuned = summary.tuned_fields(column, key)
    return (summary.sweep, *summary.column_fields(column, point).values(), *key, *tuned.values())

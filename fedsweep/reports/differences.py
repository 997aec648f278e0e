"""Differences between cells: to the best of a row, to a baseline, to centralized training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from fedsweep.appearance import central_twin
from fedsweep.errors import RequestError
from fedsweep.fields import FEDERATED
from fedsweep.measures import MEASURES
from fedsweep.reports.grouping import Cell, PairKey, Summary, column_text
from fedsweep.reports.labels import ColumnKey, RowKey, value_text
from fedsweep.reports.statistics import PairedDifference, holm, not_worse, paired_difference

Mark = Literal["best", "level", ""]

CENTRAL = ("local_steps", "local_epochs", "clients", "momentum", "server_momentum")
"""The fields of FEDERATED in which centralized trials differ, too.

A round of a centralized trial takes M*E steps, or E epochs.
"""


@dataclass(frozen=True)
class CellDifference:
    """The difference of a cell to another, over the pairs of their trials."""

    key: RowKey
    column: ColumnKey
    difference: PairedDifference
    p: float | None
    """Two-sided, adjusted by Holm's method for all differences of the table. None for one pair."""


@dataclass(frozen=True)
class Marks:
    """The marked columns of a row."""

    best: ColumnKey | None
    level: frozenset[ColumnKey]
    """Columns that a paired test does not find to be worse than the best."""

    def of(self, column: ColumnKey) -> Mark:
        """Return the mark of a column."""
        return "best" if column == self.best else "level" if column in self.level else ""


def marks(cells: Mapping[ColumnKey, Cell], measure: str) -> Marks:
    """Mark the best mean of a row, and the columns that are not significantly worse.

    Cells that lack a trial take no part, because a mean without its diverged seeds is too good.
    """
    values = {c: _larger_is_better(cell, measure) for c, cell in cells.items() if cell.whole}
    values = {column: by_pair for column, by_pair in values.items() if by_pair}
    # A pair is a seed and a point of the axes that the row pools. A column must have all points.
    points = {pair[1:] for by_pair in values.values() for pair in by_pair}
    values = {c: by_pair for c, by_pair in values.items() if {p[1:] for p in by_pair} == points}
    if len(values) < 2:
        return Marks(None, frozenset())
    best = max(values, key=lambda column: sum(values[column].values()) / len(values[column]))
    others = {column: by_pair for column, by_pair in values.items() if column != best}
    return Marks(best, frozenset(not_worse(values[best], others)))


def incomplete_cell_is_better(cells: Mapping[ColumnKey, Cell], measure: str) -> bool:
    """Return whether a cell that lacks a trial has a better mean than the marked best one."""
    best = marks(cells, measure).best
    if best is None:
        return False
    values = {c: _larger_is_better(cell, measure) for c, cell in cells.items()}
    means = {c: fmean(by_pair.values()) for c, by_pair in values.items() if by_pair}
    return any(means[c] > means[best] for c in means if not cells[c].whole)


def _larger_is_better(cell: Cell, measure: str) -> dict[PairKey, float]:
    """Return a cell's values by pair, negated if a lower value is better."""
    sign = -1 if MEASURES[measure].lower_is_better else 1
    return {pair: sign * value for pair, value in cell.values[measure].items()}


def find_column(summary: Summary, name: str) -> ColumnKey:
    """Return the column that a person names: "bn", or "fixbn:12" if there are several T*.

    Raises:
        RequestError: no column has this name, or several have it. The message lists them.

    """
    normalizer, *values = name.lower().split(":")
    columns = [c for c in summary.columns if c[0] == normalizer]
    columns = [c for c in columns if {*values} <= {value_text(v) for v in c[1:]}]
    if len(columns) > 1:
        exact = [c for c in columns if values == [value_text(v) for v in c[1:] if v is not None]]
        columns = exact or columns
    if len(columns) == 1:
        return columns[0]
    names = ", ".join(column_text(summary, c) for c in columns or summary.columns)
    if columns:
        example = ":".join(value_text(value) for value in columns[0] if value is not None)
        raise RequestError(f"--baseline {name}: say which of its columns ({names}), as {example}")
    raise RequestError(
        f"--baseline {name}: sweep {summary.sweep} has no such column: it has {names}"
    )


def differences_to_baseline(
    summary: Summary, measure: str, baseline: ColumnKey
) -> list[CellDifference]:
    """Return each cell minus its row's baseline, over the pairs that finished in both."""
    differences = []
    for key, cells in summary.cells.items():
        if baseline not in cells:
            continue
        baseline_values = cells[baseline].values[measure]
        for column in summary.columns:
            if column != baseline and column in cells:
                difference = paired_difference(cells[column].values[measure], baseline_values)
                differences += [(key, column, difference)] if difference is not None else []
    return _adjusted(differences)


def without_baseline(summary: Summary, measure: str, baseline: ColumnKey) -> int:
    """Count the cells with results that have no pair with the baseline, so no difference."""
    count = 0
    for cells in summary.cells.values():
        pairs = cells[baseline].values[measure].keys() if baseline in cells else ()
        for column, cell in cells.items():
            values = cell.values[measure]
            count += column != baseline and bool(values) and values.keys().isdisjoint(pairs)
    return count


def differences_to_centralized(summary: Summary, measure: str) -> list[CellDifference]:
    """Return each federated cell minus its centralized twin, by seed, if the twin was trained."""
    if "centralized" not in summary.axes or summary.pooled:
        return []
    place = {name: i for i, name in enumerate(summary.axes)}
    same = [i for name, i in place.items() if name not in FEDERATED]
    own = [place[name] for name in CENTRAL if name in place]
    arm_places = [
        i for i, name in enumerate(summary.arm_fields, 1) if not name.startswith("freeze")
    ]
    central: dict[RowKey, list[tuple[RowKey, Cell]]] = defaultdict(list)
    for key, cells in summary.cells.items():
        for column, cell in cells.items() if key[place["centralized"]] else ():
            arm = (cell.fields.get("rounds"), column[0], *(column[i] for i in arm_places))
            central[(*(key[i] for i in same), *arm)].append((key, cell))
    differences = []
    for key, cells in summary.cells.items():
        if key[place["centralized"]]:
            continue
        for column, cell in cells.items():
            arm = (
                cell.fields.get("rounds"),
                central_twin(column[0]),
                *(column[i] for i in arm_places),
            )
            twins = central.get((*(key[i] for i in same), *arm), [])
            for i in own:  # prefer the twin with the same steps and clients, if there are several
                twins = [twin for twin in twins if twin[0][i] == key[i]] or twins
            if len(twins) != 1:
                continue
            difference = paired_difference(cell.values[measure], twins[0][1].values[measure])
            differences += [(key, column, difference)] if difference is not None else []
    return _adjusted(differences)


def _adjusted(
    differences: list[tuple[RowKey, ColumnKey, PairedDifference]],
) -> list[CellDifference]:
    tested = [i for i, (_, _, difference) in enumerate(differences) if difference.p is not None]
    adjusted = dict(zip(tested, holm([differences[i][2].p or 0.0 for i in tested]), strict=True))
    return [
        CellDifference(key, column, difference, adjusted.get(i))
        for i, (key, column, difference) in enumerate(differences)
    ]

"""The final accuracy of each arm by T*, as the figures of reports and pages draw it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedsweep.fields import ARM_FIELDS, MEASURED
from fedsweep.plans import OUTSIDE_IDENTITY
from fedsweep.reports.grouping import FIELDS, Cell, Summary
from fedsweep.reports.labels import ColumnKey, Row, RowKey, Share, sort_key

SHARE = "freeze_share"
"""The column of T* as a share of the rounds, from 0 to 1, in the data of figures."""


@dataclass(frozen=True)
class FreezePanel:
    """The finished cells of one row of a summary, by T*."""

    lines: Mapping[ColumnKey, Sequence[tuple[int | Share, Cell]]]
    """The T* and the cell of each point. The key of a line is a column without its T*."""
    levels: Mapping[ColumnKey, Cell]
    """The cells of the columns that have no T*, in column order."""
    end: float | None
    """The end of the axis of T*: 100 percent, or the most rounds that a trial of the row has. None
    if the row pools them.
    """
    heading: str
    """The heading of the axis of T*."""


def by_freeze_round(
    summary: Summary, columns: Iterable[ColumnKey] | None = None
) -> dict[RowKey, FreezePanel]:
    """Return a panel for each row of a summary in which a trial with a T* has finished.

    `columns` names the columns to use. By default, all are used.
    """
    shown = set(summary.columns if columns is None else columns)
    panels: dict[RowKey, FreezePanel] = {}
    for key in sorted(summary.cells, key=sort_key):
        cells = {c: cell for c, cell in summary.cells[key].items() if c in shown}
        if panel := _panel(summary, cells):
            panels[key] = panel
    return panels


def _panel(summary: Summary, cells: Mapping[ColumnKey, Cell]) -> FreezePanel | None:
    lines: dict[ColumnKey, list[tuple[int | Share, Cell]]] = defaultdict(list)
    levels: dict[ColumnKey, Cell] = {}
    for column in sorted(cells, key=summary.columns.index):
        frozen, cell = freeze_round(summary, column), cells[column]
        if cell.mean is None:
            continue
        if frozen is None:
            levels[column] = cell
        else:
            lines[without_freeze_round(summary, column)].append((frozen, cell))
    if not lines:
        return None
    totals = [cell.fields.get("rounds") for cell in cells.values()]
    in_order = {
        column: sorted(lines[column], key=lambda point: point[0])
        for column in sorted(lines, key=sort_key)
    }
    if summary.has_shares:
        return FreezePanel(in_order, levels, 100, "T⋆, % of the rounds")
    end = max((t for t in totals if t is not None), default=None)
    return FreezePanel(in_order, levels, end, "T⋆, rounds")


def place_of(frozen: int | Share) -> float:
    """Return the place of T* on its axis: in percent if it is a share, else in rounds."""
    return 100 * frozen if isinstance(frozen, Share) else frozen


_ALIKE = tuple(
    name for name in FIELDS if name not in {"normalizer", *ARM_FIELDS, *MEASURED, *OUTSIDE_IDENTITY}
)
"""The fields in which trials of FIXBN and BN with the same rounds up to T* are alike."""


def is_trunk(bn: Iterable[Row], fixbn: Iterable[Row]) -> bool:
    """Return whether trials of BN have the rounds of these trials of FIXBN up to T*.

    They do not if, for example, tuning has chosen another learning rate for FIXBN than for BN.
    """
    return _kinds(bn) == _kinds(fixbn)


def _kinds(rows: Iterable[Row]) -> set[tuple[object, ...]]:
    return {tuple(row[name] for name in _ALIKE) for row in rows}


def fork_of(rows: Iterable[Row]) -> int | None:
    """Return T* in rounds if these trials of one column agree on it."""
    values = {row["freeze_round"] for row in rows}
    return values.pop() if len(values) == 1 else None


def freeze_round(summary: Summary, column: ColumnKey) -> int | Share | None:
    """Return the T* of a column, if it has one."""
    if "freeze_round" not in summary.arm_fields:
        return None
    frozen: int | Share | None = column[1 + summary.arm_fields.index("freeze_round")]
    return frozen


def without_freeze_round(summary: Summary, column: ColumnKey) -> ColumnKey:
    """Return a column without its T*. A column that has none is returned unchanged."""
    return at_freeze_round(summary, column, None)


def at_freeze_round(summary: Summary, column: ColumnKey, frozen: int | Share | None) -> ColumnKey:
    """Return a column with another T*. Without T* among the arm's fields, it is unchanged."""
    if "freeze_round" not in summary.arm_fields:
        return column
    place = 1 + summary.arm_fields.index("freeze_round")
    return (*column[:place], frozen, *column[place + 1 :])

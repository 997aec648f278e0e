"""The numbers of a figure, as others need them to draw it again."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsweep.reports.grouping import Summary, column_text
from fedsweep.reports.labels import ColumnKey

Numbers = tuple[int, float | None, float | None]
"""The number of trials of a point, their mean, and their standard deviation."""


@dataclass(frozen=True)
class FigureData:
    """One row per drawn point. Columns are named as in the views, and fractions are from 0 to 1."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]

    def csv(self, most: int | None = None) -> str | None:
        """Return the rows as CSV. Return None if it has more than `most` characters."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow(row)
            if most is not None and out.tell() > most:
                return None
        return out.getvalue()


class Points:
    """Collect the points of a figure while it is drawn."""

    def __init__(self, summary: Summary, x: str, measure: str, *more: str) -> None:
        """Take the column of the x axis, the measure, and further columns at the end."""
        self._summary = summary
        fields = ("arm", "normalizer", *summary.arm_fields, *summary.axes, *summary.tuned, x)
        ahead = tuple(dict.fromkeys(fields))
        self._x = x
        self._ahead_count = len(ahead)
        self._columns = (*ahead, "n", f"mean_{measure}", f"std_{measure}", *more)
        self._rows: list[tuple[Any, ...]] = []

    def add(
        self, column: ColumnKey, point: Mapping[str, Any], numbers: Numbers, *more: Any
    ) -> None:
        """Add a point of an arm. `point` has its values of the axes and of the x axis."""
        self._rows.append((*self._ahead(column, point), *_known(numbers), *more))

    def add_curve(
        self,
        column: ColumnKey,
        panel: Mapping[str, Any],
        xs: Sequence[Any],
        numbers: Sequence[Numbers],
    ) -> None:
        """Add the points of a curve. `panel` has its values of the axes."""
        ahead = list(self._ahead(column, panel))
        place = self._columns.index(self._x)
        for x, known in zip(xs, numbers, strict=True):
            ahead[place] = x
            self._rows.append((*ahead, *_known(known)))

    def _ahead(self, column: ColumnKey, point: Mapping[str, Any]) -> tuple[Any, ...]:
        summary = self._summary
        arm = summary.column_fields(column, point)
        tuned = summary.tuned_fields(column, tuple(point.get(name) for name in summary.axes))
        fields = {"arm": column_text(summary, column), **arm, **tuned, **point}
        return tuple(fields.get(name) for name in self._columns[: self._ahead_count])

    def data(self) -> FigureData:
        """Return the points so far."""
        return FigureData(self._columns, self._rows)


def _known(numbers: Numbers) -> Numbers:
    """Leave out the standard deviation of one trial, as the views do."""
    n, mean, std = numbers
    return n, mean, std if n > 1 else None

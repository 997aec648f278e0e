"""Grouping: rows of the store become the cells of a report. Pure: no database, no printing."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fedsweep.appearance import normalizer_place
from fedsweep.fields import (
    ARM_FIELDS,
    ROW_FIELDS,
    column_label,
    config_columns,
)
from fedsweep.measures import COMPARABLE, OPTIONAL
from fedsweep.report.labels import Column, Key, Row, describe, is_axis, sort_key, value_text
from fedsweep.report.statistics import mean_interval

FIELDS = tuple(config_columns())
"""The configuration columns of a row of `results`."""


COLUMNS = ("trial_id", "cell_id", "state", "failure", "error", *FIELDS, *COMPARABLE)
"""The columns of `results` that a summary, its figures and conditions look at."""


Unit = tuple[Any, ...]
"""What pairs a trial with one of another column: its seed, and the axes that a row pools."""


@dataclass(frozen=True)
class Spread:
    """A final measure over the finished trials of a cell, in its own unit (accuracies 0..1)."""

    n: int
    mean: float | None
    std: float | None
    """Sample standard deviation; None at n = 1."""
    low: float | None
    """The 95 % interval of the mean, by Student's t; None at n = 1."""
    high: float | None


@dataclass(frozen=True)
class Cell:
    """The trials of one row and column, over seeds."""

    fields: Row
    """The configuration, without the seed and what the row pools."""
    cell_ids: tuple[str, ...]
    n: int
    """Finished."""
    values: Mapping[str, Mapping[Unit, float]]
    """Each final measure of the finished trials that took it."""
    failures: Mapping[str, int]
    """Failed trials by kind."""
    unfinished: int
    """Queued, running or cancelled."""

    @property
    def diverged(self) -> int:
        """Failed trials whose loss or weights were not finite."""
        return self.failures.get("diverged", 0)

    @property
    def whole(self) -> bool:
        """Whether every trial finished: only then is its mean one to compare by."""
        return self.n > 0 and not self.failures and not self.unfinished

    @property
    def mean(self) -> float | None:
        """Of the test accuracy."""
        return self.measure("test_accuracy").mean

    @property
    def std(self) -> float | None:
        """Of the test accuracy."""
        return self.measure("test_accuracy").std

    def measure(self, name: str) -> Spread:
        """A final measure, over the trials that took it."""
        return _spread(tuple(self.values[name].values()))


@cache  # exact, and slow: each is asked for by every table and figure
def _spread(values: tuple[float, ...]) -> Spread:
    low, high = mean_interval(values) or (None, None)
    return Spread(
        n=len(values),
        mean=math.fsum(values) / len(values) if values else None,
        std=statistics.stdev(values) if len(values) > 1 else None,
        low=low,
        high=high,
    )


@dataclass(frozen=True)
class Failure:
    """A failed trial, to be named."""

    trial_id: str
    kind: str
    error: str
    what: str


@dataclass(frozen=True)
class Summary:
    """One sweep's answer: a table of cells, and all that it leaves out."""

    sweep: str
    axes: tuple[str, ...]
    """The fields that tell its rows apart."""
    pooled: tuple[str, ...]
    """Fields that vary within its cells, beside the seed."""
    tuned: tuple[str, ...]
    """Fields of which each cell has the value that its validation chose."""
    arm_fields: tuple[str, ...]
    """The fields behind the normalizer in a column."""
    columns: tuple[Column, ...]
    cells: Mapping[Key, Mapping[Column, Cell]]
    """By the values of `axes`, then by column."""
    usual_n: int
    """The commonest number of finished trials of a cell; others are marked."""
    states: Mapping[str, int]
    failures: tuple[Failure, ...]

    def taken(self) -> list[str]:
        """The final measures that some trial took, beside its accuracy."""
        return [name for name in self.measured() if name in OPTIONAL]

    def measured(self) -> list[str]:
        """The final measures that some finished trial took."""
        cells = [cell for row in self.cells.values() for cell in row.values()]
        return [name for name in COMPARABLE if any(cell.values[name] for cell in cells)]

    def column(self, row: Row) -> Column:
        """The column that a trial belongs to."""
        return (row["normalizer"], *(row[name] for name in self.arm_fields))


def summarize(
    sweep: str,
    rows: Sequence[Row],
    *,
    group_by: Sequence[str] | None = None,
    tuned: Sequence[str] = (),
) -> Summary:
    """Group a sweep's trials (rows of `results`) into the cells of its table.

    `group_by` names the fields that make a row; what else varies is pooled. `tuned` fields are
    neither: `selection.tune` has left one value of them in each cell.
    """
    varying = {name for name in FIELDS if is_axis(name, _values(rows, name))} - set(tuned)
    others = varying - {*ROW_FIELDS, *ARM_FIELDS}
    usual = [*ROW_FIELDS, *(name for name in FIELDS if name in others)]
    asked = [*(usual if group_by is None else group_by)]
    # What is trained on all samples at once is never averaged with what is not.
    asked += ["centralized"] if len(_values(rows, "centralized") - {None}) > 1 else []
    axes = tuple(n for n in dict.fromkeys(asked) if n not in tuned)
    pooled = tuple(n for n in usual if n not in {*axes, *tuned} and len(_values(rows, n)) > 1)
    arm_fields = tuple(
        n for n in ARM_FIELDS if n not in tuned and (n == "freeze_round" or n in varying)
    )
    grouped: dict[Key, dict[Column, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        column = (row["normalizer"], *(row[name] for name in arm_fields))
        grouped[tuple(row[name] for name in axes)][column].append(row)
    cells = {
        key: {column: _cell(members, pooled, tuned) for column, members in columns.items()}
        for key, columns in sorted(grouped.items(), key=lambda item: sort_key(item[0]))
    }
    sizes = Counter(cell.n for columns in cells.values() for cell in columns.values() if cell.n)
    return Summary(
        sweep=sweep,
        axes=axes,
        pooled=pooled,
        tuned=tuple(tuned),
        arm_fields=arm_fields,
        columns=tuple(sorted({c for columns in cells.values() for c in columns}, key=_place)),
        cells=cells,
        usual_n=max(sizes, key=lambda n: (sizes[n], n), default=0),
        states=Counter(row["state"] for row in rows),
        failures=tuple(_failure(row, (*arm_fields, *usual)) for row in rows if is_failed(row)),
    )


def is_failed(row: Row) -> bool:
    """Whether a row of `results` has failed."""
    return bool(row["state"] == "failed")


def _failure(row: Row, fields: Sequence[str]) -> Failure:
    what = describe(row, fields)
    return Failure(row["trial_id"], row["failure"] or "error", row["error"] or "", what)


def _place(column: Column) -> tuple[Any, ...]:
    """Normalizers in their usual order, then by name; then by T* and the rest."""
    return (normalizer_place(column[0]), column[0], *sort_key(column[1:]))


@dataclass(frozen=True)
class Curve:
    """Mean accuracy by round over seeds, with its sample standard deviation (0 at n = 1)."""

    rounds: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def mean_curve(curves: Sequence[Mapping[int, float]]) -> Curve:
    """Average curves {round: accuracy}, over the rounds that all of them have."""
    import numpy as np

    shared = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    values = np.array([[curve[r] for r in shared] for curve in curves])
    if not shared:
        return Curve((), (), ())
    std = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(shared))
    return Curve(tuple(shared), tuple(values.mean(axis=0).tolist()), tuple(std.tolist()))


def _values(rows: Sequence[Row], name: str) -> set[Any]:
    return {row[name] for row in rows}


def _cell(rows: Sequence[Row], pooled: Sequence[str], tuned: Sequence[str]) -> Cell:
    finished = [row for row in rows if row["state"] == "finished"]
    failures = Counter(row["failure"] or "error" for row in rows if is_failed(row))
    units = [tuple(row[n] for n in ("seed", *pooled)) for row in finished]
    return Cell(
        fields={
            name: rows[0][name]
            for name in FIELDS
            if name not in ("seed", *pooled)
            and not (name in tuned and len(_values(rows, name)) > 1)
        },
        cell_ids=tuple(dict.fromkeys(row["cell_id"] for row in rows)),
        n=len(finished),
        values={name: _taken(finished, name, units) for name in COMPARABLE},
        failures=failures,
        unfinished=len(rows) - len(finished) - sum(failures.values()),
    )


def _taken(rows: Sequence[Row], name: str, units: Sequence[Unit]) -> dict[Unit, float]:
    values = ((unit, row.get(name)) for unit, row in zip(units, rows, strict=True))
    return {unit: value for unit, value in values if value is not None}


def column_text(summary: Summary, column: Column) -> str:
    """BN; FIXBN T⋆=6; FIXBN T⋆=6 layer; GN groups=4."""
    said = [column[0].upper()]
    for name, value in zip(summary.arm_fields, column[1:], strict=True):
        if value is None or (name, value) == ("freeze_rule", "given"):
            continue
        heading = column_label(name)
        said.append(f"{heading}={value_text(value)}" if heading else str(value))
    return " ".join(said)

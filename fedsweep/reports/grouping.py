"""Grouping: turn rows of the store into the cells of a report, without I/O."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
from fedsweep.reports.labels import (
    ColumnKey,
    Row,
    RowKey,
    Share,
    describe,
    is_axis,
    sort_key,
    value_text,
)
from fedsweep.reports.statistics import mean_interval

FIELDS = tuple(config_columns())
"""The configuration columns of a row of `results`."""

COLUMNS = ("trial_id", "cell_id", "state", "failure", "error", *FIELDS, *COMPARABLE)
"""The columns of `results` that a summary, its figures and its conditions use."""

PairKey = tuple[Any, ...]
"""The seed of a trial and its values of the axes that a row pools.

Trials of two columns with the same key are a pair.
"""


@dataclass(frozen=True)
class Spread:
    """A final measure over the finished trials of a cell, in its own unit."""

    n: int
    mean: float | None
    std: float | None
    """The sample standard deviation. None for one trial."""
    low: float | None
    """The 95 % interval of the mean, by Student's t. None for one trial."""
    high: float | None


@dataclass(frozen=True)
class Cell:
    """The trials of one row and column, over seeds."""

    fields: Row
    """The configuration, without the seed and the fields that the row pools."""
    cell_ids: tuple[str, ...]
    n: int
    """The number of finished trials."""
    values: Mapping[str, Mapping[PairKey, float]]
    """The values of each final measure, over the finished trials that have it."""
    failures: Mapping[str, int]
    """The number of failed trials, by kind of failure."""
    unfinished: int
    """The number of queued, running and cancelled trials."""

    @property
    def diverged(self) -> int:
        """The number of failed trials whose loss or weights were not finite."""
        return self.failures.get("diverged", 0)

    @property
    def whole(self) -> bool:
        """Return whether every trial has finished. Only then is the mean comparable to others."""
        return self.n > 0 and not self.failures and not self.unfinished

    @property
    def mean(self) -> float | None:
        """The mean of the test accuracy."""
        return self.measure("test_accuracy").mean

    @property
    def std(self) -> float | None:
        """The sample standard deviation of the test accuracy."""
        return self.measure("test_accuracy").std

    def measure(self, name: str) -> Spread:
        """Return a final measure over the trials that have it."""
        return _spread(tuple(self.values[name].values()))


@cache  # fsum and stdev are exact but slow, and every table and figure calls this
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
    """A failed trial, as a footnote names it."""

    trial_id: str
    kind: str
    error: str
    trial: str
    """A description of the trial."""


@dataclass(frozen=True)
class Summary:
    """The results of a sweep: a table of cells, and the trials that it leaves out."""

    sweep: str
    axes: tuple[str, ...]
    """The fields in which the rows differ."""
    pooled: tuple[str, ...]
    """Fields other than the seed that vary within a cell."""
    tuned: tuple[str, ...]
    """Fields whose value is chosen in each cell by the validation accuracy."""
    arm_fields: tuple[str, ...]
    """The fields that follow the normalizer in a column's key."""
    has_shares: bool
    """True if the columns have T* as a share of the rounds."""
    rounds_by_steps: Mapping[int, int]
    """The rounds for each E, if they vary and E decides them. They are no axis then."""
    columns: tuple[ColumnKey, ...]
    cells: Mapping[RowKey, Mapping[ColumnKey, Cell]]
    """The cells by the values of `axes`, then by column. Both are in the order of the table."""
    usual_n: int
    """The most common number of finished trials per cell. Other numbers are noted."""
    states: Mapping[str, int]
    failures: tuple[Failure, ...]

    def taken(self) -> list[str]:
        """Return the optional final measures that at least one trial has."""
        return [name for name in self.measured() if name in OPTIONAL]

    def measured(self) -> list[str]:
        """Return the final measures that at least one finished trial has."""
        cells = [cell for row in self.cells.values() for cell in row.values()]
        return [name for name in COMPARABLE if any(cell.values[name] for cell in cells)]

    def column(self, row: Row) -> ColumnKey:
        """Return the column to which a trial belongs."""
        return _column(row, self.arm_fields, has_shares=self.has_shares)

    def column_fields(self, column: ColumnKey, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration of a column at a point of the axes, with T* in rounds.

        T* is None if the column has a share of rounds that vary at this point.
        """
        fields = dict(zip(("normalizer", *self.arm_fields), column, strict=True))
        frozen = fields.get("freeze_round")
        if isinstance(frozen, Share):
            decided = self.rounds_by_steps.get(point.get("local_steps", 0))
            total = point.get("rounds", decided)
            fields["freeze_round"] = None if total is None else round(frozen * total)
        return fields

    def tuned_fields(self, column: ColumnKey, key: RowKey) -> dict[str, Any]:
        """Return the tuned values of a cell. A value is None if the row pools several."""
        cell = self.cells.get(key, {}).get(column)
        return {name: cell.fields.get(name) if cell else None for name in self.tuned}


def summarize(
    sweep: str,
    rows: Sequence[Row],
    *,
    group_by: Sequence[str] | None = None,
    tuned: Sequence[str] = (),
) -> Summary:
    """Group a sweep's trials (rows of `results`) into the cells of its table.

    `group_by` names the fields that tell rows apart. Other fields that vary are pooled. `tuned`
    fields are neither, because `selection.tune` has left one value of them in each cell.
    """
    varying = {name for name in FIELDS if is_axis(name, _values(rows, name))} - set(tuned)
    is_decided = "rounds" in varying and "local_steps" not in tuned
    rounds_by_steps = _rounds_by_steps(rows) if is_decided else {}
    others = varying - {*ROW_FIELDS, *ARM_FIELDS} - ({"rounds"} if rounds_by_steps else set())
    usual = [*ROW_FIELDS, *(name for name in FIELDS if name in others)]
    names = [*(usual if group_by is None else group_by)]
    # Centralized trials are never averaged with federated ones.
    names += ["centralized"] if len(_values(rows, "centralized") - {None}) > 1 else []
    axes = tuple(n for n in dict.fromkeys(names) if n not in tuned)
    pooled = tuple(n for n in usual if n not in {*axes, *tuned} and len(_values(rows, n)) > 1)
    arm_fields = tuple(
        n for n in ARM_FIELDS if n not in tuned and (n == "freeze_round" or n in varying)
    )
    has_shares = "freeze_round" in arm_fields and "rounds" not in tuned and _are_shares_fewer(rows)
    grouped: dict[RowKey, dict[ColumnKey, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        column = _column(row, arm_fields, has_shares=has_shares)
        grouped[tuple(row[name] for name in axes)][column].append(row)
    cells = {
        key: {column: _cell(columns[column], pooled, tuned) for column in _in_order(columns)}
        for key, columns in sorted(grouped.items(), key=lambda item: sort_key(item[0]))
    }
    sizes = Counter(cell.n for columns in cells.values() for cell in columns.values() if cell.n)
    return Summary(
        sweep=sweep,
        axes=axes,
        pooled=pooled,
        tuned=tuple(tuned),
        arm_fields=arm_fields,
        has_shares=has_shares,
        rounds_by_steps=rounds_by_steps,
        columns=tuple(_in_order({c for columns in cells.values() for c in columns})),
        cells=cells,
        usual_n=max(sizes, key=lambda n: (sizes[n], n), default=0),
        states=Counter(row["state"] for row in rows),
        failures=tuple(_failure(row, (*arm_fields, *usual)) for row in rows if is_failed(row)),
    )


def _column(row: Row, arm_fields: Sequence[str], *, has_shares: bool) -> ColumnKey:
    values = [row[name] for name in arm_fields]
    if has_shares and row["freeze_round"] is not None:
        values[arm_fields.index("freeze_round")] = Share(row["freeze_round"] / row["rounds"])
    return (row["normalizer"], *values)


def _are_shares_fewer(rows: Sequence[Row]) -> bool:
    """Return whether trials of different rounds have the same T* as a share of their rounds."""
    frozen = {
        (row["freeze_round"], row["rounds"]) for row in rows if row["freeze_round"] is not None
    }
    return len({at / total for at, total in frozen}) < len({at for at, _ in frozen})


def _rounds_by_steps(rows: Sequence[Row]) -> dict[int, int]:
    """Return the rounds for each E; empty if the trials of one E have different rounds."""
    pairs = {(row["local_steps"], row["rounds"]) for row in rows}
    decided = dict(pairs)
    return decided if len(decided) == len(pairs) and None not in decided else {}


def is_failed(row: Row) -> bool:
    """Return whether a row of `results` has failed."""
    return bool(row["state"] == "failed")


def _failure(row: Row, fields: Sequence[str]) -> Failure:
    trial = describe(row, axes=fields)
    return Failure(row["trial_id"], row["failure"] or "error", row["error"] or "", trial)


def _in_order(columns: Iterable[ColumnKey]) -> list[ColumnKey]:
    """Return columns in the order of every table, figure and legend."""
    return sorted(columns, key=_column_order)


def _column_order(column: ColumnKey) -> tuple[Any, ...]:
    """Return a sort key: normalizers in their usual order, then by name, then by T* and others."""
    return (normalizer_place(column[0]), column[0], *sort_key(column[1:]))


@dataclass(frozen=True)
class MeanCurve:
    """The mean of a measure by round, over seeds."""

    rounds: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """The sample standard deviation. 0 for one seed."""


def mean_curve(curves: Sequence[Mapping[int, float]]) -> MeanCurve:
    """Average curves {round: value} over the rounds that all of them have."""
    import numpy as np

    shared = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    values = np.array([[curve[r] for r in shared] for curve in curves])
    if not shared:
        return MeanCurve((), (), ())
    std = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(shared))
    return MeanCurve(tuple(shared), tuple(values.mean(axis=0).tolist()), tuple(std.tolist()))


def _values(rows: Sequence[Row], name: str) -> set[Any]:
    return {row[name] for row in rows}


def _cell(rows: Sequence[Row], pooled: Sequence[str], tuned: Sequence[str]) -> Cell:
    finished = [row for row in rows if row["state"] == "finished"]
    failures = Counter(row["failure"] or "error" for row in rows if is_failed(row))
    pairs = [tuple(row[n] for n in ("seed", *pooled)) for row in finished]
    assert len(set(pairs)) == len(pairs), "two trials of a cell have one seed"
    differing = {*tuned, "rounds", "freeze_round"}
    return Cell(
        fields={
            name: rows[0][name]
            for name in FIELDS
            if name not in ("seed", *pooled)
            and not (name in differing and len(_values(rows, name)) > 1)
        },
        cell_ids=tuple(dict.fromkeys(row["cell_id"] for row in rows)),
        n=len(finished),
        values={name: _taken(finished, name, pairs) for name in COMPARABLE},
        failures=failures,
        unfinished=len(rows) - len(finished) - sum(failures.values()),
    )


def _taken(rows: Sequence[Row], name: str, pairs: Sequence[PairKey]) -> dict[PairKey, float]:
    values = ((pair, row.get(name)) for pair, row in zip(pairs, rows, strict=True))
    return {pair: value for pair, value in values if value is not None}


def column_text(summary: Summary, column: ColumnKey) -> str:
    """Return text such as "BN", "FIXBN T⋆=6 layer" or "GN groups=4"."""
    parts = [column[0].upper()]
    for name, value in zip(summary.arm_fields, column[1:], strict=True):
        if value is None or (name, value) == ("freeze_rule", "given"):
            continue
        heading = column_label(name)
        parts.append(f"{heading}={value_text(value)}" if heading else str(value))
    return " ".join(parts)

"""Rows of the store into the values of a report. Pure: no database, no printing."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsweep.spec import config_columns

Row = Mapping[str, Any]
Key = tuple[Any, ...]

ROW_FIELDS = ("alpha", "local_steps", "freeze_round", "momentum")
"""What tells the rows of a table apart, always; any other field that varies joins them."""

NOT_AXES = frozenset({"normalizer", "seed", "gn_groups", "freeze", "evaluate_every"})
NORMALIZERS = ("bn", "fixbn", "gn")
"""The order of the columns, as far as it is given."""

FIELDS = tuple(config_columns())
"""The configuration columns of a row of `results`."""


@dataclass(frozen=True)
class Cell:
    """The trials of one row and normaliser, over seeds. Accuracies are shares 0..1."""

    fields: Row
    n: int
    mean: float | None
    std: float | None
    """Sample standard deviation over the finished; None at n = 1."""
    failures: Mapping[str, int]
    """Failed trials by kind."""
    unfinished: int
    """Queued, running or cancelled."""

    @property
    def diverged(self) -> int:
        """Failed trials whose loss or weights were not finite."""
        return self.failures.get("diverged", 0)


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
    normalizers: tuple[str, ...]
    cells: Mapping[Key, Mapping[str, Cell]]
    """By the values of `axes`, then by normaliser."""
    usual_n: int
    """The commonest number of seeds of a cell; others are marked."""
    states: Mapping[str, int]
    failures: tuple[Failure, ...]


def summarize(sweep: str, rows: Sequence[Row]) -> Summary:
    """Group a sweep's trials (rows of `results`) into the cells of its table."""
    varying = [
        name
        for name in FIELDS
        if name not in NOT_AXES and name not in ROW_FIELDS and len(_values(rows, name)) > 1
    ]
    # A frozen layer and frozen statistics are different arms of fixbn; a group count, of gn.
    varying += [name for name in ("gn_groups", "freeze") if len(_values(rows, name) - {None}) > 1]
    axes = (*ROW_FIELDS, *varying)
    grouped: dict[Key, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[tuple(row[name] for name in axes)][row["normalizer"]].append(row)
    cells = {
        key: {normalizer: _cell(members) for normalizer, members in columns.items()}
        for key, columns in sorted(grouped.items(), key=lambda item: sort_key(item[0]))
    }
    sizes = Counter(cell.n for columns in cells.values() for cell in columns.values() if cell.n)
    present = {row["normalizer"] for row in rows}
    order = [name for name in NORMALIZERS if name in present]
    return Summary(
        sweep=sweep,
        axes=axes,
        normalizers=(*order, *sorted(present - set(order))),
        cells=cells,
        usual_n=max(sizes, key=lambda n: (sizes[n], n), default=0),
        states=Counter(row["state"] for row in rows),
        failures=tuple(
            Failure(
                row["trial_id"], row["failure"] or "error", row["error"] or "", describe(row, axes)
            )
            for row in rows
            if row["state"] == "failed"
        ),
    )


def describe(row: Row, axes: Sequence[str] = ROW_FIELDS) -> str:
    """A trial in a few words: its normaliser, the fields that matter, its seed."""
    told = [f"{label(name)}={value_text(row[name])}" for name in axes if row.get(name) is not None]
    return " ".join([row["normalizer"], *told, f"seed={row['seed']}"])


def label(name: str) -> str:
    """The field's symbol, where it has one."""
    return {"alpha": "α", "local_steps": "E", "freeze_round": "T⋆"}.get(name, name)


def value_text(value: Any) -> str:
    """A configuration value as people write it: 0.1, 1, reset; – where it has no meaning."""
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def sort_key(key: Key) -> tuple[tuple[int, Any], ...]:
    """None first, then numbers, then words."""
    return tuple(
        (0, 0) if v is None else (1, v) if isinstance(v, (int, float)) else (2, str(v)) for v in key
    )


@dataclass(frozen=True)
class Curve:
    """Mean accuracy by round over seeds, with its sample standard deviation (0 at n = 1)."""

    rounds: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def mean_curve(curves: Sequence[Mapping[int, float]]) -> Curve:
    """Average curves {round: accuracy}, over the rounds that all of them have."""
    shared = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    values = [[curve[r] for curve in curves] for r in shared]
    return Curve(
        tuple(shared),
        tuple(math.fsum(v) / len(v) for v in values),
        tuple(statistics.stdev(v) if len(v) > 1 else 0.0 for v in values),
    )


def _values(rows: Sequence[Row], name: str) -> set[Any]:
    return {row[name] for row in rows}


def _cell(rows: Sequence[Row]) -> Cell:
    accuracies = [row["test_accuracy"] for row in rows if row["state"] == "finished"]
    failures = Counter(row["failure"] or "error" for row in rows if row["state"] == "failed")
    return Cell(
        fields={name: rows[0][name] for name in FIELDS if name != "seed"},
        n=len(accuracies),
        mean=math.fsum(accuracies) / len(accuracies) if accuracies else None,
        std=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        failures=failures,
        unfinished=len(rows) - len(accuracies) - sum(failures.values()),
    )

"""Cells held against each other: the best of a row, a baseline, training on all data at once."""

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
from fedsweep.report.grouping import Cell, Summary, Unit, column_text
from fedsweep.report.labels import Column, Key, value_text
from fedsweep.report.statistics import Difference, difference, holm, not_worse

Mark = Literal["best", "level", ""]

CENTRAL = ("local_steps", "local_epochs", "clients", "momentum", "server_momentum")
"""Those of FEDERATED that tell centralized trials apart, too: their rounds take M*E steps, or
epochs."""


@dataclass(frozen=True)
class Contrast:
    """A cell against another, over what pairs their trials."""

    key: Key
    column: Column
    found: Difference
    p: float | None
    """Two-sided, adjusted by Holm for all contrasts of the table; None at n = 1."""


@dataclass(frozen=True)
class Marks:
    """What stands out in a row."""

    best: Column | None
    level: frozenset[Column]
    """Columns that a paired test does not find worse than the best."""

    def of(self, column: Column) -> Mark:
        """A column's mark."""
        return "best" if column == self.best else "level" if column in self.level else ""


def marks(cells: Mapping[Column, Cell], measure: str) -> Marks:
    """The best mean of a row and what is not surely worse. Cells that lack a trial take no part:
    a mean without its diverged seeds flatters.
    """
    values = {c: _upward(cell, measure) for c, cell in cells.items() if cell.whole}
    values = {column: found for column, found in values.items() if found}
    points = {unit[1:] for found in values.values() for unit in found}  # of what the row pools
    values = {c: found for c, found in values.items() if {u[1:] for u in found} == points}
    if len(values) < 2:
        return Marks(None, frozenset())
    best = max(values, key=lambda column: sum(values[column].values()) / len(values[column]))
    others = {column: found for column, found in values.items() if column != best}
    return Marks(best, frozenset(not_worse(values[best], others)))


def outdone_by_partial(cells: Mapping[Column, Cell], measure: str) -> bool:
    """Return whether a cell that lacks a trial has a better mean than the marked best one."""
    best = marks(cells, measure).best
    if best is None:
        return False
    means = {c: fmean(v.values()) for c, cell in cells.items() if (v := _upward(cell, measure))}
    return any(means[c] > means[best] for c in means if not cells[c].whole)


def _upward(cell: Cell, measure: str) -> dict[Unit, float]:
    """A cell's values, the larger the better."""
    sign = -1 if MEASURES[measure].lower_is_better else 1
    return {unit: sign * value for unit, value in cell.values[measure].items()}


def find_column(summary: Summary, name: str) -> Column:
    """The column of a normalizer: bn; with its T* where it has several: fixbn:12.

    Raises:
        RequestError: there is none, or there are several; names them.

    """
    normalizer, *told = name.lower().split(":")
    found = [c for c in summary.columns if c[0] == normalizer]
    found = [c for c in found if {*told} <= {value_text(v) for v in c[1:]}]
    exact = [
        c
        for c in found
        if len(found) > 1 and told == [value_text(v) for v in c[1:] if v is not None]
    ]
    found = exact or found
    if len(found) == 1:
        return found[0]
    there = ", ".join(column_text(summary, c) for c in found or summary.columns)
    if found:
        raise RequestError(f"--baseline {name}: say which of its columns ({there}), as fixbn:12")
    raise RequestError(
        f"--baseline {name}: sweep {summary.sweep} has no such column: it has {there}"
    )


def against(summary: Summary, measure: str, baseline: Column) -> list[Contrast]:
    """Each cell minus its row's baseline, over the units that finished in both."""
    found = []
    for key, cells in summary.cells.items():
        if baseline not in cells:
            continue
        theirs = cells[baseline].values[measure]
        for column in summary.columns:
            if column != baseline and column in cells:
                apart = difference(cells[column].values[measure], theirs)
                found += [(key, column, apart)] if apart is not None else []
    return _adjusted(found)


def gaps(summary: Summary, measure: str) -> list[Contrast]:
    """Each federated cell minus its centralized twin, by seed; none where none was trained."""
    if "centralized" not in summary.axes or summary.pooled:
        return []
    place = {name: i for i, name in enumerate(summary.axes)}
    same = [i for name, i in place.items() if name not in FEDERATED]
    own = [place[name] for name in CENTRAL if name in place]
    told = [i for i, name in enumerate(summary.arm_fields, 1) if not name.startswith("freeze")]
    central: dict[Key, list[tuple[Key, Cell]]] = defaultdict(list)
    for key, cells in summary.cells.items():
        for column, cell in cells.items() if key[place["centralized"]] else ():
            arm = (column[0], *(column[i] for i in told))
            central[(*(key[i] for i in same), *arm)].append((key, cell))
    found = []
    for key, cells in summary.cells.items():
        if key[place["centralized"]]:
            continue
        for column, cell in cells.items():
            arm = (central_twin(column[0]), *(column[i] for i in told))
            twins = central.get((*(key[i] for i in same), *arm), [])
            for i in own:  # the nearest: as many steps and clients, where there are several
                twins = [twin for twin in twins if twin[0][i] == key[i]] or twins
            if len(twins) != 1:
                continue
            apart = difference(cell.values[measure], twins[0][1].values[measure])
            found += [(key, column, apart)] if apart is not None else []
    return _adjusted(found)


def _adjusted(found: list[tuple[Key, Column, Difference]]) -> list[Contrast]:
    tested = [i for i, (_, _, apart) in enumerate(found) if apart.p is not None]
    adjusted = dict(zip(tested, holm([found[i][2].p or 0.0 for i in tested]), strict=True))
    return [
        Contrast(key, column, apart, adjusted.get(i))
        for i, (key, column, apart) in enumerate(found)
    ]

"""Text for configuration values and trials, as people write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedsweep.fields import (
    DESCRIBED,
    UNSET,
    USUAL,
    config_columns,
    label,
)
from fedsweep.plans import OUTSIDE_IDENTITY

BOOLEANS = frozenset(name for name, kind in config_columns().items() if kind is bool)

Row = Mapping[str, Any]
"""A row of the view `results`, or a part of it."""

RowKey = tuple[Any, ...]
"""The values of a summary's axes in one row of its table."""

ColumnKey = tuple[Any, ...]
"""The normalizer, T*, and the values of the other ARM_FIELDS that vary in the sweep.

T* is a `Share` if the rounds of the sweep's trials vary and several of them have equal shares.
"""

NOT_AXES = frozenset({"normalizer", "seed"}) | OUTSIDE_IDENTITY
"""Fields that are never an axis.

Trials of one cell may differ in the fields that are not part of a trial's identity.
"""


def is_axis(name: str, values: set[Any]) -> bool:
    """Return whether a field is an axis: it varies in a sweep, and no column shows it."""
    if name in NOT_AXES:
        return False
    if name == "local_epochs" and values - {None}:  # one value is enough: the table shows no E then
        return True
    return len(values if name in UNSET else values - {None}) > 1


def describe(row: Row, varying: Sequence[str] = (), axes: Sequence[str] = DESCRIBED) -> str:
    """Describe a trial by its normalizer, the values of `axes` and `varying`, and its seed."""
    parts = [
        label(name) if name in BOOLEANS else f"{label(name)}={field_text(name, row[name])}"
        for name in (*axes, *varying)
        if row.get(name) not in (None, USUAL.get(name)) and not (name in BOOLEANS and not row[name])
    ]
    return " ".join([row["normalizer"], *parts, f"seed={row['seed']}"])


class Share(float):
    """T* as a share of the rounds of its trial, from 0 to 1."""


def value_text(value: Any) -> str:
    """Format a configuration value, such as "0.1", "1", "reset" or "50%". None is "–"."""
    if isinstance(value, Share):
        return f"{100 * value:.4g}%"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def field_text(name: str, value: Any) -> str:
    """Format the value of a field. Booleans, which the store keeps as 1 and 0, are yes and no."""
    if name in BOOLEANS and value is not None:
        return "yes" if value else "no"
    return value_text(value)


def sort_key(key: RowKey) -> tuple[tuple[int, Any], ...]:
    """Return a sort key: None first, then numbers, then words."""
    return tuple(
        (0, 0) if v is None else (1, v) if isinstance(v, (int, float)) else (2, str(v)) for v in key
    )

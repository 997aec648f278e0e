"""Labels of configuration values and trials, as people write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedsweep.fields import (
    DESCRIBED,
    UNSET,
    config_columns,
    label,
)
from fedsweep.plan import OUTSIDE_IDENTITY

BOOLEANS = frozenset(name for name, kind in config_columns().items() if kind is bool)


def is_axis(name: str, values: set[Any]) -> bool:
    """Whether a field tells a sweep's trials apart and has no column of its own."""
    if name in NOT_AXES:
        return False
    if name == "local_epochs" and values - {None}:  # even one value: no E stands for it
        return True
    return len(values if name in UNSET else values - {None}) > 1


def describe(row: Row, axes: Sequence[str] = DESCRIBED) -> str:
    """A trial in a few words: its normalizer, the fields that matter, its seed."""
    told = [
        label(name) if name in BOOLEANS else f"{label(name)}={field_text(name, row[name])}"
        for name in axes
        if row.get(name) is not None and not (name in BOOLEANS and not row[name])
    ]
    return " ".join([row["normalizer"], *told, f"seed={row['seed']}"])


def value_text(value: Any) -> str:
    """A configuration value as people write it: 0.1, 1, reset; – where it has no meaning."""
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def field_text(name: str, value: Any) -> str:
    """The same of a named field: of one that is true or false, which the store keeps as 1 or 0."""
    if name in BOOLEANS and value is not None:
        return "yes" if value else "no"
    return value_text(value)


def sort_key(key: Key) -> tuple[tuple[int, Any], ...]:
    """None first, then numbers, then words."""
    return tuple(
        (0, 0) if v is None else (1, v) if isinstance(v, (int, float)) else (2, str(v)) for v in key
    )


Row = Mapping[str, Any]


Key = tuple[Any, ...]


Column = tuple[Any, ...]
"""(normalizer, T*), and whatever else of ARM_FIELDS varies in the sweep."""


NOT_AXES = frozenset({"normalizer", "seed"}) | OUTSIDE_IDENTITY
"""Fields that never head a row. Trials of one cell may differ in those outside the identity."""

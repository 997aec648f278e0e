"""Labels of configuration values, trials and columns, as people write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedsweep.fields import (
    DESCRIBED,
    UNSET,
    column_label,
    config_columns,
    label,
)
from fedsweep.report.grouping import NOT_AXES, Column, Key, Row, Summary

BOOLEANS = frozenset(name for name, kind in config_columns().items() if kind is bool)


def column_text(summary: Summary, column: Column) -> str:
    """BN; FIXBN T⋆=6; FIXBN T⋆=6 layer; GN groups=4."""
    said = [column[0].upper()]
    for name, value in zip(summary.arm_fields, column[1:], strict=True):
        if value is None or (name, value) == ("freeze_rule", "given"):
            continue
        heading = column_label(name)
        said.append(f"{heading}={value_text(value)}" if heading else str(value))
    return " ".join(said)


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

"""The trials of a report: conditions on their fields, and tuned hyperparameters."""

from __future__ import annotations

import math
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from fedsweep.errors import RequestError
from fedsweep.fields import ARM_FIELDS, ROW_FIELDS, config_columns
from fedsweep.plans import OUTSIDE_IDENTITY
from fedsweep.reports.grouping import FIELDS
from fedsweep.reports.labels import BOOLEANS, Row, describe, field_text, is_axis, sort_key

SELECTED_BY = "validation_accuracy"
"""The measure by which tuning selects. It is never one of the test set."""

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_FIELD_AND_SIGN = re.compile(r"(?<!\w)(\w++)\s*+(!=|<=|>=|=|<|>)")


@dataclass(frozen=True)
class Condition:
    """A comparison of a field with a value. With = and !=, there may be several values."""

    field: str
    sign: str
    values: tuple[Any, ...]

    def holds(self, row: Row) -> bool:
        """Return whether a row of `results` meets the condition.

        A field that is not set equals only "none".
        """
        value = row[self.field]
        if self.sign in _ORDERS:
            return value is not None and _ORDERS[self.sign](value, self.values[0])
        return (value in self.values) == (self.sign == "=")

    def sql(self, alias: str = "") -> str:
        """Return the condition for a WHERE clause."""
        name = f"{alias}{self.field}"
        if self.sign in _ORDERS:
            return f"{name} {self.sign} {sql_value(self.values[0])}"
        known = [sql_value(v) for v in self.values if v is not None]
        listed = f"({', '.join(known)})"
        if self.sign == "=":
            terms = [f"{name} IN {listed}"] if known else []
            terms += [f"{name} IS NULL"] if None in self.values else []
            return terms[0] if len(terms) == 1 else f"({' OR '.join(terms)})"
        if None in self.values:
            return " AND ".join(
                [f"{name} IS NOT NULL", *([f"{name} NOT IN {listed}"] if known else [])]
            )
        return f"({name} IS NULL OR {name} NOT IN {listed})"


def sql_value(value: Any) -> str:
    """Return a value as a literal of SQL. Booleans are 0 and 1 in the views."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def parse_condition(text: str) -> Condition:
    """Parse a condition such as "alpha=0.1,0.5", "local_steps>=20" or "alpha=none".

    Raises:
        RequestError: the text is not a condition, the field does not exist, or the value is wrong.

    """
    text = text.strip()
    match = _FIELD_AND_SIGN.match(text)
    words = text[match.end() :].strip() if match else ""
    if match is None or not words:
        raise RequestError(
            f"--where {text!r} is not a condition: write field=value, as alpha=0.1,0.5 or "
            "local_steps>=20"
        )
    name, sign = match.groups()
    field = require_field(name, "--where")
    values = tuple(_value(field, word.strip()) for word in words.split(","))
    if sign in _ORDERS and (len(values) > 1 or isinstance(values[0], (str, bool, type(None)))):
        raise RequestError(f"--where {text!r}: {sign} needs one number")
    return Condition(field, sign, values)


def require_field(name: str, option: str) -> str:
    """Return the name if it is a field.

    Raises:
        RequestError: there is no such field. The message names the nearest.

    """
    if name in FIELDS:
        return name
    near = get_close_matches(name, FIELDS, 1, 0.5)
    more = f": did you mean {near[0]}?" if near else f": there are {', '.join(FIELDS)}"
    raise RequestError(f"{option}: there is no field {name!r}{more}")


def _value(field: str, word: str) -> Any:
    kind = config_columns()[field]
    if word.lower() == "none" and kind is not str:  # "none" is also a normalizer and a momentum
        return None
    try:
        if field in BOOLEANS:
            return int(_WORDS[word.lower()])
        return _finite(word) if kind is float else int(word) if kind is int else word
    except (KeyError, ValueError):
        expected = "true or false" if kind is bool else "a number"
        raise RequestError(f"--where: {field} is {expected}, not {word!r}") from None


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(word)
    return number


def select(rows: Sequence[Row], conditions: Sequence[Condition]) -> list[Row]:
    """Return the rows that meet every condition."""
    return [row for row in rows if all(c.holds(row) for c in conditions)]


def no_match_message(sweep: str, rows: Sequence[Row], conditions: Sequence[Condition]) -> str:
    """Explain why no trial of a sweep meets the conditions, and list the values that exist."""
    for condition in conditions:
        field = condition.field
        if not select(rows, [condition]):
            values = sorted({row[field] for row in rows}, key=lambda v: sort_key((v,)))
            names = ", ".join("none" if v is None else field_text(field, v) for v in values[:20])
            more = ", …" if len(values) > 20 else ""
            return f"no trial of sweep {sweep} has the {field} of --where: there are {names}{more}"
    return f"no trial of sweep {sweep} meets all of --where at once: leave one condition out"


def tune(rows: Sequence[Row], fields: Sequence[str]) -> list[Row]:
    """Choose the best values of these fields for each configuration, and return their trials.

    The best values have the highest mean of `validation_accuracy` over the seeds. Values with a
    failed or unfinished trial come after values without. Values without a finished trial come last.
    If two are equal, the one that was planned first is chosen.

    Raises:
        RequestError: finished trials have no validation accuracy.

    """
    arms: dict[tuple[Any, ...], dict[tuple[Any, ...], list[Row]]]
    arms = defaultdict(lambda: defaultdict(list))
    rest = _telling(rows, fields)
    for row in rows:
        arm = tuple(row[name] for name in rest)
        arms[arm][tuple(row[name] for name in fields)].append(row)
    kept: list[Row] = []
    for values in arms.values():
        merits = [_merit(r) if len(values) > 1 else (0, 0.0) for r in values.values()]
        kept += list(values.values())[merits.index(max(merits))]
    return kept


def _telling(rows: Sequence[Row], tuned: Sequence[str]) -> list[str]:
    """Return the fields, other than the tuned ones, by which a summary tells trials apart.

    A field that a tuned one makes meaningless is not among them: `weight_decay = 0` has no
    `decay_norm`, and competes with values that have one.
    """
    always = {"normalizer", "centralized", *ROW_FIELDS, *ARM_FIELDS}
    candidates = [name for name in FIELDS if name not in (*tuned, "seed", *OUTSIDE_IDENTITY)]
    return [
        name for name in candidates if name in always or is_axis(name, {row[name] for row in rows})
    ]


def _merit(rows: Sequence[Row]) -> tuple[int, float]:
    """Return a rank and a mean to sort by: complete cells, then partial ones, then empty ones."""
    finished = [row for row in rows if row["state"] == "finished"]
    if any(row[SELECTED_BY] is None for row in finished):
        row = next(row for row in finished if row[SELECTED_BY] is None)
        raise RequestError(
            f"--tune chooses by the validation accuracy, and trial {row['trial_id'][:8]} "
            f"({describe(row)}) has none: plan with validation = 0.1"
        )
    rank = 2 if len(finished) == len(rows) else 1 if finished else 0
    values = [row[SELECTED_BY] for row in finished]
    return rank, math.fsum(values) / len(values) if values else -math.inf

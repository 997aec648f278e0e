"""Which trials a report is about: conditions on fields, and hyperparameters that are tuned."""

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
from fedsweep.fields import config_columns
from fedsweep.plan import OUTSIDE_IDENTITY
from fedsweep.report.grouping import FIELDS
from fedsweep.report.labels import BOOLEANS, Row, describe, field_text, sort_key

SELECTED_BY = "validation_accuracy"
"""What tuning looks at: never the test set."""

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
    """A field compared with a value; with = and !=, with one of several."""

    field: str
    sign: str
    values: tuple[Any, ...]

    def holds(self, row: Row) -> bool:
        """Whether a row of `results` meets it; a field that is not set equals none alone."""
        value = row[self.field]
        if self.sign in _ORDERS:
            return value is not None and _ORDERS[self.sign](value, self.values[0])
        return (value in self.values) == (self.sign == "=")

    def sql(self, alias: str = "") -> str:
        """The same for a WHERE clause."""
        name = f"{alias}{self.field}"
        if self.sign in _ORDERS:
            return f"{name} {self.sign} {sql_value(self.values[0])}"
        known = [sql_value(v) for v in self.values if v is not None]
        listed = f"({', '.join(known)})"
        if self.sign == "=":
            said = [f"{name} IN {listed}"] if known else []
            said += [f"{name} IS NULL"] if None in self.values else []
            return said[0] if len(said) == 1 else f"({' OR '.join(said)})"
        if None in self.values:
            return " AND ".join(
                [f"{name} IS NOT NULL", *([f"{name} NOT IN {listed}"] if known else [])]
            )
        return f"({name} IS NULL OR {name} NOT IN {listed})"


def sql_value(value: Any) -> str:
    """A value as SQL writes it; booleans are 0 and 1 in the views."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def condition(text: str) -> Condition:
    """alpha=0.1,0.5; local_steps>=20; normalizer!=gn; alpha=none.

    Raises:
        RequestError: it is none, names no field, or compares it with what it cannot be.

    """
    text = text.strip()
    found = _FIELD_AND_SIGN.match(text)
    said = text[found.end() :].strip() if found else ""
    if found is None or not said:
        raise RequestError(
            f"--where {text!r} is no condition: write field=value, as alpha=0.1,0.5 or "
            "local_steps>=20"
        )
    name, sign = found.groups()
    field = known_field(name, "--where")
    values = tuple(_value(field, word.strip()) for word in said.split(","))
    if sign in _ORDERS and (len(values) > 1 or isinstance(values[0], (str, bool, type(None)))):
        raise RequestError(f"--where {text!r}: {sign} needs one number")
    return Condition(field, sign, values)


def known_field(name: str, option: str) -> str:
    """The field, if it is one.

    Raises:
        RequestError: it is none; names the nearest.

    """
    if name in FIELDS:
        return name
    near = get_close_matches(name, FIELDS, 1, 0.5)
    more = f": did you mean {near[0]}?" if near else f": there are {', '.join(FIELDS)}"
    raise RequestError(f"{option}: there is no field {name!r}{more}")


def _value(field: str, word: str) -> Any:
    kind = config_columns()[field]
    if word.lower() == "none" and kind is not str:  # a normalizer and a momentum have that name
        return None
    try:
        if field in BOOLEANS:
            return int(_WORDS[word.lower()])
        return _finite(word) if kind is float else int(word) if kind is int else word
    except (KeyError, ValueError):
        wanted = "true or false" if kind is bool else "a number"
        raise RequestError(f"--where: {field} is {wanted}, not {word!r}") from None


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(word)
    return number


def select(rows: Sequence[Row], conditions: Sequence[Condition]) -> list[Row]:
    """The rows that meet every condition."""
    return [row for row in rows if all(c.holds(row) for c in conditions)]


def nothing(sweep: str, rows: Sequence[Row], conditions: Sequence[Condition]) -> str:
    """Why no trial of a sweep meets the conditions: what there is instead."""
    for one in conditions:
        if not select(rows, [one]):
            there = sorted({row[one.field] for row in rows}, key=lambda v: sort_key((v,)))
            named = ", ".join("none" if v is None else field_text(one.field, v) for v in there[:20])
            more = ", …" if len(there) > 20 else ""
            return (
                f"no trial of sweep {sweep} has the {one.field} of --where: there are {named}{more}"
            )
    return f"no trial of sweep {sweep} meets all of --where at once: leave one condition out"


def tune(rows: Sequence[Row], fields: Sequence[str]) -> list[Row]:
    """Of each configuration without these fields, the trials of the values that validate best.

    By the mean of `validation_accuracy` over the seeds; values of which a trial diverged come last,
    those with trials to come are not judged. Of equals, the first planned.

    Raises:
        RequestError: finished trials have no validation accuracy.

    """
    arms: dict[tuple[Any, ...], dict[tuple[Any, ...], list[Row]]]
    arms = defaultdict(lambda: defaultdict(list))
    rest = [name for name in FIELDS if name not in (*fields, "seed", *OUTSIDE_IDENTITY)]
    for row in rows:
        arm = tuple(row[name] for name in rest)
        arms[arm][tuple(row[name] for name in fields)].append(row)
    kept: list[Row] = []
    for values in arms.values():
        merits = [_merit(some) if len(values) > 1 else (0, 0.0) for some in values.values()]
        kept += list(values.values())[merits.index(max(merits))]
    return kept


def _merit(rows: Sequence[Row]) -> tuple[int, float]:
    """Whole cells first, then those that have a diverged trial, then those that have none yet."""
    finished = [row for row in rows if row["state"] == "finished"]
    if any(row[SELECTED_BY] is None for row in finished):
        one = next(row for row in finished if row[SELECTED_BY] is None)
        raise RequestError(
            f"--tune chooses by the validation accuracy, and trial {one['trial_id'][:8]} "
            f"({describe(one)}) has none: plan with validation = 0.1"
        )
    rank = 2 if len(finished) == len(rows) else 1 if finished else 0
    values = [row[SELECTED_BY] for row in finished]
    return rank, math.fsum(values) / len(values) if values else -math.inf

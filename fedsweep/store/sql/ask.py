"""SQL from a person: read-only in any case, one statement, limited in time and rows."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Engine

from fedsweep.errors import SqlRefused
from fedsweep.store import views
from fedsweep.store.deadline import Deadline
from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.base import Question
from fedsweep.store.sql.limits import MOST_BYTES, TOO_MUCH, Parameters, refusal, size


@dataclass(frozen=True)
class Answer:
    """A statement's rows, within `limit` and `room`; `cut` where there were more."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    cut: bool


def ask(
    engine: Engine,
    statement: str,
    parameters: Parameters | None = None,
    *,
    limit: int = 10_000,
    seconds: float = 30.0,
    room: int | None = None,
) -> Answer:
    """Run one reading statement. Return at most `limit` rows and about `room` bytes.

    `seconds` limits the whole call: connect, plan, run and fetch. Without `room`, the answer is for
    a person's own terminal and has at most MOST_BYTES. The driver binds or quotes the parameters,
    so their text is never run as SQL.

    Raises:
        SqlRefused: it is not one, it is wrong, or it takes too long, or a row alone has no room.

    """
    text = statement.strip().rstrip(";").strip()
    if not text:
        raise SqlRefused('there is no statement: try fedsweep sql "SELECT * FROM results"')
    if not text.lower().startswith(_FIRST_WORDS):
        raise SqlRefused
    dialect = dialect_of(engine)
    given = views.statements(dialect)
    question = Question(text, parameters or {}, limit + 1, Deadline(seconds), room, given)
    try:
        columns, rows = dialect.ask(engine, question)
    except TimeoutError as error:
        raise refusal("interrupted", seconds) from error
    except MemoryError as error:
        raise SqlRefused(TOO_MUCH) from error
    kept = rows[: min(limit, _fitting(rows, room or MOST_BYTES))]
    return Answer(columns, [tuple(map(_plain, row)) for row in kept], len(rows) > len(kept))


def _fitting(rows: Sequence[Sequence[Any]], room: int) -> int:
    """Return the number of these rows that fit."""
    used = 0
    for n, row in enumerate(rows):
        used += size(row)
        if used > room:
            return n
    return len(rows)


_FIRST_WORDS = ("select", "with", "values", "table", "(", "explain", "--", "/*")


def _plain(value: Any) -> Any:
    """Return a value of a type that JSON and CSV have."""
    if isinstance(value, decimal.Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        if whole and value.adjusted() > 4_000:  # more digits than Python writes of an int
            return str(value)
        value = int(value) if whole else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (dt.date, dt.datetime, dt.time)):
        return value.isoformat()
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    return value if isinstance(value, (str, int, float, type(None))) else str(value)

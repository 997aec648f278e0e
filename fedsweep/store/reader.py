"""SQL from a person: read-only whatever it says, one statement, bounded in time and rows."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Engine

from fedsweep.errors import SqlRefused
from fedsweep.store import reader_postgres, reader_sqlite, views
from fedsweep.store.access import Access
from fedsweep.store.bounds import MOST_BYTES, TOO_MUCH, Found, Parameters, refusal, size
from fedsweep.store.deadline import Deadline, within
from fedsweep.store.engine import access_of
from fedsweep.store.location import sqlite_file


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
    """Run one reading statement; of its rows `limit`, and about `room` bytes, are taken.

    The seconds are for all of it: to connect, to plan, to run and to fetch. Without `room` it is a
    person's own terminal, whose answer has MOST_BYTES at most. Parameters are bound by the driver
    or quoted: they are data, whatever they say.

    Raises:
        SqlRefused: it is not one, it is wrong, or it takes too long, or a row alone has no room.

    """
    text = statement.strip().rstrip(";").strip()
    if not text:
        raise SqlRefused('there is no statement: try fedsweep sql "SELECT * FROM results"')
    if not text.lower().startswith(_FIRST_WORDS):
        raise SqlRefused
    asking = _ASK[engine.dialect.name]
    try:
        columns, rows = asking(engine, text, parameters or {}, limit + 1, Deadline(seconds), room)
    except TimeoutError as error:
        raise refusal("interrupted", seconds) from error
    except MemoryError as error:
        raise SqlRefused(TOO_MUCH) from error
    kept = rows[: min(limit, _fitting(rows, room or MOST_BYTES))]
    return Answer(columns, [tuple(map(_plain, row)) for row in kept], len(rows) > len(kept))


def _fitting(rows: Sequence[Sequence[Any]], room: int) -> int:
    """How many of these rows have room."""
    used = 0
    for n, row in enumerate(rows):
        used += size(row)
        if used > room:
            return n
    return len(rows)


_FIRST_WORDS = ("select", "with", "values", "table", "(", "explain", "--", "/*")


def _ask_sqlite(
    engine: Engine,
    text: str,
    parameters: Parameters,
    limit: int,
    deadline: Deadline,
    room: int | None,
) -> Found:
    file = sqlite_file(engine.url)
    assert file is not None
    access = access_of(engine) or Access(file)
    question: dict[str, Any] = {
        "address": within(deadline, access.address, lambda: None),  # it may copy the file
        "text": text,
        "parameters": dict(parameters),
        "limit": limit,
        "seconds": deadline.seconds,
        "until": deadline.at,
        "room": room,
        "views": views.statements("sqlite"),
    }
    if room is not None:
        from fedsweep.store import sandbox

        return sandbox.ask(question, deadline)
    opened: list[sqlite3.Connection] = []  # a person's own terminal
    return within(
        deadline,
        lambda: reader_sqlite.read(**question, opened=opened.append),
        lambda: _interrupt(opened),
    )


def _interrupt(opened: Sequence[sqlite3.Connection]) -> None:
    for connection in opened:
        with suppress(sqlite3.ProgrammingError):  # it is closed
            connection.interrupt()


_ASK = {"sqlite": _ask_sqlite, "postgresql": reader_postgres.ask}


def _plain(value: Any) -> Any:
    """A value that JSON and CSV know."""
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

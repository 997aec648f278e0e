"""SQL from a person: read-only whatever it says, one statement, bounded in time and rows."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy.engine import Engine

from fedsweep.errors import SqlRefused
from fedsweep.store.engine import sqlite_file

LARGEST_VALUE = 16 * 2**20
"""Bytes of one value, on SQLite: keeps zeroblob() and its like from filling the memory."""


LARGEST_PLAN = 4 * 2**20
"""Characters of a plan on Postgres, which has the constants of its statement worked out."""

MOST_COLUMNS = 300
"""Of an answer that has a bound on its size."""

_TOO_LARGE = "a row is larger than the whole answer may be: narrow the statement"


@dataclass(frozen=True)
class Answer:
    """A statement's rows, within `limit` and `room`; `cut` where there were more."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    cut: bool


Parameters = Mapping[str, str | None]
"""Values by name. In a statement `:name` stands for one, wherever a value may."""


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

    Parameters are bound by the driver: they are data, whatever they say.

    Raises:
        SqlRefused: it is not one, it is wrong, or it takes too long, or a row alone has no room.

    """
    text = statement.strip().rstrip(";").strip()
    if not text:
        raise SqlRefused('there is no statement: try fedsweep sql "SELECT * FROM results"')
    if not text.lower().startswith(_FIRST_WORDS):
        raise SqlRefused
    asking = _ASK[engine.dialect.name]
    columns, rows = asking(engine, text, parameters or {}, limit + 1, seconds, room)
    kept = rows[:limit] if room is None else rows[: min(limit, _fitting(rows, room))]
    return Answer(columns, [tuple(map(_plain, row)) for row in kept], len(rows) > len(kept))


def _fitting(rows: Sequence[Sequence[Any]], room: int) -> int:
    """How many of these rows have room."""
    used = 0
    for n, row in enumerate(rows):
        used += _bytes(row)
        if used > room:
            return n
    return len(rows)


def _bytes(row: Sequence[Any]) -> int:
    """About so many bytes a row takes."""
    return sum(len(v) if isinstance(v, (str, bytes, memoryview)) else 8 for v in row)


def _taken(rows: Iterable[Sequence[Any]], limit: int, room: int) -> list[Sequence[Any]]:
    """Rows up to the first that has no room: what comes after is never read."""
    taken: list[Sequence[Any]] = []
    used = 0
    for row in rows:
        taken.append(row)
        used += _bytes(row)
        if len(taken) == limit or used > room:
            break
    return taken


def names(statement: str, parameter: str) -> bool:
    """Whether a statement has a `:parameter`, outside its strings and comments."""
    return any(found["name"] == parameter for found in _LEXEME.finditer(statement))


_LEXEME = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | :: | :(?P<name>[A-Za-z_]\w*)""",
    re.DOTALL | re.VERBOSE,
)
"""A parameter, and what may look like one: strings, quoted names, comments, casts."""


def _ask_sqlite(
    engine: Engine,
    text: str,
    parameters: Parameters,
    limit: int,
    seconds: float,
    room: int | None,
) -> tuple[list[str], Sequence[Sequence[Any]]]:
    file = sqlite_file(engine.url)
    assert file is not None
    question: dict[str, Any] = {
        "address": f"{file.absolute().as_uri()}?mode=ro",
        "text": text,
        "parameters": dict(parameters),
        "limit": limit,
        "seconds": seconds,
        "room": room,
    }
    if room is None:  # a person's own terminal
        return read_sqlite(**question)
    from fedsweep.store import sandbox

    try:
        return sandbox.ask(question)
    except TimeoutError as error:
        raise _refusal("interrupted", seconds) from error
    except MemoryError as error:
        raise SqlRefused("the statement takes too much memory: narrow it") from error


def read_sqlite(
    address: str,
    text: str,
    parameters: dict[str, str | None],
    limit: int,
    seconds: float,
    room: int | None,
) -> tuple[list[str], Sequence[Sequence[Any]]]:
    """Columns and rows of a statement on a SQLite file."""
    connection = sqlite3.connect(address, uri=True, timeout=seconds)
    deadline = time.monotonic() + seconds
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(LARGEST_VALUE, room or LARGEST_VALUE))
        if room is not None:
            connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, MOST_COLUMNS)
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        cursor = connection.execute(text, parameters)
        if cursor.description is None:
            raise SqlRefused
        rows = cursor.fetchmany(limit) if room is None else _taken(cursor, limit, room)
        return [column[0] for column in cursor.description], rows
    except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError) as error:
        raise _refusal(str(error), seconds) from error
    finally:
        connection.close()


_READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}


def _authorize(action: int, _first: str | None, second: str | None, *_: str | None) -> int:
    function = second if action == sqlite3.SQLITE_FUNCTION else None
    if action not in _READING or function in ("load_extension", "fts3_tokenizer"):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


_REACHING_OUT = re.compile(
    r"set_config|_to_xml|ts_stat|ts_rewrite|dblink|crosstab|connectby|xpath_table"
    r"|pg_authid|pg_shadow|pg_user_mapping|pg_subscription|pg_largeobject|pg_logical_emit|lo_get"
    r"|pg_terminate_backend|pg_cancel_backend|pg_advisory|pg_try_advisory|\bu&[\"']",
    re.IGNORECASE,
)
"""Functions that could take a superuser's rights back, run SQL from a string, or end or block a
worker; and the spelling of a name in escapes, which could hide them. Found in one pass: a plan has
the constants of its statement, of any length."""

_FIRST_WORDS = ("select", "with", "values", "table", "(", "explain", "--", "/*")


def _numbered(text: str, parameters: Parameters) -> tuple[str, list[str | None]]:
    """The text as Postgres takes it, with $1 for the first parameter, and its values."""
    used = [name for name in parameters if names(text, name)]

    def number(found: re.Match[str]) -> str:
        return f"${used.index(found['name']) + 1}" if found["name"] in used else found[0]

    return _LEXEME.sub(number, text), [parameters[name] for name in used]


def _ask_postgres(
    engine: Engine,
    text: str,
    parameters: Parameters,
    limit: int,
    seconds: float,
    room: int | None,
) -> tuple[list[str], Sequence[Sequence[Any]]]:
    """As a subquery, so that nothing but a SELECT fits; by the extended protocol, which takes one
    statement; in a read-only transaction; and not with a superuser's rights, which reach files
    and programs from within a SELECT.
    """
    if _REACHING_OUT.search(text):
        raise SqlRefused
    numbered, values = _numbered(text, parameters)
    asked = f"(\n{numbered}\n) AS fedsweep_asked{_of_size(room)}"
    query = f"SELECT * FROM {asked} LIMIT {int(limit)}"
    alone = f"EXPLAIN (COSTS OFF)\n{numbered}"  # what breaks out of its brackets is no statement
    with engine.connect() as connection:
        driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
        driver.rollback()
        driver.read_only = True
        try:
            with psycopg.RawCursor(driver) as cursor:
                cursor.execute(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
                cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
                if cursor.fetchone() == (True,):
                    cursor.execute("SET LOCAL ROLE pg_read_all_data")
                cursor.execute(alone.encode(), values, prepare=True)
                cursor.execute(
                    f"EXPLAIN (VERBOSE, COSTS OFF) {query}".encode(), values, prepare=True
                )
                plan = "\n".join(line for (line,) in cursor.fetchall())
                if len(plan) > LARGEST_PLAN:
                    raise SqlRefused(_TOO_LARGE)
                if _REACHING_OUT.search(plan):  # through a view, say
                    raise SqlRefused
                if room is None:
                    cursor.execute(query.encode(), values, prepare=True)
                    rows = cursor.fetchall()
                else:
                    assert not values  # a cursor of the server's takes none
                    rows = _taken(_some_at_a_time(cursor, query, seconds), limit, room)
                return [column.name for column in cursor.description or ()], rows
        except (psycopg.Error, UnicodeEncodeError) as error:
            raise _refusal(str(error), seconds) from error
        finally:
            driver.rollback()
            driver.read_only = None
            connection.invalidate()


def _some_at_a_time(cursor: psycopg.Cursor[Any], query: str, seconds: float) -> Iterator[Any]:
    """Rows through a cursor of the server's, so that they are not all in the memory first."""
    deadline = time.monotonic() + seconds
    cursor.execute(f"DECLARE fedsweep_rows NO SCROLL CURSOR FOR {query}".encode(), prepare=True)
    while True:
        left = max(1, int(1000 * (deadline - time.monotonic())))
        cursor.execute(f"SET LOCAL statement_timeout = {left}")
        some = cursor.execute("FETCH FORWARD 20 FROM fedsweep_rows").fetchall()
        yield from some
        if not some:
            return


def _of_size(room: int | None) -> str:
    """A condition that is an error for a row that has no room alone; before it is sent."""
    if room is None:
        return ""
    fits = f"octet_length(fedsweep_asked::text) <= {int(room)}"
    return f" WHERE CAST(CASE WHEN {fits} THEN '1' ELSE '{_TOO_LARGE}' END AS integer) = 1"


_ASK = {"sqlite": _ask_sqlite, "postgresql": _ask_postgres}


def _refusal(text: str, seconds: float) -> SqlRefused:
    first = text.strip().splitlines()[0] if text.strip() else "the statement failed"
    if "interrupted" in text or "statement timeout" in text:
        return SqlRefused(
            f"the statement took longer than {seconds:g} s: narrow it, or raise --timeout"
        )
    if "not authorized" in text or "one statement" in text or 'near ";"' in text:
        return SqlRefused()
    if _TOO_LARGE in text or "string or blob too big" in text:
        return SqlRefused(_TOO_LARGE)
    return SqlRefused(f"the statement cannot be run: {first}")


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

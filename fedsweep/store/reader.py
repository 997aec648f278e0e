"""SQL from a person: read-only whatever it says, one statement, bounded in time and rows."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy.engine import Engine

from fedsweep.errors import SqlRefused
from fedsweep.store.engine import sqlite_file

LARGEST_VALUE = 16 * 2**20
"""Bytes of one value, on SQLite: keeps zeroblob() and its like from filling the memory."""


@dataclass(frozen=True)
class Answer:
    """A statement's rows, `limit` at most; `cut` where there were more."""

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
) -> Answer:
    """Run one reading statement. Parameters are bound by the driver: they are data, whatever they
    say.

    Raises:
        SqlRefused: it is not one, it is wrong, or it takes too long.

    """
    text = statement.strip().rstrip(";").strip()
    if not text:
        raise SqlRefused('there is no statement: try fedsweep sql "SELECT * FROM results"')
    if not text.lower().startswith(_FIRST_WORDS):
        raise SqlRefused
    asking = _ASK[engine.dialect.name]
    columns, rows = asking(engine, text, parameters or {}, limit + 1, seconds)
    return Answer(columns, [tuple(map(_plain, row)) for row in rows[:limit]], len(rows) > limit)


def names(statement: str, parameter: str) -> bool:
    """Whether a statement has a `:parameter`, outside its strings and comments."""
    return any(found["name"] == parameter for found in _LEXEME.finditer(statement))


_LEXEME = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | :: | :(?P<name>[A-Za-z_]\w*)""",
    re.DOTALL | re.VERBOSE,
)
"""A parameter, and what may look like one: strings, quoted names, comments, casts."""


def _ask_sqlite(
    engine: Engine, text: str, parameters: Parameters, limit: int, seconds: float
) -> tuple[list[str], Sequence[Sequence[Any]]]:
    file = sqlite_file(engine.url)
    assert file is not None
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=seconds)
    deadline = time.monotonic() + seconds
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        cursor = connection.execute(text, dict(parameters))
        if cursor.description is None:
            raise SqlRefused
        rows = cursor.fetchmany(limit)
        return [column[0] for column in cursor.description], rows
    except (sqlite3.Error, sqlite3.Warning) as error:
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
    if action not in _READING or function == "load_extension":
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


_REACHING_OUT = re.compile(
    r"set_config|\w+_to_xml\w*|ts_stat|ts_rewrite|dblink\w*|crosstab\w*|connectby|xpath_table"
    r"|pg_terminate_backend|pg_cancel_backend|pg_advisory\w*|pg_try_advisory\w*|\bu&[\"']",
    re.IGNORECASE,
)
"""Functions that could take a superuser's rights back, run SQL from a string, or end or block a
worker; and the spelling of a name in escapes, which could hide them."""

_FIRST_WORDS = ("select", "with", "values", "table", "(", "explain", "--", "/*")


def _numbered(text: str, parameters: Parameters) -> tuple[str, list[str | None]]:
    """The text as Postgres takes it, with $1 for the first parameter, and its values."""
    used = [name for name in parameters if names(text, name)]

    def number(found: re.Match[str]) -> str:
        return f"${used.index(found['name']) + 1}" if found["name"] in used else found[0]

    return _LEXEME.sub(number, text), [parameters[name] for name in used]


def _ask_postgres(
    engine: Engine, text: str, parameters: Parameters, limit: int, seconds: float
) -> tuple[list[str], Sequence[Sequence[Any]]]:
    """As a subquery, so that nothing but a SELECT fits; by the extended protocol, which takes one
    statement; in a read-only transaction; and not with a superuser's rights, which reach files
    and programs from within a SELECT.
    """
    if _REACHING_OUT.search(text):
        raise SqlRefused
    numbered, values = _numbered(text, parameters)
    query = f"SELECT * FROM (\n{numbered}\n) AS asked LIMIT {int(limit)}"
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
                cursor.execute(
                    f"EXPLAIN (VERBOSE, COSTS OFF) {query}".encode(), values, prepare=True
                )
                plan = "\n".join(line for (line,) in cursor.fetchall())
                if _REACHING_OUT.search(plan):  # through a view, say
                    raise SqlRefused
                cursor.execute(query.encode(), values, prepare=True)
                columns = [column.name for column in cursor.description or ()]
                return columns, cursor.fetchall()
        except psycopg.Error as error:
            raise _refusal(str(error), seconds) from error
        finally:
            driver.rollback()
            driver.read_only = None
            connection.invalidate()


_ASK = {"sqlite": _ask_sqlite, "postgresql": _ask_postgres}


def _refusal(text: str, seconds: float) -> SqlRefused:
    first = text.strip().splitlines()[0] if text.strip() else "the statement failed"
    if "interrupted" in text or "statement timeout" in text:
        return SqlRefused(
            f"the statement took longer than {seconds:g} s: narrow it, or raise --timeout"
        )
    if "not authorized" in text or "one statement" in text or 'near ";"' in text:
        return SqlRefused()
    return SqlRefused(f"the statement cannot be run: {first}")


def _plain(value: Any) -> Any:
    """A value that JSON and CSV know."""
    if isinstance(value, decimal.Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        value = int(value) if whole else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (dt.date, dt.datetime, dt.time)):
        return value.isoformat()
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    return value if isinstance(value, (str, int, float, type(None))) else str(value)

"""A person's SQL on Postgres: read-only, bounded, and without a superuser's rights."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from sqlalchemy.engine import Engine

from fedsweep.errors import SqlRefused
from fedsweep.store.bounds import LEXEME, TOO_LARGE, Found, Parameters, names, refusal, taken
from fedsweep.store.engine import connector_of, translated

LARGEST_PLAN = 4 * 2**20
"""Characters of a plan, which has the constants of its statement worked out."""


class _Words:
    """Words that a text must not have, in any case.

    A plan has millions of characters. A pattern would take a second for them, in which no other
    thread of the process runs.
    """

    def __init__(self, words: str) -> None:
        self.words = words.split()

    def search(self, text: str) -> bool:
        """Return if the text has one of the words, or a name in escapes, which could hide one."""
        text = text.lower()
        starts = (place for part in ("u&'", 'u&"') for place in _places(text, part))
        return any(word in text for word in self.words) or any(
            place == 0 or not (text[place - 1].isalnum() or text[place - 1] == "_")
            for place in starts
        )


def _places(text: str, part: str) -> Iterator[int]:
    place = text.find(part)
    while place >= 0:
        yield place
        place = text.find(part, place + 1)


_REACHING_OUT = _Words(
    """
    set_config _to_xml ts_stat ts_rewrite dblink crosstab connectby xpath_table pg_authid pg_shadow
    pg_user_mapping pg_subscription pg_largeobject pg_logical_emit lo_get pg_terminate_backend
    pg_cancel_backend pg_advisory pg_try_advisory
    """
)
"""Functions that could take a superuser's rights back, run SQL from a string, or end or block a
worker; and the spelling of a name in escapes, which could hide them."""


def _numbered(text: str, parameters: Parameters) -> tuple[str, list[str | None]]:
    """The text as Postgres takes it, with $1 for the first parameter, and its values."""
    used = [name for name in parameters if names(text, name)]

    def number(found: re.Match[str]) -> str:
        return f"${used.index(found['name']) + 1}" if found["name"] in used else found[0]

    return LEXEME.sub(number, text), [parameters[name] for name in used]


def ask(
    engine: Engine,
    text: str,
    parameters: Parameters,
    limit: int,
    seconds: float,
    room: int | None,
) -> Found:
    """As a subquery, so that nothing but a SELECT fits; by the extended protocol, which takes one
    statement; in a read-only transaction; and not with a superuser's rights, which reach files
    and programs from within a SELECT.
    """
    if _REACHING_OUT.search(text):
        raise SqlRefused
    numbered, values = _numbered(text, parameters)
    asked = f"(\n{numbered}\n) AS fedsweep_asked{_of_size(room)}"
    query = f"SELECT * FROM {asked} LIMIT {int(limit)}"
    with translated(engine), engine.connect() as connection:
        driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
        driver.rollback()
        driver.read_only = True
        try:
            connector_of(engine).begin(driver)
            with psycopg.RawCursor(driver) as cursor:
                cursor.execute(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
                cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
                if cursor.fetchone() == (True,):
                    cursor.execute("SET LOCAL ROLE pg_read_all_data")
                _plan(cursor, numbered, values)  # what breaks out of its brackets is no statement
                if _REACHING_OUT.search(_plan(cursor, query, values)):  # through a view, say
                    raise SqlRefused
                if room is None:
                    _execute(cursor, query, values)
                    rows = cursor.fetchall()
                else:
                    assert not values  # a cursor of the server's takes none
                    rows = taken(_some_at_a_time(cursor, query, seconds), limit, room)
                return [column.name for column in cursor.description or ()], rows
        except (psycopg.Error, UnicodeEncodeError) as error:
            if driver.closed:  # the server went away: no fault of the statement
                raise
            # Not all of its text: that repeats the statement.
            said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
            raise refusal(said or str(error), seconds) from error
        finally:
            if not driver.closed:
                driver.rollback()
                driver.read_only = None
            connection.invalidate()


_MEASURE = f"""\
DO $measure$
DECLARE
    line text;
    plan text := '';
BEGIN
    FOR line IN EXECUTE current_setting('fedsweep.asked') LOOP
        IF length(plan) + length(line) > {LARGEST_PLAN} THEN
            RAISE EXCEPTION '{TOO_LARGE}';
        END IF;
        plan := plan || line || chr(10);
    END LOOP;
    PERFORM set_config('fedsweep.plan', plan, true);
END
$measure$"""
"""Measures a plan where it is made: a line of it may have a constant of a gigabyte."""


def _execute(
    cursor: psycopg.Cursor[Any] | psycopg.RawCursor[Any],
    query: str,
    values: Sequence[str | None],
) -> None:
    """Run a query by the extended protocol, which takes one statement.

    A connection pooler may lose a prepared statement: there, a pipeline has the same effect.
    """
    if cursor.connection.prepare_threshold is not None:
        cursor.execute(query.encode(), values, prepare=True)
        return
    with cursor.connection.pipeline():
        cursor.execute(query.encode(), values)


def _plan(cursor: psycopg.RawCursor[Any], statement: str, values: Sequence[str | None]) -> str:
    """How Postgres would go about it, with the constants worked out."""
    explain = f"EXPLAIN (VERBOSE, COSTS OFF)\n{statement}"
    if values:  # of a recipe, from a person's own terminal
        _execute(cursor, explain, values)
        return "\n".join(line for (line,) in cursor.fetchall())
    cursor.execute("SELECT set_config('fedsweep.asked', $1, true)", [explain])
    cursor.execute(_MEASURE)
    found = cursor.execute("SELECT current_setting('fedsweep.plan')").fetchone()
    assert found is not None
    return str(found[0])


def _some_at_a_time(cursor: psycopg.Cursor[Any], query: str, seconds: float) -> Iterator[Any]:
    """Rows through a cursor of the server's, so that they are not all in the memory first."""
    deadline = time.monotonic() + seconds
    _execute(cursor, f"DECLARE fedsweep_rows NO SCROLL CURSOR FOR {query}", [])
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
    return f" WHERE CAST(CASE WHEN {fits} THEN '1' ELSE '{TOO_LARGE}' END AS integer) = 1"

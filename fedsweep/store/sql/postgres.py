"""A person's SQL on Postgres: read-only, limited, and without the rights of a superuser.

A superuser's session keeps its rights: any function that a statement calls may take them back with
RESET ROLE. For a superuser, the statement therefore runs in a function of a role that may only
read. Inside it the server refuses every change of role.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Any

import psycopg
from sqlalchemy.engine import Engine

from fedsweep.errors import SqlRefused
from fedsweep.store.deadline import Deadline, within
from fedsweep.store.dialects.postgres_engine import connector_of
from fedsweep.store.sql.limits import (
    LEXEME,
    MOST_BYTES,
    TOO_LARGE,
    Found,
    Parameters,
    names,
    refusal,
    size,
    taken,
)
from fedsweep.store.transactions import translated

LARGEST_PLAN = 4 * 2**20
"""Characters of a plan, which has the constants of its statement worked out."""
TOGETHER = (20, 2_000)
"""Rows of a fetch: of the first, and at most."""
AT_ONCE = 2**20
"""Bytes of a fetch, about: a fetch has more rows if they are small."""

SETTINGS = {
    "jit": "off",  # a compilation cannot be interrupted
    "max_parallel_workers_per_gather": "0",
    "hash_mem_multiplier": "1",
    "client_min_messages": "error",
    "standard_conforming_strings": "on",  # as our own look at a statement has it
}
"""Settings of a statement's transaction, as far as the server knows them."""
WORK_MEMORY = 64 * 2**10
"""Kilobytes of memory for a sort or a hash table; a server may allow less."""
SPILLED = 2**20
"""Kilobytes of temporary files, if the role may set that."""


class _Words:
    """Words that a text must not have, in any case.

    A plan has millions of characters. A pattern would take a second to search them, and no other
    thread of the process would run in that second.
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
worker. The spelling of a name in escapes could hide them, so it is refused too."""


def _numbered(text: str, parameters: Parameters) -> tuple[str, list[str | None]]:
    """Return the text for Postgres, with $1 for the first parameter, and the values."""
    used = [name for name in parameters if names(text, name)]

    def number(found: re.Match[str]) -> str:
        return f"${used.index(found['name']) + 1}" if found["name"] in used else found[0]

    return LEXEME.sub(number, text), [parameters[name] for name in used]


def _quoted(text: str, parameters: Parameters) -> str:
    """Return the text with each parameter as a literal, because a function's statement has no
    parameters.
    """

    def quote(found: re.Match[str]) -> str:
        if found["name"] is None or found["name"] not in parameters:
            return found[0]
        value = parameters[found["name"]]
        return "NULL" if value is None else "'" + value.replace("'", "''") + "'"

    return LEXEME.sub(quote, text)


def ask(
    engine: Engine,
    text: str,
    parameters: Parameters,
    limit: int,
    deadline: Deadline,
    room: int | None,
) -> Found:
    """Run one SELECT and return its columns and rows.

    It runs as a subquery, so that only a SELECT fits. The extended protocol takes one statement
    only. The transaction is read-only. It has no superuser's rights, because these reach files and
    programs from within a SELECT.
    """
    if _REACHING_OUT.search(text):
        raise SqlRefused
    session = _Session(engine, deadline)
    answer = partial(_answer, session, text, parameters, limit, room or MOST_BYTES)
    return within(deadline, answer, session.abandon)


class _Session:
    """A connection for one statement, which another thread may end."""

    def __init__(self, engine: Engine, deadline: Deadline) -> None:
        self.engine, self.deadline = engine, deadline
        self.driver: psycopg.Connection[Any] | None = None
        self.abandoned = False
        self._lock = threading.Lock()

    def __enter__(self) -> psycopg.Connection[Any]:
        driver = connector_of(self.engine).connected(self.deadline.left)
        with self._lock:
            self.driver = driver
            if not self.abandoned:
                return driver
        self.__exit__()
        raise TimeoutError

    def __exit__(self, *_: object) -> None:
        with self._lock:
            assert self.driver is not None
            self.driver.close()
            self.driver = None

    def abandon(self) -> None:
        """Hang up. The server ends the statement by its own timeout, which is over, too."""
        with self._lock, suppress(OSError, psycopg.Error):
            self.abandoned = True
            if self.driver is None:
                return
            with socket.socket(fileno=os.dup(self.driver.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)


def _answer(session: _Session, text: str, parameters: Parameters, limit: int, room: int) -> Found:
    with translated(session.engine), session as driver:
        try:
            superuser = _is_superuser(driver)
            driver.read_only = not superuser  # a superuser's transaction gets a function first
            if superuser:  # what a statement calls could put another one under a prepared name
                driver.prepare_threshold = None
            connector_of(session.engine).begin(driver, writes=superuser)
            with psycopg.RawCursor(driver) as cursor:
                _set(cursor, session.deadline)
                statement = _Enclosed if superuser else _Plain
                return statement(cursor, session.deadline, text, parameters, limit, room).found()
        except (psycopg.Error, UnicodeEncodeError) as error:
            if session.abandoned:
                raise TimeoutError from error
            if driver.closed:  # the server went away: no fault of the statement
                raise
            # Not all of its text: that repeats the statement.
            message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
            raise refusal(message or str(error), session.deadline.seconds) from error
        except (RecursionError, ValueError, OverflowError) as error:
            raise SqlRefused(
                "the statement has a value that cannot be read: cast it to text"
            ) from (error)


def _is_superuser(driver: psycopg.Connection[Any]) -> bool:
    """Return whether the session is a superuser's.

    Raises:
        SqlRefused: it is not, but may become one, or reaches the server's files and programs.

    """
    superuser, reaching, standby, role = driver.execute(_ROLE).fetchone() or (
        False,
        True,
        False,
        "",
    )
    driver.rollback()
    if reaching and not superuser:
        raise SqlRefused(
            f"the role {role} may become a superuser, or reach the server's files and programs: "
            f"name another role in --db ({_READER})"
        )
    if superuser and standby:
        raise SqlRefused(
            "a standby answers no superuser's statements here: name another role in --db "
            f"({_READER})"
        )
    return bool(superuser)


_READER = "CREATE ROLE reader LOGIN PASSWORD '…' IN ROLE pg_read_all_data"
"""How to make a role for statements."""

_ROLE = """
SELECT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
    EXISTS (
        SELECT FROM pg_catalog.pg_roles
        WHERE (rolsuper OR rolname IN ('pg_execute_server_program', 'pg_read_server_files',
            'pg_write_server_files'))
          AND pg_catalog.pg_has_role(session_user, oid, 'MEMBER')),
    pg_catalog.pg_is_in_recovery(), session_user
"""


def _set(cursor: psycopg.RawCursor[Any], deadline: Deadline) -> None:
    """Limit a transaction in time and memory, and let it find only our tables."""
    cursor.execute(f"SET LOCAL statement_timeout = {deadline.milliseconds()}")
    cursor.execute(
        "SELECT pg_catalog.set_config('search_path', 'pg_catalog, ' || coalesce("
        "pg_catalog.quote_ident(pg_catalog.current_schema()) || ', ', '') || 'pg_temp', true)"
    )
    cursor.execute(
        "SELECT set_config(s.name, ours.value, true) FROM pg_settings AS s "
        "JOIN unnest($1::text[], $2::text[]) AS ours (name, value) ON ours.name = s.name "
        "WHERE s.setting <> ours.value",
        [list(SETTINGS), list(SETTINGS.values())],
    )
    cursor.execute(
        f"SELECT set_config('work_mem', '{WORK_MEMORY}', true) FROM pg_settings "
        f"WHERE name = 'work_mem' AND setting::bigint > {WORK_MEMORY}"
    )
    with suppress(psycopg.errors.InsufficientPrivilege), cursor.connection.transaction():
        cursor.execute(
            f"SELECT set_config('temp_file_limit', '{SPILLED}', true) FROM pg_settings "
            "WHERE name = 'temp_file_limit' "
            f"AND setting::bigint NOT BETWEEN 0 AND {SPILLED}"
        )


class _Plain:
    """A statement of a role that may not become a superuser."""

    def __init__(
        self,
        cursor: psycopg.RawCursor[Any],
        deadline: Deadline,
        text: str,
        parameters: Parameters,
        limit: int,
        room: int,
    ) -> None:
        self.cursor, self.deadline = cursor, deadline
        self.limit, self.room = limit, room
        self.text, self.values = self._written(text, parameters)

    def _written(self, text: str, parameters: Parameters) -> tuple[str, list[str | None]]:
        return _numbered(text, parameters)

    def found(self) -> Found:
        """Return the columns and rows."""
        self._prepare()
        self._plan(self.text)  # what breaks out of its brackets is no statement
        subquery = f"(\n{self.text}\n) AS fedsweep_asked{_of_size(self.room)}"
        query = f"SELECT * FROM {subquery} LIMIT {int(self.limit)}"
        if _REACHING_OUT.search(self._plan(query)):  # through a view, say
            raise SqlRefused
        return self._run(subquery, query)

    def _prepare(self) -> None:
        """Create the objects that the statement needs."""

    def _run(self, _asked: str, query: str) -> Found:
        rows = taken(self._rows(query, self.values), self.limit, self.room)
        return [column.name for column in self.cursor.description or ()], rows

    def _plan(self, statement: str) -> str:
        """Return the plan that Postgres makes, with its constants evaluated."""
        explain = f"EXPLAIN (VERBOSE, COSTS OFF)\n{statement}"
        self._hurry()
        if self.values:  # of a recipe, from a person's own terminal
            _execute(self.cursor, explain, self.values)
            return "\n".join(line for (line,) in self.cursor.fetchall())
        self.cursor.execute("SELECT set_config('fedsweep.asked', $1, true)", [explain])
        self._hurry()
        self.cursor.execute(_MEASURE)
        row = self.cursor.execute("SELECT current_setting('fedsweep.plan')").fetchone()
        assert row is not None
        return str(row[0])

    def _rows(self, query: str, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Rows through a cursor of the server's, so that they are not all in the memory first."""
        self._hurry()
        _execute(self.cursor, f"DECLARE fedsweep_rows NO SCROLL CURSOR FOR {query}", values)
        count, most = TOGETHER
        while True:
            self._hurry()
            fetched = self.cursor.execute(f"FETCH FORWARD {count} FROM fedsweep_rows").fetchall()
            yield from fetched
            if len(fetched) < count:
                return
            each = max(1, sum(map(size, fetched)) // count)
            count = max(TOGETHER[0], min(most, AT_ONCE // each))

    def _hurry(self) -> None:
        """Give the next step the time that is left."""
        self.cursor.execute(f"SET LOCAL statement_timeout = {self.deadline.milliseconds()}")


class _Enclosed(_Plain):
    """A statement of a superuser, in a function of a role that may only read.

    In a function with its owner's rights (SECURITY DEFINER) the server refuses each change of the
    role. So no function that a statement calls gets the session's own rights back. Even the check
    of a statement is a call, because reading a constant can call a function of the user who made
    its type.
    """

    def _written(self, text: str, parameters: Parameters) -> tuple[str, list[str | None]]:
        return _quoted(text, parameters), []

    def _prepare(self) -> None:
        try:
            for statement in _ENCLOSURE:
                self.cursor.execute(statement)
        except psycopg.Error as error:
            raise SqlRefused(
                "a superuser's statements cannot be enclosed here "
                f"({error.diag.message_primary or error}): name another role in --db ({_READER})"
            ) from error
        self.cursor.execute("SELECT 1")  # with a first snapshot it cannot be taken back
        self.cursor.execute("SET TRANSACTION READ ONLY")

    def _plan(self, statement: str) -> str:
        explain = f"EXPLAIN (VERBOSE, COSTS OFF)\n{statement}"
        return "\n".join(self._lines(explain, LARGEST_PLAN, TOO_LARGE))

    def _run(self, asked: str, query: str) -> Found:
        # A row of NULLs if there is none: it has the names.
        one = f"(SELECT 1) AS one LEFT JOIN ({query})"
        line = next(
            self._lines(
                f"SELECT row_to_json(y)::text FROM (SELECT x.* FROM {one} AS x ON false) AS y",
                LARGEST_PLAN,
            )
        )
        columns = [name for name, _ in _pairs(line)]
        readers = [_READERS.get(number, _readable) for number in self._types(one, len(columns))]
        as_json = f"SELECT row_to_json(fedsweep_asked)::text FROM {asked} LIMIT {int(self.limit)}"
        rows = (
            tuple(
                None if value is None else read(value)
                for read, (_, value) in zip(readers, _pairs(line), strict=True)
            )
            for line in self._lines(as_json, 2 * self.room)
        )
        return columns, taken(rows, self.limit, self.room)

    def _types(self, one: str, count: int) -> list[int]:
        """Return the type numbers of the columns."""
        if not count:
            return []
        columns = [f"c{n}" for n in range(count)]
        numbers = ", ".join(f"pg_typeof({column})::oid::int" for column in columns)
        line = next(
            self._lines(
                f"SELECT to_json(ARRAY[{numbers}])::text FROM {one} "
                f"AS x ({', '.join(columns)}) ON false",
                LARGEST_PLAN,
            )
        )
        types: list[int] = json.loads(line)
        return types

    def _lines(self, statement: str, most: int, fault: str = "") -> Iterator[str]:
        """Return the lines of a statement. If they exceed this number of bytes, raise the given
        error.
        """
        self.cursor.execute("CLOSE ALL")
        query = "SELECT line FROM pg_temp.fedsweep_lines($1, $2, $3) AS line"
        for (line,) in self._rows(query, [statement, most, fault]):
            yield line


class _Object(list[tuple[str, Any]]):
    """An object of JSON, which may have a name twice."""


def _pairs(line: str) -> list[tuple[str, Any]]:
    """Return the names and values of a row."""
    pairs: list[tuple[str, Any]] = json.loads(
        line, object_pairs_hook=_Object, parse_int=_whole, parse_float=Decimal
    )
    return pairs


def _whole(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 4_000 else Decimal(digits)  # Python reads no longer ones


def _readable(value: Any) -> Any:
    """Return a value as Python's own types, also inside an array or an object."""
    if isinstance(value, _Object):
        return {name: _readable(inner) for name, inner in value}
    if isinstance(value, list):
        return [_readable(inner) for inner in value]
    return float(value) if isinstance(value, Decimal) else value


_READERS: dict[int, Callable[[Any], Any]] = {
    17: lambda text: bytes.fromhex(text[2:]),  # bytea
    700: float,  # real; 1 in JSON may be 1.0
    701: float,
    1700: Decimal,  # numeric
}
"""How a value of JSON becomes what the driver makes of its type, by the type's number."""


_ENCLOSURE = (
    """\
CREATE FUNCTION pg_temp.fedsweep_lines(asked text, most bigint, fault text) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER AS $lines$
DECLARE
    line text;
    used bigint := 0;
BEGIN
    FOR line IN EXECUTE asked LOOP
        used := used + octet_length(line);
        IF used > most AND fault <> '' THEN
            RAISE EXCEPTION '%', fault;
        END IF;
        RETURN NEXT line;
        EXIT WHEN used > most;
    END LOOP;
END
$lines$""",
    "ALTER FUNCTION pg_temp.fedsweep_lines(text, bigint, text) OWNER TO pg_read_all_data",
)
"""The function in which a superuser's statement runs. It ends with the transaction."""


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
"""Measures a plan inside the server, because one line of it may hold a constant of a gigabyte."""


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


def _of_size(room: int) -> str:
    """Return a condition that raises an error for a row that alone is too large, before it
    is sent.
    """
    fits = f"octet_length(fedsweep_asked::text) <= {int(room)}"
    return f" WHERE CAST(CASE WHEN {fits} THEN '1' ELSE '{TOO_LARGE}' END AS integer) = 1"

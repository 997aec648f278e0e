"""Prepared statements for hot paths: compiled once, and executed directly by the driver."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.compiler import SQLCompiler

from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.base import Dialect
from fedsweep.store.driver import executed
from fedsweep.store.texts import escaped


@dataclass(frozen=True)
class StatementResult:
    """The answer to a statement. The values are those of the driver."""

    rows: Sequence[Any]
    """Named tuples."""
    rowcount: int

    def first(self) -> Any:
        """Return the first row, or None."""
        return self.rows[0] if self.rows else None

    def one(self) -> Any:
        """Return the only row."""
        (row,) = self.rows
        return row


@dataclass
class _Compiled:
    text: str
    order: tuple[str, ...] | None
    """Names of the parameters, if the driver takes them by position."""
    fixed: dict[str, Any]
    row: Callable[[Any], Any] | None = None
    """Makes a named tuple of an answer's row; known after the first one."""

    def given(self, values: Mapping[str, Any]) -> Any:
        """Return these values in the form that the driver takes."""
        if self.order is None:
            return {**self.fixed, **values}
        if not self.fixed:
            return tuple([values[name] for name in self.order])
        everything = {**self.fixed, **values}
        return tuple([everything[name] for name in self.order])


NO_PARTS: Mapping[str, str] = MappingProxyType({})


class Prepared:
    """A statement that is built and compiled once for each dialect. It bypasses SQLAlchemy's own
    work on each execution, which takes ten times as long as SQLite's.

    Parameters are given by name. The statement takes part in the connection's transaction, or
    begins one if there is none. It raises the same errors as SQLAlchemy.
    """

    def __init__(self, build: Callable[[Dialect], sa.ClauseElement]) -> None:
        """`build` makes the statement for a dialect."""
        self._build = build
        self._compiled: dict[str, _Compiled] = {}

    def __call__(self, connection: Connection, **values: Any) -> StatementResult:
        """Execute it."""
        return self._execute(connection, values, pipelined=False)

    def with_begin(self, connection: Connection, **values: Any) -> StatementResult:
        """Execute it first in a transaction: a server gets it in one round trip with the BEGIN."""
        return self._execute(connection, values, pipelined=dialect_of(connection).first_in_one_trip)

    def _execute(
        self, connection: Connection, values: Mapping[str, Any], *, pipelined: bool
    ) -> StatementResult:
        compiled = self._of(connection)

        def execute(cursor: Any) -> StatementResult:
            given = compiled.given(values)
            try:
                with cursor.connection.pipeline() if pipelined else nullcontext():
                    cursor.execute(compiled.text, given)
            except UnicodeEncodeError:  # on SQLite: see `store.texts`
                cursor.execute(compiled.text, escaped(given))
            if cursor.description is None:
                return StatementResult((), cursor.rowcount)
            if compiled.row is None:
                names = [column[0] for column in cursor.description]
                row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # noqa: PYI024
                compiled.row = row._make
            rows = [compiled.row(row) for row in cursor.fetchall()]
            return StatementResult(rows, cursor.rowcount)

        return executed(connection, compiled.text, execute)

    def many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute it for each of these rows."""
        compiled = self._of(connection)
        given = [compiled.given(row) for row in rows]

        def execute(cursor: Any) -> None:
            try:
                cursor.executemany(compiled.text, given)
            except UnicodeEncodeError:
                cursor.executemany(compiled.text, [escaped(one) for one in given])

        executed(connection, compiled.text, execute)

    def text(self, connection: Connection, values: Mapping[str, Any]) -> tuple[str, Any]:
        """Return its SQL on this database, and these values in the form that the driver takes."""
        compiled = self._of(connection)
        return compiled.text, compiled.given(values)

    @classmethod
    def named(cls, name: str, parts: Mapping[str, str] = NO_PARTS, **fixed: Any) -> Prepared:
        """Return the statement of a query of the SQL files.

        `parts` are put into its text, and `fixed` are values of its parameters.
        """

        def build(dialect: Dialect) -> sa.ClauseElement:
            (text,) = dialect.statements(name, parts)
            return sa.text(text).bindparams(**fixed)

        return cls(build)

    def _of(self, connection: Connection) -> _Compiled:
        dialect = connection.dialect
        if (known := self._compiled.get(dialect.name)) is not None:
            return known
        compiled = self._build(dialect_of(connection)).compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        order = tuple(compiled.positiontup or ()) if compiled.positional else None
        fixed = {k: v for k, v in compiled.params.items() if v is not None}
        made = _Compiled(str(compiled), order, fixed)
        self._compiled[dialect.name] = made
        return made


def _of_text(text: str, fixed: Mapping[str, Any]) -> Prepared:
    return Prepared(lambda _: sa.text(text).bindparams(**fixed))


class Steps:
    """A query of the SQL files that some databases execute as several statements."""

    def __init__(self, name: str, parts: Mapping[str, str] = NO_PARTS) -> None:
        """`parts` are put into its text."""
        self._name, self._parts = name, parts
        self._steps: dict[str, list[Prepared]] = {}

    def __call__(self, connection: Connection, **values: Any) -> StatementResult:
        """Execute statements until one meets no row; returns the answer of the last one."""
        for step in self.steps(connection):
            answer = step(connection, **values)
            if not answer.rowcount:
                break
        return answer

    def steps(self, connection: Connection) -> list[Prepared]:
        """Return the statements on this database."""
        dialect = dialect_of(connection)
        if (known := self._steps.get(dialect.name)) is not None:
            return known
        made = [_of_text(text, {}) for text in dialect.statements(self._name, self._parts)]
        self._steps[dialect.name] = made
        return made

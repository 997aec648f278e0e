"""SQLite: one file, which the processes of one machine share."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from fedsweep.errors import RequestError
from fedsweep.store.access import Access, access_of
from fedsweep.store.deadline import within
from fedsweep.store.dialects import sqlite_engine
from fedsweep.store.dialects.base import Deviation, Dialect, Listing, Question
from fedsweep.store.location import URI_OPTIONS, WRITE_A_URL, file_named, of_text, resolved
from fedsweep.store.moment import Moment, boot_moment
from fedsweep.store.sql.limits import Found

if TYPE_CHECKING:
    from fedsweep.store.prepared import Prepared

T = TypeVar("T")

ROWS_PER_STEP = 50_000
"""Rows in memory at the same time, if all rows of a query are read."""

Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""The type of a row's key. SQLite creates automatic keys only for INTEGER."""


class Sqlite(Dialect):
    """A dialect in which one transaction writes at a time.

    A transaction that writes is immediate: it holds the only write lock of the file.
    """

    name = "sqlite"
    schemes = frozenset({"sqlite"})
    foreign_remedy = "name another file with --db"
    collation = "BINARY"
    read_options: ClassVar[Mapping[str, Any]] = {}  # each transaction reads a snapshot
    first_in_one_trip = False
    sql = "sqlite.sql"

    def parse(self, text: str) -> URL:
        """Return the URL of the resolved file: all links and relative paths give the same URL."""
        try:
            url = make_url(text)
        except (ArgumentError, ValueError) as error:
            raise RequestError(WRITE_A_URL) from error
        return of_text(text, url)

    def same_place(self, url: URL) -> URL | None:
        """Return the URL of the resolved file, None for a database in memory."""
        if not url.database or url.host:
            return None
        options = {name: value for name, value in url.query.items() if name in URI_OPTIONS}
        with suppress(RequestError):
            return resolved(url.set(drivername=self.name, query=options))
        return None

    def file(self, url: URL) -> Path | None:
        """Return the file, None if the URL does not name a file."""
        return None if url.database is None else file_named(url.database)

    def engine(self, url: URL, *, create: bool = False) -> Engine:
        """Return an engine that interrupts a statement after STATEMENT_SECONDS."""
        return sqlite_engine.engine_of(_file(url), url, create=create)

    def engine_to_read(self, url: URL, views: Mapping[str, str], *, page: bool) -> Engine:
        """Return an engine that uses our views instead of those in the file."""
        return sqlite_engine.engine_to_read(_file(url), url, views, page=page)

    def require_readable(self, connection: Connection, shown: str) -> None:  # noqa: ARG002  # the driver's error names it
        """Execute a statement, so that SQLite reports a file that is not a database.

        Do not open the file without SQLite. With POSIX locks, a process that closes a file loses
        all its locks on that file. Another process may then delete the log.
        """
        connection.execute(sa.text("SELECT count(*) FROM sqlite_master")).scalar_one()

    def close_unused(self, engine: Engine) -> None:
        """Do nothing, because a file does not limit the number of connections."""

    def clock(self) -> Moment:
        """Return the boot-time clock, because all users of the file are on one machine."""
        return boot_moment()

    def lift_time_limits(self, connection: Connection, *, idle: bool = False) -> None:  # noqa: ARG002  # idle time has no limit
        """Stop interrupting the statements of this connection."""
        sqlite_engine.unbound(connection)

    def lock(self, connection: Connection, key: int) -> None:
        """Do nothing, because the transaction already holds the write lock of the file."""

    def lock_rows_of(self, connection: Connection, table: sa.Table) -> None:
        """Do nothing, because the transaction already holds the write lock of the file."""

    def notify(self, connection: Connection, channel: str) -> None:
        """Do nothing, because idle workers read the file often: it is on their machine."""

    def listen(self, engine: Engine, channel: str) -> None:  # noqa: ARG002  # SQLite has no notifications
        """Return None: idle workers sleep for a short time instead."""
        return

    def claim(
        self,
        connection: Connection,
        claim: Prepared,
        note_claim: Prepared,
        due: Prepared,
        values: Mapping[str, Any],
    ) -> tuple[Any, bool]:
        """Execute the statements one after the other."""
        taken = claim(connection, **values).first()
        if taken is not None:
            note_claim(connection, of_trial=taken.id, of_fence=taken.fence, **values)
        return taken, any(due(connection, now=values["now"], clock=values["clock"]).one())

    def same_database(self, first: Connection, second: Connection) -> bool:
        """Return whether the two files are the same."""
        return _file(first.engine.url).samefile(_file(second.engine.url))

    def insert(self, table: sa.Table) -> Any:
        """Return SQLite's INSERT."""
        return sqlite.insert(table)

    def load(
        self,
        connection: Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
    ) -> None:
        """Insert by one statement that the driver executes for each row."""
        statement = sa.insert(table).values({name: sa.bindparam(name) for name in columns})
        connection.exec_driver_sql(str(statement.compile(dialect=connection.dialect)), list(rows))

    def advance_keys(self, connection: Connection, tables: Iterable[sa.Table]) -> None:
        """Do nothing, because a new key is always the largest key plus 1."""

    def read_all(
        self,
        connection: Connection,
        query: str,
        values: Mapping[str, Any],
        from_rows: Callable[[Sequence[tuple[Any, ...]]], Iterable[T]],
        from_csv: Callable[[bytes], Iterable[T]],  # noqa: ARG002  # see Postgres
    ) -> Generator[T, None, None]:
        """Read the driver's tuples."""
        driver: Any = connection.connection.driver_connection
        cursor = driver.execute(query, dict(values))
        try:
            while rows := cursor.fetchmany(ROWS_PER_STEP):
                yield from from_rows(rows)
        finally:
            cursor.close()

    def ask(self, engine: Engine, question: Question) -> Found:
        """Answer a terminal in this process, and a page in a process that can be killed."""
        from fedsweep.store.sql import sandbox, sqlite

        deadline = question.deadline
        access = access_of(engine) or Access(_file(engine.url))
        request: dict[str, Any] = {
            "address": within(deadline, access.address, lambda: None),  # it may copy the file
            "text": question.text,
            "parameters": dict(question.parameters),
            "limit": question.limit,
            "seconds": deadline.seconds,
            "until": deadline.at,
            "room": question.room,
            "views": dict(question.views),
        }
        if question.room is not None:
            return sandbox.ask(request, deadline)
        opened: list[sqlite3.Connection] = []
        return within(
            deadline,
            lambda: sqlite.read(**request, opened=opened.append),
            lambda: _interrupt(opened),
        )

    def listing(self, connection: Connection) -> Listing:
        """Read the table sqlite_master."""
        names = connection.execute(
            sa.text("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        ).scalars()
        not_tables = connection.execute(
            sa.text(
                "SELECT name FROM sqlite_master WHERE type = 'view' OR sql LIKE 'CREATE VIRTUAL%'"
            )
        ).scalars()
        application = connection.execute(sa.text("PRAGMA application_id")).scalar_one()
        own = {name for name in names if not name.startswith("sqlite_")}
        return Listing(frozenset(own), frozenset(not_tables), application)

    def require_every_text(self, connection: Connection) -> None:
        """Do nothing, because a SQLite file stores every text."""

    def own_check(self, connection: Connection) -> list[str]:
        """Run integrity_check and foreign_key_check, however long they take."""
        self.lift_time_limits(connection)
        lines = list(connection.execute(sa.text("PRAGMA integrity_check")).scalars())
        keys = connection.execute(sa.text("PRAGMA foreign_key_check")).all()
        damaged = [f"SQLite: {line}" for line in lines if line != "ok"]
        return damaged + [f"SQLite: a row of {row[0]} refers to none of {row[2]}" for row in keys]

    # The square root by Newton's steps x <- (x + v / x) / 2. They start above the root of a
    # variance v <= 1. For every v that accuracies can have, all bits but the last one are right
    # well before step 40. CROSS JOIN prevents SQLite from scanning all trials of a sweep for each
    # of its cells. SQLite stores this text with the view: not even its spaces may change.
    deviation = Deviation(
        start="\n        WITH RECURSIVE",
        aggregate="",
        tables=""",
        spread AS (
            SELECT g.sweep, g.cell_id,
                   sum((t.test_accuracy - g.mean) * (t.test_accuracy - g.mean)) / (g.n - 1) AS v
            FROM g CROSS JOIN trials t ON t.cell_id = g.cell_id
                   CROSS JOIN sweep_members m ON m.sweep = g.sweep AND m.trial = t.id
            WHERE g.n > 1 AND t.state = 'finished' GROUP BY g.sweep, g.cell_id
        ),
        newton(sweep, cell_id, v, x, step) AS (
            SELECT sweep, cell_id, v, (v + 1) / 2, 0 FROM spread
            UNION ALL
            SELECT sweep, cell_id, v, CASE WHEN v > 0 THEN (x + v / x) / 2 ELSE 0.0 END, step + 1
            FROM newton WHERE step < 40
        )
        """,
        column="d.x",
        join="""LEFT JOIN newton d
            ON d.sweep = g.sweep AND d.cell_id = g.cell_id AND d.step = 40""",
    )


def _file(url: URL) -> Path:
    assert url.database is not None
    return file_named(url.database)


def _interrupt(opened: Sequence[sqlite3.Connection]) -> None:
    for connection in opened:
        with suppress(sqlite3.ProgrammingError):  # the connection is closed
            connection.interrupt()

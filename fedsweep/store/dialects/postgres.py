"""Postgres: a server, which the processes of many machines share.

The import of psycopg takes long: methods that need it import it themselves.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fedsweep.errors import StoreError
from fedsweep.store.dialects import postgres_engine
from fedsweep.store.dialects.base import (
    PAGE_STATEMENT_SECONDS,
    Deviation,
    Dialect,
    Listing,
    Question,
)
from fedsweep.store.driver import executed
from fedsweep.store.moment import Moment
from fedsweep.store.sql.limits import Found

if TYPE_CHECKING:
    import psycopg

    from fedsweep.store.prepared import Prepared

T = TypeVar("T")

BLOCK = 8 * 2**20
"""Bytes of text in memory at the same time, if all rows of a query are read."""

# The time of the statement. Its transaction may have begun earlier, because it waited. The
# function is stable, so that a condition with it can use an index.
SERVER_TIME: sa.ColumnElement[float] = sa.cast(
    sa.extract("epoch", sa.func.statement_timestamp()), sa.Double()
)


class Postgres(Dialect):
    """A dialect in which many transactions write at the same time.

    Row locks and advisory locks separate them.
    """

    name = "postgresql"
    schemes = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
    foreign_remedy = (
        "make a database for fedsweep, or a schema (CREATE SCHEMA fedsweep) that --db names: "
        "?options=-csearch_path%3Dfedsweep"
    )
    collation = "C"
    read_options: ClassVar[Mapping[str, Any]] = {
        "isolation_level": "REPEATABLE READ",
        "postgresql_readonly": True,
    }
    first_in_one_trip = True
    sql = "postgres.sql"

    def parse(self, text: str) -> URL:
        """Return the URL as libpq reads it."""
        from fedsweep.store import connector

        return connector.parse(text)

    def same_place(self, url: URL) -> URL | None:
        """Return the URL without the name of a driver."""
        return url.set(drivername=self.name)

    def file(self, url: URL) -> None:  # noqa: ARG002  # a server has no file
        """Return None."""
        return

    def engine(self, url: URL, *, create: bool = False) -> Engine:  # noqa: ARG002  # an administrator creates databases
        """Return an engine with our settings of a connection."""
        return postgres_engine.engine_of(url)

    def engine_to_read(self, url: URL, views: Mapping[str, str], *, page: bool) -> Engine:  # noqa: ARG002  # only their owner can create views
        """Return an engine whose sessions are read-only."""
        settings = {"statement_timeout": f"{PAGE_STATEMENT_SECONDS}s"} if page else None
        return postgres_engine.engine_of(url, settings=settings, read_only=True)

    def require_readable(self, connection: Connection, shown: str) -> None:
        """Refuse a search_path without a schema that the user may use."""
        seen = connection.execute(sa.text("SELECT current_schema()")).scalar_one()
        if seen is None:
            path = connection.execute(sa.text("SHOW search_path")).scalar_one()
            raise StoreError(
                f"{shown} has no schema of its search_path ({path}) that its user "
                "may use: make one with CREATE SCHEMA, grant USAGE, or correct the search_path"
            )

    def close_unused(self, engine: Engine) -> None:
        """Close them: a server has a limited number of connections."""
        engine.dispose()

    def clock(self) -> Moment:
        """Return the server's clock. Each statement reads its seconds itself."""
        return Moment(None, "server")

    def lift_time_limits(self, connection: Connection, *, idle: bool = False) -> None:
        """Lift the limits for this transaction."""
        limits = ("statement_timeout", "idle_in_transaction_session_timeout")
        for limit in limits if idle else limits[:1]:
            connection.execute(sa.text(f"SET LOCAL {limit} = 0"))

    def lock(self, connection: Connection, key: int) -> None:
        """Take an advisory lock."""
        text = "SELECT pg_advisory_xact_lock(%(key)s::bigint)"
        executed(connection, text, lambda cursor: cursor.execute(text, {"key": int(key)}))

    def lock_rows_of(self, connection: Connection, table: sa.Table) -> None:
        """Lock the table in SHARE MODE."""
        connection.execute(sa.text(f"LOCK TABLE {table.name} IN SHARE MODE"))

    def notify(self, connection: Connection, channel: str) -> None:
        """Send a notification."""
        connection.execute(sa.select(sa.func.pg_notify(channel, "")))

    def listen(self, engine: Engine, channel: str) -> psycopg.Connection[Any] | None:
        """Return a connection outside the pool, if the server has many unused connections.

        Listeners must never take the last connections from workers. Notifications do not arrive
        through a connection pooler.
        """
        import psycopg
        from psycopg import sql

        try:
            with engine.connect() as connection:
                if postgres_engine.connector_of(engine).pooled:
                    return None
                if not connection.execute(_FEW_CONNECTIONS).scalar_one():
                    return None
            raw = engine.raw_connection()
            driver = raw.driver_connection  # read before `detach`, which resets it
            raw.detach()
            assert isinstance(driver, psycopg.Connection)
            driver.autocommit = True
            driver.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        except (SQLAlchemyError, psycopg.Error):
            return None
        return driver

    def claim(
        self,
        connection: Connection,
        claim: Prepared,
        note_claim: Prepared,  # noqa: ARG002  # part of `claim`
        due: Prepared,  # noqa: ARG002  # part of `claim`
        values: Mapping[str, Any],
    ) -> tuple[Any, bool]:
        """Execute one statement in one round trip."""
        row = claim(connection, **values).one()
        return (None if row.id is None else row), row.expired or row.backed_off

    def same_database(self, first: Connection, second: Connection) -> bool:
        """Return whether one connection's advisory lock blocks the other, in the same schema.

        An advisory lock belongs to one database.
        """
        key = random.getrandbits(62)
        self.lock(first, key)
        locked = second.execute(sa.select(sa.func.pg_try_advisory_xact_lock(key))).scalar_one()
        schema = sa.select(sa.func.current_schema())
        return not locked and first.execute(schema).scalar() == second.execute(schema).scalar()

    def insert(self, table: sa.Table) -> Any:
        """Return Postgres's INSERT."""
        return postgresql.insert(table)

    def load(
        self,
        connection: Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
    ) -> None:
        """Insert by a binary COPY."""
        import psycopg

        quote = connection.dialect.identifier_preparer.quote
        into = f"{quote(table.name)} ({', '.join(quote(name) for name in columns)})"
        types = [_TYPES[type(table.c[name].type)] for name in columns]
        statement = f"COPY {into} FROM STDIN (FORMAT BINARY)"
        driver: Any = connection.connection.driver_connection
        try:
            with driver.cursor() as cursor, cursor.copy(statement) as copy:
                copy.set_types(types)
                for row in rows:
                    copy.write_row(row)
        except psycopg.DataError as error:  # text with a NUL, numbers too large for their column
            raise StoreError(
                f"{table.name} holds a value that Postgres cannot ({str(error).splitlines()[0]}): "
                "change it in FROM, or name a SQLite file"
            ) from error
        except psycopg.Error as error:
            raise DBAPIError(statement, None, error) from error

    def advance_keys(self, connection: Connection, tables: Iterable[sa.Table]) -> None:
        """Set the sequence of each key."""
        for table in tables:
            if (key := table.autoincrement_column) is not None:
                sequence = sa.func.pg_get_serial_sequence(table.name, key.name)
                after = sa.select(sa.func.coalesce(sa.func.max(key), 0) + 1).scalar_subquery()
                connection.execute(sa.select(sa.func.setval(sequence, after, sa.false())))

    def read_all(
        self,
        connection: Connection,
        query: str,
        values: Mapping[str, Any],
        from_rows: Callable[[Sequence[tuple[Any, ...]]], Iterable[T]],  # noqa: ARG002  # see Sqlite
        from_csv: Callable[[bytes], Iterable[T]],
    ) -> Generator[T, None, None]:
        """Read the text of a COPY, without creating a Python object per value."""
        for name in values:
            query = query.replace(f":{name}", f"%({name})s")
        driver: Any = connection.connection.driver_connection
        copy_out = f"COPY ({query}) TO STDOUT (FORMAT csv)"
        with driver.cursor() as cursor, cursor.copy(copy_out, values) as copy:
            for block in _blocks(copy):
                yield from from_csv(block)

    def ask(self, engine: Engine, question: Question) -> Found:
        """Read without a superuser's rights: see `store.sql.postgres`."""
        from fedsweep.store.sql import postgres

        return postgres.ask(
            engine,
            question.text,
            question.parameters,
            question.limit,
            question.deadline,
            question.room,
        )

    def listing(self, connection: Connection) -> Listing:
        """Read the catalog of the current schema."""
        not_tables = frozenset(connection.execute(sa.text(_NOT_TABLES)).scalars())
        return Listing(frozenset(connection.execute(sa.text(_NAMES)).scalars()), not_tables)

    def require_every_text(self, connection: Connection) -> None:
        """Refuse a database with another encoding than UTF-8."""
        encoding = connection.execute(sa.text("SHOW server_encoding")).scalar_one()
        if encoding != "UTF8":
            raise StoreError(
                f"the database has the encoding {encoding}, which cannot store every text: make "
                "one in UTF-8 (createdb -E UTF8 -T template0 NAME), and name it with --db"
            )

    def own_check(self, connection: Connection) -> list[str]:
        """Run the extension amcheck, if an administrator has installed it."""
        installed = sa.text("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'")
        if connection.execute(installed).first() is None:
            return []
        faults = []
        for oid, name in connection.execute(sa.text(_INDEXES)).all():
            try:
                with connection.begin_nested():
                    connection.execute(sa.text("SELECT bt_index_check(:oid, true)"), {"oid": oid})
            except DBAPIError as error:
                faults.append(f"Postgres: index {name}: {error.orig}")
        return faults

    deviation = Deviation(
        start="WITH",
        aggregate=", stddev_samp(t.test_accuracy) FILTER (WHERE t.state = 'finished') AS std",
        tables=" ",
        column="g.std",
        join="",
    )


def _blocks(rows: Iterable[Any]) -> Iterator[bytes]:
    """Yield rows of text, joined to blocks, as they arrive."""
    parts: list[Any] = []
    size = 0
    for row in rows:
        parts.append(row)
        size += len(row)
        if size >= BLOCK:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


_TYPES: dict[type[Any], str] = {
    sa.BigInteger: "int8",
    sa.Integer: "int4",
    sa.Double: "float8",
    sa.Text: "text",
    sa.Boolean: "bool",
}
"""The names of column types in a binary COPY."""

_FEW_CONNECTIONS = sa.text(
    "SELECT count(*) * 2 < current_setting('max_connections')::int FROM pg_stat_activity"
)

_INDEXES = (
    "SELECT c.oid, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
    "JOIN pg_am a ON a.oid = c.relam JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE a.amname = 'btree' AND n.nspname = current_schema()"
)

_NOT_TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
  AND relkind IN ('v', 'm', 'f')
"""

_NAMES = """
WITH target AS (SELECT oid FROM pg_namespace WHERE nspname = current_schema()),
found AS (
    SELECT 'pg_class'::regclass AS kind, oid, relname AS name FROM pg_class
    WHERE relnamespace = (SELECT oid FROM target) AND relkind IN ('r','p','v','m','S','f','c')
    UNION ALL
    SELECT 'pg_type'::regclass, oid, typname FROM pg_type
    WHERE typnamespace = (SELECT oid FROM target) AND typrelid = 0
      AND typcategory <> 'A' AND typtype <> 'm'
)
SELECT DISTINCT name FROM found
WHERE NOT EXISTS (
    SELECT 1 FROM pg_depend d WHERE d.classid = found.kind AND d.objid = found.oid
      AND (d.deptype = 'e' OR (d.deptype IN ('a', 'i') AND EXISTS (
          SELECT 1 FROM pg_depend of_owner WHERE of_owner.classid = d.refclassid
            AND of_owner.objid = d.refobjid AND of_owner.deptype = 'e')))
)
"""
"""The query of `listing`. It leaves out the tables, views and types of an extension.

It also leaves out the sequences of their columns."""

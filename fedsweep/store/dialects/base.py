"""The interface that each database implements: every difference that fedsweep's code needs."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine

from fedsweep.store.deadline import Deadline
from fedsweep.store.moment import Moment
from fedsweep.store.sql.limits import Found, Parameters

if TYPE_CHECKING:
    import psycopg

    from fedsweep.store.prepared import Prepared

T = TypeVar("T")

STATEMENT_SECONDS = 600
"""Seconds that a statement may take. A migration, a check and a copy lift that."""

LOOK_SECONDS = 20
"""Seconds that a statement of a page may take."""

_PART = re.compile(r"\{(\w+)\}")
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)


class Lock(IntEnum):
    """Locks that one transaction of a database holds at a time, until its end.

    The numbers spell the names in ASCII. They never change: workers of other versions use them too.
    """

    SCHEMA = 0x6665647377656570  # "fedsweep": to make or upgrade the tables
    PLAN = 0x706C616E  # "plan": to plan trials, or hold them
    NOTICE = 0x6E6F74696365  # "notice": to decide if a notice is sent


@dataclass(frozen=True)
class Listing:
    """The names in a SQLite file, or in the schema of Postgres that new tables would go to."""

    names: frozenset[str]
    """Tables, views, sequences and types, without those that belong to an extension."""
    not_tables: frozenset[str]
    """Names of views, foreign tables and the like: a view may run anything."""
    application: int = 0
    """The application_id in the header of a SQLite file."""


@dataclass(frozen=True)
class Deviation:
    """The sample standard deviation of a cell's accuracies, as parts of the view `cells`.

    The view selects from `g`, its groups of trials.
    """

    start: str
    """The words that begin the view."""
    aggregate: str
    """A further column of `g`."""
    tables: str
    """Further tables after `g`."""
    column: str
    """The column that has the deviation."""
    join: str
    """The join that brings this column to the rows of `g`."""


@dataclass(frozen=True)
class Question:
    """SQL from a person, with the bounds of its answer."""

    text: str
    parameters: Parameters
    limit: int
    """Rows that are taken."""
    deadline: Deadline
    room: int | None
    """Bytes that are taken, None on a person's own terminal."""
    views: Mapping[str, str]
    """The statements that make our views, by name."""


class Dialect(ABC):
    """One kind of database. Its methods work in the caller's transaction."""

    name: ClassVar[str]
    """SQLAlchemy's name of it."""
    schemes: ClassVar[frozenset[str]]
    """Words before the `://` of its URLs."""
    foreign_remedy: ClassVar[str]
    """The remedy for a database that belongs to another application."""
    collation: ClassVar[str]
    """The order of text that is Python's too."""
    read_options: ClassVar[Mapping[str, Any]]
    """Execution options of a transaction that reads one state of the whole database."""
    first_in_one_trip: ClassVar[bool]
    """True if the driver can send a BEGIN and the first statement in one round trip."""
    deviation: ClassVar[Deviation]
    sql: ClassVar[str]
    """The name of the file, next to this one, that has the statements of every trial as text."""

    def statements(self, name: str, parts: Mapping[str, str]) -> list[str]:
        """Return the statements of a query of the SQL file, in the order of their execution.

        A `{word}` of the text stands for one of the `parts`, or for another query of the file.
        """
        words = {**self._queries, **parts}

        def fill(text: str) -> str:
            return _PART.sub(lambda part: fill(words[part[1]]), text)

        return [fill(text) for text in self._queries[name].split(";")]

    @cached_property
    def _queries(self) -> dict[str, str]:
        """The queries of the SQL file by name, without comments and the last semicolon."""
        text = Path(__file__).with_name(self.sql).read_text("utf-8")
        _, *named = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
        queries = [_COMMENT.sub("", query).strip().removesuffix(";") for query in named[1::2]]
        return dict(zip(named[::2], queries, strict=True))

    # A URL and an engine.

    @abstractmethod
    def parse(self, text: str) -> URL:
        """Return the URL that a text with one of the schemes means.

        Raises:
            RequestError: it cannot be read, or names no database.

        """

    @abstractmethod
    def same_place(self, url: URL) -> URL | None:
        """Return our URL of the database that another program's URL names, None for none."""

    @abstractmethod
    def file(self, url: URL) -> Path | None:
        """Return the file of the database, None for a server."""

    @abstractmethod
    def engine(self, url: URL, *, create: bool = False) -> Engine:
        """Return an engine that reads and writes; `create` allows a file that is missing."""

    @abstractmethod
    def engine_to_read(self, url: URL, views: Mapping[str, str], *, page: bool) -> Engine:
        """Return an engine that cannot write, and that reads our `views`.

        A `page` looks again and again: it waits less, and leaves SQLite's log as it is.
        """

    @abstractmethod
    def require_readable(self, connection: Connection, shown: str) -> None:
        """Refuse a database that cannot be read, by its URL as a message shows it.

        Raises:
            StoreError: says why.

        """

    @abstractmethod
    def close_unused(self, engine: Engine) -> None:
        """Close a server's connections that are not in use."""

    # Time.

    @abstractmethod
    def clock(self) -> Moment:
        """Return the time now, on the clock of the database."""

    @abstractmethod
    def lift_time_limits(self, connection: Connection, *, idle: bool = False) -> None:
        """Let each statement take as long as it needs; with `idle`, also the time between two."""

    # Other transactions and other processes.

    @abstractmethod
    def lock(self, connection: Connection, key: int) -> None:
        """Hold the lock of this number until the end of a transaction that writes."""

    @abstractmethod
    def lock_rows_of(self, connection: Connection, table: sa.Table) -> None:
        """Let no other transaction write to the table until the end of this one."""

    @abstractmethod
    def notify(self, connection: Connection, channel: str) -> None:
        """Wake the processes that listen on a channel, when the transaction commits."""

    @abstractmethod
    def listen(self, engine: Engine, channel: str) -> psycopg.Connection[Any] | None:
        """Return a connection that listens on a channel, None if nothing can be heard."""

    @abstractmethod
    def same_database(self, there: Connection, here: Connection) -> bool:
        """Return whether two stores of this dialect are one: a file, or a schema of a server."""

    @abstractmethod
    def claim(
        self,
        connection: Connection,
        claim: Prepared,
        note_claim: Prepared,
        due: Prepared,
        values: Mapping[str, Any],
    ) -> tuple[Any, bool]:
        """Execute the statements of a claim, by their names in the SQL file.

        Returns the row of the claimed trial, None for none, and whether anything is due.
        """

    # Rows.

    @abstractmethod
    def insert(self, table: sa.Table) -> Any:
        """Return an INSERT that has `on_conflict_do_nothing` and `on_conflict_do_update`."""

    @abstractmethod
    def load(
        self,
        connection: Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
    ) -> None:
        """Insert rows, as fast as the database takes them.

        Raises:
            StoreError: a value cannot be stored there.

        """

    @abstractmethod
    def advance_keys(self, connection: Connection, tables: Iterable[sa.Table]) -> None:
        """Let the next key of each table follow the largest one that was given."""

    @abstractmethod
    def read_all(
        self,
        connection: Connection,
        query: str,
        values: Mapping[str, Any],
        from_rows: Callable[[Sequence[tuple[Any, ...]]], Iterable[T]],
        from_csv: Callable[[bytes], Iterable[T]],
    ) -> Generator[T, None, None]:
        """Yield the results of one of the two readers for all rows of a query, in parts.

        The faster way decides which one: tuples, or CSV in which an empty field is NULL and `""`
        an empty text. A value `:name` of the query is named in `values`.
        """

    @abstractmethod
    def ask(self, engine: Engine, question: Question) -> Found:
        """Answer SQL from a person, which can only read.

        Raises:
            SqlRefused: it is not a question, or it is wrong.
            TimeoutError: it took too long.
            MemoryError: it took too much memory.

        """

    # The database as a whole.

    @abstractmethod
    def listing(self, connection: Connection) -> Listing:
        """Return the names that the database has."""

    @abstractmethod
    def require_every_text(self, connection: Connection) -> None:
        """Refuse a database that cannot store every text.

        Raises:
            StoreError: it cannot.

        """

    @abstractmethod
    def own_check(self, connection: Connection) -> list[str]:
        """Return the faults that the database finds in itself, a line each."""

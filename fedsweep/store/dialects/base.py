"""The interface that each database implements, with every difference that fedsweep needs."""

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
"""Seconds that a statement may take. A migration, a check and a copy have no limit."""

PAGE_STATEMENT_SECONDS = 20
"""Seconds that a statement of a page may take."""

_PART = re.compile(r"\{(\w+)\}")
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)


class Lock(IntEnum):
    """Locks that only one transaction of a database can hold, until its end.

    The numbers spell the names in ASCII. They never change, because workers of other versions use
    them too.
    """

    SCHEMA = 0x6665647377656570  # "fedsweep": to create or upgrade the tables
    PLAN = 0x706C616E  # "plan": to plan trials, or hold them
    NOTICE = 0x6E6F74696365  # "notice": to decide if a notice is sent


@dataclass(frozen=True)
class Listing:
    """The names in a SQLite file, or in the Postgres schema that new tables would go to."""

    names: frozenset[str]
    """Tables, views, sequences and types, without those that belong to an extension."""
    not_tables: frozenset[str]
    """Names of views, foreign tables and virtual tables. A view may execute any function."""
    application: int = 0
    """The application_id in the header of a SQLite file."""


@dataclass(frozen=True)
class Deviation:
    """SQL parts of the view `cells` for the sample standard deviation of a cell's accuracies.

    The view selects from `g`, the groups of its trials.
    """

    start: str
    """The keywords that begin the view."""
    aggregate: str
    """An additional column of `g`."""
    tables: str
    """Additional tables after `g`."""
    column: str
    """The column with the deviation."""
    join: str
    """The join that adds this column to the rows of `g`."""


@dataclass(frozen=True)
class Question:
    """SQL from a user, with the limits of its answer."""

    text: str
    parameters: Parameters
    limit: int
    """Maximum number of rows of the answer."""
    deadline: Deadline
    room: int | None
    """Maximum size of the answer in bytes, None on the user's own terminal."""
    views: Mapping[str, str]
    """The statements that create our views, by name."""


class Dialect(ABC):
    """A kind of database. Its methods work in the caller's transaction."""

    name: ClassVar[str]
    """SQLAlchemy's name of the dialect."""
    schemes: ClassVar[frozenset[str]]
    """Schemes of its URLs: the text before `://`."""
    foreign_remedy: ClassVar[str]
    """The remedy for a database that belongs to another application."""
    collation: ClassVar[str]
    """The collation that sorts text in the same order as Python."""
    read_options: ClassVar[Mapping[str, Any]]
    """Execution options of a transaction that reads a consistent snapshot of the database."""
    first_in_one_trip: ClassVar[bool]
    """True if the driver can send BEGIN and the first statement in one round trip."""
    deviation: ClassVar[Deviation]
    sql: ClassVar[str]
    """The name of the SQL file in this folder, with the statements that every trial executes."""

    def statements(self, name: str, parts: Mapping[str, str]) -> list[str]:
        """Return the statements of a query of the SQL file, in the order of their execution.

        A `{word}` in the text stands for one of the `parts`, or for another query of the file.
        """
        texts = {**self._queries, **parts}

        def expand(text: str) -> str:
            return _PART.sub(lambda match: expand(texts[match[1]]), text)

        return [expand(text) for text in self._queries[name].split(";")]

    @cached_property
    def _queries(self) -> dict[str, str]:
        """The queries of the SQL file by name, without comments and without the last semicolon."""
        text = Path(__file__).with_name(self.sql).read_text("utf-8")
        _, *named = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
        queries = [_COMMENT.sub("", query).strip().removesuffix(";") for query in named[1::2]]
        return dict(zip(named[::2], queries, strict=True))

    # URLs and engines.

    @abstractmethod
    def parse(self, text: str) -> URL:
        """Return the URL of a text with one of the schemes.

        Raises:
            RequestError: the text cannot be read, or does not name a database.

        """

    @abstractmethod
    def same_place(self, url: URL) -> URL | None:
        """Return our URL of the database that another program's URL names, None if it has none."""

    @abstractmethod
    def file(self, url: URL) -> Path | None:
        """Return the file of the database, None for a server."""

    @abstractmethod
    def engine(self, url: URL, *, create: bool = False) -> Engine:
        """Return an engine that reads and writes. With `create`, the file may be missing."""

    @abstractmethod
    def engine_to_read(self, url: URL, views: Mapping[str, str], *, page: bool) -> Engine:
        """Return an engine that cannot write, and that reads our `views`.

        A `page` reads repeatedly. Therefore it waits less for locks, and does not delete SQLite's
        log.
        """

    @abstractmethod
    def require_readable(self, connection: Connection, shown: str) -> None:
        """Refuse a database that cannot be read. The message names it as `shown`.

        Raises:
            StoreError: the database cannot be read. The message contains the reason.

        """

    @abstractmethod
    def close_unused(self, engine: Engine) -> None:
        """Close a server's connections that are not in use."""

    # Time.

    @abstractmethod
    def clock(self) -> Moment:
        """Return the current time on the clock of the database."""

    @abstractmethod
    def lift_time_limits(self, connection: Connection, *, idle: bool = False) -> None:
        """Lift the time limit of statements. With `idle`, also lift the one between statements."""

    # Other transactions and other processes.

    @abstractmethod
    def lock(self, connection: Connection, key: int) -> None:
        """Take the lock of this number until the end of a transaction that writes."""

    @abstractmethod
    def lock_rows_of(self, connection: Connection, table: sa.Table) -> None:
        """Prevent other transactions from writing to the table until the end of this one."""

    @abstractmethod
    def notify(self, connection: Connection, channel: str) -> None:
        """Wake the processes that listen on a channel when the transaction commits."""

    @abstractmethod
    def listen(self, engine: Engine, channel: str) -> psycopg.Connection[Any] | None:
        """Return a connection that listens on a channel, None if notifications cannot arrive."""

    @abstractmethod
    def same_database(self, first: Connection, second: Connection) -> bool:
        """Return whether two stores of this dialect are the same file, or the same schema."""

    @abstractmethod
    def claim(
        self,
        connection: Connection,
        claim: Prepared,
        note_claim: Prepared,
        due: Prepared,
        values: Mapping[str, Any],
    ) -> tuple[Any, bool]:
        """Execute the statements of a claim, which have these names in the SQL file.

        Returns the row of the claimed trial, None if no trial was claimed. The second value is
        True if a lease has expired or a trial's backoff is over.
        """

    # Rows.

    @abstractmethod
    def insert(self, table: sa.Table) -> Any:
        """Return an INSERT with `on_conflict_do_nothing` and `on_conflict_do_update`."""

    @abstractmethod
    def load(
        self,
        connection: Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
    ) -> None:
        """Insert many rows by the database's fastest way.

        Raises:
            StoreError: the database cannot store a value.

        """

    @abstractmethod
    def advance_keys(self, connection: Connection, tables: Iterable[sa.Table]) -> None:
        """Make the next automatic key of each table follow its largest key."""

    @abstractmethod
    def read_all(
        self,
        connection: Connection,
        query: str,
        values: Mapping[str, Any],
        from_rows: Callable[[Sequence[tuple[Any, ...]]], Iterable[T]],
        from_csv: Callable[[bytes], Iterable[T]],
    ) -> Generator[T, None, None]:
        """Yield the results of one of the two functions for all rows of a query, in batches.

        The dialect calls the function of its faster way. `from_rows` takes tuples. `from_csv`
        takes CSV, in which an empty field is NULL and `""` is an empty text. `values` contains the
        value of each `:name` in the query.
        """

    @abstractmethod
    def ask(self, engine: Engine, question: Question) -> Found:
        """Answer SQL from a user, which can only read.

        Raises:
            SqlRefused: the SQL does not only read, or it is wrong.
            TimeoutError: the answer took too long.
            MemoryError: the answer took too much memory.

        """

    # The database as a whole.

    @abstractmethod
    def listing(self, connection: Connection) -> Listing:
        """Return the names in the database."""

    @abstractmethod
    def require_every_text(self, connection: Connection) -> None:
        """Refuse a database that cannot store every text.

        Raises:
            StoreError: the database has an encoding with too few characters.

        """

    @abstractmethod
    def own_check(self, connection: Connection) -> list[str]:
        """Return the faults that the database's own check reports, one line per fault."""

"""From a URL to an engine; transactions that turn the driver's errors into ours; clocks."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from fedsweep.errors import (
    FedsweepError,
    RequestError,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreStandby,
    StoreUnreachable,
)
from fedsweep.store import driver_errors, identity
from fedsweep.store.access import access_of
from fedsweep.store.clock import Moment
from fedsweep.store.dialects import DIALECTS, dialect_of, dialect_of_text, sqlite_file
from fedsweep.store.dialects.postgres import SERVER_TIME
from fedsweep.store.dialects.postgres_engine import connector_of
from fedsweep.store.location import WRITE_A_URL, shown
from fedsweep.store.turns import turn

T = TypeVar("T")

OUTAGE_SECONDS = 300.0
"""How long a worker waits for a database that does not answer."""

LONGEST_LEASE = 6 * 3600.0
"""Seconds that a lease lasts at most."""

AHEAD_SECONDS = LONGEST_LEASE + 60.0
"""A lease or a delay that ends later than that was set on another clock: one of another time
namespace, or a server's before it was set back."""


def parse_url(text: str) -> URL:
    """Return a database URL: sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/NAME.

    A SQLite file is resolved here once: every link and relative path to it gives the same URL.

    Raises:
        RequestError: it is not a URL, or of another database.

    """
    text = text.strip()
    if _CONTROL.search(text):
        raise RequestError("--db has a line end or a control character in it: remove that")
    if (dialect := dialect_of_text(text)) is not None:
        return dialect.parse(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise RequestError(WRITE_A_URL) from error
    raise RequestError(
        f"fedsweep has no driver for {url.drivername}: name a sqlite: or postgresql: URL in --db"
    )


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def make_engine(text: str, *, create: bool = False) -> Engine:
    """An engine for a store, checked as far as that goes without its tables.

    Raises:
        StoreError: no such file (unless it may be created), not a database, on a network file
            system, or a server that does not answer.

    """
    url = parse_url(text)
    with opening(url):
        engine = DIALECTS[url.get_backend_name()].engine(url, create=create)
        try:
            require_readable(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


@contextmanager
def opening(url: URL) -> Iterator[None]:
    """Turn an error that no table of errors knows into one sentence about this URL."""
    try:
        yield
    except (ArgumentError, DBAPIError, OSError, TypeError, ValueError) as error:
        why = driver_errors.first_line(error)
        raise StoreError(f"{_shown(url)} cannot be opened: {why}") from error


def require_readable(engine: Engine) -> None:
    """Refuse a database that cannot be read, and close the engine's connections to it.

    Raises:
        StoreError: says why.

    """
    with translated(engine), engine.connect() as connection:
        dialect_of(engine).require_readable(connection, _shown(engine.url))


def let_go(engine: Engine) -> None:
    """Close a server's connections that are not in use: one who trains needs none."""
    dialect_of(engine).close_unused(engine)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that may write: all of it is committed, or none.

    Raises:
        StoreBusy: SQLite stayed locked for BUSY_SECONDS.
        StoreReplaced: the database is no longer the one that was opened.
        StoreError: the database is read-only or out of reach.

    """
    file = sqlite_file(engine.url)
    identity.require_file(engine)
    with (
        translated(engine),
        engine.connect().execution_options(writes=True) as connection,
        nullcontext() if file is None else turn(file),
        connection.begin(),
    ):
        identity.require_store(connection)
        yield connection
    identity.require_file(engine)
    global _served_since  # noqa: PLW0603  # as in _note_outage
    _served_since = _served_since or time.monotonic()


OUTAGE = (StoreBusy, StoreFull, StoreUnreachable)
"""What passes, with time or with someone's help: a worker waits."""


def patiently(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Do work in a transaction; where the database does not answer, again and again for a while.

    The work must be one that may be done twice: an answer can be lost after the commit.
    """

    def once() -> T:
        with transaction(engine) as connection:
            return work(connection)

    return through_an_outage(once)


def through_an_outage(work: Callable[[], T]) -> T:
    """Do work; where the database does not answer, again and again for a while."""
    deadline, wait = time.monotonic() + OUTAGE_SECONDS, 0.2
    while True:
        try:
            return work()
        except OUTAGE:
            if time.monotonic() + wait > deadline:
                raise
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, 5.0)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads: one consistent state of the whole database."""
    options = dialect_of(engine).read_options
    with translated(engine), engine.connect().execution_options(**options) as connection:
        access = access_of(engine)
        before = access.signature() if access is not None else ()
        yield connection
        if access is not None and access.without_locks:
            access.require_unchanged(before)


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """The one edge where the driver's errors become fedsweep's."""
    try:
        yield
    except Exception as error:
        wrapped = driver_errors.wrapped(error, engine)
        ours = error if wrapped is None else _domain_error(engine, wrapped)
        _note_outage(ours)
        if wrapped is None:
            raise
        raise ours or wrapped from error


def _note_outage(error: Exception | None) -> None:
    """Remember when this process last failed to reach its store: a process has one."""
    global _served_since, _latest_outage  # noqa: PLW0603
    if isinstance(error, OUTAGE):
        _served_since = None
    if isinstance(error, StoreUnreachable):
        _latest_outage = time.monotonic()


ARGUMENT = "fedsweep_argument"
"""The execution option with the name of the argument that gave the URL, if it is not --db."""


def _domain_error(
    engine: Engine, error: SQLAlchemyError | UnicodeEncodeError
) -> FedsweepError | None:
    ours = _in_our_words(engine, error)
    name = engine.get_execution_options().get(ARGUMENT)
    if ours is None or name is None:
        return ours
    return type(ours)(str(ours).replace("--db", name))


def _in_our_words(
    engine: Engine, error: SQLAlchemyError | UnicodeEncodeError
) -> FedsweepError | None:
    code = driver_errors.sqlstate(error)
    ours = driver_errors.translate(_shown(engine.url), error)
    if code in driver_errors.RECOVERY:
        ours = _on_a_standby(engine, error) or ours
    if code in driver_errors.POOLED:
        connector_of(engine).pooled = True  # the next connection has no prepared statements
    if code in driver_errors.POOLED | driver_errors.RECOVERY:
        engine.dispose()  # after a failover another host may be the primary
    return ours


def _on_a_standby(
    engine: Engine, error: SQLAlchemyError | UnicodeEncodeError
) -> FedsweepError | None:
    """Return StoreStandby if the server is, or just was, a standby; None if it is not."""
    options = dialect_of(engine).read_options  # all that a standby grants
    try:
        with engine.connect().execution_options(**options) as connection:
            recovers, reads = connection.execute(sa.text(_ROLE)).one()
    except SQLAlchemyError as gone:
        return driver_errors.translate(_shown(engine.url), gone)
    writable = reads == "off" and not connector_of(engine).read_only
    promoted = driver_errors.sqlstate(error) == "25006" and writable
    if not recovers and not promoted:
        return None
    return StoreStandby(
        f"{_shown(engine.url)} is a standby, which only reads: name the primary in --db, or "
        "several hosts with target_session_attrs=read-write"
    )


_ROLE = "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')"


_latest_outage = float("-inf")
_served_since: float | None = None
"""When the first write after the latest outage, of any kind, was committed; None for none."""


def seconds_since_outage() -> float:
    """Return the seconds since this process last failed to reach a store."""
    return time.monotonic() - _latest_outage


def seconds_served() -> float:
    """Return for how many seconds the store has taken this process's writes without a break."""
    return 0.0 if _served_since is None else time.monotonic() - _served_since


def _shown(url: URL) -> str:
    """The URL for a message, as it was written, without its password."""
    if (file := sqlite_file(url)) is not None:
        return f"sqlite:///{shown(file)}"
    text = url.set(drivername=url.drivername.partition("+")[0]).render_as_string()
    place, mark, query = text.partition("?")
    for coded, plain in (("+", "%20"), ("%2C", ","), ("%2F", "/")):
        query = query.replace(coded, plain)
    return place + mark + query


def read_clock(connection: Connection) -> Moment:
    """Now, on the database's clock."""
    return dialect_of(connection).clock()


def as_sql(now: Moment) -> sa.ColumnElement[float]:
    """A moment's seconds, for a statement that is built for it."""
    return SERVER_TIME if now.seconds is None else sa.literal(now.seconds, sa.Double())


def is_ahead(time: sa.ColumnElement[Any], now: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    """Return the condition that a time cannot have been set on the clock of `now`."""
    return time > now + AHEAD_SECONDS

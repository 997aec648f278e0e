"""From a URL to an engine; transactions that turn the driver's errors into ours; clocks."""

from __future__ import annotations

import os
import platform
import random
import re
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from fedsweep.errors import (
    FedsweepError,
    RequestError,
    StoreBusy,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreMissing,
    StoreReadOnly,
    StoreUnreachable,
)
from fedsweep.store.access import Access, require_writable
from fedsweep.store.location import WRITE_A_URL, of_text, owner_of, shown, sqlite_file
from fedsweep.store.texts import store_any_text
from fedsweep.store.turns import turn

T = TypeVar("T")

OUTAGE_SECONDS = 300.0
"""How long a worker waits for a database that does not answer."""

BUSY_SECONDS = 30.0
"""How long SQLite waits for another process's transaction."""

POSTGRES_SETTINGS = {
    "statement_timeout": "10min",
    "lock_timeout": "60s",
    # A stopped worker must not keep a row, once its lease is over, from whoever takes it over.
    "idle_in_transaction_session_timeout": "30s",
}
"""Of each connection to a server. A migration or a copy lifts the first one."""

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "fuse.sshfs",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "afs",
    }
)
"""Their locks are not to be trusted with a database file."""


@dataclass(frozen=True)
class Moment:
    """A reading of the database's clock: seconds, on a clock that has a name.

    A time read on another clock (another boot of the machine) says nothing but that it is over.
    On Postgres `seconds` may be None: the server's own time of the statement that uses it.
    """

    seconds: float | None
    clock: str


def parse_url(text: str) -> URL:
    """Return a database URL: sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/NAME.

    A SQLite file is resolved here once: every link and relative path to it gives the same URL.

    Raises:
        RequestError: it is not a URL, or of another database.

    """
    text = text.strip()
    if _CONTROL.search(text):
        raise RequestError("--db has a line end or a control character in it: remove that")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise RequestError(WRITE_A_URL) from error
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise RequestError(
            f"fedsweep has no driver for {url.drivername}: use a sqlite: or postgresql: URL"
        )
    if "@" in (url.host or ""):
        raise RequestError("--db has an @ in its user or password: write it as %40")
    return of_text(text, url) if url.drivername == "sqlite" else url


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def make_engine(text: str, *, create: bool = False) -> Engine:
    """An engine for a store, checked as far as that goes without its tables.

    Raises:
        StoreError: no such file (unless it may be created), not a database, on a network file
            system, or a server that does not answer.

    """
    url = parse_url(text)
    file = sqlite_file(url)
    try:
        engine = _postgres_engine(url) if file is None else _sqlite_engine(url, file, create=create)
        require_readable(engine)
    except sqlite3.DatabaseError as error:  # the file is none of SQLite's
        raise _domain_error(url, OperationalError("", {}, error)) or error from error
    except (ArgumentError, DBAPIError, OSError, TypeError, ValueError) as error:
        raise StoreError(f"{_shown(url)} cannot be opened: {_first_line(error)}") from error
    return engine


def require_readable(engine: Engine) -> None:
    """Refuse a database that cannot be read, and close the engine's connections to it.

    Raises:
        StoreError: says why.

    """
    try:
        _look(engine)
    except BaseException:
        engine.dispose()
        raise


def _look(engine: Engine) -> None:
    with _translated(engine.url), engine.connect() as connection:
        seen = connection.execute(sa.text(_FIRST_LOOK[engine.dialect.name])).scalar_one()
        if seen is None:
            path = connection.execute(sa.text("SHOW search_path")).scalar_one()
            raise StoreError(
                f"{_shown(engine.url)} has no schema of its search_path ({path}) that its user "
                "may use: make one with CREATE SCHEMA, grant USAGE, or correct the search_path"
            )


_FIRST_LOOK = {
    "sqlite": "SELECT count(*) FROM sqlite_master",
    "postgresql": "SELECT current_schema()",
}
"""SQLite itself says what is no database. Whoever opens and closes the file past it lets go of all
locks that this process has on it (POSIX's locks are so), and another may delete the log."""


def _postgres_engine(url: URL) -> Engine:
    """No ping before each use: what is done through a dead connection is done again.

    A connection that is not used is closed (`let_go`), so that hundreds of workers, of which few
    write at any moment, do with the server's usual hundred connections.
    """
    settings = " ".join(f"-c {name}={value}" for name, value in POSTGRES_SETTINGS.items())
    keepalives = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    engine = sa.create_engine(
        url,
        pool_size=1,
        max_overflow=2,
        connect_args={
            "connect_timeout": 10,
            "application_name": "fedsweep",
            "options": settings,
            # All texts are read and written so; the server converts them.
            "client_encoding": "utf8",
            **keepalives,
        },
    )
    store_any_text(engine)
    return engine


def let_go(engine: Engine) -> None:
    """Close a server's connections that are not in use: one who trains needs none."""
    if engine.dialect.name == "postgresql":
        engine.dispose()


def _sqlite_engine(url: URL, file: Path, *, create: bool) -> Engine:
    require_file(file, create=create)
    if not {"mode", "immutable"} & set(url.query):  # with these the user says how to open it
        require_writable(file)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", begin_sqlite)
    store_any_text(engine)
    return engine


def require_file(file: Path, *, create: bool = False) -> None:
    """Refuse a SQLite file that is missing, or that SQLite cannot lock.

    Raises:
        StoreError: says which, and what to do.

    """
    if file.is_dir():
        raise StoreForeign(f"{shown(file)} is a folder: name a database file with --db")
    if (owner := owner_of(file)) is not None:
        raise RequestError(
            f"{shown(file)} belongs to the database {shown(owner)}: name another file with --db"
        )
    if not file.exists():
        if not create:
            raise StoreMissing(
                f"there is no database {shown(file)}: `fedsweep plan` makes one, "
                "or name another with --db"
            )
        if not file.parent.is_dir():
            raise StoreError(
                f"there is no folder {shown(file.parent)} for the database: make it first"
            )
    if (kind := _file_system(file)) in NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"{shown(file)} lies on a network file system ({kind}), where SQLite's locks fail: "
            "use a local disk, or Postgres for many machines"
        )


def _sqlite_connect(connection: Any, _record: object) -> None:
    # The driver must not begin transactions of its own: `begin_sqlite` does, and says which kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = NORMAL")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal" and _may_change(cursor):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # A read-only file, or two processes at once: the first write tells.
            if "locked" not in str(error) and "readonly" not in str(error):
                raise
    cursor.close()


def _may_change(cursor: sqlite3.Cursor) -> bool:
    """Return whether a SQLite file is empty or has fedsweep's tables."""
    seen = "SELECT count(*) = 0 OR sum(name = 'sweep_members') FROM sqlite_master"
    foreign = cursor.execute("PRAGMA application_id").fetchone()[0]
    return not foreign and bool(cursor.execute(seen).fetchone()[0])


def begin_sqlite(connection: Connection) -> None:
    """Begin a transaction of SQLite, of the kind that the connection's options say."""
    # A deferred transaction that reads first fails with BUSY at its first write, at once.
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    try:
        writes = connection.get_execution_options().get("writes", False)
        driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    except sqlite3.Error as error:  # as if SQLAlchemy had met it
        raise OperationalError("BEGIN", {}, error) from error


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that may write: all of it is committed, or none.

    Raises:
        StoreBusy: SQLite stayed locked for BUSY_SECONDS.
        StoreError: the database is read-only or out of reach.

    """
    file = sqlite_file(engine.url)
    with (
        _translated(engine.url),
        engine.connect().execution_options(writes=True) as connection,
        nullcontext() if file is None else turn(file),
        connection.begin(),
    ):
        yield connection


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
    options = _READING[engine.dialect.name]
    with _translated(engine.url), engine.connect().execution_options(**options) as connection:
        access = access_of(engine)
        before = access.signature() if access is not None else ()
        yield connection
        if access is not None and access.without_locks:
            access.require_unchanged(before)


def access_of(engine: Engine) -> Access | None:
    """Return how the engine of a SQLite file that is only read reaches it, None for another."""
    access = engine.get_execution_options().get("access")
    return access if isinstance(access, Access) else None


_READING: dict[str, dict[str, Any]] = {
    "sqlite": {},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}


@contextmanager
def _translated(url: URL) -> Iterator[None]:
    """The one edge where the driver's errors become fedsweep's."""
    try:
        yield
    except DBAPIError as error:
        raise _domain_error(url, error) or error from error


_DRIVER_ERRORS: list[tuple[tuple[str, ...], type[FedsweepError], str]] = [
    (
        ("because other objects depend on it",),
        StoreError,
        "{url} has other views that read fedsweep's ({said}): drop them, upgrade, make them again",
    ),
    (
        ("readonly database", "read-only transaction"),
        StoreReadOnly,
        "{url} is read-only: make its file and folder writable, or name another with --db",
    ),
    (
        ("permission denied for", "must be owner of"),
        StoreReadOnly,
        "the user of {url} may not do that ({said}): have it granted, or name another in --db",
    ),
    (
        ("database is locked",),
        StoreBusy,
        "{url} stayed locked by another process for too long: try again",
    ),
    (
        ("unable to open database file",),
        StoreError,
        "{url} cannot be opened: check that its folder exists and is writable",
    ),
    (
        ("not a database", "malformed"),
        StoreForeign,
        "{url} is no sound SQLite database ({said}): restore a backup, or name another with --db",
    ),
    (
        ("disk is full", "No space left", "disk I/O error"),
        StoreFull,
        "the disk of {url} is full or fails ({said}): make room; what was committed is safe",
    ),
    (
        ("too many clients", "remaining connection slots", "too many connections"),
        StoreBusy,
        "{url} has no connection left: try again, or raise its max_connections",
    ),
    (
        ("statement timeout", "lock timeout", "deadlock detected", "could not serialize"),
        StoreBusy,
        "{url} was too busy ({said}): try again",
    ),
    (
        ("password authentication failed", "no password supplied"),
        StoreUnreachable,
        "{url} refuses the user or the password: correct them in --db",
    ),
    (
        (
            *("connection to server", "connection failed", "connection timeout", "is closed"),
            *("failed to resolve", "terminating connection", "server closed the connection"),
            *("consuming input failed", "shutting down", "starting up", "connection is bad"),
        ),
        StoreUnreachable,
        "{url} cannot be reached ({said}): check the host, port and name in --db",
    ),
]
"""What a driver says, in part, and what it means. The first that fits is taken."""


def _domain_error(url: URL, error: DBAPIError) -> FedsweepError | None:
    text = str(error.orig)
    for parts, ours, message in _DRIVER_ERRORS:
        if any(part in text for part in parts):
            return ours(message.format(url=_shown(url), said=_first_line(error)))
    if error.connection_invalidated:
        return StoreUnreachable(f"{_shown(url)} cannot be reached ({_first_line(error)})")
    return None


def _shown(url: URL) -> str:
    """The URL for a message, without its password."""
    if (file := sqlite_file(url)) is not None:
        return f"sqlite:///{shown(file)}"
    return url.set(drivername=url.drivername.partition("+")[0]).render_as_string()


def _first_line(error: Exception) -> str:
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def read_clock(connection: Connection) -> Moment:
    """Now, on the database's clock."""
    return _CLOCKS[connection.dialect.name]()


def _clock_sqlite() -> Moment:
    """Seconds since boot: all users of the file share the machine, and nobody sets this clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return Moment(time.clock_gettime(clock), boot_id())


def _clock_postgres() -> Moment:
    return Moment(None, "server")


_CLOCKS = {"sqlite": _clock_sqlite, "postgresql": _clock_postgres}


# Of the statement, not of its transaction, which may have waited; stable, so that an index serves.
_SERVER_TIME: sa.ColumnElement[float] = sa.cast(
    sa.extract("epoch", sa.func.statement_timestamp()), sa.Double()
)


def as_sql(now: Moment) -> sa.ColumnElement[float]:
    """A moment's seconds, for a statement that is built for it."""
    return _SERVER_TIME if now.seconds is None else sa.literal(now.seconds, sa.Double())


def now_on(dialect: str) -> sa.ColumnElement[float]:
    """The parameter `now` of a statement; on Postgres, where it is None, the server's time."""
    return _NOW[dialect]


_NOW: dict[str, sa.ColumnElement[float]] = {
    "sqlite": sa.bindparam("now", type_=sa.Double()),
    "postgresql": sa.func.coalesce(
        sa.cast(sa.bindparam("now", type_=sa.Double()), sa.Double()),
        _SERVER_TIME,
    ),
}


@cache
def boot_id() -> str:
    """A name for this boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import psutil

        return f"{platform.node()}-{uuid.getnode():x}-{int(psutil.boot_time())}"


def _file_system(file: Path) -> str:
    """The type of the file system that a file lies on, "" where the system does not say."""
    place = file.resolve()
    best, kind = "", ""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    for line in mounts:
        _, point, mounted, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = place.is_relative_to(point)
        if inside and len(point) >= len(best):
            best, kind = point, mounted
    return kind


def default_url() -> str:
    """Where the store is when the command line does not say."""
    return os.environ.get("FEDSWEEP_DB", "").strip() or "sqlite:///fedsweep.db"

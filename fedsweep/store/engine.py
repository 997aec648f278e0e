"""From a URL to an engine; transactions that turn the driver's errors into ours; clocks."""

from __future__ import annotations

import platform
import random
import re
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from fedsweep.errors import (
    FedsweepError,
    RequestError,
    StoreBusy,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreMissing,
    StoreStandby,
    StoreUnreachable,
)
from fedsweep.store import driver_errors, identity
from fedsweep.store.access import Access, require_writable
from fedsweep.store.location import WRITE_A_URL, of_text, owner_of, shown, sqlite_file
from fedsweep.store.texts import store_any_text
from fedsweep.store.turns import turn

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

    from fedsweep.store.connector import Connector

T = TypeVar("T")

OUTAGE_SECONDS = 300.0
"""How long a worker waits for a database that does not answer."""

LONGEST_LEASE = 6 * 3600.0
"""Seconds that a lease lasts at most."""

AHEAD_SECONDS = LONGEST_LEASE + 60.0
"""A lease or a delay that ends later than that was set on another clock: one of another time
namespace, or a server's before it was set back."""

BUSY_SECONDS = 30.0
"""How long SQLite waits for another process's transaction."""

STATEMENT_SECONDS = 600
"""How long a statement may take. A migration, a check and a copy lift that."""

STEPS = 1_000_000
"""Steps of SQLite between two looks at the clock: some ten milliseconds."""

POSTGRES_SETTINGS = {
    "statement_timeout": "10min",
    "lock_timeout": "60s",
    # A stopped worker must not keep a row, once its lease is over, from whoever takes it over.
    "idle_in_transaction_session_timeout": "30s",
    # A database can be set to write fewer digits: then a float that is read has lost its last bits.
    "extra_float_digits": "3",
}
"""Of each connection to a server. The first is STATEMENT_SECONDS."""

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "afs", "afpfs", "ncpfs", "coda",
        "davfs", "webdav", "9p", "virtiofs", "vboxsf", "prl_fs", "vmhgfs", "ceph", "lustre",
        "lustre_lite", "gpfs", "mmfs", "beegfs", "glusterfs", "pvfs2", "orangefs", "panfs",
        "wekafs", "gfs2", "ocfs2", "fhgfs", "acfs",
    }
)  # fmt: skip
"""Their locks are not to be trusted with a database file: other machines may share the files."""

LOCAL_FUSE = frozenset(
    {
        "fuse-overlayfs", "overlayfs", "unionfs", "unionfs-fuse", "mergerfs", "bindfs", "ntfs",
        "ntfs-3g", "lowntfs-3g", "exfat", "ext2", "ext2fs", "fuse-ext2", "fuse2fs", "apfs",
        "zfs", "btrfs", "squashfuse", "squashfuse_ll", "erofsfuse", "dwarfs", "encfs",
        "gocryptfs", "cryfs", "securefs", "cryptomator", "veracrypt", "dislocker", "lxcfs",
    }
)  # fmt: skip
"""Programs behind FUSE that keep their files on a disk of this machine. All others (sshfs, s3fs,
rclone, gcsfuse, glusterfs, ceph …) are taken for a network, unknown ones too."""


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
    if text.startswith(_POSTGRES):
        from fedsweep.store import connector

        return connector.parse(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise RequestError(WRITE_A_URL) from error
    if url.drivername != "sqlite":
        raise RequestError(
            f"fedsweep has no driver for {url.drivername}: name a sqlite: or postgresql: URL "
            "in --db"
        )
    return of_text(text, url)


_POSTGRES = ("postgresql://", "postgres://", "postgresql+psycopg://")


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def make_engine(text: str, *, create: bool = False) -> Engine:
    """An engine for a store, checked as far as that goes without its tables.

    Raises:
        StoreError: no such file (unless it may be created), not a database, on a network file
            system, or a server that does not answer.

    """
    url = parse_url(text)
    file = sqlite_file(url)
    with opening(url):
        engine = postgres_engine(url) if file is None else _sqlite_engine(url, file, create=create)
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


def postgres_engine(
    url: URL, *, settings: Mapping[str, str] | None = None, read_only: bool = False
) -> Engine:
    """No ping before each use: what is done through a dead connection is done again.

    A connection that is not used is closed (`let_go`), so that hundreds of workers, of which few
    write at any moment, do with the server's usual hundred connections.
    """
    from fedsweep.store.connector import Connector

    connector = Connector(url, {**POSTGRES_SETTINGS, **(settings or {})}, read_only=read_only)
    engine = sa.create_engine(
        url,
        creator=connector,
        pool_size=1,
        max_overflow=2,
        execution_options={_CONNECTOR: connector},
    )
    event.listen(engine, "begin", _postgres_begin)
    store_any_text(engine)
    driver_errors.name_engine(engine)
    return engine


_CONNECTOR = "fedsweep_connector"
"""The execution option under which an engine carries its connector."""


def _postgres_begin(connection: Connection) -> None:
    import psycopg

    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    if driver.read_only is False:  # SQLAlchemy resets a user's read-only default
        driver.read_only = None
    try:
        connector_of(connection.engine).begin(driver)
    except psycopg.Error as error:  # as if SQLAlchemy had met it
        if driver.closed:
            connection.invalidate(error)
        driver_errors.came_from(error, connection.engine)
        raise OperationalError("BEGIN", {}, error) from error


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
    bound_statements(engine, STATEMENT_SECONDS)
    event.listen(engine, "begin", begin_sqlite)
    store_any_text(engine)
    driver_errors.name_engine(engine)
    return engine


def require_file(file: Path, *, create: bool = False) -> None:
    """Refuse a SQLite file that is missing, or that SQLite cannot lock.

    Raises:
        StoreError: says which, and what to do.

    """
    if file.is_dir():
        raise StoreForeign(f"{shown(file)} is a folder: name a database file with --db")
    if file.exists() and not file.is_file():
        raise StoreForeign(
            f"{shown(file)} is a device, a pipe or a socket: name a database file with --db"
        )
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
                f"there is no folder {shown(file.parent)} for the database: make it first, "
                "or correct --db"
            )
    if _is_network(kind := _file_system(file)):
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


def bound_statements(engine: Engine, seconds: float) -> None:
    """Interrupt each statement on SQLite that takes longer, as a server's statement_timeout does.

    A file of somebody else may have a view or a trigger that never ends.
    """

    def watch(driver: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        driver.set_progress_handler(lambda: time.monotonic() > record.info.get(_UNTIL, inf), STEPS)

    def begin(connection: Connection, *_: object) -> None:
        connection.info[_UNTIL] = time.monotonic() + seconds

    def end(context: ExceptionContext) -> None:
        interrupted = getattr(context.original_exception, "sqlite_errorname", "") == _INTERRUPTED
        if not interrupted or context.connection is None:
            return
        if time.monotonic() < context.connection.info.get(_UNTIL, 0.0):
            raise KeyboardInterrupt  # Ctrl-C reached the look at the clock, which cannot raise it

    event.listen(engine, "connect", watch)
    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "handle_error", end)


_UNTIL = "fedsweep_until"
_INTERRUPTED = "SQLITE_INTERRUPT"


def unbound(connection: Connection) -> None:
    """Let the statements of a connection take as long as they need."""
    driver = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        driver.set_progress_handler(None, 0)


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
        driver_errors.came_from(error, connection.engine)
        raise OperationalError("BEGIN", {}, error) from error


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
    options = _READING[engine.dialect.name]
    with translated(engine), engine.connect().execution_options(**options) as connection:
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
    options = _READING[engine.dialect.name]  # all that a standby grants
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


def connector_of(engine: Engine) -> Connector:
    """Return what opens the connections of a server's engine."""
    return cast("Connector", engine.get_execution_options()[_CONNECTOR])


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
    return _CLOCKS[connection.dialect.name]()


def _clock_sqlite() -> Moment:
    """Seconds since boot: all users of the file share the machine, and nobody sets this clock.

    Containers may each have an offset of their own, which is taken off.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return Moment(time.clock_gettime(clock) - boot_offset(), boot_id())


@cache
def boot_offset() -> float:
    """Return the seconds that this process's time namespace adds to the boot clock."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/timens_offsets").read_text(encoding="ascii").splitlines():
            clock, seconds, nanoseconds = line.split()
            if clock == "boottime":
                return int(seconds) + int(nanoseconds) / 1e9
    return 0.0


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


def is_ahead(time: sa.ColumnElement[Any], now: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    """Return the condition that a time cannot have been set on the clock of `now`."""
    return time > now + AHEAD_SECONDS


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

    try:
        return f"{platform.node()}-{uuid.getnode():x}-{int(psutil.boot_time())}"
    except (OSError, RuntimeError, psutil.Error):  # no /proc at all
        return platform.node()


def _is_network(kind: str) -> bool:
    """Return if a file system's type is one whose files other machines may share."""
    name, dot, program = kind.partition(".")
    if name == "fuse":
        return not dot or program not in LOCAL_FUSE
    return kind in NETWORK_FILE_SYSTEMS


def _file_system(file: Path) -> str:
    """The type of the file system that a file lies on, "" where the system does not say."""
    place = file.resolve()
    best, kind = "", ""
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    for line in mounts:
        _, point, mounted, *_ = line.split(" ")
        point = _ESCAPE.sub(lambda code: chr(int(code[1], 8)), point)
        inside = place.is_relative_to(point)
        if inside and len(point) >= len(best):
            best, kind = point, mounted
    return kind


_ESCAPE = re.compile(r"\\([0-7]{3})")
"""A blank, a tab, a line end or a backslash in a list of mounts."""

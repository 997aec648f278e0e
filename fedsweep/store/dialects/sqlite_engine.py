"""Engines of SQLite: the checks of a file, its connections, and the begin of transactions."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from fedsweep.errors import RequestError, StoreError, StoreForeign, StoreMissing
from fedsweep.store import driver_errors
from fedsweep.store.access import Access, require_writable, writable
from fedsweep.store.dialects.base import PAGE_STATEMENT_SECONDS, STATEMENT_SECONDS
from fedsweep.store.location import owner_of, shown
from fedsweep.store.sql.sqlite import use_own_views
from fedsweep.store.texts import escaped

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

LOCK_WAIT_SECONDS = 30.0
"""Seconds for which SQLite waits for another process's transaction."""

PAGE_LOCK_WAIT_SECONDS = 2.0
"""Seconds for which a read of a page waits for another process's transaction.

The wait is short, because the page soon reads again."""


STEPS = 1_000_000
"""Steps of SQLite between two checks of the time limit: about ten milliseconds."""


NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "afs", "afpfs", "ncpfs", "coda",
        "davfs", "webdav", "9p", "virtiofs", "vboxsf", "prl_fs", "vmhgfs", "ceph", "lustre",
        "lustre_lite", "gpfs", "mmfs", "beegfs", "glusterfs", "pvfs2", "orangefs", "panfs",
        "wekafs", "gfs2", "ocfs2", "fhgfs", "acfs",
    }
)  # fmt: skip
"""File systems on which locks do not protect a database file.

Other machines may use the same files."""


LOCAL_FUSE = frozenset(
    {
        "fuse-overlayfs", "overlayfs", "unionfs", "unionfs-fuse", "mergerfs", "bindfs", "ntfs",
        "ntfs-3g", "lowntfs-3g", "exfat", "ext2", "ext2fs", "fuse-ext2", "fuse2fs", "apfs",
        "zfs", "btrfs", "squashfuse", "squashfuse_ll", "erofsfuse", "dwarfs", "encfs",
        "gocryptfs", "cryfs", "securefs", "cryptomator", "veracrypt", "dislocker", "lxcfs",
    }
)  # fmt: skip
"""FUSE programs that keep their files on a disk of this machine.

All others (sshfs, s3fs, rclone, gcsfuse, glusterfs, ceph …) count as network file systems. Unknown
programs do so, too."""


def engine_of(file: Path, url: URL, *, create: bool) -> Engine:
    """Return an engine that reads and writes a file.

    Raises:
        StoreError: the file cannot be used, or it is missing and `create` is off.

    """
    require_file(file, create=create)
    if not {"mode", "immutable"} & set(url.query):  # with these, the user chooses how to open it
        require_writable(file)
    engine = sa.create_engine(url, connect_args={"timeout": LOCK_WAIT_SECONDS})
    event.listen(engine, "connect", _set_up)
    _finish(engine, STATEMENT_SECONDS)
    return engine


def engine_to_read(file: Path, url: URL, views: Mapping[str, str], *, page: bool) -> Engine:
    """Return an engine that cannot write.

    For a page, or a file that this user cannot write, it opens a new connection for each read. A
    file that is moved away and back is then found again. A missing file is not created.
    """
    require_file(file)
    access = Access(file)
    # In mode "rw", the last connection deletes the log. It still executes only queries.
    mode, seconds = ("ro", PAGE_LOCK_WAIT_SECONDS) if page else ("rw", LOCK_WAIT_SECONDS)

    def connect() -> sqlite3.Connection:
        address = access.address(mode)
        driver = sqlite3.connect(address, uri=True, timeout=seconds, check_same_thread=False)
        driver.isolation_level = None
        use_own_views(driver, dict(views))
        driver.execute("PRAGMA query_only = ON")
        return driver

    if not writable(file):
        access.require_whole()
    lasting = writable(file) and not page
    engine = sa.create_engine(
        url,
        creator=connect,
        poolclass=QueuePool if lasting else NullPool,
        execution_options={"access": access},
    )
    event.listen(engine, "engine_disposed", lambda _: access.close())
    _finish(engine, PAGE_STATEMENT_SECONDS if page else STATEMENT_SECONDS)
    return engine


def _finish(engine: Engine, seconds: float) -> None:
    """Add the event listeners that every engine of SQLite has."""
    _bound_statements(engine, seconds)
    event.listen(engine, "begin", _begin)
    _store_any_text(engine)
    driver_errors.name_engine(engine)


def _store_any_text(engine: Engine) -> None:
    """Make every statement store every text: see `store.texts`."""

    def execute(cursor: Any, statement: str, values: Any, _context: object) -> bool:
        try:
            cursor.execute(statement, values)
        except UnicodeEncodeError:
            cursor.execute(statement, escaped(values))
        return True

    def execute_many(cursor: Any, statement: str, rows: Any, _context: object) -> bool:
        try:
            cursor.executemany(statement, rows)
        except UnicodeEncodeError:
            cursor.executemany(statement, [escaped(row) for row in rows])
        return True

    event.listen(engine, "do_execute", execute)
    event.listen(engine, "do_executemany", execute_many)


def require_file(file: Path, *, create: bool = False) -> None:
    """Refuse a SQLite file that is missing, or that SQLite cannot lock.

    Raises:
        StoreError: the file is missing, or lies on a network file system.
        StoreForeign: the path is not a regular file.
        RequestError: the file belongs to another database.

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


def _set_up(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: `_begin` does, with the right kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = NORMAL")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal" and _may_change(cursor):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # A read-only file, or two processes at the same time: the first write reports it.
            if "locked" not in str(error) and "readonly" not in str(error):
                raise
    cursor.close()


def _bound_statements(engine: Engine, seconds: float) -> None:
    """Interrupt each statement that takes longer, as a server's statement_timeout does.

    Another user's file may have a view or a trigger that never ends.
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
            raise KeyboardInterrupt  # Ctrl-C reached the progress handler, which cannot raise it

    event.listen(engine, "connect", watch)
    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "handle_error", end)


_UNTIL = "fedsweep_until"


_INTERRUPTED = "SQLITE_INTERRUPT"


def unbound(connection: Connection) -> None:
    """Lift the time limit of the statements of a connection."""
    driver = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        driver.set_progress_handler(None, 0)


def _may_change(cursor: sqlite3.Cursor) -> bool:
    """Return whether a SQLite file is empty or has fedsweep's tables."""
    query = "SELECT count(*) = 0 OR sum(name = 'sweep_members') FROM sqlite_master"
    foreign = cursor.execute("PRAGMA application_id").fetchone()[0]
    return not foreign and bool(cursor.execute(query).fetchone()[0])


def _begin(connection: Connection) -> None:
    """Begin a transaction of the kind that the connection's options select."""
    # A deferred transaction that reads first fails with BUSY at its first write, without a wait.
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    try:
        writes = connection.get_execution_options().get("writes", False)
        driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    except sqlite3.Error as error:  # as if SQLAlchemy had raised it
        driver_errors.note_engine(error, connection.engine)
        raise OperationalError("BEGIN", {}, error) from error


def _is_network(kind: str) -> bool:
    """Return whether other machines may use the files of a file system of this type."""
    name, dot, program = kind.partition(".")
    if name == "fuse":
        return not dot or program not in LOCAL_FUSE
    return kind in NETWORK_FILE_SYSTEMS


def _file_system(file: Path) -> str:
    """Return the type of the file system of a file, "" if the system does not report it."""
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
"""An escaped space, tab, line end or backslash in a list of mounts."""

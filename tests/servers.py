"""Postgres as people run it: a primary, a streaming standby, and a pgbouncer."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.acceptance.command import eventually
from tests.postgres import fast_folder

POSTGRES = "postgres"
"""The user that servers run as when the tests run as root, and the servers' superuser."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*command: str | Path) -> None:
    """Run a server's program, which refuses to be root."""
    other = ["runuser", "-u", POSTGRES, "--"] if os.geteuid() == 0 else []
    subprocess.run([*other, *map(str, command)], check=True, stdout=subprocess.DEVNULL, timeout=120)


def programs() -> Path:
    """Return the folder of Debian's server programs, the newest version's."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_basebackup"))
    if not installed:
        pytest.skip("there is no /usr/lib/postgresql: install Debian's package postgresql")
    return installed[-1].parent


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder that the servers' user owns."""
    place = Path(tempfile.mkdtemp(prefix="fedsweep-servers-", dir=fast_folder()))
    if os.geteuid() == 0:
        shutil.chown(place, POSTGRES)
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


class Server:
    """A server on its own port, primary or standby."""

    def __init__(self, data: Path) -> None:
        self.data, self.port, self.programs = data, free_port(), programs()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, name: str = POSTGRES) -> str:
        return f"postgresql://{POSTGRES}@{self.address}/{name}"

    def make(self) -> None:
        run(self.programs / "initdb", "-D", self.data, "-A", "trust", "-U", POSTGRES)

    def follow(self, primary: Server) -> None:
        backup = self.programs / "pg_basebackup"
        run(backup, "-d", primary.url(), "-D", self.data, "-R", "-X", "stream", "-c", "fast")

    def start(self) -> None:
        settings = f"-p {self.port} -c fsync=off -c listen_addresses=127.0.0.1 -k {self.data}"
        log = f"{self.data}.log"
        run(self.programs / "pg_ctl", "-D", self.data, "-w", "-l", log, "-o", settings, "start")

    def stop(self) -> None:
        run(self.programs / "pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    def demote(self) -> None:
        """Restart as a standby that follows nobody."""
        run(self.programs / "pg_ctl", "-D", self.data, "-w", "-m", "fast", "stop")
        run("touch", self.data / "standby.signal")
        self.start()

    def promote(self) -> None:
        run(self.programs / "pg_ctl", "-D", self.data, "-w", "promote")

    def create(self, name: str) -> str:
        """Create a database; return its URL."""
        with psycopg.connect(self.url(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def has_replayed(self, primary: Server) -> bool:
        """Return True if this standby has replayed all that the primary has committed."""
        with psycopg.connect(primary.url()) as source, psycopg.connect(self.url()) as standby:
            written = source.execute("SELECT pg_current_wal_lsn()").fetchone()
            assert written is not None
            query = "SELECT pg_last_wal_replay_lsn() >= %s"
            return standby.execute(query, written).fetchone() == (True,)


@contextmanager
def server() -> Iterator[Server]:
    """Yield a running primary."""
    with folder() as place:
        made = Server(place / "primary")
        made.make()
        made.start()
        try:
            yield made
        finally:
            made.stop()


@contextmanager
def standby(primary: Server) -> Iterator[Server]:
    """Yield a hot standby that streams from a primary."""
    with folder() as place:
        made = Server(place / "standby")
        made.follow(primary)
        made.start()
        try:
            yield made
        finally:
            made.stop()


@contextmanager
def pgbouncer(primary: Server, mode: str, *settings: str) -> Iterator[int]:
    """Yield the port of a pgbouncer for a server."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("there is no pgbouncer: install Debian's package pgbouncer")
    with folder() as place:
        port, file, process = free_port(), place / "pgbouncer.ini", place / "pid"
        database = f"* = host=127.0.0.1 port={primary.port} user={POSTGRES}"
        lines = ["[databases]", database, "[pgbouncer]", f"pool_mode = {mode}", "auth_type = any"]
        lines += ["listen_addr = 127.0.0.1", f"listen_port = {port}", "unix_socket_dir ="]
        lines += ["default_pool_size = 4", f"logfile = {place}/log", f"pidfile = {process}"]
        file.write_text("\n".join([*lines, *settings, ""]))
        run(program, "-d", file)
        number = int(eventually(lambda: process.exists() and process.read_text().strip()))
        try:
            yield port
        finally:
            os.kill(number, signal.SIGTERM)
            eventually(lambda: not psutil.pid_exists(number))

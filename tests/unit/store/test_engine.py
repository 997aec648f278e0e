"""URLs, transactions, clocks, and the translation of the drivers' errors."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import errors
from fedsweep.store import clock, driver_errors, engine, transactions
from fedsweep.store.dialects import sqlite_engine
from fedsweep.store.moment import boot_id, boot_moment
from fedsweep.store.schema import open_store


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("fedsweep.db", "not a database URL"),
        ("mysql://u:secret@h/n", "no driver for mysql"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite://localhost/x.db", "not a database URL"),
        ("postgresql://h:abc/n", "not a database URL"),
        ("postgresql://u:se@secret2@127.0.0.1/n", "write it as %40"),
        ("postgresql://u:secret@127.0.0.1/n?foo=bar", "cannot be opened"),
        ("postgresql://u:secret@127.0.0.1:99999/n", "cannot be"),
    ],
)
def test_a_wrong_url_is_refused_with_an_example(url: str, says: str) -> None:
    """No database is opened, and the message does not contain the password."""
    with pytest.raises(errors.RequestError, match=says) as caught:
        engine.make_engine(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    """A text file, a folder and a damaged database get one sentence each, and are not written."""
    text = tmp_path / "notes.db"
    text.write_text("these are my notes")
    with pytest.raises(errors.StoreForeign, match="no sound SQLite database"):
        open_store(f"sqlite:///{text}", create=True)
    assert text.read_text() == "these are my notes"
    with pytest.raises(errors.StoreForeign, match="is a folder"):
        open_store(f"sqlite:///{tmp_path}", create=True)
    with pytest.raises(errors.StoreForeign, match="is a device, a pipe or a socket"):
        open_store("sqlite:////dev/null", create=True)
    with pytest.raises(errors.StoreError, match="no folder"):
        open_store(f"sqlite:///{tmp_path}/a/b/c.db", create=True)
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 16)
    with pytest.raises(errors.StoreForeign, match="no sound SQLite database"):
        open_store(f"sqlite:///{damaged}")


def test_a_read_only_file_is_read_and_not_written(sqlite_url: str) -> None:
    """The URL's mode says so, which binds root too."""
    file = sqlite_url.removeprefix("sqlite:///")
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    store = open_store(f"sqlite:///file:{file}?mode=ro&uri=true")
    with transactions.reading(store) as c:
        assert c.execute(sa.text("SELECT count(*) FROM trials")).scalar_one() == 0
    with (
        pytest.raises(errors.StoreReadOnly, match="read-only"),
        transactions.transaction(store) as c,
    ):
        c.execute(sa.text("INSERT INTO sweeps (name, created_at) VALUES ('x', 0)"))


def test_a_uri_without_its_flag_names_the_same_file(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither "fedsweep.db?mode=ro" nor "file:fedsweep.db" is created."""
    folder = Path(sqlite_url.removeprefix("sqlite:///")).parent
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    for url in ("sqlite:///fedsweep.db?mode=ro&uri=true", "sqlite:///file:fedsweep.db"):
        open_store(url).dispose()
    assert {p for p in folder.iterdir() if not p.name.startswith("fedsweep.db-")} == before


REMOTE = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "afs",
    "9p",
    "virtiofs",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "glusterfs",
    "fuse",
    "fuse.sshfs",
    "fuse.s3fs",
    "fuse.rclone",
    "fuse.gcsfuse",
    "fuse.ceph",
    "fuse.glusterfs",
    "fuse.ceph-fuse",
    "fuse.juicefs",
    "fuse.unknown",
]


@pytest.mark.parametrize("kind", REMOTE)
def test_a_network_file_system_is_refused(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """SQLite's locks are not reliable there."""
    monkeypatch.setattr(sqlite_engine, "_file_system", lambda _file: kind)
    with pytest.raises(errors.StoreError, match=f"on a network file system .{kind}.*local disk"):
        open_store(sqlite_url)


@pytest.mark.parametrize(
    "kind", ["ext4", "overlay", "tmpfs", "fuseblk", "fuse.fuse-overlayfs", "fuse.mergerfs", ""]
)
def test_a_local_file_system_is_not_refused(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A FUSE program of this machine counts as local too."""
    monkeypatch.setattr(sqlite_engine, "_file_system", lambda _file: kind)
    open_store(sqlite_url).dispose()


def test_a_mount_point_may_have_any_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Spaces, tabs and line ends are written as octal numbers, and other bytes as they are."""
    place = tmp_path / "a b\tc\\d"
    place.mkdir()
    coded = str(place).replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011")
    mounts = f"/dev/x / ext4 rw 0 0\nx /caf\udce9 fuse.x rw 0 0\nhost:/x {coded} nfs4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda *_: mounts)
    assert sqlite_engine._file_system(place / "fedsweep.db") == "nfs4"
    assert sqlite_engine._file_system(tmp_path / "fedsweep.db") == "ext4"


def test_the_file_system_of_a_file_is_that_of_its_mount(tmp_path: Path) -> None:
    """It is the longest mount point that contains the file."""
    assert sqlite_engine._file_system(Path("/proc/self/status")) == "proc"
    assert sqlite_engine._file_system(tmp_path) not in sqlite_engine.NETWORK_FILE_SYSTEMS


def test_a_server_that_does_not_answer_is_unreachable() -> None:
    """The port is wrong. The message does not contain the password."""
    with pytest.raises(errors.StoreUnreachable, match="cannot be reached") as caught:
        engine.make_engine("postgresql://u:hunter2@127.0.0.1:1/n")
    assert "hunter2" not in str(caught.value)


def test_a_wrong_password_or_name_is_reported(postgres_server: str) -> None:
    """The message is one sentence with the remedy, and without the password."""
    url = sa.make_url(postgres_server)
    with pytest.raises(errors.StoreUnreachable) as caught:
        engine.make_engine(
            url.set(database="no_such_database").render_as_string(hide_password=False)
        )
    assert "no_such_database" in str(caught.value)
    refused = psycopg.OperationalError('password authentication failed for user "u"')
    wrapped = sa.exc.DBAPIError("", {}, refused)
    ours = driver_errors.translate("postgresql://u:***@h/n", wrapped)
    assert isinstance(ours, errors.StoreUnreachable)
    assert (
        str(ours) == "postgresql://u:***@h/n refuses the user or the password: correct them in --db"
    )


def test_a_transaction_is_all_or_nothing(store: Engine) -> None:
    """If an exception interrupts a transaction, no change is stored."""
    insert = sa.text("INSERT INTO sweeps (name, created_at) VALUES ('x', 0)")

    def interrupted() -> None:
        with transactions.transaction(store) as c:
            c.execute(insert)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    with transactions.reading(store) as c:
        assert c.execute(sa.text("SELECT count(*) FROM sweeps")).scalar_one() == 0


def test_writers_on_sqlite_take_turns_from_their_first_statement(sqlite_url: str) -> None:
    """A transaction that reads and then writes cannot fail because of a writer in between."""
    store = open_store(sqlite_url)
    with transactions.transaction(store) as c:
        c.execute(sa.text("SELECT count(*) FROM sweeps"))
        other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("INSERT INTO sweeps (name, created_at) VALUES ('y', 0)")
        other.close()
        c.execute(sa.text("INSERT INTO sweeps (name, created_at) VALUES ('x', 0)"))
    with transactions.reading(store) as c:
        assert c.execute(sa.text("SELECT name FROM sweeps")).scalars().all() == ["x"]
    store.dispose()


def test_the_clock_never_goes_back_and_has_a_name(store: Engine) -> None:
    """Two readings are in order, on the same clock."""
    with transactions.reading(store) as c:
        read = [clock.read_clock(c) for _ in range(2)]
        first, second = (c.execute(sa.select(clock.as_sql(now))).scalar_one() for now in read)
    assert first <= second
    assert read[0].clock == read[1].clock
    assert len(boot_id()) > 8


def test_a_transaction_is_retried_if_its_connection_breaks(
    postgres_url: str, postgres_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends the connection, as after a restart. Only the retry is stored."""
    store = open_store(postgres_url)
    tries = []

    def work(c: sa.Connection) -> str:
        c.execute(sa.text("INSERT INTO sweeps (name, created_at) VALUES ('x', 0)"))
        name = str(c.execute(sa.text("SELECT name FROM sweeps")).scalar_one())
        pid = c.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        tries.append(pid)
        if len(tries) == 1:
            with psycopg.connect(postgres_server, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        c.execute(sa.text("DELETE FROM sweeps"))
        return name

    assert transactions.patiently(store, work) == "x"
    assert len(tries) == 2
    monkeypatch.setattr(transactions, "OUTAGE_SECONDS", 0.0)
    tries.clear()
    with pytest.raises(errors.StoreUnreachable):
        transactions.patiently(store, work)
    store.dispose()


def test_time_namespaces_of_one_machine_share_a_clock() -> None:
    """A container whose boot clock has an offset reads the same time as its host."""
    program = (
        "import time; from fedsweep.store.moment import boot_moment as read; "
        "print(read().seconds, time.clock_gettime(time.CLOCK_BOOTTIME))"
    )
    command = ["unshare", "--time", "--boottime", "864000", sys.executable, "-c", program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no time namespace can be made here: {error}")
    read, inside = map(float, done.stdout.split())
    host = boot_moment().seconds
    assert host is not None
    assert inside - host > 800_000
    assert abs(read - host) < 3600


@pytest.mark.parametrize("offset", ["86400", "-60"])
def test_a_process_of_another_time_namespace_reads_the_same_clock(offset: str) -> None:
    """A container's boot clock may be days ahead. Leases are compared without this offset."""
    inside = ["unshare", "-T", "--boottime", offset, sys.executable, "-c"]
    if shutil.which("unshare") is None or subprocess.run([*inside, ""], check=False).returncode:
        pytest.skip("this user may not make a time namespace")
    program = "from fedsweep.store.moment import boot_moment; print(boot_moment().seconds)"
    before = boot_moment().seconds
    done = subprocess.run([*inside, program], capture_output=True, text=True, check=True)
    after = boot_moment().seconds
    assert before is not None
    assert after is not None
    assert before < float(done.stdout) < after

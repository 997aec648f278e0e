"""Studies that this user can only read: in another user's folder, or in an archive."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from starlette.testclient import TestClient

from fedsweep.errors import SchemaOld, StoreBusy, StoreEmpty, StoreError, StoreReadOnly
from fedsweep.serve.read_cache import ReadCache
from fedsweep.store.readonly import open_to_read
from fedsweep.store.schema import open_store
from fedsweep.store.transactions import reading, transaction
from tests import study
from tests.acceptance.command import at_once
from tests.unit.serve.pages import TOKEN, anonymous
from tests.unprivileged import read_only

READING = [
    ["status"],
    ["report"],
    ["report", "--format", "json"],
    ["trial", "list"],
    ["trial", "show", "TRIAL"],
    ["trial", "logs", "TRIAL"],
    ["sweep", "list"],
    ["sql", "SELECT count(*) FROM results"],
    ["db", "check"],
    ["db", "gc", "--dry-run"],
    ["export", "parquet", "--output", "OUT"],
    ["export", "tensorboard", "--output", "OUT"],
    ["plan", "PLAN", "--dry-run"],
]
WRITING = [
    ["work", "--until-empty", "--device", "cpu"],
    ["plan", "PLAN"],
    ["sweep", "pause", "study"],
    ["sweep", "cancel", "study"],
    ["trial", "cancel", "TRIAL"],
    ["trial", "retry", "TRIAL"],
    ["db", "upgrade"],
    ["db", "gc"],
]


@pytest.fixture
def folder(sqlite_url: str, tmp_path: Path) -> Path:
    """A folder with only a finished study."""
    store = open_store(sqlite_url)
    study.fill(store, tmp_path)
    store.dispose()
    folder = tmp_path / "foreign"
    folder.mkdir()
    (tmp_path / "fedsweep.db").rename(folder / "fedsweep.db")
    return folder


@pytest.fixture
def analyst(postgres_url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a study on Postgres, for a role that can only read it."""
    store = open_store(postgres_url)
    study.fill(store, tmp_path)
    store.dispose()
    name = f"analyst_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
        url = make_url(postgres_url).set(username=name, password="x")
        yield url.render_as_string(hide_password=False)
        admin.execute(f"DROP OWNED BY {name}")
        admin.execute(f"DROP ROLE {name}")


def _run(command: list[str], url: str, own: Path, code: int = 0) -> str:
    """Return the output of a command on the database at a URL, which writes to our own folder."""
    trial = _trial(url)
    places = {"TRIAL": trial, "OUT": str(own / "out"), "PLAN": str(own / "study.toml")}
    done = at_once(*(places.get(word, word) for word in command), "--db", url, cwd=own, code=code)
    return done.stdout + done.stderr


def _trial(url: str) -> str:
    engine = open_to_read(url)
    with reading(engine) as connection:
        trial = connection.execute(sa.text("SELECT trial_id FROM results LIMIT 1")).scalar_one()
    engine.dispose()
    return str(trial)


def _in_log(folder: Path, *, index: bool) -> Path:
    """Rename the sweep in a log that was not applied, as after a kill, with or without its index.

    Returns the log.
    """
    file = folder / "fedsweep.db"
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("UPDATE sweeps SET name = 'renamed'")
        writer.commit()
        for end in ("", "-wal", "-shm"):
            shutil.copy(f"{file}{end}", folder.parent / f"kept{end}")
    for end in ("", "-wal", "-shm"):
        if index or end != "-shm":
            shutil.move(folder.parent / f"kept{end}", f"{file}{end}")
    return Path(f"{file}-wal")


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_commands_accept_a_read_only_folder(
    command: list[str], folder: Path, tmp_path: Path
) -> None:
    """The output is the same as in a writable folder, and no file is created."""
    url = f"sqlite:///{folder}/fedsweep.db"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with read_only(folder):
        output = _run(command, url, tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert output == _run(command, url, tmp_path)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_commands_need_only_the_right_to_select(
    command: list[str], analyst: str, tmp_path: Path
) -> None:
    """They run on Postgres with a separate role."""
    assert "fedsweep:" not in _run(command, analyst, tmp_path)


@pytest.mark.parametrize("command", WRITING, ids=" ".join)
def test_writing_commands_refuse_a_read_only_folder(
    command: list[str], folder: Path, tmp_path: Path
) -> None:
    """The message is one sentence with its remedy."""
    with read_only(folder):
        output = _run(command, f"sqlite:///{folder}/fedsweep.db", tmp_path, code=2)
    assert output.startswith("fedsweep: foreign/fedsweep.db is read-only here: make its file")
    assert output.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["fedsweep.db"]


@pytest.mark.parametrize("index", [True, False])
def test_a_complete_log_is_read(index: bool, folder: Path) -> None:
    """With its index, it is read in place. Without an index, a private copy is read."""
    _in_log(folder, index=index)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with read_only(folder):
        engine = open_to_read(f"sqlite:///{folder}/fedsweep.db")
        with reading(engine) as connection:
            assert connection.execute(sa.text("SELECT name FROM sweeps")).scalar() == "renamed"
        engine.dispose()
        output = at_once("sql", "SELECT name FROM sweeps", "--db", str(engine.url)).stdout
    assert "renamed" in output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("damage", ["cut in a frame", "cut in its header", "a bit", "its header"])
def test_an_incomplete_log_is_refused(damage: str, index: bool, folder: Path) -> None:
    """SQLite would leave out committed data without an error."""
    wal = _in_log(folder, index=index)
    content = bytearray(wal.read_bytes())
    if damage.startswith("cut"):
        del content[-1000 if damage == "cut in a frame" else 20 :]
    else:
        content[100 if damage == "a bit" else 9] ^= 1
    wal.write_bytes(content)
    with read_only(folder), pytest.raises(StoreError, match="fedsweep.db-wal is not whole: copy"):
        open_to_read(f"sqlite:///{folder}/fedsweep.db")


def test_a_log_with_frames_of_an_earlier_use_is_complete(folder: Path) -> None:
    """SQLite begins the log again at its start, with another salt."""
    wal = folder / "fedsweep.db-wal"
    with closing(sqlite3.connect(folder / "fedsweep.db")) as writer:
        for i in range(50):
            writer.execute(f"INSERT INTO sweeps (name, created_at) VALUES ('{i:0500}', 0)")
        writer.commit()
        writer.execute("PRAGMA wal_checkpoint(RESTART)")
        writer.execute("UPDATE sweeps SET name = 'renamed' WHERE name LIKE '%49'")
        writer.commit()
        with read_only(folder):
            engine = open_to_read(f"sqlite:///{folder}/fedsweep.db")
            with reading(engine) as connection:
                names = connection.execute(sa.text("SELECT name FROM sweeps")).scalars().all()
            engine.dispose()
        assert wal.stat().st_size > 50_000
    assert "renamed" in names


def test_a_change_during_a_read_without_locks_is_noticed(folder: Path) -> None:
    """A result that may be inconsistent is refused."""
    with read_only(folder):
        engine = open_to_read(f"sqlite:///{folder}/fedsweep.db")
        with (
            pytest.raises(StoreBusy, match="was written to while it was read"),
            reading(engine) as connection,
        ):
            _write_during(connection, folder)
        engine.dispose()


def _write_during(connection: sa.Connection, folder: Path) -> None:
    connection.execute(sa.text("SELECT count(*) FROM trials"))
    folder.chmod(0o755)
    (folder / "fedsweep.db-wal").write_bytes(b"x")


def test_the_page_reads_a_read_only_folder(folder: Path) -> None:
    """Every page works, and the SQL box too."""
    with read_only(folder):
        engine = open_to_read(f"sqlite:///{folder}/fedsweep.db", page=True)
        client = _client(engine)
        for path in ("/", "/trials", "/sweeps/study", "/healthz", "/metrics"):
            assert client.get(path).status_code == 200, path
        assert "12" in client.get("/sql?q=SELECT+count(*)+FROM+results").text
        engine.dispose()
    assert [path.name for path in folder.iterdir()] == ["fedsweep.db"]


def _client(engine: sa.Engine) -> TestClient:
    client = anonymous(ReadCache(engine, tick=0.0, rest=0.0))
    client.headers["authorization"] = f"Bearer {TOKEN}"
    return client


def test_an_old_or_empty_read_only_database_has_a_remedy(folder: Path) -> None:
    """A copy can be upgraded. An empty database has nothing to read."""
    url = f"sqlite:///{folder}/fedsweep.db"
    with closing(sqlite3.connect(folder / "fedsweep.db")) as writer:
        writer.execute("UPDATE alembic_version SET version_num = '0005'")
        writer.commit()
    (folder / "empty.db").touch()
    with read_only(folder):
        with pytest.raises(SchemaOld, match="run `fedsweep db upgrade` on the copy"):
            open_to_read(url)
        with pytest.raises(StoreEmpty, match="fedsweep plan"):
            open_to_read(f"sqlite:///{folder}/empty.db")
    assert sorted(path.name for path in folder.iterdir()) == ["empty.db", "fedsweep.db"]


def test_an_engine_that_reads_cannot_write(store_url: str) -> None:
    """The database refuses it, also in a writable folder."""
    open_store(store_url).dispose()
    engine = open_to_read(store_url)
    with (
        pytest.raises(StoreReadOnly, match="is read-only"),
        transaction(engine) as connection,
    ):
        connection.execute(sa.text("INSERT INTO sweeps (name, created_at) VALUES ('x', 0)"))
    engine.dispose()


def test_a_reading_command_leaves_no_file(folder: Path, tmp_path: Path) -> None:
    """It leaves neither a log nor its index in a writable folder."""
    for command in (["status"], ["sql", "SELECT 1"], ["report"]):
        _run(command, f"sqlite:///{folder}/fedsweep.db", tmp_path)
        assert [path.name for path in folder.iterdir()] == ["fedsweep.db"], command

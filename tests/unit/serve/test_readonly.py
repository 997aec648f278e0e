"""The page writes nothing, and survives without its database."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import DBAPIError
from starlette.testclient import TestClient

from fedsweep.errors import SchemaNew, SchemaOld, StoreForeign, StoreMissing, StoreReadOnly
from fedsweep.serve.read_cache import ReadCache
from fedsweep.store.dialects import sqlite_file
from fedsweep.store.readonly import open_to_read
from fedsweep.store.transactions import reading, transaction
from tests.acceptance.command import query
from tests.unit.serve.pages import TOKEN, anonymous, paths


def visit_all(client: TestClient, all_paths: list[str]) -> None:
    for path in [*all_paths, "/metrics", "/healthz"]:
        assert client.get(path).status_code < 500, path


def _bytes_sqlite(url: str) -> object:
    """Return the hashes of the database file and its log."""
    file = sqlite_file(make_url(url))
    assert file is not None
    files = [file, file.with_name(file.name + "-wal")]
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.exists()}


def _written_postgres(url: str) -> object:
    """Return the number of rows ever written to fedsweep's tables."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        connection.commit()
        return connection.execute(
            "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables"
        ).fetchone()


WRITTEN: dict[str, Callable[[str], object]] = {
    "sqlite": _bytes_sqlite, "postgresql": _written_postgres
}  # fmt: skip


def test_no_page_writes(client: TestClient, hostile: Engine, store_url: str) -> None:
    """A SQLite file keeps its bytes. The tables of a server get no new row."""
    written = WRITTEN[hostile.dialect.name]
    all_paths = [path for path in paths(store_url) if not path.startswith("/sql?")]
    before = written(store_url)
    visit_all(client, all_paths)
    assert written(store_url) == before


def test_the_sql_box_writes_nothing(client: TestClient, hostile: Engine, store_url: str) -> None:
    """The function that a superuser's statement needs is rolled back."""
    functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'fedsweep%'"
    written = WRITTEN[hostile.dialect.name]
    before = written(store_url)
    assert client.get("/sql?q=SELECT+1").status_code == 200
    assert written(store_url) == before
    if hostile.dialect.name == "sqlite":
        return
    assert query(store_url, functions) == [(0,)]


def test_the_database_refuses_a_write_of_the_page(read_cache: ReadCache, worked: Engine) -> None:
    """So a bug of the page cannot write."""
    with pytest.raises((StoreReadOnly, DBAPIError)), transaction(read_cache.engine) as connection:
        connection.execute(sa.text("DELETE FROM trials"))
    with reading(worked) as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM trials")).scalar_one() == 6


def test_a_role_that_can_only_read_is_enough(hostile: Engine, store_url: str) -> None:
    """The role is the analyst of the README."""
    if hostile.dialect.name != "postgresql":
        pytest.skip("SQLite has no roles")
    name = f"analyst_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(store_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
        admin.execute(f"GRANT USAGE ON SCHEMA public TO {name}")
        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
    url = make_url(store_url).set(username=name, password="x")
    engine = open_to_read(url.render_as_string(hide_password=False))
    try:
        client = anonymous(ReadCache(engine, tick=0.0, rest=0.0))
        client.headers["authorization"] = f"Bearer {TOKEN}"
        visit_all(client, paths(store_url))
    finally:
        engine.dispose()
        with psycopg.connect(store_url, autocommit=True) as admin:
            admin.execute(f"DROP OWNED BY {name}")
            admin.execute(f"DROP ROLE {name}")


def test_an_older_or_newer_schema_is_refused(store: Engine, store_url: str) -> None:
    """The page does so like every command."""
    for revision, error in (("0004", SchemaOld), ("9999", SchemaNew)):
        with transaction(store) as connection:
            connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{revision}'"))
        with pytest.raises(error):
            open_to_read(store_url)


def test_a_file_that_is_not_a_store_is_refused_and_unchanged(tmp_path: Path) -> None:
    """The file is missing, empty, or of another application."""
    with pytest.raises(StoreMissing):
        open_to_read(f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []
    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(StoreMissing, match="fedsweep plan"):
        open_to_read(f"sqlite:///{empty}")
    other = sa.create_engine(f"sqlite:///{tmp_path}/other.db")
    with other.begin() as connection:
        connection.execute(sa.text("CREATE TABLE x (y integer)"))
    other.dispose()
    with pytest.raises(StoreForeign):
        open_to_read(f"sqlite:///{tmp_path}/other.db")


def test_a_file_that_is_moved_away_is_not_created_again(
    client: TestClient, worked: Engine, store_url: str
) -> None:
    """Pages answer 503 until the file is back."""
    file = sqlite_file(make_url(store_url))
    if file is None:
        pytest.skip("a server has no file")
    worked.dispose()
    away = file.rename(file.with_name("away.db"))
    for path in ("/", "/trials", "/sweeps/tiny", "/metrics", "/events?screen=nothing"):
        answer = client.get(path)
        assert answer.status_code in (503, 404), path
    gone = client.get("/")
    assert "The database does not answer" in gone.text
    assert str(file) not in gone.text
    assert client.get("/healthz").status_code == 503
    assert not file.exists()
    away.rename(file)
    assert client.get("/").status_code == 200
    assert client.get("/healthz").status_code == 200


def test_an_error_of_the_store_does_not_show_its_address(
    client: TestClient, read_cache: ReadCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User, host and password are secret."""
    from fedsweep.errors import StoreUnreachable

    def fail(*_: object, **__: object) -> None:
        raise StoreUnreachable("postgresql://user@host/db?sslpassword=secret cannot be reached")

    monkeypatch.setattr(read_cache, "read", fail)
    for path in ("/", "/sql?q=SELECT+1", "/trials/ab", "/metrics"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert "user@host" not in answer.text
        assert "secret" not in answer.text

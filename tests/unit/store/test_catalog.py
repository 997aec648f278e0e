"""Databases that are not empty, belong to another application, or cannot store every text."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine, make_url

from fedsweep.errors import StoreError, StoreForeign
from fedsweep.store import catalog, schema
from fedsweep.store.engine import make_engine
from fedsweep.store.readonly import open_to_read
from fedsweep.store.transactions import reading, transaction

VERSIONED = "CREATE TABLE alembic_version (version_num text)"
ON_BOTH = {
    "table": ["CREATE TABLE users (id integer)"],
    "table of our name": ["CREATE TABLE trials (id integer)"],
    "view": ["CREATE VIEW results AS SELECT 1 AS one"],
    "alembic": [VERSIONED, "INSERT INTO alembic_version VALUES ('ab12')"],
    "alembic of our revision": [VERSIONED, "INSERT INTO alembic_version VALUES ('0007')"],
    "alembic without a revision": [VERSIONED],
}
OTHERS = {
    "sqlite": ON_BOTH | {"application_id": ["PRAGMA application_id = 252006673"]},
    "postgres": ON_BOTH
    | {
        "sequence": ["CREATE SEQUENCE store"],
        "type": ["CREATE TYPE trials AS ENUM ('one')"],
        "composite type": ["CREATE TYPE sweeps AS (one integer)"],
        "domain": ["CREATE DOMAIN rounds AS integer"],
        "materialized view": ["CREATE MATERIALIZED VIEW cells AS SELECT 1 AS one"],
    },
}


@pytest.mark.parametrize(
    ("database", "other"), [(name, other) for name, others in OTHERS.items() for other in others]
)
def test_a_database_of_another_application_is_refused_and_kept(
    database: str, other: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The message contains a remedy, and no table is created."""
    url = f"sqlite:///{tmp_path}/other.db"
    if database == "postgres":
        url = request.getfixturevalue("empty_postgres")
    _run(url, OTHERS[database][other])
    before = _names(url)
    for open_one in (lambda: schema.open_store(url, create=True), lambda: open_to_read(url)):
        with pytest.raises(StoreForeign, match="of another application; (name|make)"):
            open_one()
    assert _names(url) == before


def test_a_foreign_sqlite_file_keeps_its_bytes(tmp_path: Path) -> None:
    """The journal mode does not change either."""
    file = tmp_path / "other.db"
    _run(f"sqlite:///{file}", ON_BOTH["table"])
    before = file.read_bytes()
    with pytest.raises(StoreForeign):
        schema.open_store(f"sqlite:///{file}", create=True)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_database_with_an_extension_counts_as_empty(empty_postgres: str) -> None:
    """The tables, views, sequences and types of an extension belong to it."""
    known = "SELECT name FROM pg_available_extensions WHERE name = ANY(%s)"
    with psycopg.connect(empty_postgres, autocommit=True) as admin:
        extensions = ["pg_stat_statements", "pg_buffercache", "hstore", "citext", "vector"]
        names = [name for (name,) in admin.execute(known, (extensions,))]
        if not names:
            pytest.skip("this server has no extensions")
        for name in names:
            admin.execute(f"CREATE EXTENSION {name}")
    schema.open_store(empty_postgres).dispose()


def test_other_tables_next_to_a_store_are_allowed(store: Engine, store_url: str) -> None:
    """They are a user's notes, or another application's revision in alembic_version."""
    with transaction(store) as connection:
        connection.execute(sa.text("CREATE TABLE notes (text text)"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('another')"))
    schema.open_store(store_url).dispose()
    open_to_read(store_url).dispose()


def test_a_search_path_without_a_schema_is_refused(empty_postgres: str) -> None:
    """The message names the search_path and the remedy."""
    name = make_url(empty_postgres).database
    with psycopg.connect(empty_postgres, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} SET search_path = nowhere")
    for open_one in (schema.open_store, open_to_read):
        with pytest.raises(
            StoreError, match=r"search_path \(nowhere\) that its user may use: make one"
        ):
            open_one(empty_postgres)


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def other_encoding(request: pytest.FixtureRequest, postgres_server: str) -> Iterator[str]:
    """The URL of an empty database in another encoding than UTF-8."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE {name} ENCODING {request.param} LOCALE 'C' TEMPLATE template0"
        )
        yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_store_is_only_created_in_utf_8(other_encoding: str) -> None:
    """The message explains how to create a database in UTF-8, and no table is created."""
    with pytest.raises(StoreError, match="createdb -E UTF8 -T template0"):
        schema.open_store(other_encoding)
    assert _names(other_encoding) == set()


def _run(url: str, statements: list[str]) -> None:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        return
    with psycopg.connect(url, autocommit=True) as admin:
        for statement in statements:
            admin.execute(statement)


def _names(url: str) -> set[str]:
    engine = make_engine(url)
    with reading(engine) as connection:
        names = catalog.contents(connection).names
    engine.dispose()
    return set(names)

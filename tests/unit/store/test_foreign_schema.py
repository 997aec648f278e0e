"""A database of another user: views and triggers with our names are not executed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from fedsweep.errors import StoreBusy, StoreForeign
from fedsweep.plans import read_plan
from fedsweep.store import planning
from fedsweep.store.dialects import DIALECTS, sqlite_engine
from fedsweep.store.engine import make_engine
from fedsweep.store.readonly import open_to_read
from fedsweep.store.schema import open_store
from fedsweep.store.sql import ask
from fedsweep.store.transactions import reading, transaction
from fedsweep.store.views import NAMES, statements

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i AS trial_id FROM n"


def change(url: str, *texts: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        for text in texts:
            connection.execute(text)
        connection.commit()


@pytest.mark.parametrize("room", [None, 2**20])
@pytest.mark.parametrize("page", [True, False])
def test_a_foreign_view_is_not_executed(
    page: bool, room: int | None, sqlite_url: str, tiny: Path
) -> None:
    """The pages, the commands and the SQL box read our views. A foreign one may never end, or
    return false values.
    """
    store = open_store(sqlite_url)
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tiny))
    store.dispose()
    false = "SELECT 'false' AS sweep, 'x' AS trial_id"
    change(
        sqlite_url,
        *(f"DROP VIEW {name}" for name in NAMES),
        *(f"CREATE VIEW {name} AS {false if name == 'members' else ENDLESS}" for name in NAMES),
    )
    engine = open_to_read(sqlite_url, page=page)
    with reading(engine) as connection:
        for name in NAMES:
            connection.execute(sa.text(f"SELECT * FROM {name}")).all()
    assert ask.ask(engine, "SELECT DISTINCT sweep FROM members", room=room).rows == [("tiny",)]
    assert ask.ask(engine, "SELECT count(*) FROM results", room=room).rows == [(6,)]
    engine.dispose()


def test_our_own_views_are_read_from_the_file(sqlite_url: str) -> None:
    """SQLite stores their exact text, so that no connection creates them again."""
    engine = open_to_read(sqlite_url)
    with reading(engine) as connection:
        stored = connection.execute(
            sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'view'")
        )
        assert {row.name: row.sql for row in stored} == statements(DIALECTS["sqlite"])
        made = sa.text("SELECT count(*) FROM sqlite_temp_master")
        assert connection.execute(made).scalar_one() == 0
    engine.dispose()


@pytest.mark.parametrize("table", ["trials", "sweep_members", "alembic_version", "store"])
@pytest.mark.parametrize("impostor", [f"VIEW {{}} AS {ENDLESS}", "VIRTUAL TABLE {} USING fts5(a)"])
def test_a_view_in_place_of_our_table_is_refused(
    impostor: str, table: str, sqlite_url: str
) -> None:
    """The message is one sentence, and nothing is read from the view."""
    change(
        sqlite_url,
        "PRAGMA foreign_keys = OFF",
        *(f"DROP VIEW {name}" for name in NAMES),
        f"DROP TABLE {table}",
        "CREATE " + impostor.format(table),
    )
    for opened in (open_to_read, open_store):
        with pytest.raises(StoreForeign, match=f"{table} in it is not a table; name another file"):
            opened(sqlite_url)


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_in_place_of_our_table_is_refused_on_a_server(kind: str, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute("ALTER TABLE logs RENAME TO kept")
        admin.execute(f"CREATE {kind} logs AS SELECT * FROM kept")
    for opened in (open_to_read, open_store):
        with pytest.raises(StoreForeign, match="logs in it is not a table"):
            opened(postgres_url)


@pytest.mark.parametrize("seconds", [0.1])
def test_a_statement_that_never_ends_is_interrupted(
    seconds: float, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a page, the database does not answer, and the next read comes soon."""
    monkeypatch.setattr(sqlite_engine, "PAGE_STATEMENT_SECONDS", seconds)
    engine = open_to_read(sqlite_url, page=True)
    with pytest.raises(StoreBusy, match="took too long to answer"), reading(engine) as connection:
        connection.execute(sa.text(f"SELECT max(trial_id) FROM ({ENDLESS})"))
    with reading(engine) as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
    engine.dispose()


def test_a_trigger_that_never_ends_is_interrupted(
    sqlite_url: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written."""
    monkeypatch.setattr(sqlite_engine, "STATEMENT_SECONDS", 0.1)
    store = make_engine(sqlite_url)
    change(
        sqlite_url,
        "CREATE TRIGGER endless AFTER INSERT ON sweeps BEGIN "
        "UPDATE trials SET id = id WHERE id IN "
        "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i FROM n); END",
    )
    with pytest.raises(StoreBusy, match="took too long"), transaction(store) as connection:
        planning.add_sweep(connection, read_plan(tiny))
    with reading(store) as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM sweeps")).scalar_one() == 0
    store.dispose()

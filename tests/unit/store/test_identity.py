"""A store that is no longer the one that was opened is noticed at the next write."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep.errors import StoreReplaced
from fedsweep.store import identity as looks
from fedsweep.store.identity import of, require, store_name
from fedsweep.store.schema import open_store
from fedsweep.store.tables import identity, sweeps
from fedsweep.store.transactions import patiently, transaction

ADDED = sa.insert(sweeps).values(name="s", created_at=0.0)


@pytest.fixture(autouse=True)
def at_each_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a connection check the store's name in each transaction."""
    monkeypatch.setattr(looks, "TRUSTED_SECONDS", 0.0)


def names(url: str) -> list[str]:
    engine = open_store(url)
    with transaction(engine) as c:
        result = list(c.execute(sa.select(sweeps.c.name)).scalars())
    engine.dispose()
    return result


@pytest.fixture
def opened(sqlite_url: str) -> Iterator[Engine]:
    """A store that was opened and written to."""
    engine = open_store(sqlite_url)
    with transaction(engine) as c:
        c.execute(ADDED)
    yield engine
    engine.dispose()


def refused(engine: Engine, why: str) -> None:
    """Check that two writes fail, without waiting as for an outage, and that no file is created."""
    for _ in range(2):
        with pytest.raises(StoreReplaced, match=why) as error:
            patiently(engine, lambda c: c.execute(sa.update(sweeps).values(name="no")))
        assert error.value.exit_code == 2
        assert "\n" not in str(error.value)


def test_a_file_that_was_deleted_is_not_written_to(opened: Engine, tmp_path: Path) -> None:
    """After `rm fedsweep.db*`, no empty file is created in its place."""
    for file in tmp_path.glob("fedsweep.db*"):
        file.unlink()
    refused(opened, "fedsweep.db was deleted while it was in use")
    assert list(tmp_path.glob("fedsweep.db*")) == []


def test_a_file_that_was_deleted_during_a_write_is_noticed_after_it(
    opened: Engine, tmp_path: Path
) -> None:
    """The committed data is in no file."""

    def write() -> None:
        with transaction(opened) as c:
            c.execute(sa.update(sweeps).values(name="no"))
            (tmp_path / "fedsweep.db").unlink()

    with pytest.raises(StoreReplaced, match="was deleted"):
        write()


def test_a_file_that_was_replaced_is_not_written_to(
    opened: Engine, sqlite_template: Path, tmp_path: Path
) -> None:
    """The new file, such as a backup, has the same store's name."""
    for file in tmp_path.glob("fedsweep.db*"):
        file.unlink()
    shutil.copy(sqlite_template, tmp_path / "fedsweep.db")
    refused(opened, "fedsweep.db was replaced while it was in use")
    assert names(str(opened.url)) == []


def test_a_file_that_was_filled_with_another_store_is_not_written_to(
    opened: Engine, tmp_path: Path
) -> None:
    """The file is the same, but the store is another one."""
    opened.dispose()
    other = sqlite3.connect(tmp_path / "fedsweep.db")
    with other:
        other.execute("UPDATE store SET id = 'fedcba9876543210'")
    other.close()
    refused(opened, "fedsweep.db was made again while it was in use")
    assert names(str(opened.url)) == ["s"]


def test_a_file_that_was_moved_away_and_back_is_the_same(opened: Engine, tmp_path: Path) -> None:
    """No data is lost."""
    file = tmp_path / "fedsweep.db"
    file.rename(tmp_path / "away")
    refused(opened, "was deleted")
    (tmp_path / "away").rename(file)
    with transaction(opened) as c:
        assert c.execute(sa.select(sweeps.c.name)).scalar_one() == "s"


def test_a_server_s_database_that_was_recreated_is_not_written_to(
    postgres_url: str, postgres_server: str
) -> None:
    """It was dropped and created, by this version or empty, also under an open connection."""
    engine = open_store(postgres_url)
    with transaction(engine) as c:
        c.execute(ADDED)
    schema = ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as admin:
        for statement in schema:
            admin.execute(statement)
    refused(engine, "the database on the server was emptied while it was in use")
    open_store(postgres_url).dispose()
    refused(engine, "the database on the server was made again while it was in use")
    assert names(postgres_url) == []
    engine.dispose()
    again = open_store(postgres_url)
    name = str(again.url.database)
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name}")
    refused(again, "the database on the server was emptied while it was in use")
    again.dispose()


def test_a_store_recognizes_itself(store: Engine, store_url: str) -> None:
    """After it is opened again, it is the same store. Another store differs from it."""
    again = open_store(store_url)
    require(again, of(store))
    with transaction(again) as c:
        assert store_name(c) == c.execute(sa.select(identity.c.id)).scalar_one()
        c.execute(sa.update(identity).values(id="fedcba9876543210"))
    again.dispose()
    other = open_store(store_url)
    with pytest.raises(StoreReplaced, match="is another one than when the command began"):
        require(other, of(store))
    other.dispose()


@pytest.mark.parametrize("name", ["..", "", "x" * 16])
def test_an_invalid_store_name_counts_as_missing(name: str, store: Engine, store_url: str) -> None:
    """A foreign database may have such a name."""
    with transaction(store) as c:
        c.execute(sa.update(identity).values(id=name))
    foreign = open_store(store_url)
    with transaction(foreign) as c:
        assert store_name(c) == ""
    foreign.dispose()


def test_a_connection_relies_on_its_last_check_for_a_while(
    opened: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the store is recreated, the first write after that time notices it."""
    monkeypatch.setattr(looks, "TRUSTED_SECONDS", 3600.0)
    with transaction(opened) as c:
        c.execute(sa.update(identity).values(id="0" * 16))
    with transaction(opened) as c:
        c.info.clear()
    refused(opened, "was made again while it was in use")

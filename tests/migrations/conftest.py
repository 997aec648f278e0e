"""A store as the first version of the schema left it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from fedsweep.store import schema
from fedsweep.store.engine import make_engine
from fedsweep.store.transactions import transaction
from tests.migrations.versions import (
    ROWS,
    ROWS_OF_0002,
    ROWS_OF_0003,
    ROWS_OF_0004,
    ROWS_OF_0005,
    ROWS_OF_0006,
    ROWS_OF_0007,
    ROWS_OF_0008,
)

VIEWS = ("results", "curves", "members", "cells", "ledger")


@pytest.fixture(params=["sqlite", "postgres"])
def first_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database at revision 0001 with rows in it, on each database."""
    return _filled(request, f"sqlite:///{tmp_path}/first.db", "0001", ROWS)


@pytest.fixture(params=["sqlite", "postgres"])
def second_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same at revision 0002."""
    return _filled(request, f"sqlite:///{tmp_path}/second.db", "0002", ROWS_OF_0002)


@pytest.fixture(params=["sqlite", "postgres"])
def third_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same at revision 0003."""
    return _filled(request, f"sqlite:///{tmp_path}/third.db", "0003", ROWS_OF_0003)


@pytest.fixture(params=["sqlite", "postgres"])
def fourth_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same at revision 0004."""
    return _filled(request, f"sqlite:///{tmp_path}/fourth.db", "0004", ROWS_OF_0004)


@pytest.fixture(params=["sqlite", "postgres"])
def fifth_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same at revision 0005."""
    return _filled(request, f"sqlite:///{tmp_path}/fifth.db", "0005", ROWS_OF_0005)


@pytest.fixture(params=["sqlite", "postgres"])
def sixth_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same at revision 0006."""
    return _filled(request, f"sqlite:///{tmp_path}/sixth.db", "0006", ROWS_OF_0006)


@pytest.fixture(params=["sqlite", "postgres"])
def seventh_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same at revision 0007."""
    return _filled(request, f"sqlite:///{tmp_path}/seventh.db", "0007", ROWS_OF_0007)


@pytest.fixture(params=["sqlite", "postgres"])
def eighth_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same at revision 0008."""
    return _filled(request, f"sqlite:///{tmp_path}/eighth.db", "0008", ROWS_OF_0008)


def _filled(
    request: pytest.FixtureRequest, url: str, revision: str, kept: dict[str, list[dict[str, Any]]]
) -> str:
    if request.param == "postgres":
        url = request.getfixturevalue("empty_postgres")
    engine = make_engine(url, create=True)
    with transaction(engine) as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        there = sa.MetaData()
        there.reflect(connection)
        for name, rows in kept.items():
            connection.execute(sa.delete(there.tables[name]))  # what the schema came with
            for row in rows:
                connection.execute(sa.insert(there.tables[name]).values(**row))
        for name in VIEWS:  # another version's: what they said does not matter
            connection.execute(sa.text(f"CREATE VIEW {name} AS SELECT trial_id FROM trials"))
    engine.dispose()
    return url

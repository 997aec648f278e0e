"""A store as the first version of the schema left it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from fedsweep.store import schema
from fedsweep.store.engine import make_engine, transaction

ROWS = json.loads(Path(__file__).with_name("rows_of_0001.json").read_text())
"""What fedsweep 0.1 stored of five small trials: two finished, one given back after a round, one
not begun, one diverged. (Their `numerics_id` is nobody's.)"""

VIEWS = ("results", "curves", "members", "cells", "ledger")


ROWS_OF_0002 = json.loads(Path(__file__).with_name("rows_of_0002.json").read_text())
"""What the second version's code stored of two sweeps that share a trial: two trials finished, with
weights and clients' accuracies, one diverged, one given back after two rounds and claimed again
(its lease is long over), one cancelled, one not begun."""


ROWS_OF_0003 = json.loads(Path(__file__).with_name("rows_of_0003.json").read_text())
"""What the third version's code stored of two sweeps that share a trial: two trials finished, one
diverged, one given back after two rounds, one claimed (its lease is long over), one paused, one
cancelled; with files, logs and a budget."""


ROWS_OF_0004 = json.loads(Path(__file__).with_name("rows_of_0004.json").read_text())
"""What the fourth version's code stored of two sweeps that share trunks: a BN trial paused after
three of its five rounds, which others fork from; one finished; FIXBN trials that fork after round
1, 2, 3 and 4, of which one was given back, one is claimed (its lease is long over), and two are not
begun; and GN's."""


ROWS_OF_0005 = json.loads(Path(__file__).with_name("rows_of_0005.json").read_text())
"""What the fifth version's code stored of a sweep that searches: BN, GN and T* = 5 finished with
two seeds each; of the second proposal, T* = 3, one seed was given back and is claimed again (its
lease is long over), one is not begun."""


ROWS_OF_0006 = json.loads(Path(__file__).with_name("rows_of_0006.json").read_text())
"""The rows that the sixth version's code stored of a sweep with kept weights, diagnostics and the
accuracies of clients: BN and GN finished with two seeds each; of FIXBN, one trial failed, one lost
its worker and is claimed again (its lease is long over), one is queued, and one is canceled."""


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

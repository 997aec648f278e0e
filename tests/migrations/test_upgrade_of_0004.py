"""A database of the fourth version, upgraded: nothing is lost, and its trunks can be searched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.plans import read_plan
from fedsweep.store import arms, planning, schema
from fedsweep.store.engine import make_engine
from fedsweep.store.tables import plans, trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer import integrity
from tests.migrations.versions import ROWS_OF_0004, everything
from tests.unit.search.searches import work

pytestmark = pytest.mark.usefixtures("own_data_folder")


SEARCH = """
[[grid]]
normalizer = "fixbn"
validation = 0.2
[search]
freeze_round = { low = 1, high = 5, step = 1 }
probes_per_arm = 3
"""


@pytest.fixture
def upgraded(fourth_store: str) -> Iterator[Engine]:
    engine = make_engine(fourth_store)
    assert schema.migrate(engine) == ("0004", schema.head())
    yield engine
    engine.dispose()


def test_an_upgrade_keeps_every_value_of_every_row(fourth_store: str) -> None:
    """Columns are added, none is changed; the database is sound."""
    before = everything(fourth_store)
    assert {name: len(before[name]) for name in ROWS_OF_0004} == {
        name: len(rows) for name, rows in ROWS_OF_0004.items()
    }
    engine = make_engine(fourth_store)
    schema.migrate(engine)
    after = everything(fourth_store)
    for name in ROWS_OF_0004:
        kept = [{column: row[column] for column in before[name][0]} for row in after[name]]
        assert sorted(kept, key=repr) == sorted(before[name], key=repr)
    assert integrity.faults(engine) == []
    engine.dispose()


def test_trials_that_share_a_trunk_continue(upgraded: Engine) -> None:
    """Its snapshots are elsewhere, and so the trunk begins again; the paused carrier stays so."""
    assert work(upgraded) == 5
    with reading(upgraded) as c:
        query = sa.select(trials.c.state, trials.c.held).order_by(trials.c.id)
        found = [tuple(row) for row in c.execute(query)]
    assert found == [("queued", "pause"), *[("finished", None)] * 6]
    assert integrity.faults(upgraded) == []


def test_a_plan_of_before_can_be_searched(upgraded: Engine, tmp_path: Path) -> None:
    """Planned again with a search: its arm is found, and runs to its end."""
    with reading(upgraded) as c:
        text = c.execute(sa.select(plans.c.text).order_by(plans.c.id)).scalars().first()
    assert text is not None
    file = tmp_path / "fourth.toml"
    file.write_text(text + SEARCH)
    sweep = read_plan(file)
    with transaction(upgraded) as c:
        assert planning.add_sweep(c, sweep).new == 0
        assert arms.add_arms(c, sweep, 0) == 1
        queue.planned(c, sweep.name, sweep.budget)
    work(upgraded)
    with reading(upgraded) as c:
        (arm,) = arms.of_sweep(c, "fourth")
    assert arm.ended is not None
    assert integrity.faults(upgraded) == []

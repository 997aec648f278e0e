"""A database of the third version, upgraded: nothing is lost, its trials go on alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.execution.attempt import execute
from fedsweep.execution.place import Place
from fedsweep.plans import read_plan
from fedsweep.states import Outcome
from fedsweep.store import planning, schema
from fedsweep.store.clock import read_clock
from fedsweep.store.engine import make_engine
from fedsweep.store.tables import plans, trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer import integrity
from tests.migrations.versions import ROWS_OF_0003, everything

pytestmark = pytest.mark.usefixtures("own_data_folder")


@pytest.fixture
def upgraded(third_store: str) -> Iterator[Engine]:
    engine = make_engine(third_store)
    assert schema.migrate(engine) == ("0003", schema.head())
    yield engine
    engine.dispose()


def test_an_upgrade_keeps_every_value_of_every_row(third_store: str) -> None:
    """Columns are added, none is changed; the database is sound."""
    before = everything(third_store)
    assert {name: len(before[name]) for name in ROWS_OF_0003} == {
        name: len(rows) for name, rows in ROWS_OF_0003.items()
    }
    engine = make_engine(third_store)
    schema.migrate(engine)
    after = everything(third_store)
    for name in ROWS_OF_0003:
        kept = [{column: row[column] for column in before[name][0]} for row in after[name]]
        assert sorted(kept, key=repr) == sorted(before[name], key=repr)
    assert integrity.faults(engine) == []
    engine.dispose()


def test_trials_that_were_begun_share_nothing(upgraded: Engine) -> None:
    """Running, released and waiting trials share nothing. The paused one stays paused."""
    place, finished = Place(), 0
    with reading(upgraded) as c:
        assert c.execute(sa.select(trials.c.trunk).distinct()).scalars().all() == [None]
    while True:
        with transaction(upgraded) as c:
            claim = queue.claim(c, queue.Claimant("w", "cpu"), read_clock(c))
        if claim is None:
            break
        end = execute(upgraded, claim, place, lambda: False, lambda _: None)
        assert end is not None
        assert end.outcome is Outcome.FINISHED
        finished += 1
    assert finished == 2
    with reading(upgraded) as c:
        states = c.execute(sa.select(trials.c.state).order_by(trials.c.id)).scalars().all()
    assert states == ["finished"] * 2 + ["failed"] + ["finished"] * 2 + ["queued", "cancelled"]
    assert integrity.faults(upgraded) == []


def test_a_plan_of_before_adds_trials_that_share(upgraded: Engine, tmp_path: Path) -> None:
    """Planned again with further freeze rounds: the new ones have a trunk, the old ones stay."""
    with reading(upgraded) as c:
        text = c.execute(sa.select(plans.c.text).order_by(plans.c.id)).scalars().first()
    assert text is not None
    file = tmp_path / "third.toml"
    file.write_text(text.replace("freeze_round = [1, 2]", "freeze_round = [1, 2, 3, 4]"))
    with transaction(upgraded) as c:
        assert planning.add_sweep(c, read_plan(file)).new == 2
        found = c.execute(sa.select(trials.c.trunk, trials.c.waits).order_by(trials.c.id)).all()
    assert [row.waits for row in found] == [0] * 7 + [1, 0]
    assert [row.trunk is None for row in found] == [True] * 7 + [False] * 2

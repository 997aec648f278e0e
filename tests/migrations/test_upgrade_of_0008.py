"""A database of the eighth version, upgraded: nothing is lost, and its trials finish."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from fedsweep.states import Outcome
from fedsweep.store import launches, schema, trial_rows
from fedsweep.store.engine import make_engine
from fedsweep.store.tables import trials
from fedsweep.store.transactions import reading
from fedsweep.transfer import integrity
from tests.migrations.versions import ROWS_OF_0008, everything
from tests.unit.search.searches import work

pytestmark = pytest.mark.usefixtures("own_data_folder")


def test_an_upgrade_keeps_every_value_of_every_row(eighth_store: str) -> None:
    """Nothing was launched from such a database."""
    before = everything(eighth_store)
    assert {name: len(before[name]) for name in ROWS_OF_0008} == {
        name: len(rows) for name, rows in ROWS_OF_0008.items()
    }
    engine = make_engine(eighth_store)
    assert schema.migrate(engine) == ("0008", schema.head())
    after = everything(eighth_store)
    for name in ROWS_OF_0008:
        kept = [{column: row[column] for column in before[name][0]} for row in after[name]]
        assert sorted(kept, key=repr) == sorted(before[name], key=repr)
    assert integrity.faults(engine) == []
    with reading(engine) as c:
        assert launches.every(c) == []
    engine.dispose()


def test_open_trials_finish_and_ended_ones_keep_their_rows(eighth_store: str) -> None:
    """The trial that lost its worker too, with its algorithm and Adam."""
    engine = make_engine(eighth_store)
    schema.migrate(engine)
    ended = sa.select(trials).where(trials.c.id.in_([1, 2, 3])).order_by(trials.c.id)
    with reading(engine) as c:
        before = c.execute(ended).all()
    assert work(engine) == 3
    with reading(engine) as c:
        assert c.execute(ended).all() == before
        states = sa.select(trials.c.state, trials.c.optimizer).where(trials.c.id > 3)
        assert list(c.execute(states)) == [("finished", "adam")] * 3
        outcomes = [attempt["outcome"] for attempt in trial_rows.trial_attempts(c, 4)]
    assert outcomes == [Outcome.RELEASED, Outcome.EXPIRED, Outcome.FINISHED]
    assert integrity.faults(engine) == []
    engine.dispose()

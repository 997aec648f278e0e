"""A database of the sixth version, upgraded: nothing is lost, and its trials finish."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from fedsweep.states import Outcome
from fedsweep.store import schema, stops, trial_rows
from fedsweep.store.engine import make_engine
from fedsweep.store.tables import trials
from fedsweep.store.tables import weights as kept_weights
from fedsweep.store.transactions import reading
from fedsweep.transfer import integrity
from tests.migrations.versions import ROWS_OF_0006, everything
from tests.unit.search.searches import work

pytestmark = pytest.mark.usefixtures("own_data_folder")


def test_an_upgrade_keeps_every_value_of_every_row(sixth_store: str) -> None:
    """A table is added; the database is sound, and no worker has stopped."""
    before = everything(sixth_store)
    assert {name: len(before[name]) for name in ROWS_OF_0006} == {
        name: len(rows) for name, rows in ROWS_OF_0006.items()
    }
    engine = make_engine(sixth_store)
    assert schema.migrate(engine) == ("0006", schema.head())
    after = everything(sixth_store)
    for name in ROWS_OF_0006:
        kept = [{column: row[column] for column in before[name][0]} for row in after[name]]
        assert sorted(kept, key=repr) == sorted(before[name], key=repr)
    assert integrity.faults(engine) == []
    with reading(engine) as c:
        assert stops.recent(c) == []
    engine.dispose()


def test_open_trials_finish_and_ended_ones_keep_their_rows(sixth_store: str) -> None:
    """The trial that lost its worker too; new files carry the name of the database."""
    engine = make_engine(sixth_store)
    schema.migrate(engine)
    ended = sa.select(trials).where(trials.c.id.in_([1, 2, 3, 4, 5, 8])).order_by(trials.c.id)
    with reading(engine) as c:
        before = c.execute(ended).all()
    assert work(engine) == 2
    with reading(engine) as c:
        assert c.execute(ended).all() == before
        open_states = sa.select(trials.c.state).where(trials.c.id.in_([6, 7]))
        assert list(c.execute(open_states).scalars()) == ["finished", "finished"]
        outcomes = [attempt["outcome"] for attempt in trial_rows.trial_attempts(c, 6)]
        names = sa.select(kept_weights.c.name).where(kept_weights.c.trial.in_([6, 7]))
        store = ROWS_OF_0006["store"][0]["id"]
        assert all(f"-{store}-weights." in name for name in c.execute(names).scalars())
    assert outcomes == [Outcome.EXPIRED, Outcome.EXPIRED, Outcome.FINISHED]
    assert integrity.faults(engine) == []
    engine.dispose()

"""A database of the seventh version, upgraded: nothing is lost, and its trials finish."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from fedsweep.fields import added_by
from fedsweep.states import Outcome
from fedsweep.store import schema, stops, trial_rows
from fedsweep.store.engine import make_engine
from fedsweep.store.tables import stops as stops_table
from fedsweep.store.tables import trials
from fedsweep.store.tables import weights as kept_weights
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer import integrity
from tests.migrations.versions import ROWS_OF_0007, everything
from tests.unit.search.searches import work

pytestmark = pytest.mark.usefixtures("own_data_folder")


def test_an_upgrade_keeps_every_value_of_every_row(seventh_store: str) -> None:
    """Columns are added. Every trial of that version was FedAvg, with SGD at the client."""
    before = everything(seventh_store)
    assert {name: len(before[name]) for name in ROWS_OF_0007} == {
        name: len(rows) for name, rows in ROWS_OF_0007.items()
    }
    engine = make_engine(seventh_store)
    assert schema.migrate(engine) == ("0007", schema.head())
    after = everything(seventh_store)
    for name in ROWS_OF_0007:
        kept = [{column: row[column] for column in before[name][0]} for row in after[name]]
        assert sorted(kept, key=repr) == sorted(before[name], key=repr)
    assert integrity.faults(engine) == []
    for row in after["trials"]:
        added = {name: row[name] for name in added_by(8) if row[name] is not None}
        federated = {} if row["centralized"] else {"algorithm": "fedavg"}
        assert added == federated | {"optimizer": "sgd"}
    engine.dispose()


def test_a_stop_of_a_worker_can_be_read(seventh_store: str) -> None:
    """The row of a lack names the model alone; new ones may name weights and code too."""
    engine = make_engine(seventh_store)
    schema.migrate(engine)
    with transaction(engine) as c:
        for stop in ROWS_OF_0007["stops"]:
            lack = json.loads(stop["lacks"]) if "lacks" in stop else None
            lack = lack and tuple(map(tuple, lack))
            names = ("host", "pid", "device", "reason")
            stops.note(c, **{name: stop[name] for name in names}, lack=lack)
    with reading(engine) as c:
        stored = c.execute(sa.select(stops_table.c.lacks).order_by(stops_table.c.id)).scalars()
        assert list(stored) == 2 * [None, '[["model", "resnet18"]]']
    engine.dispose()


def test_open_trials_finish_and_ended_ones_keep_their_rows(seventh_store: str) -> None:
    """The trial that lost its worker too; new files carry the name of the database."""
    engine = make_engine(seventh_store)
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
        store = ROWS_OF_0007["store"][0]["id"]
        assert all(f"-{store}-weights." in name for name in c.execute(names).scalars())
    assert outcomes == [Outcome.EXPIRED, Outcome.FINISHED]
    assert integrity.faults(engine) == []
    engine.dispose()

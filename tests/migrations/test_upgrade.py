"""A database of the first version, upgraded: nothing is lost, and its trials go on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.execution.attempt import execute
from fedsweep.execution.place import Place
from fedsweep.fields import config_columns
from fedsweep.plans import TrainConfig, TrialSpec
from fedsweep.states import Outcome
from fedsweep.store import schema, trial_rows
from fedsweep.store.clock import read_clock
from fedsweep.store.engine import make_engine
from fedsweep.store.transactions import reading, transaction
from tests.acceptance.command import at_once, fedsweep
from tests.migrations.versions import ROWS, everything


@pytest.fixture
def upgraded(first_store: str) -> Iterator[Engine]:
    engine = make_engine(first_store)
    assert schema.migrate(engine) == ("0001", schema.head())
    yield engine
    engine.dispose()


def test_an_upgrade_by_command_keeps_every_value_of_every_row(first_store: str) -> None:
    """Refused until then, in one sentence with the command; columns are added, none is changed."""
    before = everything(first_store)
    assert {name: len(rows) for name, rows in before.items() if name in ROWS} == {
        name: len(rows) for name, rows in ROWS.items()
    }
    refused = at_once("status", "--db", first_store, code=2)
    assert "run `fedsweep db upgrade`" in refused.stderr
    assert everything(first_store) == before
    said = fedsweep("db", "upgrade", "--db", first_store).stdout
    assert said == f"schema {schema.head()}: upgraded from 0001\n"
    after = everything(first_store)
    for name in ROWS:
        assert [
            {column: row[column] for column in old}
            for old, row in zip(before[name], after[name], strict=True)
        ] == before[name]
    assert after["client_rounds"] == after["weights"] == []
    assert "3/5" in at_once("status", "--db", first_store).stdout


def test_new_fields_of_old_trials_hold_what_the_trials_were(upgraded: Engine) -> None:
    """The default where a field has a meaning, NULL elsewhere: as if planned today."""
    with reading(upgraded) as connection:
        rows = [dict(r) for r in connection.execute(sa.text("SELECT * FROM trials")).mappings()]
    assert len(rows) == 5
    for row in rows:
        fields = TrainConfig(**json.loads(row["config"])).model_dump()
        assert {name: row[name] for name in config_columns()} == fields
    assert {row["lr_schedule"] for row in rows} == {"constant"}
    assert {row["test_miou"] for row in rows} == {None}


def test_old_trials_keep_their_ids(upgraded: Engine) -> None:
    """Planned again they are the same trials, of the same cells."""
    query = sa.text("SELECT trial_id, cell_id, config FROM trials")
    with reading(upgraded) as connection:
        for trial_id, cell_id, config in connection.execute(query):
            spec = TrialSpec.of(TrainConfig(**json.loads(config)))
            assert (spec.trial_id, spec.cell_id) == (trial_id, cell_id)


def test_an_upgraded_store_is_what_a_new_one_is(upgraded: Engine) -> None:
    """The views answer, and an old round's new measures are NULL."""
    with reading(upgraded) as connection:
        schema.check(connection)
        assert connection.execute(sa.text("SELECT count(*) FROM curves")).scalar_one() == 7
        found = connection.execute(
            sa.text("SELECT DISTINCT worst_client_accuracy, client_drift FROM curves")
        ).all()
        assert [tuple(row) for row in found] == [(None, None)]
        assert len(trial_rows.results(connection, "first")) == 5
        assert connection.execute(sa.text("SELECT count(*) FROM clients")).scalar_one() == 0


def test_an_old_trial_given_back_half_way_is_claimed_and_finished(upgraded: Engine) -> None:
    """By today's trainer, under its own numerics."""
    with transaction(upgraded) as connection:
        claim = queue.claim(connection, queue.Claimant("w", "cpu"), read_clock(connection))
    assert claim is not None
    assert (claim.fence, claim.final_round) == (2, 1)
    end = execute(upgraded, claim, Place(), lambda: False, lambda _: None)
    assert end is not None
    assert end.outcome is Outcome.FINISHED
    with reading(upgraded) as connection:
        row = trial_rows.trial_result(connection, claim.trial_id)
    assert (row["state"], row["final_round"], row["attempts"]) == ("finished", 3, 2)

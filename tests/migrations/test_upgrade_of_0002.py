"""A database of the second version, upgraded: nothing is lost, and its trials go on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.errors import Refused
from fedsweep.execution.attempt import execute
from fedsweep.execution.place import Place
from fedsweep.fields import config_columns
from fedsweep.plans import SweepSpec, TrainConfig, TrialSpec
from fedsweep.states import Outcome
from fedsweep.store import planning, schema
from fedsweep.store.clock import as_sql, read_clock
from fedsweep.store.engine import make_engine
from fedsweep.store.tables import trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer import integrity
from tests.acceptance.command import at_once
from tests.migrations.versions import ROWS_OF_0002, everything

pytestmark = pytest.mark.usefixtures("own_data_folder")


@pytest.fixture
def upgraded(second_store: str) -> Iterator[Engine]:
    engine = make_engine(second_store)
    assert schema.migrate(engine) == ("0002", schema.head())
    yield engine
    engine.dispose()


def test_an_upgrade_keeps_every_value_of_every_row(second_store: str) -> None:
    """Columns are added, none is changed; the database is sound."""
    before = everything(second_store)
    counts = {name: len(rows) for name, rows in ROWS_OF_0002.items()}
    assert {name: len(before[name]) for name in counts} == counts
    engine = make_engine(second_store)
    schema.migrate(engine)
    after = everything(second_store)
    for name in counts:
        kept = [{column: row[column] for column in before[name][0]} for row in after[name]]
        key = sorted(before[name][0])
        assert sorted(kept, key=lambda row: [str(row[k]) for k in key]) == sorted(
            before[name], key=lambda row: [str(row[k]) for k in key]
        )
    assert integrity.faults(engine) == []
    engine.dispose()


def test_members_and_files_get_what_they_are_now_looked_up_by(upgraded: Engine) -> None:
    """Members know if another sweep planned their trial first. Every file that a row names is in
    the index.
    """
    with reading(upgraded) as c:
        shared = sa.text("SELECT sweep, trial FROM sweep_members WHERE shared = 1")
        assert [tuple(row) for row in c.execute(shared)] == [(2, 1)]
        named = sa.text("SELECT name FROM snapshots UNION SELECT name FROM weights ORDER BY 1")
        indexed = sa.text("SELECT name FROM files ORDER BY 1")
        assert c.execute(indexed).scalars().all() == c.execute(named).scalars().all()
        assert len(c.execute(indexed).scalars().all()) == 3
        # By its name, not by its trial, which had a second attempt since: that says where it lies.
        assert c.execute(sa.text("SELECT fence FROM files")).scalars().all() == [1, 1, 1]


def test_trials_that_the_old_version_left_unfinished_are_finished(upgraded: Engine) -> None:
    """Its worker is long gone, and its snapshot too: that costs rounds."""
    with transaction(upgraded) as c:
        waiting = sa.text("UPDATE trials SET state = 'cancelled' WHERE state = 'queued'")
        c.execute(waiting)
        claim = queue.claim(c, queue.Claimant("w", "cpu"), read_clock(c))
    assert claim is not None
    assert (claim.final_round, claim.fence) == (2, 3)
    end = execute(upgraded, claim, Place(), lambda: False, lambda _: None)
    assert end is not None
    assert end.outcome is Outcome.FINISHED
    assert integrity.faults(upgraded) == []


def test_an_upgrade_under_a_running_worker_is_refused_and_changes_nothing(
    second_store: str,
) -> None:
    """Its tables would change under it."""
    engine = make_engine(second_store)
    with transaction(engine) as c:
        now = read_clock(c)
        until = as_sql(now) + 60
        running = sa.table(
            "trials", sa.column("state"), sa.column("lease_until"), sa.column("clock")
        )
        lease = sa.update(running).where(running.c.state == "running")
        c.execute(lease.values(lease_until=until, clock=now.clock))
    before = everything(second_store)
    with pytest.raises(Refused, match=r"training here \(1\): stop them"):
        schema.migrate(engine)
    assert everything(second_store) == before
    engine.dispose()


def test_the_refusal_is_one_sentence_that_says_what_to_do(second_store: str) -> None:
    """By the command, exit 2; once its lease is over, the same command upgrades."""
    engine = make_engine(second_store)
    lease = sa.table("trials", sa.column("state"), sa.column("lease_until"), sa.column("clock"))
    running = sa.update(lease).where(lease.c.state == "running")
    with transaction(engine) as c:
        now = read_clock(c)
        c.execute(running.values(lease_until=as_sql(now) + 60, clock=now.clock))
    refused = at_once("db", "upgrade", "--db", second_store, code=2)
    assert refused.stderr.startswith(
        "fedsweep: workers of the older version are training here (1): stop"
    )
    assert "SIGTERM saves and gives back" in refused.stderr.splitlines()[0]
    assert "Traceback" not in refused.stderr
    with transaction(engine) as c:
        c.execute(running.values(lease_until=as_sql(now) - 1))
    engine.dispose()
    said = at_once("db", "upgrade", "--db", second_store).stdout
    assert said == f"schema {schema.head()}: upgraded from 0002\n"


def test_old_trials_are_what_they_would_be_if_they_were_planned_today(upgraded: Engine) -> None:
    """Their ids, their cells, and every field as a column; planning them again adds nothing."""
    with transaction(upgraded) as c:
        query = sa.select(trials).order_by(trials.c.id)
        rows = [dict(row) for row in c.execute(query).mappings()]
        specs = [TrialSpec.of(TrainConfig(**json.loads(row["config"]))) for row in rows]
        for row, spec in zip(rows, specs, strict=True):
            assert (row["trial_id"], row["cell_id"]) == (spec.trial_id, spec.cell_id)
            assert {name: row[name] for name in config_columns()} == spec.config.model_dump()
            assert (row["wish"], row["held"]) == (None, None)
        planned = planning.add_sweep(c, SweepSpec("second", "again", tuple(specs)))
        assert (planned.new, planned.kept, planned.otherwise) == (0, 6, 0)
        assert planned.cancelled == (rows[4]["trial_id"],)


def test_the_views_say_of_an_upgraded_store_what_its_version_stored(upgraded: Engine) -> None:
    """Results, curves, clients, members, and what each sweep has trained."""
    with reading(upgraded) as c:
        counts = {
            name: c.execute(sa.text(f"SELECT count(*) FROM {name}")).scalar_one()
            for name in ("results", "curves", "clients", "members")
        }
        spent = c.execute(sa.text("SELECT sweep, rounds_trained FROM ledger ORDER BY sweep"))
        assert [tuple(row) for row in spent] == [("other", 3), ("second", 8)]
        assert queue.overspent(c) == []
    stored = ("trials", "rounds", "client_rounds", "sweep_members")
    assert list(counts.values()) == [len(ROWS_OF_0002[name]) for name in stored]


def test_a_shared_trial_of_an_old_store_is_claimed_in_the_scope_of_both_sweeps(
    second_store: str,
) -> None:
    """The flag of the members that share it is what the claim looks at."""
    engine = make_engine(second_store)
    table = sa.table("trials", sa.column("id"), sa.column("state"))
    with transaction(engine) as c:
        c.execute(sa.update(table).where(table.c.id == 1).values(state="queued"))
    schema.migrate(engine)
    for sweep in ("other", "second"):
        with transaction(engine) as c:
            claim = queue.claim(c, queue.Claimant("w", "cpu"), read_clock(c), sweep=sweep)
            assert claim is not None
            assert claim.trial == 1
            c.rollback()
    engine.dispose()

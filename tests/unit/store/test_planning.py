"""Planning: the rows that it adds. It never removes rows."""

from __future__ import annotations

import json
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.plans import read_plan
from fedsweep.store import planning, sweep_rows
from fedsweep.store.tables import members, plans, sweeps, trials
from fedsweep.store.transactions import reading, transaction


def count(store: Engine, table: sa.Table) -> int:
    with reading(store) as c:
        return int(c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def test_planning_twice_adds_nothing(store: Engine, tiny: Path) -> None:
    """Planning the same file again adds no trial, member or text."""
    plan = read_plan(tiny)
    with transaction(store) as c:
        assert planning.add_sweep(c, plan) == planning.Planned(6, 0, 0, None, ())
    with transaction(store) as c:
        assert planning.add_sweep(c, plan) == planning.Planned(0, 6, 0, None, ())
    counts = [count(store, table) for table in (sweeps, plans, trials, members)]
    assert counts == [1, 1, 6, 6]


def test_a_changed_file_adds_and_removes_nothing_and_both_texts_stay(
    store: Engine, tiny: Path
) -> None:
    """Dropped trials are counted, and stay members."""
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
    tiny.write_text(tiny.read_text().replace("seed = [0, 1]", "seed = [1, 2]"))
    changed = read_plan(tiny)
    with transaction(store) as c:
        planned = planning.add_sweep(c, changed)
    assert (planned.new, planned.kept, planned.dropped) == (3, 3, 3)
    assert planned.earlier is not None
    assert "seed = [0, 1]" in planned.earlier
    with reading(store) as c:
        assert sweep_rows.plan_texts(c, "tiny") == [planned.earlier, changed.text]
    assert count(store, members) == 9


def test_cancelled_trials_of_a_plan_are_named_for_queueing_again(store: Engine, tiny: Path) -> None:
    """Planning returns the cancelled trials, and the queue queues them again."""
    plan = read_plan(tiny)
    with transaction(store) as c:
        planning.add_sweep(c, plan)
        queue.cancel(c, [2, 3])
    with transaction(store) as c:
        planned = planning.add_sweep(c, plan)
        rows = sweep_rows.trial_keys(c, planned.cancelled)
        assert sorted(rows) == [2, 3]
        assert queue.retry(c, rows) == 2
        queued = sa.select(sa.func.count()).where(trials.c.state == "queued")
        assert c.execute(queued).scalar_one() == 6


def test_a_trial_that_has_not_begun_measures_what_is_asked_later(store: Engine, tiny: Path) -> None:
    """Trials without a round also keep what the later plan asks for.

    Trials with a round stay as they began, and are counted. Earlier measurements stay.
    """
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny, ["diagnostics=true"]))
        c.execute(sa.update(trials).where(trials.c.id == 1).values(final_round=1))
    tiny.write_text(tiny.read_text() + '[[grid]]\nnormalizer = "ln"\n')
    more = read_plan(tiny, ["keep_weights=true", "seed=0"])
    with transaction(store) as c:
        planned = planning.add_sweep(c, more)
        rows = c.execute(
            sa.select(trials.c.normalizer, trials.c.diagnostics, trials.c.config)
            .where(trials.c.keep_weights)
            .order_by(trials.c.id)
        ).all()
    assert [row.normalizer for row in rows] == ["gn", "fixbn", "ln"]
    assert [row.diagnostics for row in rows] == [True, True, False]
    assert all(json.loads(row.config)["keep_weights"] for row in rows)
    assert (planned.new, planned.kept, planned.otherwise) == (1, 3, 1)


def test_priority_is_that_of_the_planning(store: Engine, tiny: Path) -> None:
    """New trials get the plan's priority, and existing trials keep theirs."""
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
        planning.add_sweep(c, read_plan(tiny, ["seed=7"]), priority=3)
        rows = c.execute(sa.select(trials.c.seed, trials.c.priority).order_by(trials.c.id)).all()
    assert {tuple(row) for row in rows} == {(0, 0), (1, 0), (7, 3)}


def test_a_large_plan_is_added_in_batches(store: Engine, tiny: Path) -> None:
    """A plan may have more rows than one statement can insert."""
    tiny.write_text(tiny.read_text().replace("seed = [0, 1]", f"seed = {list(range(700))}"))
    with transaction(store) as c:
        assert planning.add_sweep(c, read_plan(tiny)).new == 2100
        assert planning.add_sweep(c, read_plan(tiny)).kept == 2100

"""Searches in the queue, on both databases: proposals, their trials, and the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.plans import SweepSpec, TrialSpec
from fedsweep.search.choice import Stop, Try
from fedsweep.search.planner import history_of, next_choice, plan_next
from fedsweep.states import Hold
from fedsweep.store import arms, planning, spare_files, sweep_rows, trial_rows
from fedsweep.store.schema import open_store
from fedsweep.store.tables import lattices, proposals, proposed, snapshots, trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer import integrity
from tests.trunks import T, measured, trained
from tests.unit.search.searches import PLAN, claimed, grid_done, of, plan, points, the_arm, work

pytestmark = [pytest.mark.quick_on("sqlite"), pytest.mark.usefixtures("walk", "own_data_folder")]


@pytest.fixture
def sweep(tmp_path: Path) -> SweepSpec:
    return of(tmp_path, PLAN)


def count(store: Engine, table: sa.Table) -> int:
    with reading(store) as c:
        return int(c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def test_a_search_runs_to_its_end_and_leaves_no_snapshots(
    store: Engine, sweep: SweepSpec, tmp_path: Path
) -> None:
    """Each trial is bitwise equal to one without sharing. Each tail and trunk is trained once."""
    plan(store, sweep)
    work(store)
    arm = the_arm(store)
    assert arm.ended in ("budget", "settled", "tried")
    assert arm.said
    assert arm.freeze_round in range(0, T + 1, 2)
    with reading(store) as c:
        assert not queue.outstanding(c)
        proposed_trials = c.execute(
            sa.select(trials.c.trial_id, trials.c.config, trials.c.freeze_round, trials.c.seed)
            .join(proposed, proposed.c.trial == trials.c.id)
            .where(trials.c.normalizer == "fixbn")
        ).all()
        seeds = set(c.execute(sa.select(trials.c.seed)).scalars())
    tails = sum(T - row.freeze_round for row in proposed_trials)
    assert trained(store) == 2 * T * len(seeds) + tails  # BN, which is the trunk, and GN
    assert count(store, snapshots) == count(store, lattices) == 0
    assert integrity.faults(store) == []

    other = open_store(f"sqlite:///{tmp_path}/alone.db", create=True)
    specs = tuple(arm.spec.trial(row.freeze_round, row.seed) for row in proposed_trials)
    assert {spec.trial_id for spec in specs} == {row.trial_id for row in proposed_trials}
    with transaction(other) as c:
        planning.add_sweep(c, replace(sweep, trials=specs, arms=()).alone())
    grid_done(other)
    alone = measured(other)
    together = measured(store)
    assert {trial: together[trial] for trial in alone} == alone
    other.dispose()


def test_a_searched_trunk_keeps_a_snapshot_at_each_round_where_a_trial_may_fork(
    store: Engine, sweep: SweepSpec
) -> None:
    """Each seed has snapshots at rounds 2, 4, 6 and 8 of 10 before any proposal."""
    plan(store, sweep)
    grid_done(store)
    with reading(store) as c:
        kept = c.execute(sa.select(snapshots.c.trial, snapshots.c.round)).all()
        names = {row.name for row in c.execute(sa.select(snapshots.c.name))}
        spare = {file.name for file in spare_files.spare_files(c, 1e12)}
    by_trial: dict[int, list[int]] = {}
    for trial, round in kept:
        by_trial.setdefault(trial, []).append(round)
    assert list(by_trial.values()) == [[2, 4, 6, 8]] * 2
    assert not names & spare


def test_only_one_of_two_concurrent_proposals_is_committed(store: Engine, sweep: SweepSpec) -> None:
    """Both read the same arm. The second commit is refused and writes nothing."""
    plan(store, sweep)
    grid_done(store)
    arm = the_arm(store)
    first = [arm.spec.trial(4, seed) for seed in arm.spec.seeds]
    second = [arm.spec.trial(6, seed) for seed in arm.spec.seeds]
    options: dict[str, Any] = {"seed": None, "why": "-", "cost": 1}
    with transaction(store) as c:
        assert arms.commit(c, arm, first, freeze_round=4, **options) is not None
    with transaction(store) as c:
        assert arms.commit(c, arm, second, freeze_round=6, **options) is None
        assert arms.end(c, arm, reason="tried", why="-", freeze_round=None) is None
    assert points(store) == [4]
    assert count(store, proposed) == 2
    for _ in first:  # both are claimed, so the next proposal is another T*
        assert (claim := claimed(store)) is not None
        assert claim.fork_round == 4
    assert plan_next(store)
    assert points(store) == [4, 10]


def test_a_process_killed_within_a_commit_leaves_no_trace(
    store: Engine, store_url: str, sweep: SweepSpec
) -> None:
    """The process is killed by SIGKILL."""
    plan(store, sweep)
    grid_done(store)
    before = (the_arm(store), points(store), count(store, trials))
    process = get_context("spawn").Process(target=_commit_and_die, args=(store_url,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert (the_arm(store), points(store), count(store, trials)) == before
    assert plan_next(store)
    assert points(store) == [10]


def _commit_and_die(url: str) -> None:
    store = open_store(url)
    with reading(store) as c:
        (arm,) = arms.of_sweep(c, "searched")
    specs = [arm.spec.trial(4, seed) for seed in arm.spec.seeds]
    with transaction(store) as c:
        written = arms.commit(c, arm, specs, freeze_round=4, seed=None, why="-", cost=1)
        assert written
        os.kill(os.getpid(), signal.SIGKILL)


def test_equal_states_give_equal_proposals(store: Engine, sweep: SweepSpec, tmp_path: Path) -> None:
    """A repeated call and another database with the same rows give the same proposal."""
    other = open_store(f"sqlite:///{tmp_path}/other.db", create=True)
    for one in (store, other):
        plan(one, sweep)
        grid_done(one)
    while True:
        choices = []
        for one in (store, store, other):
            with reading(one) as c:
                choices.append(next_choice(c, the_arm(one)))
        assert choices[0] == choices[1] == choices[2]
        if isinstance(choices[0], Stop):
            break
        for one in (store, other):
            assert plan_next(one)
            grid_done(one)
    other.dispose()


def test_queued_trials_of_the_same_or_a_higher_priority_come_before_a_search(
    store: Engine, sweep: SweepSpec
) -> None:
    """A search comes before trials of a lower priority."""
    plan(store, replace(sweep, trials=()), priority=3)
    other = replace(sweep, name="other", arms=())
    plan(store, other, priority=3)
    assert not plan_next(store, first=True)
    with transaction(store) as c:
        ids = sweep_rows.sweep_trials(c, "other")
        queue.prioritize(c, ids, 2)
    assert plan_next(store, first=True)
    claim = claimed(store)
    assert claim is not None
    assert claim.config["normalizer"] == "fixbn"


@pytest.mark.parametrize(
    ("why", "waited_for"), [(Hold.PAUSE, True), (Hold.DRAIN, False), (Hold.BUDGET, False)]
)
def test_a_held_sweep_is_not_searched(
    store: Engine, sweep: SweepSpec, why: Hold, waited_for: bool
) -> None:
    """Workers wait for a paused sweep, but not for one that is drained or over its budget."""
    plan(store, replace(sweep, trials=()))
    with reading(store) as c:
        assert queue.outstanding(c)
        assert queue.outstanding(c, "searched")
    with transaction(store) as c:
        queue.hold_sweep(c, "searched", why)
    assert not plan_next(store)
    assert points(store) == []
    with reading(store) as c:
        assert queue.outstanding(c) is waited_for
        assert queue.outstanding(c, "searched") is waited_for
    with transaction(store) as c:
        queue.hold_sweep(c, "searched", None)
    assert plan_next(store)


def test_a_sweep_that_was_held_before_the_commit_gets_no_proposal(
    store: Engine, sweep: SweepSpec
) -> None:
    """The commit checks the hold again."""
    plan(store, replace(sweep, trials=()))
    arm = the_arm(store)
    with transaction(store) as c:
        queue.hold_sweep(c, "searched", Hold.PAUSE)
    with transaction(store) as c:
        specs = [arm.spec.trial(4, 0)]
        assert arms.commit(c, arm, specs, freeze_round=4, seed=None, why="-", cost=1) is None
    assert count(store, trials) == 0


def test_a_changed_search_continues_and_an_unchanged_one_stays_ended(
    store: Engine, sweep: SweepSpec, tmp_path: Path
) -> None:
    """The tried T* are kept. A second plan without changes adds nothing."""
    few = of(tmp_path, PLAN.replace("probes_per_arm = 5", "probes_per_arm = 2"))
    plan(store, few)
    work(store)
    assert the_arm(store).ended == "budget"
    tried = points(store)
    assert tried == [10, 6]
    with transaction(store) as c:
        assert arms.add_arms(c, few, 0) == 0
    assert the_arm(store).ended == "budget"
    with transaction(store) as c:
        assert planning.add_sweep(c, sweep).dropped == 0  # what was proposed is no plan's
        assert arms.add_arms(c, sweep, 0) == 1
    assert the_arm(store).ended is None
    assert count(store, lattices) == 2
    work(store)
    assert points(store)[:2] == tried
    assert len(points(store)) > 2


def test_tried_freeze_rounds_are_tried_on_seeds_that_are_added_to_the_plan(
    store: Engine, sweep: SweepSpec, tmp_path: Path
) -> None:
    """Each earlier T* is tried once before a new T* is proposed."""
    few = of(tmp_path, PLAN.replace("probes_per_arm = 5", "probes_per_arm = 2"))
    plan(store, few)
    work(store)
    assert points(store) == [10, 6]
    plan(store, of(tmp_path, few.text.replace("seed = [0, 1]", "seed = [0, 1, 2]")))
    work(store)
    assert points(store) == [10, 6, 10, 6]
    with reading(store) as c:
        history = history_of(arms.tried(c, the_arm(store)))
    assert [set(probe.values) for probe in history] == [{0, 1, 2}, {0, 1, 2}]
    assert the_arm(store).ended == "budget"


def test_a_cancelled_sweep_keeps_no_snapshots_for_its_search(
    store: Engine, sweep: SweepSpec
) -> None:
    """They are spare then. If the sweep is planned again, the search continues."""
    plan(store, sweep)
    grid_done(store)
    with reading(store) as c:
        assert not spare_files.spare_files(c, 1e12)
    with transaction(store) as c:
        queue.hold_sweep(c, "searched", Hold.CANCEL)
    with reading(store) as c:
        assert len(spare_files.spare_files(c, 1e12)) == 8
    assert not plan_next(store)
    plan(store, sweep)
    assert plan_next(store)


def test_proposals_of_a_plan_without_sharing_have_no_trunk(store: Engine, sweep: SweepSpec) -> None:
    """With `plan --no-share`, each trial trains all its rounds."""
    plan(store, replace(sweep, trials=()).alone())
    assert count(store, lattices) == 0
    assert plan_next(store)
    with reading(store) as c:
        assert set(c.execute(sa.select(trials.c.trunk)).scalars()) == {None}
        assert c.execute(sa.select(proposals.c.cost)).scalar_one() == 2 * T


def test_finished_trials_are_proposed_before_others_are_trained(
    store: Engine, sweep: SweepSpec, tmp_path: Path
) -> None:
    """Finished trials of another sweep are proposed at no cost and become members."""
    arm = sweep.arms[0]
    finished = tuple(arm.trial(point, seed) for point in (10, 6, 8, 4) for seed in (0, 1))
    plan(store, replace(sweep, name="grid", trials=finished, arms=()))
    grid_done(store)
    before = trained(store)
    plan(store, replace(sweep, trials=()))
    for _ in range(4):
        assert claimed(store) is None
        if not plan_next(store):
            break
    tried = points(store)
    assert tried[:3] == [10, 6, 8]
    assert trained(store) == before
    with reading(store) as c:
        costs = c.execute(sa.select(proposals.c.cost).order_by(proposals.c.number)).scalars().all()
        rows = trial_rows.results(c, "searched")
    assert costs[:3] == [0, 0, 0]
    assert {(r["freeze_round"], r["seed"]) for r in rows} >= {(10, 0), (6, 1), (8, 0)}


def test_an_added_seed_has_trials_of_bn_and_gn(store: Engine, sweep: SweepSpec) -> None:
    """They are in the same proposal, so comparisons stay paired."""
    plan(store, sweep)
    grid_done(store)
    arm = the_arm(store)
    specs: Sequence[TrialSpec] = [arm.spec.trial(6, 2), *arm.spec.rival_trials(2)]
    with transaction(store) as c:
        planned = arms.commit(c, arm, specs, freeze_round=None, seed=2, why="-", cost=1)
    assert planned is not None
    with reading(store) as c:
        query = sa.select(trials.c.normalizer).where(trials.c.seed == 2)
        assert sorted(c.execute(query).scalars()) == ["bn", "fixbn", "gn"]
        trunks = set(c.execute(sa.select(lattices.c.trunk)).scalars())
        bn_trunks = c.execute(
            sa.select(trials.c.trunk).where(trials.c.normalizer == "bn")
        ).scalars()
        assert trunks == set(bn_trunks)  # including the new seed
        assert [probe.freeze_round for probe in history_of(arms.tried(c, arm))] == [6]


def test_a_search_continues_after_a_person_cancels_its_trials(
    store: Engine, sweep: SweepSpec
) -> None:
    """Cancelled trials have no value, are not proposed again, and are not waited for."""
    plan(store, sweep)
    grid_done(store)
    assert plan_next(store)
    with transaction(store) as c:
        ids = c.execute(sa.select(proposed.c.trial)).scalars().all()
        queue.cancel(c, ids)
    work(store)
    arm = the_arm(store)
    assert arm.ended is not None
    assert points(store)[0] == 10
    assert points(store).count(10) == 1
    assert arm.freeze_round != 10


def test_the_cost_of_a_choice_is_the_number_of_trained_rounds(
    store: Engine, sweep: SweepSpec
) -> None:
    """The cost is the tail of each seed after BN's trunk."""
    plan(store, sweep)
    grid_done(store)
    while True:
        with reading(store) as c:
            choice = next_choice(c, the_arm(store))
        if not isinstance(choice, Try):
            break
        before = trained(store)
        assert plan_next(store)
        grid_done(store)
        assert trained(store) - before == choice.cost

"""The planner of searches: an idle worker chooses what to try next, and plans it.

A choice is not computed within a transaction. It is computed from what was read, and committed only
if no other process has changed that arm in the meantime. Otherwise the process reads the arm again
and makes a new choice. A process that is killed before its commit leaves no trace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.plans import TrialSpec
from fedsweep.search.choice import AddSeed, Choice, Probe, Space, Stop, Try, estimate, propose
from fedsweep.search.pruning import ProbeCurves, hopeless_probes
from fedsweep.store import arms, file_places, garbage_collection, trunks
from fedsweep.store.arms import Arm, Tried
from fedsweep.store.tables import trials
from fedsweep.store.transactions import reading, transaction

ENDED_STATES = ("finished", "failed", "cancelled")
"""States of trials that have ended."""


def plan_next(engine: Engine, sweep: str | None = None, *, first: bool = False) -> bool:
    """Plan trials for the first arm in scope that needs some. Return whether any were planned.

    With `first`, an arm is passed over if a trial that can be claimed would come before its trials.
    """
    while True:
        with reading(engine) as connection:
            hungry = arms.hungry(connection, sweep, first=first)
        again = False
        for arm in hungry:
            planned = _plan_arm(engine, arm)
            if planned is None:  # another process has changed the arm: read it again
                again = True
                break
            if planned:
                return True
        if not again:
            return False


def prune(engine: Engine) -> int:
    """Cancel the probes that cannot win, in searches with pruning. Return their number."""
    with reading(engine) as connection:
        curves = [(arm, arms.curves(connection, arm)) for arm in arms.pruning(connection)]
    to_prune = [
        (arm, probe)
        for arm, rows in curves
        for probe in hopeless_probes(
            arm.spec.search.prune, arm.spec.config.rounds, _probe_curves(arm, rows)
        )
    ]
    for arm, probe in to_prune:
        with transaction(engine) as connection:
            ids = arms.give_up(connection, arm, probe.freeze_round, probe.round)
            queue.cancel(connection, ids, f"given up: {probe.why}")
            queue.wake(connection)
    return len(to_prune)


def _probe_curves(arm: Arm, rows: Sequence[tuple[int, int, bool, int, float]]) -> list[ProbeCurves]:
    """Group rows of `arms.curves` by probe. Probes without values on every seed are left out."""
    curves: dict[int, dict[int, dict[int, float]]] = {}
    running: set[int] = set()
    for point, seed, is_open, round, value in rows:
        curves.setdefault(point, {}).setdefault(seed, {})[round] = value
        if is_open:
            running.add(point)
    return [
        ProbeCurves(point, by_seed, point in running)
        for point, by_seed in curves.items()
        if set(by_seed) >= set(arm.spec.seeds)
    ]


def _plan_arm(engine: Engine, arm: Arm) -> bool | None:
    """Return whether trials were planned for an arm. None if the arm has changed since."""
    with reading(engine) as connection:
        choice = completion(arm, arms.tried(connection, arm)) or next_choice(connection, arm)
    if isinstance(choice, Stop):
        return _end(engine, arm, choice)
    if isinstance(choice, (Try, AddSeed)):
        return _plan(engine, arm, choice)
    return False


def next_choice(connection: Connection, arm: Arm) -> Choice:
    """Return what the search of the arm would do now."""
    history = history_of(arms.tried(connection, arm))
    return propose(space_of(connection, arm, history), history, seed_of(arm))


def completion(arm: Arm, tried: Sequence[Tried]) -> Try | None:
    """Return a T* to try on the seeds that were added to the plan after it was tried, if any."""
    seeds: dict[int, set[int]] = {}
    for trial in tried:
        seeds.setdefault(trial.freeze_round, set()).add(trial.seed)
    for point, tried_seeds in seeds.items():
        if missing := set(arm.spec.seeds) - tried_seeds:
            cost = (arm.spec.config.rounds - point) * len(missing)
            return Try(point, "on the seeds that the plan has got since", None, cost)
    return None


def seed_of(arm: Arm) -> int:
    """Return the seed of the next choice.

    It depends on the plan's seed, the arm and the number of proposals.
    """
    text = f"{arm.spec.search.seed}/{arm.spec.arm_id}/{arm.asked}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def history_of(tried: Sequence[Tried]) -> list[Probe]:
    """Group the trials of an arm by T*, in the order in which they were proposed.

    Trials that were cancelled, or that failed without diverging, have no value.
    """
    by_point: dict[int, list[Tried]] = {}
    for trial in tried:
        by_point.setdefault(trial.freeze_round, []).append(trial)
    return [
        Probe(
            point,
            {t.seed: t.value for t in at_point if t.value is not None},
            frozenset(t.seed for t in at_point if t.failure == "diverged"),
            frozenset(t.seed for t in at_point if t.state not in ENDED_STATES),
            pruned=any(t.pruned for t in at_point),
            free=not any(t.fresh for t in at_point),
        )
        for point, at_point in by_point.items()
    ]


def space_of(connection: Connection, arm: Arm, history: Sequence[Probe]) -> Space:
    """Return the space of an arm's search, with the T* that have finished already."""
    spec = arm.spec
    tried = {probe.freeze_round for probe in history}
    left = [p for p in spec.points if p not in tried]
    untried = {point: [spec.trial(point, seed) for seed in spec.seeds] for point in left}
    finished = arms.finished(connection, [t for specs in untried.values() for t in specs])
    carried = spec.shared and any(config.normalizer == "bn" for config in spec.rivals)
    return Space(
        low=spec.low,
        high=spec.high,
        step=spec.step,
        rounds=spec.config.rounds,
        seeds=spec.seeds,
        probes=spec.search.probes_per_arm,
        rounds_per_seed=spec.rounds_per_seed,
        extra_seeds=spec.search.extra_seeds,
        sampler=spec.search.sampler,
        trunk=spec.config.rounds if carried else 0,
        shared=spec.shared,
        finished=frozenset(
            point
            for point, specs in untried.items()
            if all(trial.trial_id in finished for trial in specs)
        ),
    )


def _plan(engine: Engine, arm: Arm, choice: Try | AddSeed) -> bool | None:
    with transaction(engine) as connection:
        planned = arms.commit(
            connection,
            arm,
            _trials_of(arm, choice),
            freeze_round=choice.freeze_round if isinstance(choice, Try) else None,
            seed=choice.seed if isinstance(choice, AddSeed) else None,
            why=choice.why,
            cost=choice.cost,
        )
        if planned is None:
            return None
        queue.update_holds(connection, trials.c.id.in_(planned))
        queue.wake(connection)
    return True


def _trials_of(arm: Arm, choice: Try | AddSeed) -> list[TrialSpec]:
    """Return the trials of a choice.

    A new T* has a trial on each seed of the plan. A new seed has trials of its T*, of BN and of GN.
    """
    spec = arm.spec
    if isinstance(choice, Try):
        return [spec.trial(choice.freeze_round, seed) for seed in spec.seeds]
    probes = [spec.trial(point, choice.seed) for point in choice.freeze_rounds]
    return [*probes, *spec.rival_trials(choice.seed)]


def _end(engine: Engine, arm: Arm, stop: Stop) -> bool | None:
    """End the search of an arm, and delete the snapshots that only the search needed.

    Returns whether trials that confirm the best T* were planned. None if the arm has changed since.
    """
    with transaction(engine) as connection:
        history = history_of(arms.tried(connection, arm))
        best = estimate(space_of(connection, arm, history), history).freeze_round
        kept = arms.end(connection, arm, reason=stop.reason, why=stop.why, freeze_round=best)
        if kept is None:
            return None
        specs = _confirming(arm, history, best)
        if best is not None and specs:
            why = "BN, GN and the proposed T* on seeds that did not choose it"
            planned = arms.confirm(connection, arm, best, specs, why)
            queue.update_holds(connection, trials.c.id.in_(planned))
        dropped: dict[str, file_places.Home] = {}
        for trunk in kept:
            dropped |= trunks.drop_unneeded(connection, trunk)
        queue.wake(connection)
    garbage_collection.delete(engine, dropped)
    return bool(specs)


def _confirming(arm: Arm, history: Sequence[Probe], best: int | None) -> list[TrialSpec]:
    """Return trials of the best T*, BN and GN on new seeds, as many as the plan asks for."""
    if best is None:
        return []
    used = {s for probe in history for s in (*probe.values, *probe.diverged, *arm.spec.seeds)}
    first = max(used | set(arm.spec.seeds)) + 1
    more = range(first, first + arm.spec.search.confirm_seeds)
    return [t for s in more for t in (arm.spec.trial(best, s), *arm.spec.rival_trials(s))]

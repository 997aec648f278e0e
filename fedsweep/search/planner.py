"""Whoever finds nothing better to do asks what to try next, and plans it.

Nobody thinks within a transaction: a choice is made from what was read, and is committed only where
nobody else has proposed for that arm since. Whoever comes second sees what the first one proposed,
and thinks again. A process that is killed while it thinks leaves nothing behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.plan import TrialSpec
from fedsweep.search.choice import AddSeed, Choice, Probe, Space, Stop, Try, answer, propose
from fedsweep.search.pruning import Progress, losers
from fedsweep.store import arms, file_places, garbage_collection, trunks
from fedsweep.store.arms import Arm, Tried
from fedsweep.store.tables import trials
from fedsweep.store.transactions import reading, transaction

DONE = ("finished", "failed", "cancelled")
"""States of trials that will not change by themselves."""


def tend(engine: Engine, sweep: str | None = None, *, first: bool = False) -> bool:
    """Ask for the first arm in scope that wants something, and plan it; whether anything was.

    With `first`, only where no trial that may be claimed comes before what would be proposed.
    """
    while True:
        with reading(engine) as connection:
            found = arms.hungry(connection, sweep, first=first)
        again = False
        for arm in found:
            planned = _ask(engine, arm)
            if planned is None:  # somebody else was quicker: look again
                again = True
                break
            if planned:
                return True
        if not again:
            return False


def prune(engine: Engine) -> int:
    """Give up what cannot win, in the searches that are to; returns how many probes there were."""
    with reading(engine) as connection:
        found = [(arm, arms.curves(connection, arm)) for arm in arms.pruning(connection)]
    lost = [
        (arm, loser)
        for arm, rows in found
        for loser in losers(arm.spec.search.prune, arm.spec.config.rounds, _progress(arm, rows))
    ]
    for arm, loser in lost:
        with transaction(engine) as connection:
            ids = arms.give_up(connection, arm, loser.freeze_round, loser.round)
            queue.cancel(connection, ids, f"given up: {loser.why}")
            queue.wake(connection)
    return len(lost)


def _progress(arm: Arm, rows: Sequence[tuple[int, int, bool, int, float]]) -> list[Progress]:
    """Rows of `arms.curves`, by probe; of those that have measured something on every seed."""
    curves: dict[int, dict[int, dict[int, float]]] = {}
    running: set[int] = set()
    for point, seed, is_open, round, value in rows:
        curves.setdefault(point, {}).setdefault(seed, {})[round] = value
        if is_open:
            running.add(point)
    return [
        Progress(point, some, point in running)
        for point, some in curves.items()
        if set(some) >= set(arm.spec.seeds)
    ]


def _ask(engine: Engine, arm: Arm) -> bool | None:
    """Whether trials were planned for an arm; None where it is not as it was seen any more."""
    with reading(engine) as connection:
        choice = completion(arm, arms.tried(connection, arm)) or chosen(connection, arm)
    if isinstance(choice, Stop):
        return _end(engine, arm, choice)
    if isinstance(choice, (Try, AddSeed)):
        return _plan(engine, arm, choice)
    return False


def chosen(connection: Connection, arm: Arm) -> Choice:
    """What the arm's search would do now."""
    history = history_of(arms.tried(connection, arm))
    return propose(space_of(connection, arm, history), history, seed_of(arm))


def completion(arm: Arm, tried: Sequence[Tried]) -> Try | None:
    """A T* that lacks seeds which the plan has got since it was tried, to be tried on these too."""
    seeds: dict[int, set[int]] = {}
    for trial in tried:
        seeds.setdefault(trial.freeze_round, set()).add(trial.seed)
    for point, had in seeds.items():
        if missing := set(arm.spec.seeds) - had:
            cost = (arm.spec.config.rounds - point) * len(missing)
            return Try(point, "on the seeds that the plan has got since", None, cost)
    return None


def seed_of(arm: Arm) -> int:
    """Of the next choice: a function of the plan's seed, the arm, and how much was proposed."""
    text = f"{arm.spec.search.seed}/{arm.spec.arm_id}/{arm.asked}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def history_of(tried: Sequence[Tried]) -> list[Probe]:
    """An arm's trials by T*, in the order in which they were proposed.

    A trial that failed otherwise than by diverging, or was cancelled, says nothing.
    """
    by_point: dict[int, list[Tried]] = {}
    for trial in tried:
        by_point.setdefault(trial.freeze_round, []).append(trial)
    return [
        Probe(
            point,
            {t.seed: t.value for t in some if t.value is not None},
            frozenset(t.seed for t in some if t.failure == "diverged"),
            frozenset(t.seed for t in some if t.state not in DONE),
            pruned=any(t.pruned for t in some),
            free=not any(t.fresh for t in some),
        )
        for point, some in by_point.items()
    ]


def space_of(connection: Connection, arm: Arm, history: Sequence[Probe]) -> Space:
    """What an arm's search may try, with what is there already."""
    spec = arm.spec
    tried = {probe.freeze_round for probe in history}
    left = [p for p in spec.points if p not in tried]
    wanted = {point: [spec.trial(point, seed) for seed in spec.seeds] for point in left}
    there = arms.finished(connection, [trial for some in wanted.values() for trial in some])
    carried = spec.shared and any(config.normalizer == "bn" for config in spec.rivals)
    return Space(
        *(spec.low, spec.high, spec.step, spec.config.rounds, spec.seeds),
        probes=spec.search.probes_per_arm,
        rounds_per_seed=spec.rounds_per_seed,
        extra_seeds=spec.search.extra_seeds,
        sampler=spec.search.sampler,
        trunk=spec.config.rounds if carried else 0,
        shared=spec.shared,
        there=frozenset(
            point for point, some in wanted.items() if all(t.trial_id in there for t in some)
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
    """Of a T*, on the plan's seeds; of a seed, with BN's and GN's of it."""
    spec = arm.spec
    if isinstance(choice, Try):
        return [spec.trial(choice.freeze_round, seed) for seed in spec.seeds]
    mine = [spec.trial(point, choice.seed) for point in choice.freeze_rounds]
    return [*mine, *spec.rival_trials(choice.seed)]


def _end(engine: Engine, arm: Arm, stop: Stop) -> bool | None:
    """The search of an arm is over: what only it kept goes."""
    with transaction(engine) as connection:
        found = history_of(arms.tried(connection, arm))
        best = answer(space_of(connection, arm, found), found).freeze_round
        kept = arms.end(connection, arm, reason=stop.reason, why=stop.why, freeze_round=best)
        if kept is None:
            return None
        specs = _confirming(arm, found, best)
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
    """The proposed T*, BN and GN on the next seeds, as many as the plan wants."""
    if best is None:
        return []
    used = {s for probe in history for s in (*probe.values, *probe.diverged, *arm.spec.seeds)}
    first = max(used | set(arm.spec.seeds)) + 1
    more = range(first, first + arm.spec.search.confirm_seeds)
    return [t for s in more for t in (arm.spec.trial(best, s), *arm.spec.rival_trials(s))]

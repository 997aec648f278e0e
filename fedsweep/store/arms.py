"""The rows of searches: arms, the proposals for them, and the trials of each proposal."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.plans import ArmSpec, SearchSpec, SweepSpec, TrainConfig, TrialSpec
from fedsweep.states import Hold
from fedsweep.store.batches import batches
from fedsweep.store.planning import add_trials, take_turns
from fedsweep.store.prepared import Prepared
from fedsweep.store.sweep_rows import held_alone
from fedsweep.store.tables import (
    CLAIMABLE,
    arms,
    lattices,
    proposals,
    proposed,
    rounds,
    sweeps,
    trials,
)

_ONE: sa.ColumnElement[int] = sa.literal_column("1")
OPEN = arms.c.ended.is_(None)


@dataclass(frozen=True)
class Arm:
    """An arm as it is stored."""

    key: int
    sweep: int
    """The row of its sweep."""
    sweep_name: str
    spec: ArmSpec
    priority: int
    asked: int
    """Number of proposals so far. A search that commits another one must have read all of them."""
    ended: str | None = None
    """The reason for which the search ended, None if it is open."""
    said: str | None = None
    """The explanation of the reason, for the user."""
    freeze_round: int | None = None
    """The T* that an ended search chose, None if it chose none."""


@dataclass(frozen=True)
class Tried:
    """A trial of an arm, as its search reads it."""

    freeze_round: int
    seed: int
    state: str
    failure: str | None
    value: float | None
    """The search's metric of a finished trial."""
    fresh: bool
    """True if the search planned this trial, False if the store already had it."""
    pruned: bool = False
    """True if the trial was pruned. Its value is then that of the round in which it was pruned."""


@dataclass(frozen=True)
class Proposal:
    """A T* or a seed that a search proposed, and the reason."""

    number: int
    freeze_round: int | None
    """The proposed T*, None if the proposal adds a seed."""
    seed: int | None
    """The added seed. With a T*, it is the first of the seeds that confirm the answer."""
    why: str
    cost: int
    at: float
    pruned_at: int | None = None
    """The round in which the search pruned the proposal, None if it did not."""


def _settings(spec: ArmSpec) -> str:
    own = {name: getattr(spec, name) for name in _SETTINGS}
    return json.dumps({**own, "search": spec.search.model_dump()}, sort_keys=True)


_SETTINGS = ("low", "high", "step", "rounds_per_seed", "shared")


def _dump(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(exclude_none=True)


def add_arms(connection: Connection, sweep: SweepSpec, priority: int) -> int:
    """Add the arms of a sweep, and return how many are new or searched again.

    An arm is searched again if its configuration or its search settings have changed. Call this
    after `planning.add_sweep`.
    """
    key = connection.execute(sa.select(sweeps.c.id).where(sweeps.c.name == sweep.name)).scalar_one()
    count = 0
    for spec in sweep.arms:
        fields = {
            "config": json.dumps(_dump(spec.config)),
            "rivals": json.dumps([_dump(config) for config in spec.rivals]),
            "settings": _settings(spec),
            "seeds": json.dumps(list(spec.seeds)),
        }
        same_arm = (arms.c.sweep == key) & (arms.c.arm_id == spec.arm_id)
        before = connection.execute(sa.select(arms).where(same_arm)).mappings().one_or_none()
        if before is None:
            row = {"sweep": key, "arm_id": spec.arm_id, "priority": priority, **fields}
            connection.execute(sa.insert(arms).values(**row))
        elif any(before[name] != value for name, value in fields.items()):
            again = {"ended": None, "said": None, "freeze_round": None}
            connection.execute(sa.update(arms).where(same_arm).values(**fields, **again))
        else:
            continue
        count += 1
        arm = connection.execute(sa.select(arms.c.id).where(same_arm)).scalar_one()
        _expect_forks(connection, arm, spec, _all_seeds(connection, arm, spec.seeds))
    return count


def _all_seeds(connection: Connection, arm: int, seeds: Sequence[int]) -> list[int]:
    added = sa.select(proposals.c.seed).where(proposals.c.arm == arm, proposals.c.seed.is_not(None))
    return sorted({*seeds, *connection.execute(added).scalars()})


def _expect_forks(connection: Connection, arm: int, spec: ArmSpec, seeds: Sequence[int]) -> None:
    """Store the rounds at which trials may fork, so that trunks keep snapshots of these rounds."""
    connection.execute(sa.delete(lattices).where(lattices.c.arm == arm))
    rows = [
        {"trunk": trunk, "arm": arm, "low": spec.low, "high": spec.high, "step": spec.step}
        for seed in seeds
        if (trunk := spec.trial(spec.config.rounds, seed).trunk) is not None
    ]
    for batch in batches(rows):
        connection.execute(sa.insert(lattices), list(batch))


def trunks_of(connection: Connection, arm: int) -> list[str]:
    """Return the trunks of which an open arm keeps snapshots."""
    query = sa.select(lattices.c.trunk).where(lattices.c.arm == arm)
    return list(connection.execute(query).scalars())


def any_open(connection: Connection) -> bool:
    """Return whether the search of any arm is open."""
    return bool(_ANY_OPEN(connection).rows)


_ANY_OPEN = Prepared(
    lambda _: sa.select(_ONE).select_from(arms).where(sa.text("ended IS NULL")).limit(_ONE)
)


def hungry(connection: Connection, sweep: str | None = None, *, first: bool = False) -> list[Arm]:
    """Return the open arms that need a proposal, in the order in which they get one.

    Their sweeps are not held, and none of their trials is queued. The order is by priority, then
    by the number of proposals, then by age. With `first`, an arm is left out if a claimable trial
    has the arm's priority or a higher one.
    """
    waits = sa.exists(_ONE).where(
        proposed.c.arm == arms.c.id, trials.c.id == proposed.c.trial, trials.c.state == "queued"
    )
    query = _arms().where(sa.text("arms.ended IS NULL"), sweeps.c.held.is_(None), ~waits)
    if sweep is not None:
        query = query.where(sweeps.c.name == sweep)
    if first:
        before = sa.exists(_ONE).where(sa.text(CLAIMABLE), trials.c.priority >= arms.c.priority)
        query = query.where(~before)
    query = query.order_by(arms.c.priority.desc(), arms.c.asked, arms.c.id)
    return [_arm(row) for row in connection.execute(query).mappings()]


def open_in(connection: Connection, sweep: str | None = None) -> bool:
    """Return whether an arm in scope is open, so that its search may still propose trials.

    Arms of a sweep that is drained, or beyond its budget, do not count.
    """
    query = sa.select(_ONE).select_from(arms.join(sweeps, sweeps.c.id == arms.c.sweep))
    query = query.where(*_waited_for(sweep))
    return connection.execute(query.limit(1)).first() is not None


def open_configs(connection: Connection, sweep: str | None = None) -> list[dict[str, Any]]:
    """Return the configurations of the arms for which `open_in` waits."""
    query = sa.select(arms.c.config).select_from(arms.join(sweeps, sweeps.c.id == arms.c.sweep))
    query = query.where(*_waited_for(sweep))
    return [json.loads(config) for config in connection.execute(query).scalars()]


def _waited_for(sweep: str | None) -> list[sa.ColumnElement[bool]]:
    resumable = sweeps.c.held.is_(None) | (sweeps.c.held == Hold.PAUSE.value)
    scope = [] if sweep is None else [sweeps.c.name == sweep]
    return [OPEN, resumable, *scope]


def of_sweep(connection: Connection, sweep: str) -> list[Arm]:
    """Return a sweep's arms, in the order of the plan."""
    query = _arms().where(sweeps.c.name == sweep).order_by(arms.c.id)
    return [_arm(row) for row in connection.execute(query).mappings()]


def _arms() -> sa.Select[Any]:
    joined = arms.join(sweeps, sweeps.c.id == arms.c.sweep)
    return sa.select(arms, sweeps.c.name.label("sweep_name")).select_from(joined)


def _arm(row: Any) -> Arm:
    settings = json.loads(row["settings"])
    spec = ArmSpec(
        arm_id=row["arm_id"],
        config=TrainConfig(**json.loads(row["config"])),
        seeds=tuple(json.loads(row["seeds"])),
        rivals=tuple(TrainConfig(**config) for config in json.loads(row["rivals"])),
        search=SearchSpec(**settings.pop("search")),
        **settings,
    )
    names = ("sweep", "sweep_name", "priority", "asked", "ended", "said", "freeze_round")
    return Arm(key=row["id"], spec=spec, **{name: row[name] for name in names})


def tried(connection: Connection, arm: Arm) -> list[Tried]:
    """Return the arm's own trials, in the order in which the search proposed them.

    Trials that only confirm the arm's answer are left out.
    """
    final, measured = (table.c[arm.spec.search.metric] for table in (trials, rounds))
    at_pruning = sa.select(measured).where(
        rounds.c.trial == trials.c.id, rounds.c.round == proposals.c.pruned_at
    )
    value = sa.case(
        (proposals.c.pruned_at.is_(None), final),
        else_=at_pruning.correlate(trials, proposals).scalar_subquery(),
    )
    query = (
        sa.select(
            trials.c.freeze_round,
            trials.c.seed,
            trials.c.state,
            trials.c.failure,
            value.label("value"),
            proposed.c.fresh,
            proposals.c.pruned_at,
        )
        .select_from(trials)
        .join(proposed, proposed.c.trial == trials.c.id)
        .join(
            proposals,
            (proposals.c.arm == proposed.c.arm) & (proposals.c.number == proposed.c.number),
        )
        .where(
            proposed.c.arm == arm.key,
            trials.c.normalizer == "fixbn",
            proposals.c.freeze_round.is_(None) | proposals.c.seed.is_(None),
        )
        .order_by(proposed.c.number, trials.c.freeze_round, trials.c.seed)
    )
    return [
        Tried(
            freeze_round=r.freeze_round,
            seed=r.seed,
            state=r.state,
            failure=r.failure,
            value=r.value,
            fresh=bool(r.fresh),
            pruned=r.pruned_at is not None,
        )
        for r in connection.execute(query)
    ]


def proposals_of(connection: Connection, arm: int) -> list[Proposal]:
    """Return the proposals of an arm, in their order."""
    p = proposals.c
    query = sa.select(p.number, p.freeze_round, p.seed, p.why, p.cost, p.at, p.pruned_at)
    rows = connection.execute(query.where(p.arm == arm).order_by(p.number))
    return [Proposal(*row) for row in rows]


def curves(connection: Connection, arm: Arm) -> list[tuple[int, int, bool, int, float]]:
    """Return the metric of the arm's trials in each round in which it was measured.

    A row is (T*, seed, True if the trial is queued or running, round, value). Trials that were
    pruned, or that only confirm the answer, are left out.
    """
    value = rounds.c[arm.spec.search.metric]
    query = (
        sa.select(
            trials.c.freeze_round,
            trials.c.seed,
            trials.c.state.in_(["queued", "running"]).label("open"),
            rounds.c.round,
            value.label("value"),
        )
        .select_from(trials)
        .join(proposed, proposed.c.trial == trials.c.id)
        .join(
            proposals,
            (proposals.c.arm == proposed.c.arm) & (proposals.c.number == proposed.c.number),
        )
        .join(rounds, rounds.c.trial == trials.c.id)
        .where(
            proposed.c.arm == arm.key,
            trials.c.normalizer == "fixbn",
            value.is_not(None),
            proposals.c.seed.is_(None),
            proposals.c.pruned_at.is_(None),
            trials.c.state.in_(["queued", "running", "finished"]),
        )
        .order_by(trials.c.freeze_round, trials.c.seed, rounds.c.round)
    )
    return [
        (r.freeze_round, r.seed, bool(r.open), r.round, r.value) for r in connection.execute(query)
    ]


def give_up(connection: Connection, arm: Arm, freeze_round: int, round: int) -> list[int]:
    """Prune a probe that cannot win, and return the rows of its trials for the caller to cancel.

    These are its queued and running trials that no other live sweep has.
    """
    probe = (proposals.c.arm == arm.key) & (proposals.c.freeze_round == freeze_round)
    probe &= proposals.c.seed.is_(None) & proposals.c.pruned_at.is_(None)
    prune = sa.update(proposals).where(probe).values(pruned_at=round).returning(proposals.c.number)
    numbers = list(connection.execute(prune).scalars())
    query = (
        sa.select(trials.c.id)
        .join(proposed, proposed.c.trial == trials.c.id)
        .where(
            proposed.c.arm == arm.key,
            proposed.c.number.in_(numbers),
            trials.c.state.in_(["queued", "running"]),
        )
    )
    exclusive = set(held_alone(connection, arm.sweep_name))
    return [row for row in connection.execute(query).scalars() if row in exclusive]


def pruning(connection: Connection) -> list[Arm]:
    """Return the open arms that prune, of sweeps that are not held."""
    query = _arms().where(sa.text("arms.ended IS NULL"), sweeps.c.held.is_(None))
    open_arms = [_arm(row) for row in connection.execute(query).mappings()]
    return [arm for arm in open_arms if arm.spec.search.prune != "none"]


def finished(connection: Connection, specs: Sequence[TrialSpec]) -> set[str]:
    """Return the ids of those of these trials that are finished in the store."""
    trial_ids: set[str] = set()
    for batch in batches([spec.trial_id for spec in specs]):
        query = sa.select(trials.c.trial_id).where(
            trials.c.trial_id.in_(batch), trials.c.state == "finished"
        )
        trial_ids.update(connection.execute(query).scalars())
    return trial_ids


def commit(
    connection: Connection,
    arm: Arm,
    specs: Sequence[TrialSpec],
    *,
    freeze_round: int | None,
    seed: int | None,
    why: str,
    cost: int,
) -> list[int] | None:
    """Plan the trials that an arm's search chose, and return their rows.

    If another process proposed in the meantime, or the sweep is held by now, nothing is written
    and None is returned.
    """
    take_turns(connection)
    if not _update_unchanged(connection, arm, asked=arm.asked + 1):
        return None
    if seed is not None:
        spec = arm.spec
        seeds = [*_all_seeds(connection, arm.key, spec.seeds), seed]
        _expect_forks(connection, arm.key, spec, seeds)
    proposal = {"freeze_round": freeze_round, "seed": seed, "why": why, "cost": cost}
    return _propose(connection, arm, arm.asked + 1, specs, proposal)


def confirm(
    connection: Connection, arm: Arm, freeze_round: int, specs: Sequence[TrialSpec], why: str
) -> list[int]:
    """Plan the trials that confirm the T* of an ended search, and return their rows.

    They measure its gain on seeds that the search did not use. Call this in the transaction of
    `end`.
    """
    first = min(spec.config.seed for spec in specs)
    proposal = {"freeze_round": freeze_round, "seed": first, "why": why, "cost": 0}
    return _propose(connection, arm, arm.asked + 1, specs, proposal)


def _propose(
    connection: Connection,
    arm: Arm,
    number: int,
    specs: Sequence[TrialSpec],
    proposal: Mapping[str, Any],
) -> list[int]:
    """Store a proposal, plan its trials, and return their rows."""
    connection.execute(
        sa.insert(proposals).values(arm=arm.key, number=number, at=time.time(), **proposal)
    )
    fresh, row_by_id = add_trials(connection, arm.sweep, specs, arm.priority)
    known = set(
        connection.execute(sa.select(proposed.c.trial).where(proposed.c.arm == arm.key)).scalars()
    )
    rows = [
        {"arm": arm.key, "trial": row, "number": number, "fresh": int(trial_id in fresh)}
        for trial_id, row in row_by_id.items()
        if row not in known
    ]
    if rows:
        connection.execute(sa.insert(proposed), rows)
    return list(row_by_id.values())


def _update_unchanged(connection: Connection, arm: Arm, **values: Any) -> bool:
    """Update an arm, and return whether it still was as it was read.

    An arm that has more proposals than `arm`, has ended, or belongs to a held sweep is not updated.
    """
    free = sa.exists(_ONE).where(sweeps.c.id == arms.c.sweep, sweeps.c.held.is_(None))
    same = (arms.c.id == arm.key) & (arms.c.asked == arm.asked) & arms.c.ended.is_(None) & free
    return connection.execute(sa.update(arms).where(same).values(**values)).rowcount == 1


def end(
    connection: Connection, arm: Arm, *, reason: str, why: str, freeze_round: int | None
) -> list[str] | None:
    """End the search of an arm, and return the trunks of which it no longer keeps snapshots.

    If the arm is no longer as it was read, nothing is written and None is returned.
    """
    take_turns(connection)
    if not _update_unchanged(connection, arm, ended=reason, said=why, freeze_round=freeze_round):
        return None
    kept = trunks_of(connection, arm.key)
    connection.execute(sa.delete(lattices).where(lattices.c.arm == arm.key))
    return kept

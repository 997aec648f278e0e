"""What is searched: arms, what was proposed for them, and what became of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.plan import ArmSpec, SearchSpec, SweepSpec, TrainConfig, TrialSpec
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
    """Proposals so far: who commits another must have seen all of them."""
    ended: str | None = None
    said: str | None = None
    freeze_round: int | None = None


@dataclass(frozen=True)
class Tried:
    """A trial of an arm, as its search sees it."""

    freeze_round: int
    seed: int
    state: str
    failure: str | None
    value: float | None
    """The search's metric, of a finished trial."""
    fresh: bool
    """Whether the search had it planned."""
    pruned: bool = False
    """Whether it was given up; its value is then that of the round in which it was."""


@dataclass(frozen=True)
class Proposal:
    """What was to be tried, and why."""

    number: int
    freeze_round: int | None
    """None where it adds a seed."""
    seed: int | None
    """Of what it adds; with a T*, the first of those that confirm the answer."""
    why: str
    cost: int
    at: float
    pruned_at: int | None = None
    """The round in which it was given up."""


def _settings(spec: ArmSpec) -> str:
    own = {name: getattr(spec, name) for name in _SETTINGS}
    return json.dumps({**own, "search": spec.search.model_dump()}, sort_keys=True)


_SETTINGS = ("low", "high", "step", "rounds_per_seed", "shared")


def _dump(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(exclude_none=True)


def add_arms(connection: Connection, sweep: SweepSpec, priority: int) -> int:
    """Add what a sweep searches; an arm whose search has changed is searched again, as it now says.

    Returns how many are new or searched again; to be called behind `writes.add_sweep`.
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
        mine = (arms.c.sweep == key) & (arms.c.arm_id == spec.arm_id)
        before = connection.execute(sa.select(arms).where(mine)).mappings().one_or_none()
        if before is None:
            row = {"sweep": key, "arm_id": spec.arm_id, "priority": priority, **fields}
            connection.execute(sa.insert(arms).values(**row))
        elif any(before[name] != value for name, value in fields.items()):
            again = {"ended": None, "said": None, "freeze_round": None}
            connection.execute(sa.update(arms).where(mine).values(**fields, **again))
        else:
            continue
        count += 1
        arm = connection.execute(sa.select(arms.c.id).where(mine)).scalar_one()
        _expect_forks(connection, arm, spec, _all_seeds(connection, arm, spec.seeds))
    return count


def _all_seeds(connection: Connection, arm: int, seeds: Sequence[int]) -> list[int]:
    added = sa.select(proposals.c.seed).where(proposals.c.arm == arm, proposals.c.seed.is_not(None))
    return sorted({*seeds, *connection.execute(added).scalars()})


def _expect_forks(connection: Connection, arm: int, spec: ArmSpec, seeds: Sequence[int]) -> None:
    """Let whoever trains the arm's trunks keep a snapshot wherever a trial may yet fork."""
    own = sa.delete(lattices).where(lattices.c.arm == arm)
    connection.execute(own)
    rows = [
        {"trunk": trunk, "arm": arm, "low": spec.low, "high": spec.high, "step": spec.step}
        for seed in seeds
        if (trunk := spec.trial(spec.config.rounds, seed).trunk) is not None
    ]
    for some in batches(rows):
        connection.execute(sa.insert(lattices), list(some))


def trunks_of(connection: Connection, arm: int) -> list[str]:
    """The trunks that an open arm keeps snapshots of."""
    query = sa.select(lattices.c.trunk).where(lattices.c.arm == arm)
    return list(connection.execute(query).scalars())


def any_open(connection: Connection) -> bool:
    """Whether anything is searched."""
    return bool(_ANY_OPEN(connection).rows)


_ANY_OPEN = Prepared(
    lambda _: sa.select(_ONE).select_from(arms).where(sa.text("ended IS NULL")).limit(_ONE)
)


def hungry(connection: Connection, sweep: str | None = None, *, first: bool = False) -> list[Arm]:
    """Open arms of free sweeps none of whose trials waits to be claimed, by priority, then by how
    little was proposed, then by age. With `first`, only where nothing that may be claimed comes
    before what they would propose.
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
    """Whether trials are still to be proposed in scope; what is drained, or beyond its budget, is
    not waited for.
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
    wanted = sweeps.c.held.is_(None) | (sweeps.c.held == Hold.PAUSE.value)
    scope = [] if sweep is None else [sweeps.c.name == sweep]
    return [OPEN, wanted, *scope]


def of_sweep(connection: Connection, sweep: str) -> list[Arm]:
    """A sweep's arms, in the order of the plan."""
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
    same = ("sweep", "sweep_name", "priority", "asked", "ended", "said", "freeze_round")
    return Arm(key=row["id"], spec=spec, **{name: row[name] for name in same})


def tried(connection: Connection, arm: Arm) -> list[Tried]:
    """The arm's own trials, in the order in which they were proposed; without those that only
    confirm its answer.
    """
    final, measured = (table.c[arm.spec.search.metric] for table in (trials, rounds))
    given_up = sa.select(measured).where(
        rounds.c.trial == trials.c.id, rounds.c.round == proposals.c.pruned_at
    )
    value = sa.case(
        (proposals.c.pruned_at.is_(None), final),
        else_=given_up.correlate(trials, proposals).scalar_subquery(),
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
            *(r.freeze_round, r.seed, r.state, r.failure, r.value, bool(r.fresh)),
            pruned=r.pruned_at is not None,
        )
        for r in connection.execute(query)
    ]


def proposals_of(connection: Connection, arm: int) -> list[Proposal]:
    """What was proposed for an arm, in order."""
    p = proposals.c
    query = sa.select(p.number, p.freeze_round, p.seed, p.why, p.cost, p.at, p.pruned_at)
    found = connection.execute(query.where(p.arm == arm).order_by(p.number))
    return [Proposal(*row) for row in found]


def curves(connection: Connection, arm: Arm) -> list[tuple[int, int, bool, int, float]]:
    """The metric of the arm's trials by round, (T*, seed, whether it waits or runs, round, value),
    as far as it was measured; without those that were given up, or only confirm the answer.
    """
    value = rounds.c[arm.spec.search.metric]
    query = (
        sa.select(
            *(trials.c.freeze_round, trials.c.seed),
            trials.c.state.in_(["queued", "running"]).label("open"),
            *(rounds.c.round, value.label("value")),
        )
        .select_from(trials)
        .join(proposed, proposed.c.trial == trials.c.id)
        .join(
            proposals,
            (proposals.c.arm == proposed.c.arm) & (proposals.c.number == proposed.c.number),
        )
        .join(rounds, rounds.c.trial == trials.c.id)
        .where(
            *(proposed.c.arm == arm.key, trials.c.normalizer == "fixbn", value.is_not(None)),
            *(proposals.c.seed.is_(None), proposals.c.pruned_at.is_(None)),
            trials.c.state.in_(["queued", "running", "finished"]),
        )
        .order_by(trials.c.freeze_round, trials.c.seed, rounds.c.round)
    )
    return [
        (r.freeze_round, r.seed, bool(r.open), r.round, r.value) for r in connection.execute(query)
    ]


def give_up(connection: Connection, arm: Arm, freeze_round: int, round: int) -> list[int]:
    """Say that a probe cannot win; returns the rows of its trials that are not done and that no
    other live sweep has, for the caller to cancel.
    """
    mine = (proposals.c.arm == arm.key) & (proposals.c.freeze_round == freeze_round)
    mine &= proposals.c.seed.is_(None) & proposals.c.pruned_at.is_(None)
    said = sa.update(proposals).where(mine).values(pruned_at=round).returning(proposals.c.number)
    numbers = list(connection.execute(said).scalars())
    query = (
        sa.select(trials.c.id)
        .join(proposed, proposed.c.trial == trials.c.id)
        .where(
            *(proposed.c.arm == arm.key, proposed.c.number.in_(numbers)),
            trials.c.state.in_(["queued", "running"]),
        )
    )
    alone = set(held_alone(connection, arm.sweep_name))
    return [row for row in connection.execute(query).scalars() if row in alone]


def pruning(connection: Connection) -> list[Arm]:
    """The open arms, of sweeps that are free, that give up what cannot win."""
    query = _arms().where(sa.text("arms.ended IS NULL"), sweeps.c.held.is_(None))
    found = [_arm(row) for row in connection.execute(query).mappings()]
    return [arm for arm in found if arm.spec.search.prune != "none"]


def finished(connection: Connection, specs: Sequence[TrialSpec]) -> set[str]:
    """Those of these trials that the store has, finished."""
    found: set[str] = set()
    for some in batches([spec.trial_id for spec in specs]):
        query = sa.select(trials.c.trial_id).where(
            trials.c.trial_id.in_(some), trials.c.state == "finished"
        )
        found.update(connection.execute(query).scalars())
    return found


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
    """Plan what an arm's search chose; returns the trials' rows, None where somebody else proposed
    meanwhile, or the sweep is held by now: then nothing is written.
    """
    take_turns(connection)
    if not _still(connection, arm, asked=arm.asked + 1):
        return None
    if seed is not None:
        spec = arm.spec
        seeds = [*_all_seeds(connection, arm.key, spec.seeds), seed]
        _expect_forks(connection, arm.key, spec, seeds)
    said = {"freeze_round": freeze_round, "seed": seed, "why": why, "cost": cost}
    return _propose(connection, arm, arm.asked + 1, specs, said)


def confirm(
    connection: Connection, arm: Arm, freeze_round: int, specs: Sequence[TrialSpec], why: str
) -> list[int]:
    """Plan the trials that measure what the T* of an ended search gains, on seeds that it did not
    choose by: with `end`, in one transaction.
    """
    first = min(spec.config.seed for spec in specs)
    said = {"freeze_round": freeze_round, "seed": first, "why": why, "cost": 0}
    return _propose(connection, arm, arm.asked + 1, specs, said)


def _propose(
    connection: Connection,
    arm: Arm,
    number: int,
    specs: Sequence[TrialSpec],
    said: Mapping[str, Any],
) -> list[int]:
    """Write a proposal down, and plan its trials; returns their rows."""
    connection.execute(
        sa.insert(proposals).values(arm=arm.key, number=number, at=time.time(), **said)
    )
    fresh, there = add_trials(connection, arm.sweep, specs, arm.priority)
    known = set(
        connection.execute(sa.select(proposed.c.trial).where(proposed.c.arm == arm.key)).scalars()
    )
    rows = [
        {"arm": arm.key, "trial": row, "number": number, "fresh": int(trial_id in fresh)}
        for trial_id, row in there.items()
        if row not in known
    ]
    if rows:
        connection.execute(sa.insert(proposed), rows)
    return list(there.values())


def _still(connection: Connection, arm: Arm, **values: Any) -> bool:
    """Write to an arm that is as it was seen, open, and of a sweep that is free."""
    free = sa.exists(_ONE).where(sweeps.c.id == arms.c.sweep, sweeps.c.held.is_(None))
    seen = (arms.c.id == arm.key) & (arms.c.asked == arm.asked) & arms.c.ended.is_(None) & free
    return connection.execute(sa.update(arms).where(seen).values(**values)).rowcount == 1


def end(
    connection: Connection, arm: Arm, *, reason: str, why: str, freeze_round: int | None
) -> list[str] | None:
    """The search of an arm is over; returns the trunks that nothing may fork from any more on its
    account, None where it is not as it was seen.
    """
    take_turns(connection)
    if not _still(connection, arm, ended=reason, said=why, freeze_round=freeze_round):
        return None
    kept = trunks_of(connection, arm.key)
    connection.execute(sa.delete(lattices).where(lattices.c.arm == arm.key))
    return kept

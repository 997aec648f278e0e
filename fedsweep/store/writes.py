"""What is added to the store: plans and their trials, rounds, snapshots' index rows.

Nothing here changes a trial's state; every write of an attempt goes behind `queue.renew`.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import Refused
from fedsweep.fields import config_columns
from fedsweep.logbook import Line, cut
from fedsweep.plan import (
    OUTSIDE_IDENTITY,
    ClientScore,
    Round,
    SweepSpec,
    TrainConfig,
    Trials,
    TrialSpec,
    fork_round,
    more_measured,
)
from fedsweep.states import TrialState
from fedsweep.store.claim import Claim
from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.base import Dialect, Lock
from fedsweep.store.difference import Differs, as_stored, differences
from fedsweep.store.prepared import Prepared, Steps
from fedsweep.store.tables import (
    SHARING,
    arms,
    attempts,
    client_rounds,
    files,
    logs,
    members,
    plans,
    proposed,
    rounds,
    snapshots,
    sweeps,
    trials,
    weights,
)

T = TypeVar("T")

BATCH = 1000
"""Rows of one statement."""


@dataclass(frozen=True)
class Planned:
    """What planning a sweep did. Nothing is ever removed."""

    new: int
    """Trials that the database did not have."""
    kept: int
    """Trials of the plan that were there."""
    dropped: int
    """Members of the sweep that the text no longer names; they stay."""
    earlier: str | None
    """The text under which the sweep was planned before, where it differs."""
    cancelled: tuple[str, ...]
    """Trials of the plan that are cancelled: the caller queues them again."""
    otherwise: int = 0
    """Kept trials that were planned to measure or keep other things, and have begun so."""


def add_sweep(connection: Connection, sweep: SweepSpec, priority: int = 0) -> Planned:
    """Add a sweep, its text and its trials; what is there already is kept as it is."""
    take_turns(connection)
    key, earlier = _sweep_key(connection, sweep)
    wanted = Trials.of(sweep.trials)
    before = {row.trial_id: row for row in _known(connection, wanted.ids)}
    if earlier != sweep.text:
        connection.execute(
            sa.insert(plans).values(sweep=key, text=sweep.text, created_at=time.time())
        )
    begun = 0
    for trial in wanted if before else ():
        row = before.get(trial.trial_id)
        if row is not None and _differs(row, trial):
            begun += not _measure_more(connection, row, trial)
    had = _members(connection, key)
    fresh, there = add_trials(connection, key, wanted, priority, before)
    return Planned(
        new=len(fresh),
        kept=len(before),
        dropped=len(had - set(there.values()) - _proposed(connection, key)) if had else 0,
        earlier=earlier if earlier not in (None, sweep.text) else None,
        cancelled=tuple(i for i, row in before.items() if row.state == TrialState.CANCELLED),
        otherwise=begun,
    )


def add_trials(
    connection: Connection,
    sweep: int,
    wanted: Sequence[TrialSpec],
    priority: int,
    before: Mapping[str, Any] | None = None,
) -> tuple[set[str], dict[str, int]]:
    """Add those of these trials that are not there (`before` has the rows of the others, where they
    are known), and make all of them members of a sweep.

    Returns the ids of the new ones, and the rows of all by their ids; behind `take_turns`.
    """
    packed = Trials.of(wanted)
    if before is None:
        before = {row.trial_id: row for row in _known(connection, packed.ids)}
    fresh = packed.without(before)
    carriers = _carriers(connection, fresh, priority)
    rows = (_trial_row(trial, sweep, priority, carriers) for trial in fresh)
    while batch := list(itertools.islice(rows, BATCH)):
        _ADD_TRIAL.many(connection, batch)
    had = _members(connection, sweep)
    there: dict[str, int] = {}
    joining: list[dict[str, int]] = []
    for row in itertools.chain(before.values(), _known(connection, fresh.ids)):
        there[row.trial_id] = row.id
        if row.id not in had:
            joining.append({"sweep": sweep, "trial": row.id, "shared": int(row.sweep != sweep)})
        if len(joining) == BATCH:
            _ADD_MEMBER.many(connection, joining)
            joining = []
    if joining:
        _ADD_MEMBER.many(connection, joining)
    return set(fresh.ids), there


def _members(connection: Connection, sweep: int) -> set[int]:
    return set(
        connection.execute(sa.select(members.c.trial).where(members.c.sweep == sweep)).scalars()
    )


def _proposed(connection: Connection, sweep: int) -> set[int]:
    """The trials that a sweep's searches chose: no plan names them."""
    of_it = sa.select(proposed.c.trial).join(arms, arms.c.id == proposed.c.arm)
    return set(connection.execute(of_it.where(arms.c.sweep == sweep)).scalars())


def _differs(row: Any, trial: TrialSpec) -> bool:
    """Whether a stored trial measures or keeps something else than is asked now."""
    return any(getattr(row, name) != getattr(trial.config, name) for name in OUTSIDE_IDENTITY)


def _measure_more(connection: Connection, row: Any, trial: TrialSpec) -> bool:
    """Let a trial that has not begun measure and keep what is asked now too; False where it has."""
    stored = connection.execute(
        sa.select(trials.c.config).where(trials.c.id == row.id)
    ).scalar_one()
    more = more_measured(TrainConfig(**json.loads(stored)), trial.config)
    fields = {name: getattr(more, name) for name in OUTSIDE_IDENTITY}
    waiting = (trials.c.state == TrialState.QUEUED) & trials.c.final_round.is_(None)
    done = connection.execute(
        sa.update(trials)
        .where(trials.c.id == row.id, waiting)
        .values(
            config=json.dumps(more.model_dump(exclude_none=True)),
            trunk=sa.case((trials.c.trunk.is_not(None), TrialSpec.of(more).trunk)),
            **fields,
        )
    )
    return done.rowcount == 1


def take_turns(connection: Connection) -> None:
    """Who plans and who holds sweeps take turns: two that share trials in another order would wait
    for each other, and of two that hold what they share, neither would see what the other did.
    """
    dialect_of(connection).lock(connection, Lock.PLAN)


def _sweep_key(connection: Connection, sweep: SweepSpec) -> tuple[int, str | None]:
    """The sweep's row, made if need be, and the text it was last planned with."""
    _ADD_SWEEP(connection, name=sweep.name, created_at=time.time())
    key = connection.execute(sa.select(sweeps.c.id).where(sweeps.c.name == sweep.name)).scalar_one()
    last = sa.select(plans.c.text).where(plans.c.sweep == key).order_by(plans.c.id.desc()).limit(1)
    return key, connection.execute(last).scalar_one_or_none()


def _known(connection: Connection, ids: Sequence[str]) -> Iterator[Any]:
    """Those of these trials that are there: their rows, states and what they measure."""
    outside = [trials.c[name] for name in sorted(OUTSIDE_IDENTITY)]
    found = sa.select(trials.c.trial_id, trials.c.id, trials.c.sweep, trials.c.state, *outside)
    for batch in batches(ids):
        yield from connection.execute(found.where(trials.c.trial_id.in_(batch)))


def _carriers(connection: Connection, fresh: Trials, priority: int) -> dict[str, str | None]:
    """Of each trunk, the new trial that is to carry it, the one that goes furthest; None where
    a trial that is there may do so, and comes no later.
    """
    furthest: dict[str, tuple[int, str]] = {}
    for trial_id, trunk, fork in fresh.forks:
        if fork > furthest.get(trunk, (-1, ""))[0]:
            furthest[trunk] = (fork, trial_id)
    carriers: dict[str, str | None] = {k: carrier for k, (_, carrier) in furthest.items()}
    for some in batches(list(carriers)):
        there = sa.select(trials.c.trunk).where(
            sa.text(SHARING),
            trials.c.trunk.in_(some),
            trials.c.waits == 0,
            (trials.c.priority >= priority) | (trials.c.state == TrialState.RUNNING),
        )
        carriers.update(dict.fromkeys(connection.execute(there.distinct()).scalars()))
    return carriers


def _trial_row(
    trial: TrialSpec, sweep: int, priority: int, carriers: Mapping[str, str | None]
) -> dict[str, Any]:
    fields = trial.config.model_dump()
    shares = trial.trunk is not None
    waits = shares and carriers[trial.trunk or ""] != trial.trial_id
    return fields | {
        "trial_id": trial.trial_id,
        "cell_id": trial.cell_id,
        "sweep": sweep,
        "config": json.dumps({key: v for key, v in fields.items() if v is not None}),
        "state": TrialState.QUEUED.value,
        "priority": priority,
        "trunk": trial.trunk,
        "fork_round": fork_round(trial.config) if shares else None,
        "waits": int(waits),
    }


def batches(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """In pieces that one statement takes."""
    return (rows[i : i + BATCH] for i in range(0, len(rows), BATCH))


def _adding(table: sa.Table, *names: str) -> Prepared:
    """INSERT … ON CONFLICT DO NOTHING, of these columns."""
    values: dict[str, Any] = {name: sa.bindparam(name) for name in names}
    return Prepared(lambda dialect: dialect.insert(table).values(values).on_conflict_do_nothing())


_PLANNED = (
    *("trial_id", "cell_id", "sweep", "config", "state", "priority"),
    *("trunk", "fork_round", "waits"),
)
_ADD_TRIAL = _adding(trials, *_PLANNED, *config_columns())
_ADD_MEMBER = _adding(members, "sweep", "trial", "shared")
_ADD_SWEEP = _adding(sweeps, "name", "created_at")


def add_rounds(
    connection: Connection,
    claim: Claim,
    done: Sequence[Round],
    final_round: int | None = None,
    memory: int | None = None,
) -> Differs | None:
    """Store an attempt's rounds; those stored before are compared, and count as lost.

    Returns the first difference, with nothing written; to be called behind `queue.renew`, which
    tells the last stored round: behind it there is nothing to compare. `memory` are the bytes of
    its device that the attempt has taken at most.
    """
    if not done:
        return None
    beyond = final_round is not None and done[0].round > final_round
    stored = {} if beyond else _stored(connection, claim, done)
    again = [r for r in done if r.round in stored]
    if found := _difference(connection, claim, again, stored):
        return found
    fresh = [r for r in done if r.round not in stored]
    if fresh:
        _ADD_ROUND.many(connection, [as_stored(r) | {"trial": claim.trial} for r in fresh])
        for rows in batches([row for r in fresh for row in _client_rows(claim, r)]):
            connection.execute(sa.insert(client_rounds), rows)
    counts = {
        "of_trial": claim.trial,
        "of_fence": claim.fence,
        "last": fresh[-1].round if fresh else None,
        "more_seconds": sum(r.seconds for r in fresh),
        "n_trained": len(done),
        "n_new": len(fresh),
        "n_lost": len(again),
        "s_trained": sum(r.seconds for r in done),
        "s_lost": sum(r.seconds for r in again),
        "at_most": memory,
    }
    statement: Prepared | Steps = _GET_ON if fresh else _COUNT
    statement(connection, **counts)
    return None


_ADD_ROUND = Prepared(
    lambda _: sa.insert(rounds).values(
        {c.name: sa.bindparam(c.name) for c in rounds.c if c.name != "inherited"}
    )
)


_GET_ON = Steps("get_on")
_COUNT = Prepared.named("count_rounds")


def _stored(
    connection: Connection, claim: Claim, done: Sequence[Round]
) -> dict[int, sa.RowMapping]:
    """The stored rows of the span of these rounds, by round."""
    span = rounds.c.round.between(done[0].round, done[-1].round)
    found = connection.execute(sa.select(rounds).where(rounds.c.trial == claim.trial, span))
    return {row["round"]: row for row in found.mappings()}


def _client_rows(claim: Claim, measured: Round) -> list[dict[str, Any]]:
    key = {"trial": claim.trial, "round": measured.round}
    return [key | asdict(score) for score in measured.clients]


def _difference(
    connection: Connection,
    claim: Claim,
    again: Sequence[Round],
    stored: Mapping[int, sa.RowMapping],
) -> Differs | None:
    """The first difference of rounds trained again from what is stored, the clients' included."""
    clients = _stored_clients(connection, claim, again)
    for measured in again:
        row, scores = stored[measured.round], clients.get(measured.round, {})
        if found := next(differences(row, scores, measured), None):
            return found
    return None


def _stored_clients(
    connection: Connection, claim: Claim, again: Sequence[Round]
) -> dict[int, dict[int, ClientScore]]:
    found: dict[int, dict[int, ClientScore]] = {}
    if any(r.clients for r in again):
        c = client_rounds.c
        span = c.round.between(again[0].round, again[-1].round)
        query = sa.select(c.round, c.client, c.samples, c.test_accuracy)
        for row in connection.execute(query.where(c.trial == claim.trial, span)):
            score = ClientScore(row.client, row.samples, row.test_accuracy)
            found.setdefault(row.round, {})[row.client] = score
    return found


def start_attempt(
    connection: Connection,
    claim: Claim,
    *,
    numerics_id: str,
    numerics: Mapping[str, str],
    data_fingerprint: str,
    provenance: Mapping[str, Any] | None = None,
) -> list[str]:
    """Say what an attempt computes under and runs with, and index the files that it may write.
    Rounds stored under other numerics are dropped, as lost, and so are their snapshots: a trial's
    rounds are all of one kind.

    Returns the names of the dropped snapshots' files; to be called behind `queue.renew`.
    """
    key = {"trial": claim.trial, "fence": claim.fence}
    _ADD_FILE.many(connection, [key | {"name": name} for name in file_names(claim)])
    mine = (attempts.c.trial == claim.trial) & (attempts.c.fence == claim.fence)
    lost = seconds = 0
    dropped: list[str] = []
    if claim.numerics_id is not None and claim.numerics_id != numerics_id:
        old = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(rounds.c.seconds), 0))
        lost, seconds = connection.execute(old.where(rounds.c.trial == claim.trial)).one()
        for table in (rounds, client_rounds):
            connection.execute(sa.delete(table).where(table.c.trial == claim.trial))
        dropped = drop_snapshots(connection, claim.trial)
        connection.execute(
            sa.update(trials)
            .where(trials.c.id == claim.trial)
            .values(final_round=None, seconds=None, rounds_shared=0)
        )
    connection.execute(
        sa.update(attempts)
        .where(mine)
        .values(
            numerics_id=numerics_id,
            numerics=json.dumps(dict(numerics)),
            data_fingerprint=data_fingerprint,
            provenance=None if provenance is None else json.dumps(dict(provenance)),
            rounds_lost=attempts.c.rounds_lost + lost,
            seconds_lost=attempts.c.seconds_lost + seconds,
        )
    )
    connection.execute(
        sa.update(trials)
        .where(trials.c.id == claim.trial)
        .values(numerics_id=numerics_id, data_fingerprint=data_fingerprint)
    )
    return dropped


_ADD_FILE = _adding(files, "name", "trial", "fence")


def add_logs(connection: Connection, claim: Claim, lines: Sequence[Line]) -> None:
    """Store what was said during an attempt; a line that is there is written over.

    To be called behind `queue.renew`, so that who has lost its lease adds nothing.
    """
    key = {"trial": claim.trial, "fence": claim.fence}
    if lines:
        _SAY.many(connection, [key | asdict(line) for line in lines])


def add_last_words(connection: Connection, claim: Claim, words: Sequence[str]) -> None:
    """Store what a slot's process said as it died, behind what it had stored; see `add_logs`."""
    mine = (logs.c.trial == claim.trial) & (logs.c.fence == claim.fence)
    last = sa.select(sa.func.coalesce(sa.func.max(logs.c.n), 0)).where(mine)
    first, now = connection.execute(last).scalar_one() + 1, time.time()
    said = [Line(n, now, "stderr", cut(word)) for n, word in enumerate(words, first)]
    add_logs(connection, claim, said)


def _saying(dialect: Dialect) -> sa.ClauseElement:
    added = dialect.insert(logs).values({c.name: sa.bindparam(c.name) for c in logs.c})
    said = {name: added.excluded[name] for name in ("at", "level", "message")}
    rewritten: sa.ClauseElement = added.on_conflict_do_update(
        index_elements=["trial", "fence", "n"], set_=said
    )
    return rewritten


_SAY = Prepared(_saying)


def snapshot_names(claim: Claim) -> tuple[str, str]:
    """The two files that an attempt writes its snapshots to, by turns: what the index points at is
    never overwritten. They carry the fence, so that no two attempts write the same file.
    """
    return _file_name(claim, "a"), _file_name(claim, "b")


def _file_name(claim: Claim, what: str | int) -> str:
    """Return a name that no other attempt of any store gives to a file.

    `artifacts` reads and deletes files of such names only.
    """
    store = f"-{claim.store}" if claim.store else ""
    return f"{claim.trial_id}-{claim.fence}{store}-{what}.safetensors"


def fork_name(claim: Claim, round: int) -> str:
    """The file that an attempt writes its state after a round to, at which a sibling forks."""
    return _file_name(claim, round)


def _is_of_fork(name: str, round: int) -> bool:
    return name.endswith(f"-{round}.safetensors")


def weights_name(claim: Claim) -> str:
    """The file that an attempt writes the final weights to."""
    return _file_name(claim, "weights")


def brought_names(store: str, trial_id: str, fence: int) -> Iterator[str]:
    """Yield names for weights that come from another database, the first one first."""
    for number in range(1, MOST_BROUGHT + 1):
        what = "weights" if number == 1 else f"weights{number}"
        yield f"{trial_id}-{fence}-{store}-{what}.safetensors"


MOST_BROUGHT = 99
"""Names that `brought_names` yields: some may be taken by files that no row names."""


def file_names(claim: Claim) -> list[str]:
    """All files that an attempt may write."""
    kept = [weights_name(claim)] if claim.config.get("keep_weights") else []
    return [*snapshot_names(claim), *kept]


def free_files(connection: Connection, names: Sequence[str]) -> None:
    """Say that nothing refers to these files any more, from now on."""
    if names:
        named = sa.update(files).where(files.c.name.in_(names))
        connection.execute(named.values(free_since=time.time()))


def forget_files(connection: Connection, names: Collection[str]) -> None:
    """Take files off the index that are gone, or were never written."""
    for batch in batches(sorted(names)):
        connection.execute(sa.delete(files).where(files.c.name.in_(batch)))


def put_files(connection: Connection, sweep: str, artifacts: str) -> None:
    """Say where the files of the trials lie that this sweep planned first.

    Raises:
        Refused: some lie elsewhere.

    """
    found = sa.select(sweeps.c.id, sweeps.c.artifacts).where(sweeps.c.name == sweep)
    key, before = connection.execute(found).one()
    if before == artifacts:
        return
    # An attempt indexes its files before it reads where to put them.
    dialect_of(connection).lock_rows_of(connection, files)
    mine = sa.select(trials.c.id).where(trials.c.sweep == key)
    for table in (files, snapshots, weights):
        some = sa.select(table.c.name).where(table.c.trial.in_(mine)).limit(1)
        if connection.execute(some).first() is not None:
            place = before or "this database's own folder"
            raise Refused(
                f"the files of sweep {sweep} lie in {place}: plan it without --artifacts, or with "
                "that one"
            )
    connection.execute(sa.update(sweeps).where(sweeps.c.id == key).values(artifacts=artifacts))


@dataclass(frozen=True)
class Snapshot:
    """The index row of a trainer's state in a file."""

    round: int
    numerics_id: str
    name: str
    bytes: int
    sha256: str


def expect_fork(connection: Connection, claim: Claim, round: int) -> None:
    """Index the file of a fork's snapshot, before it is written."""
    row = {"name": fork_name(claim, round), "trial": claim.trial, "fence": claim.fence}
    _ADD_FILE.many(connection, [row])


def add_snapshot(connection: Connection, claim: Claim, snapshot: Snapshot) -> list[str]:
    """Make a snapshot the trial's latest, in the place of the one before; those of forks stay.

    Returns the names of the files it replaces.
    """
    shared = claim.trunk if snapshot.round <= claim.fork_round else None
    mine = snapshots.c.trial == claim.trial
    replaced = _drop(connection, mine & (snapshots.c.round == snapshot.round))
    replaced += _drop_latest(connection, claim.trial)
    replaced = [name for name in replaced if name != snapshot.name]
    free_files(connection, [name for name in replaced if name not in snapshot_names(claim)])
    connection.execute(
        sa.insert(snapshots).values(
            trial=claim.trial, created_at=time.time(), trunk=shared, **asdict(snapshot)
        )
    )
    return replaced


def drop_latest(connection: Connection, trial: int) -> list[str]:
    """Forget what only this trial would go on from; returns the names of the files."""
    names = _drop_latest(connection, trial)
    free_files(connection, names)
    return names


def _drop_latest(connection: Connection, trial: int) -> list[str]:
    s = snapshots.c
    rows = connection.execute(sa.select(s.round, s.name, s.trunk).where(s.trial == trial)).all()
    some = [row.round for row in rows if not (row.trunk and _is_of_fork(row.name, row.round))]
    return _drop(connection, (s.trial == trial) & s.round.in_(some)) if some else []


def drop_snapshots(connection: Connection, trial: int) -> list[str]:
    """Forget all of a trial's snapshots; returns the names of their files."""
    names = _drop(connection, snapshots.c.trial == trial)
    free_files(connection, names)
    return names


def _drop(connection: Connection, some: sa.ColumnElement[bool]) -> list[str]:
    gone = sa.delete(snapshots).where(some).returning(snapshots.c.name)
    return list(connection.execute(gone).scalars())


@dataclass(frozen=True)
class Weights:
    """The index row of a finished trial's weights in a file."""

    name: str
    bytes: int
    sha256: str


def add_weights(connection: Connection, claim: Claim, kept: Weights) -> None:
    """Say where a trial's final weights lie; in the commit that finishes it."""
    connection.execute(
        sa.insert(weights).values(trial=claim.trial, created_at=time.time(), **asdict(kept))
    )

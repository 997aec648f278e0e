"""Trunks: the BN rounds that bn and fixbn trials share if they differ only in their freeze round.

A trial that has a trunk may share it up to its fork round. One trial of a trunk is its carrier. It
trains the shared rounds, and keeps a snapshot of each round at which another trial forks. The
others wait (`trials.waits`) until the trunk has reached their fork, or until the carrier is gone.

Waiting keeps them out of the queue's index. A check at each claim (`busy`), under the trunk's lock,
keeps two workers from training the same round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.states import TrialState
from fedsweep.store.claim import Claim
from fedsweep.store.dialects import dialect_of
from fedsweep.store.file_index import Snapshot, free_files
from fedsweep.store.file_places import Home, home
from fedsweep.store.prepared import Prepared
from fedsweep.store.spare_files import needed_by_siblings
from fedsweep.store.tables import (
    SHARING,
    TRAINING,
    WAITING,
    WHOLE,
    client_rounds,
    identity,
    members,
    rounds,
    snapshots,
    sweeps,
    trials,
)

_ONE: sa.ColumnElement[int] = sa.literal_column("1")
_ZERO: sa.ColumnElement[int] = sa.literal_column("0")


def _last_round() -> sa.ColumnElement[int]:
    """Return the last stored round of a trial."""
    last: sa.ColumnElement[int] = sa.func.coalesce(trials.c.final_round, _ZERO)
    return last


def _start() -> sa.ColumnElement[int]:
    """Return the round after which a trial continues, from itself or from a snapshot of its
    trunk.
    """
    latest = (
        sa.select(sa.func.coalesce(sa.func.max(snapshots.c.round), _ZERO))
        .where(snapshots.c.trunk == trials.c.trunk, snapshots.c.round <= trials.c.fork_round)
        .correlate(trials)
        .scalar_subquery()
    )
    last = _last_round()
    return sa.case((last > latest, last), else_=latest)


def lock(connection: Connection, trunk: str) -> None:
    """Lock a trunk until the commit, so that no other trial begins to train it."""
    dialect_of(connection).lock(connection, int(trunk[:15], 16))


def busy(connection: Connection, trial: int, trunk: str) -> bool:
    """Return whether another running trial trains rounds of the trunk that this trial needs too."""
    return bool(_BUSY(connection, of_trial=trial, of_trunk=trunk).rows)


_BUSY = Prepared.named("busy")


def free_forks(connection: Connection, trunk: str, round: int) -> int:
    """Free the trials that fork at or before the round that the trunk has reached. Return their
    number.
    """
    return _FREE_FORKS(connection, of_trunk=trunk, of_round=round).rowcount


def _end_wait(ids: sa.Select[Any]) -> sa.Update:
    # Planning and holding lock rows in another order. Waiting for them could be a deadlock.
    free = ids.with_for_update(skip_locked=True, of=trials)
    return sa.update(trials).where(trials.c.id.in_(free)).values(waits=sa.literal_column("0"))


_PARTS = {"sharing": SHARING, "waiting": WAITING}
"""Conditions of the statements in the SQL files. The indexes have the same ones."""


_FREE_FORKS = Prepared.named("free_forks", _PARTS)


def pass_on(connection: Connection, trunk: str) -> int:
    """Choose the next carrier of a trunk if it has none: by priority, then by how far it goes.

    Return the number of chosen trials, 1 or 0.
    """
    return _PASS_ON(connection, of_trunk=trunk).rowcount


_PASS_ON = Prepared.named("pass_on", _PARTS)


def free(connection: Connection, sweep: str | None = None) -> int:
    """Choose a carrier for each trunk that trials in scope wait for and that no trial trains.

    It handles a limited number of trunks per call. Return the number of freed trials. A worker that
    finds nothing to claim calls it, because the intended carriers may be held or out of scope.
    """
    scope = sa.true() if sweep is None else _in_sweep(sweep)
    idle = connection.execute(_idle_trunks(scope)).scalars().all()
    count = 0
    for trunk in idle:
        following = (
            sa.select(trials.c.id)
            .where(sa.text(WAITING), trials.c.trunk == trunk, scope)
            .order_by(trials.c.priority.desc(), trials.c.fork_round.desc())
            .limit(1)
        )
        count += connection.execute(_end_wait(following)).rowcount
    return count


def anybody_waits(connection: Connection) -> bool:
    """Return whether a trial waits only for its trunk."""
    return bool(_ANY_WAITS(connection).rows)


_ANY_WAITS = Prepared.named("any_waits", _PARTS)

AT_ONCE = 100
"""Trunks that get a carrier in one transaction, so that the transaction stays short."""


def _in_sweep(sweep: str) -> sa.ColumnElement[bool]:
    of_it = members.join(sweeps, sweeps.c.id == members.c.sweep)
    members_of_sweep = sa.select(members.c.trial).select_from(of_it).where(sweeps.c.name == sweep)
    return sa.exists(members_of_sweep.where(members.c.trial == trials.c.id).correlate(trials))


def _idle_trunks(scope: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Select the trunks that trials in scope wait for and that no worker trains.

    The query steps from one trunk to the next in the index, because a million trials may wait for
    one trunk.
    """
    first = sa.select(sa.func.min(trials.c.trunk).label("trunk")).where(sa.text(WAITING))
    waited = first.cte("waited", recursive=True)
    beyond = first.where(trials.c.trunk > waited.c.trunk).correlate(waited).scalar_subquery()
    waited = waited.union_all(sa.select(beyond).where(waited.c.trunk.is_not(None)))
    trained = sa.exists(
        sa.select(_ONE).where(
            sa.text(TRAINING), trials.c.trunk == waited.c.trunk, _start() < trials.c.fork_round
        )
    )
    in_scope = sa.exists(
        sa.select(_ONE).where(sa.text(WAITING), trials.c.trunk == waited.c.trunk, scope)
    )
    query = sa.select(waited.c.trunk).where(waited.c.trunk.is_not(None), ~trained, in_scope)
    return query.limit(AT_ONCE)


def next_fork(connection: Connection, trunk: str, round: int) -> int | None:
    """Return the first round after this one at which an unfinished trial forks, or a search may let
    one fork.
    """
    row = _NEXT(connection, of_trunk=trunk, of_round=round).one()
    forks = [fork for fork in row if fork is not None]
    for low, high, step in _LATTICES(connection, of_trunk=trunk).rows:
        following = low if round < low else low + ((round - low) // step + 1) * step
        forks += [following] if following <= high else []
    return min(forks, default=None)


_LATTICES = Prepared.named("lattices")


_NEXT = Prepared.named("next_fork", _PARTS)


@dataclass(frozen=True)
class Origin:
    """A snapshot from which a trial can resume."""

    trial: int
    """The trial that wrote it."""
    home: Home
    """The place of its file."""
    snapshot: Snapshot


def origins(connection: Connection, claim: Claim, numerics_id: str) -> list[Origin]:
    """Return the snapshots that a claimed trial can continue from, bit for bit, the furthest first.

    They are its own snapshots and those of its trunk.
    """
    s = snapshots.c
    own = s.trial == claim.trial
    usable = own
    if claim.trunk is not None:
        fingerprint = (
            sa.select(trials.c.data_fingerprint).where(trials.c.id == claim.trial).scalar_subquery()
        )
        usable |= (
            (s.trunk == claim.trunk)
            & (s.round <= claim.fork_round)
            & (trials.c.data_fingerprint == fingerprint)
        )
    columns = (s.round, s.numerics_id, s.name, s.bytes, s.sha256)
    query = (
        sa.select(s.trial, identity.c.id, sweeps.c.artifacts, *columns)
        .select_from(snapshots.join(trials, trials.c.id == s.trial))
        .join(sweeps, sweeps.c.id == trials.c.sweep)
        .join(identity, sa.true())
        .where(usable, s.numerics_id == numerics_id)
        .order_by(s.round.desc(), own.desc(), s.trial)
    )
    return [
        Origin(row[0], Home(row[1], row[2]), Snapshot(*row[3:]))
        for row in connection.execute(query)
    ]


def twin(connection: Connection, claim: Claim, numerics_id: str) -> int | None:
    """Return a finished trial that shares all its rounds with this one, or None.

    An example is FIXBN frozen after the last round, and BN.
    """
    fingerprint = sa.select(trials.c.data_fingerprint).where(trials.c.id == claim.trial)
    query = sa.select(trials.c.id).where(
        sa.text(WHOLE),
        trials.c.trunk == claim.trunk,
        trials.c.numerics_id == numerics_id,
        trials.c.data_fingerprint == fingerprint.scalar_subquery(),
    )
    sibling: int | None = connection.execute(query.limit(1)).scalar_one_or_none()
    return sibling


def inherit(connection: Connection, claim: Claim, sibling: int, to: int, numerics_id: str) -> int:
    """Give a trial the rounds of its trunk, up to a round that another trial has stored.

    Return the trial's last round. Call it after `queue.renew`. If the other trial's rounds are not
    all stored under these numerics, nothing is written.
    """
    query = sa.select(_last_round()).where(trials.c.id == claim.trial)
    last = connection.execute(query).scalar_one()
    if to <= last:
        return int(last)
    shared_rounds = (rounds.c.trial == sibling) & rounds.c.round.between(last + 1, to)
    same = sa.exists().where(trials.c.id == sibling, trials.c.numerics_id == numerics_id)
    count = connection.execute(
        sa.select(sa.func.count()).select_from(rounds).where(shared_rounds, same)
    ).scalar_one()
    if count != to - last:
        return int(last)
    for table, more in ((rounds, {"inherited": 1}), (client_rounds, {})):
        names = [c.name for c in table.c if c.name not in ("trial", *more)]
        copied = sa.select(
            sa.literal(claim.trial, sa.BigInteger()),
            *(sa.literal(value, sa.Integer()) for value in more.values()),
            *(table.c[name] for name in names),
        ).where(table.c.trial == sibling, table.c.round.between(last + 1, to))
        connection.execute(sa.insert(table).from_select(["trial", *more, *names], copied))
    update = sa.update(trials).where(trials.c.id == claim.trial)
    shared = trials.c.rounds_shared + (to - last)
    connection.execute(update.values(final_round=to, rounds_shared=shared))
    return to


def drop_unneeded(connection: Connection, trunk: str) -> dict[str, Home]:
    """Forget the trunk's snapshots that no other trial and no search needs any more. Return their
    files and the places of these.

    The latest snapshots of running trials are kept.
    """
    owner = trials.alias("owner")
    kept = sa.exists().where(
        owner.c.id == snapshots.c.trial, owner.c.state != TrialState.FINISHED.value
    )
    spare = sa.select(snapshots.c.trial, snapshots.c.round, snapshots.c.name).where(
        snapshots.c.trunk == trunk, ~needed_by_siblings(), ~kept
    )
    rows = connection.execute(spare).all()
    dropped: dict[str, Home] = {}
    for row in rows:
        gone = (snapshots.c.trial == row.trial) & (snapshots.c.round == row.round)
        connection.execute(sa.delete(snapshots).where(gone))
        dropped[row.name] = home(connection, row.trial)
    free_files(connection, list(dropped))
    return dropped

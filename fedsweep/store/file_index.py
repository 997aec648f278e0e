"""The index of files: snapshots, weights, and files without a reference."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import Refused
from fedsweep.store.batches import adding, batches
from fedsweep.store.claim import Claim
from fedsweep.store.dialects import dialect_of
from fedsweep.store.file_names import fork_name, is_of_fork, snapshot_names
from fedsweep.store.tables import (
    files,
    snapshots,
    sweeps,
    trials,
    weights,
)

ADD_FILE = adding(files, "name", "trial", "fence")


def free_files(connection: Connection, names: Sequence[str]) -> None:
    """Store the time from which no row refers to these files."""
    if names:
        named = sa.update(files).where(files.c.name.in_(names))
        connection.execute(named.values(free_since=time.time()))


def forget_files(connection: Connection, names: Collection[str]) -> None:
    """Delete the index rows of files that were deleted, or never written."""
    for batch in batches(sorted(names)):
        connection.execute(sa.delete(files).where(files.c.name.in_(batch)))


def put_files(connection: Connection, sweep: str, artifacts: str) -> None:
    """Store the place of the files of the trials that this sweep was the first to plan.

    Raises:
        Refused: some files already lie at another place.

    """
    query = sa.select(sweeps.c.id, sweeps.c.artifacts).where(sweeps.c.name == sweep)
    key, before = connection.execute(query).one()
    if before == artifacts:
        return
    # An attempt indexes its files before it reads where to put them.
    dialect_of(connection).lock_rows_of(connection, files)
    own_trials = sa.select(trials.c.id).where(trials.c.sweep == key)
    for table in (files, snapshots, weights):
        any_file = sa.select(table.c.name).where(table.c.trial.in_(own_trials)).limit(1)
        if connection.execute(any_file).first() is not None:
            place = before or "this database's own folder"
            raise Refused(
                f"the files of sweep {sweep} lie in {place}: plan it without --artifacts, or with "
                "that one"
            )
    connection.execute(sa.update(sweeps).where(sweeps.c.id == key).values(artifacts=artifacts))


@dataclass(frozen=True)
class Snapshot:
    """The index row of a snapshot: a file with a trainer's state after a round."""

    round: int
    numerics_id: str
    name: str
    bytes: int
    sha256: str


def expect_fork(connection: Connection, claim: Claim, round: int) -> None:
    """Index the file of a fork's snapshot before it is written."""
    row = {"name": fork_name(claim, round), "trial": claim.trial, "fence": claim.fence}
    ADD_FILE.many(connection, [row])


def add_snapshot(connection: Connection, claim: Claim, snapshot: Snapshot) -> list[str]:
    """Store a trial's latest snapshot, and return the names of the files that it replaces.

    It replaces the previous snapshot. Snapshots of forks are kept.
    """
    shared = claim.trunk if snapshot.round <= claim.fork_round else None
    same_round = (snapshots.c.trial == claim.trial) & (snapshots.c.round == snapshot.round)
    replaced = _drop(connection, same_round)
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
    """Delete the rows of a trial's own latest snapshot, and return the names of its files.

    Only this trial would resume from it. Snapshots of forks are kept.
    """
    names = _drop_latest(connection, trial)
    free_files(connection, names)
    return names


def _drop_latest(connection: Connection, trial: int) -> list[str]:
    s = snapshots.c
    rows = connection.execute(sa.select(s.round, s.name, s.trunk).where(s.trial == trial)).all()
    own = [row.round for row in rows if not (row.trunk and is_of_fork(row.name, row.round))]
    return _drop(connection, (s.trial == trial) & s.round.in_(own)) if own else []


def drop_snapshots(connection: Connection, trial: int) -> list[str]:
    """Delete the rows of all of a trial's snapshots, and return the names of their files."""
    names = _drop(connection, snapshots.c.trial == trial)
    free_files(connection, names)
    return names


def _drop(connection: Connection, condition: sa.ColumnElement[bool]) -> list[str]:
    statement = sa.delete(snapshots).where(condition).returning(snapshots.c.name)
    return list(connection.execute(statement).scalars())


@dataclass(frozen=True)
class Weights:
    """The index row of a file with a finished trial's weights."""

    name: str
    bytes: int
    sha256: str


def add_weights(connection: Connection, claim: Claim, kept: Weights) -> None:
    """Store the index row of a trial's final weights, in the transaction that finishes it."""
    connection.execute(
        sa.insert(weights).values(trial=claim.trial, created_at=time.time(), **asdict(kept))
    )

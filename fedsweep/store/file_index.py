"""The index of files: snapshots, weights, and the files that nothing refers to."""

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
    ADD_FILE.many(connection, [row])


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
    some = [row.round for row in rows if not (row.trunk and is_of_fork(row.name, row.round))]
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

"""Spare files: files in the index that are not needed any more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.states import FailureKind, Hold, TrialState
from fedsweep.store.file_index import Weights
from fedsweep.store.file_places import Home
from fedsweep.store.tables import (
    arms,
    attempts,
    files,
    identity,
    lattices,
    snapshots,
    sweeps,
    trials,
    weights,
)


def unreferenced(connection: Connection, trial: int, names: Collection[str]) -> list[str]:
    """Those of a trial's files that neither a snapshot nor weights are in."""
    one = sa.select(snapshots.c.name).where(snapshots.c.trial == trial)
    other = sa.select(weights.c.name).where(weights.c.trial == trial)
    return sorted(set(names) - set(connection.execute(one.union(other)).scalars()))


@dataclass(frozen=True)
class Spare:
    """A file that nothing needs any more."""

    name: str
    home: Home
    host: str
    """The machine that wrote it."""


UNWANTED = trials.c.state.in_([TrialState.FINISHED, TrialState.CANCELLED]) | (
    sa.func.coalesce(trials.c.failure, "") == FailureKind.DIVERGED
)
"""States of trials whose snapshots are not needed: the trial will not continue. A cancelled trial
may as well start from round 1.
"""


def needed_by_siblings() -> sa.ColumnElement[bool]:
    """Return whether another trial of the trunk, or a search, may still start from this
    snapshot.
    """
    of_arm = lattices.c
    live = arms.join(sweeps, sweeps.c.id == arms.c.sweep)
    alive = sa.exists(sa.select(sa.literal(1)).select_from(live).where(
        arms.c.id == of_arm.arm, sweeps.c.held.is_distinct_from(Hold.CANCEL.value)
    ).correlate(lattices))  # fmt: skip
    searched = sa.exists().where(
        of_arm.trunk == snapshots.c.trunk,
        snapshots.c.round.between(of_arm.low, of_arm.high),
        (snapshots.c.round - of_arm.low) % of_arm.step == 0,
        alive,
    )
    later, sibling, s = snapshots.alias("later"), trials.alias("sibling"), snapshots.c
    nearer = sa.select(sa.literal(1)).where(
        later.c.trunk == s.trunk,
        later.c.numerics_id == s.numerics_id,
        later.c.round > s.round,
        later.c.round <= sibling.c.fork_round,
    )
    goes_on = sa.select(sa.literal(1)).where(
        sa.text("sibling.trunk IS NOT NULL AND sibling.state IN ('queued', 'running')"),
        sibling.c.trunk == s.trunk,
        sibling.c.waits.in_([0, 1]),
        sibling.c.fork_round >= s.round,
        sa.func.coalesce(sibling.c.final_round, 0) <= s.round,
        ~sa.exists(nearer.correlate(snapshots, sibling)),
    )
    return sa.exists(goes_on.correlate(snapshots)) | searched.correlate(snapshots)


def over_since(before: float) -> sa.ColumnElement[bool]:
    """Return the trials whose last attempt ended before this wall-clock time."""
    last = sa.select(sa.func.max(attempts.c.ended_at)).where(attempts.c.trial == trials.c.id)
    return last.correlate(trials).scalar_subquery() <= before


def spare_files(connection: Connection, before: float) -> list[Spare]:
    """Return the files of the index that no trial has needed since this wall-clock time.

    Files of running attempts, of weights, and of snapshots that a trial may continue from are not
    among them. No row refers to such a file again: an attempt writes only its own names.
    """
    writer = (attempts.c.trial == files.c.trial) & (attempts.c.fence == files.c.fence)
    at_work = (trials.c.state == TrialState.RUNNING) & (trials.c.fence == files.c.fence)
    needed = [
        sa.exists().where(weights.c.trial == files.c.trial, weights.c.name == files.c.name),
        sa.exists().where(
            snapshots.c.trial == files.c.trial,
            snapshots.c.name == files.c.name,
            ~(UNWANTED & over_since(before)) | needed_by_siblings(),
        ),
    ]
    query = (
        sa.select(files.c.name, identity.c.id, sweeps.c.artifacts, attempts.c.host)
        .select_from(files.join(trials, trials.c.id == files.c.trial))
        .join(attempts, writer)
        .join(sweeps, sweeps.c.id == trials.c.sweep)
        .join(identity, sa.true())
        .where(~at_work, sa.func.coalesce(files.c.free_since, attempts.c.ended_at) <= before)
        .where(*(~need for need in needed))
        .order_by(files.c.trial, files.c.fence, files.c.name)
    )
    rows = connection.execute(query)
    return [Spare(row.name, Home(row.id, row.artifacts), row.host) for row in rows]


def kept_weights(connection: Connection, trial: int) -> Weights | None:
    """Return the index row of a finished trial's weights, or None if none were kept."""
    query = sa.select(weights.c.name, weights.c.bytes, weights.c.sha256)
    row = connection.execute(query.where(weights.c.trial == trial)).one_or_none()
    return Weights(*row) if row else None

"""Places of files: where the database says that the files of trials lie."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.states import TrialState
from fedsweep.store.prepared import Prepared
from fedsweep.store.tables import (
    identity,
    sweeps,
    trials,
)


@dataclass(frozen=True)
class Home:
    """Where a trial's files lie: see `artifacts.folder_of`."""

    store: str
    """This database's own name."""
    artifacts: str | None
    """As its sweep says."""


def home(connection: Connection, trial: int) -> Home:
    """Where the files of a trial lie: where the sweep says that planned it first."""
    row = _HOME(connection, trial=trial).one()
    return Home(row.id, row.artifacts)


_HOME = Prepared(
    lambda _: (
        sa.select(identity.c.id, sweeps.c.artifacts)
        .select_from(trials.join(sweeps, sweeps.c.id == trials.c.sweep))
        .join(identity, sa.true())
        .where(trials.c.id == sa.bindparam("trial", type_=sa.BigInteger()))
    )
)


def homes(connection: Connection, sweep: str | None = None) -> dict[Home, list[str]]:
    """Return where files of trials lie that are not done, with the names of the sweeps."""
    some = sa.exists().where(
        trials.c.sweep == sweeps.c.id,
        trials.c.state.in_([TrialState.QUEUED.value, TrialState.RUNNING.value]),
    )
    query = sa.select(sweeps.c.name, identity.c.id, sweeps.c.artifacts)
    query = query.join(identity, sa.true()).where(some).order_by(sweeps.c.id)
    if sweep is not None:
        query = query.where(sweeps.c.name == sweep)
    found: dict[Home, list[str]] = {}
    for row in connection.execute(query):
        found.setdefault(Home(row.id, row.artifacts), []).append(row.name)
    return found


def places(connection: Connection) -> dict[Home, list[str]]:
    """Return every place that the database names for files, with the names of the sweeps."""
    query = sa.select(sweeps.c.name, identity.c.id, sweeps.c.artifacts)
    query = query.select_from(identity.outerjoin(sweeps, sa.true())).order_by(sweeps.c.id)
    found: dict[Home, list[str]] = {}
    for row in connection.execute(query):
        names = found.setdefault(Home(row.id, row.artifacts), [])
        names += [] if row.name is None else [row.name]
    return found

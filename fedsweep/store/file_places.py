"""The places of trials' files, as the database names them."""

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
    """The store and the place of a trial's files: see `artifacts.folder_of`."""

    store: str
    """The store's own name."""
    artifacts: str | None
    """The place that the trial's sweep names, None for the default."""


def home(connection: Connection, trial: int) -> Home:
    """Return the place of a trial's files, which the first sweep that planned the trial names."""
    row = _HOME(connection, of_trial=trial).one()
    return Home(row.id, row.artifacts)


_HOME = Prepared.named("home")


def homes(connection: Connection, sweep: str | None = None) -> dict[Home, list[str]]:
    """Return the places of files of queued and running trials, with the names of the sweeps."""
    unfinished = sa.exists().where(
        trials.c.sweep == sweeps.c.id,
        trials.c.state.in_([TrialState.QUEUED.value, TrialState.RUNNING.value]),
    )
    query = sa.select(sweeps.c.name, identity.c.id, sweeps.c.artifacts)
    query = query.join(identity, sa.true()).where(unfinished).order_by(sweeps.c.id)
    if sweep is not None:
        query = query.where(sweeps.c.name == sweep)
    sweeps_by_home: dict[Home, list[str]] = {}
    for row in connection.execute(query):
        sweeps_by_home.setdefault(Home(row.id, row.artifacts), []).append(row.name)
    return sweeps_by_home


def places(connection: Connection) -> dict[Home, list[str]]:
    """Return every place that the database names for files, with the names of the sweeps."""
    query = sa.select(sweeps.c.name, identity.c.id, sweeps.c.artifacts)
    query = query.select_from(identity.outerjoin(sweeps, sa.true())).order_by(sweeps.c.id)
    sweeps_by_home: dict[Home, list[str]] = {}
    for row in connection.execute(query):
        names = sweeps_by_home.setdefault(Home(row.id, row.artifacts), [])
        names += [] if row.name is None else [row.name]
    return sweeps_by_home

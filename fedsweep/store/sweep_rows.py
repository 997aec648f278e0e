"""Sweeps: their names, plans and trials."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import NotFound, Refused
from fedsweep.states import Hold
from fedsweep.store.tables import (
    members,
    plans,
    sweeps,
    trials,
)


def sweep_names(connection: Connection) -> list[str]:
    """Return all sweeps, in the order in which they were planned."""
    return list(connection.execute(sa.select(sweeps.c.name).order_by(sweeps.c.id)).scalars())


def require_sweep(connection: Connection, name: str) -> str:
    """Return the name as it is stored, if there is such a sweep.

    Raises:
        NotFound: there is none; says which there are.

    """
    # A character that the database cannot hold is escaped in both.
    known = connection.execute(sa.select(sweeps.c.name).where(sweeps.c.name == name)).scalar()
    if known is None:
        names = sweep_names(connection)
        choices = f"there are {', '.join(names)}" if names else "nothing is planned yet"
        raise NotFound(f"there is no sweep {name!r}: {choices}")
    return str(known)


def named_or_all(connection: Connection, name: str | None) -> list[str]:
    """Return the one sweep that is named, or every sweep if none is.

    Raises:
        NotFound: there is no sweep of this name.

    """
    return [require_sweep(connection, name)] if name else sweep_names(connection)


def require_free(connection: Connection, name: str) -> None:
    """Refuse a sweep that is cancelled.

    Raises:
        NotFound: there is none of that name. Refused: it is cancelled.

    """
    require_sweep(connection, name)
    held = connection.execute(sa.select(sweeps.c.held).where(sweeps.c.name == name)).scalar_one()
    if held == Hold.CANCEL:
        raise Refused(f"sweep {name} is cancelled: plan it again to take that back")


def present(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Return the trials among these that the store has."""
    existing: set[str] = set()
    for i in range(0, len(ids), 1000):
        batch = trials.c.trial_id.in_(ids[i : i + 1000])
        existing |= set(connection.execute(sa.select(trials.c.trial_id).where(batch)).scalars())
    return existing


def plan_texts(connection: Connection, sweep: str) -> list[str]:
    """Every text under which a sweep was planned, the newest last."""
    query = sa.select(plans.c.text).join(sweeps, sweeps.c.id == plans.c.sweep)
    return list(
        connection.execute(query.where(sweeps.c.name == sweep).order_by(plans.c.id)).scalars()
    )


def sweep_trials(connection: Connection, sweep: str) -> list[int]:
    """Return the row ids of a sweep's trials."""
    query = sa.select(members.c.trial).join(sweeps, sweeps.c.id == members.c.sweep)
    return list(connection.execute(query.where(sweeps.c.name == sweep)).scalars())


def held_alone(connection: Connection, sweep: str) -> list[int]:
    """Return the row ids of a sweep's trials that no other live sweep has."""
    own = sa.select(sweeps.c.id).where(sweeps.c.name == sweep).scalar_subquery()
    other, live = members.alias(), sweeps.alias()
    shared = sa.exists().where(
        other.c.trial == members.c.trial,
        other.c.sweep != own,
        live.c.id == other.c.sweep,
        live.c.held.is_distinct_from(Hold.CANCEL.value),
    )
    query = sa.select(members.c.trial).where(members.c.sweep == own, ~shared)
    return list(connection.execute(query).scalars())


def trial_keys(connection: Connection, ids: Sequence[str]) -> list[int]:
    """Return the row ids of trials, by their trial ids."""
    keys: list[int] = []
    for i in range(0, len(ids), 1000):
        batch = trials.c.trial_id.in_(ids[i : i + 1000])
        keys += connection.execute(sa.select(trials.c.id).where(batch)).scalars()
    return keys

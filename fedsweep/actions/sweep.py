"""Pause, drain, resume, cancel, prioritize and limit whole sweeps."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.errors import Refused
from fedsweep.states import Hold
from fedsweep.store import sweep_rows
from fedsweep.store.transactions import transaction


@dataclass(frozen=True)
class Cancelled:
    """The trials of a cancelled sweep."""

    cancelled: int
    """Trials that are cancelled now."""
    kept: int
    """Trials that also belong to a sweep that goes on. They are left alone."""


def hold(engine: Engine, name: str, reason: Hold | None) -> None:
    """Pause or drain a sweep; None resumes it.

    Raises:
        NotFound: There is no such sweep.
        Refused: The sweep is cancelled, or it would resume with its budget used up.

    """
    with transaction(engine) as connection:
        sweep_rows.require_free(connection, name)
        queue.hold_sweep(connection, name, reason)
        if reason is None and name in queue.overspent(connection):
            raise Refused(
                f"{name} has used up its budget: raise it with `fedsweep sweep budget {name}`"
            )


def cancel(engine: Engine, name: str) -> Cancelled:
    """Cancel the queued and running trials that belong to no other live sweep.

    Raises:
        NotFound: There is no such sweep.

    """
    with transaction(engine) as connection:
        return cancel_within(connection, name)


def cancel_within(connection: Connection, name: str) -> Cancelled:
    """Cancel a sweep within the caller's transaction, as `cancel` does."""
    sweep_rows.require_sweep(connection, name)
    queue.hold_sweep(connection, name, Hold.CANCEL)  # first, because it takes the write lock
    members = sweep_rows.sweep_trials(connection, name)
    unshared = sweep_rows.held_alone(connection, name)
    count = queue.cancel(connection, unshared)
    return Cancelled(count, len(members) - len(unshared))


def prioritize(engine: Engine, name: str, priority: int) -> int:
    """Set the priority of a sweep's queued and running trials; return how many there are.

    Raises:
        NotFound: There is no such sweep.

    """
    with transaction(engine) as connection:
        sweep_rows.require_sweep(connection, name)
        return queue.prioritize(connection, sweep_rows.sweep_trials(connection, name), priority)


def limit(engine: Engine, name: str, *, rounds: int | None, hours: float | None) -> None:
    """Limit the rounds and the slot hours that a sweep may train; None is no limit.

    Raises:
        NotFound: There is no such sweep.

    """
    with transaction(engine) as connection:
        sweep_rows.require_sweep(connection, name)
        queue.budget(connection, name, rounds=rounds, hours=hours)

"""Launches: workers that a scheduler starts, as the database knows them.

The database holds who launched them, from where, and the jobs' ids. It never holds a secret: the
database's own URL is in the launch's folder (see `fedsweep.launch.environment`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import NotFound
from fedsweep.store.rows import Row
from fedsweep.store.tables import launches


@dataclass(frozen=True)
class Launch:
    """Workers that were launched with one command."""

    id: str
    kind: str
    """The scheduler: "slurm", "ray"."""
    sweep: str | None
    """The only sweep that the workers train; None for all."""
    at: float
    """The wall time of the launch, in seconds since 1970."""
    person: str
    """The login name of the person who launched them."""
    host: str
    """The machine on which the command ran."""
    folder: str
    """The folder with the logs, on that machine."""
    workers: int
    """The greatest number of workers at the same time."""
    request: Mapping[str, Any]
    """The options of the command, without secrets."""
    jobs: tuple[str, ...]
    """The scheduler's ids, one for each worker or one for all."""
    stopped_at: float | None = None
    """The wall time at which a person stopped it."""


def add(connection: Connection, launch: Launch) -> None:
    """Store a launch."""
    row = {name: getattr(launch, name) for name in launches.c.keys()}  # noqa: SIM118  # not a dict
    row |= {"request": json.dumps(launch.request), "jobs": json.dumps(launch.jobs)}
    connection.execute(sa.insert(launches).values(row))


def set_jobs(connection: Connection, launch: str, jobs: Sequence[str]) -> None:
    """Store the ids of a launch's jobs, when the scheduler has told them."""
    row = launches.c.id == launch
    connection.execute(sa.update(launches).where(row).values(jobs=json.dumps(list(jobs))))


def remove(connection: Connection, launch: str) -> None:
    """Remove a launch that the scheduler has refused."""
    connection.execute(sa.delete(launches).where(launches.c.id == launch))


def every(connection: Connection) -> list[Launch]:
    """Return all launches, the newest first."""
    query = sa.select(launches).order_by(launches.c.at.desc(), launches.c.id)
    return [_launch(dict(row)) for row in connection.execute(query).mappings()]


def find(connection: Connection, prefix: str) -> Launch:
    """Return the launch whose id begins so.

    Raises:
        NotFound: there is none, or there are several.

    """
    known = every(connection)
    found = [one for one in known if prefix and one.id.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if not known:
        raise NotFound("nothing was launched from this database: see fedsweep launch --help")
    why = "several launches" if found else "no launch"
    raise NotFound(f"there is {why} {prefix!r}: fedsweep launch list names them all")


def stop(connection: Connection, launch: str) -> None:
    """Store that a person stopped a launch: its workers are not started again."""
    row = launches.c.id == launch, launches.c.stopped_at.is_(None)
    connection.execute(sa.update(launches).where(*row).values(stopped_at=time.time()))


def is_stopped(connection: Connection, launch: str) -> bool:
    """Return whether a person stopped it. A launch that is not stored yet is not stopped."""
    query = sa.select(launches.c.stopped_at).where(launches.c.id == launch)
    return connection.execute(query).scalar() is not None


def training(rows: Sequence[Row]) -> dict[str, int]:
    """Count running attempts, from rows with their `provenance`, by their launch."""
    counts: dict[str, int] = {}
    for row in rows:
        stored = json.loads(row["provenance"] or "{}")
        if launch := (stored.get("launch") or {}).get("id"):
            counts[launch] = counts.get(launch, 0) + 1
    return counts


def training_jobs(rows: Sequence[Row], launch: str) -> set[str]:
    """Return the jobs of a launch that train a trial, from the same rows."""
    each = [(json.loads(row["provenance"] or "{}").get("launch") or {}) for row in rows]
    return {str(one["job"]) for one in each if one.get("id") == launch}


def _launch(row: dict[str, Any]) -> Launch:
    jobs = tuple(json.loads(row["jobs"]))
    return Launch(**{**row, "request": json.loads(row["request"]), "jobs": jobs})

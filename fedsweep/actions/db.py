"""Upgrade, check, copy, merge and trust databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.errors import RequestError
from fedsweep.store import artifacts, file_places, schema, trust
from fedsweep.store.artifacts import FilePlace
from fedsweep.store.clock import read_clock
from fedsweep.store.engine import make_engine
from fedsweep.store.places import spelled
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer import integrity, stores
from fedsweep.transfer.copy import Copied, copy_store
from fedsweep.transfer.merge import Merged, merge_stores


@dataclass(frozen=True)
class Checked:
    """The result of a check of a database."""

    faults: Sequence[str]
    """A sentence for each fault of the database and of its files."""
    revision: str
    """The revision of the schema."""
    sound_files: int | None = None
    """Files that are as they were written; None if files were not checked."""
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    """Files that may lie on another machine, by host."""


@dataclass(frozen=True)
class FilePlaces:
    """The places that a database names for its files."""

    to_approve: Sequence[FilePlace]
    """Places that can be approved; only the named ones if any were named."""
    never_used: Sequence[OSError]
    """Reasons why the other places are never used."""
    refused: bool
    """True if any place cannot be used as it is."""


def upgrade(url: str) -> tuple[str | None, str]:
    """Migrate a database to this version's schema; return the revisions before and after.

    Raises:
        StoreError: There is no such database, or it cannot be migrated.

    """
    engine = make_engine(url)
    try:
        return schema.migrate(engine)
    finally:
        engine.dispose()


def check(engine: Engine, *, files: bool = False) -> Checked:
    """Check the tables of a database; with `files` also the checksum of each kept file."""
    faults = integrity.faults(engine)
    if not files:
        return Checked(faults, schema.head())
    checked = integrity.check_files(engine)
    return Checked(
        [*faults, *checked.faults], schema.head(), checked.sound, dict(checked.elsewhere)
    )


def file_places_of(engine: Engine, named: Sequence[str] = ()) -> FilePlaces:
    """Return the places of a database's files that this user can approve.

    Raises:
        RequestError: The database does not name one of the places.

    """
    with reading(engine) as connection:
        homes = file_places.places(connection)
    places = artifacts.places_to_approve(engine.url, homes)
    spellings = {spelled(place) for place in named}
    if unknown := sorted(spellings - {one.place for one in places}):
        raise RequestError(
            f"this database names no place {unknown[0]} for its files: run `fedsweep db trust` "
            "without a place to see those that it names"
        )
    refusals = [artifacts.folder_of(engine.url, home).refusal for home in homes]
    return FilePlaces(
        to_approve=[one for one in places if one.place in spellings or not spellings],
        never_used=[reason for reason in refusals if isinstance(reason, artifacts.Outside)],
        refused=any(refusals),
    )


def is_approved(place: FilePlace) -> bool:
    """Return whether this user has approved a place for the database's files."""
    return trust.is_approved(place.store, place.place)


def approve(place: FilePlace) -> None:
    """Approve a place: commands of this user may read, write and delete files in it.

    Raises:
        RequestError: The approval cannot be stored.

    """
    try:
        trust.approve(place.store, place.place)
    except OSError as error:
        raise RequestError(
            f"the approval cannot be stored ({error}): set {trust.VARIABLE}={place.place}"
        ) from error


def copy(source: str, target: str) -> Copied:
    """Copy a whole database into an empty one, by their URLs.

    Raises:
        StoreError: One of them cannot be opened, or cannot store a value or a file.
        RequestError: The target is the source, or it is not empty.
        FedsweepError: The rows that were read back are not the rows that were written.

    """
    with stores.both(source, target, names=("FROM", "TO"), create=True) as (from_engine, to_engine):
        return copy_store(from_engine, to_engine)


def merge(source: str, target: str) -> Merged:
    """Add the sweeps, trials and measurements of a database to another one, by their URLs.

    Expired leases of the target end first. Holds and budgets are applied to the merged sweeps.

    Raises:
        StoreError: One of them cannot be opened.
        Refused: A trial of both runs in the target, or their rounds differ. Nothing is merged.
        RequestError: Both are the same database.

    """
    with (
        stores.both(source, target, names=("FROM", "INTO")) as (from_engine, into),
        transaction(into) as connection,
    ):
        while queue.rescue(connection, read_clock(connection), served=0.0):
            pass
        merged = merge_stores(from_engine, connection)
        for name in merged.sweeps:
            queue.update_sweep_holds(connection, name)
        queue.spend(connection)
    return merged

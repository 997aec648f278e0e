"""The files that no trial needs any more.

Only what the index names is deleted, by a name that this store gives, and only inside its own
folder (see `store.artifacts`); no folder is ever listed. A file goes before its index row: a
collection that is cut short is made good by the next.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from fedsweep.errors import StoreBusy, StoreError
from fedsweep.store import file_index, file_places, spare_files
from fedsweep.store.artifacts import Folder, Outside, Unapproved, folder_of
from fedsweep.store.tables import snapshots, trials
from fedsweep.store.transactions import reading, transaction

GRACE_SECONDS = 3600.0
"""How long a file stays after it was last needed: an attempt that lost its trial may not know."""

BATCH = 500


@dataclass
class Collected:
    """What a collection did, or would do."""

    files: int = 0
    bytes: int = 0
    elsewhere: Counter[str] = field(default_factory=Counter)
    """Files that lie on other machines, by machine."""
    outside: list[str] = field(default_factory=list)
    """Names that this store does not give, or that lead out of its folder: left alone."""
    unapproved: Counter[str] = field(default_factory=Counter)
    """Files at places that this user has not approved, by the reason: left alone."""
    named: list[str] = field(default_factory=list, compare=False)
    """The files that a dry run would delete, with their folders."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why a file could not be deleted, by its name."""


def delete(engine: Engine, dropped: Mapping[str, file_places.Home]) -> None:
    """Delete files that the index has just let go of; what is not within reach, or does not work
    out, is left to a collection.
    """
    gone = []
    for name, home in dropped.items():
        folder = folder_of(engine.url, home)
        with suppress(OSError):
            if folder.remove(name) is not None or folder.shared:
                gone.append(name)
    if gone:
        with suppress(StoreError, StoreBusy, SQLAlchemyError), transaction(engine) as connection:
            file_index.forget_files(connection, gone)


def collect(engine: Engine, *, dry_run: bool = False) -> Collected:
    """Delete what nothing has needed for an hour, or only say it; workers may go on meanwhile."""
    before, collected = time.time() - GRACE_SECONDS, Collected()
    if dry_run:
        with reading(engine) as connection:
            spare = spare_files.spare_files(connection, before)
    else:
        with transaction(engine) as connection:
            _drop_unwanted(connection, before)
            spare = spare_files.spare_files(connection, before)
    folders = {home: folder_of(engine.url, home) for home in {file.home for file in spare}}
    for i in range(0, len(spare), BATCH):
        gone = [
            file.name
            for file in spare[i : i + BATCH]
            if _take(collected, folders[file.home], file, dry_run=dry_run)
        ]
        if not dry_run:
            with transaction(engine) as connection:
                file_index.forget_files(connection, gone)
    return collected


def _drop_unwanted(connection: Connection, before: float) -> None:
    """Forget the snapshots of trials that will not go on."""
    of_it = trials.c.id == snapshots.c.trial
    over = sa.exists().where(of_it, spare_files.UNWANTED, spare_files.over_since(before))
    connection.execute(sa.delete(snapshots).where(over, ~spare_files.needed_by_siblings()))


def _take(collected: Collected, folder: Folder, file: spare_files.Spare, *, dry_run: bool) -> bool:
    """Delete a file; whether it is gone for sure."""
    try:
        size = folder.size(file.name) if dry_run else folder.remove(file.name)
    except Outside:
        collected.outside.append(str(file.name))
        return False
    except Unapproved as error:
        collected.unapproved[str(error)] += 1
        return False
    except OSError as error:
        collected.failed[file.name] = str(error)
        return False
    if size is not None:
        collected.files += 1
        collected.bytes += size
        if dry_run:
            collected.named.append(f"{folder}/{file.name}")
    elif not folder.shared and file.host != platform.node():
        collected.elsewhere[file.host] += 1
        return False
    return True

"""Deletion of the files that no trial needs any more.

A file is deleted only if the index names it and its name is one that this store gives. It must lie
in the store's own folder (see `store.artifacts`). Files that the index does not name are not
searched for. A file is deleted before its index row, so that the next collection completes an
interrupted one.
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
"""Seconds for which a file is kept after it was last needed.

An attempt that has lost its trial may still use the file, until it notices the loss."""

FILES_PER_STEP = 500
"""Files per transaction that deletes index rows."""


@dataclass
class Collected:
    """The result of a collection, or of a dry run."""

    files: int = 0
    bytes: int = 0
    elsewhere: Counter[str] = field(default_factory=Counter)
    """Number of files on other machines, by machine."""
    outside: list[str] = field(default_factory=list)
    """Names that this store does not give, or that lead out of its folder. These files are kept."""
    unapproved: Counter[str] = field(default_factory=Counter)
    """Number of files at places that this user has not approved, by reason. They are kept."""
    named: list[str] = field(default_factory=list, compare=False)
    """The files that a dry run would delete, with their folders."""
    failed: dict[str, str] = field(default_factory=dict)
    """The reasons why files could not be deleted, by file name."""


def delete(engine: Engine, dropped: Mapping[str, file_places.Home]) -> None:
    """Delete files that just lost their references in the index.

    Files that are unreachable, or cannot be deleted, are left to a later collection.
    """
    deleted = []
    for name, home in dropped.items():
        folder = folder_of(engine.url, home)
        with suppress(OSError):
            if folder.remove(name) is not None or folder.shared:
                deleted.append(name)
    if deleted:
        with suppress(StoreError, StoreBusy, SQLAlchemyError), transaction(engine) as connection:
            file_index.forget_files(connection, deleted)


def collect(engine: Engine, *, dry_run: bool = False) -> Collected:
    """Delete the files that no trial has needed for an hour. A dry run only lists them.

    Workers can work at the same time.
    """
    before, collected = time.time() - GRACE_SECONDS, Collected()
    if dry_run:
        with reading(engine) as connection:
            spare = spare_files.spare_files(connection, before)
    else:
        with transaction(engine) as connection:
            _drop_unwanted(connection, before)
            spare = spare_files.spare_files(connection, before)
    folders = {home: folder_of(engine.url, home) for home in {file.home for file in spare}}
    for i in range(0, len(spare), FILES_PER_STEP):
        deleted = [
            file.name
            for file in spare[i : i + FILES_PER_STEP]
            if _take(collected, folders[file.home], file, dry_run=dry_run)
        ]
        if not dry_run:
            with transaction(engine) as connection:
                file_index.forget_files(connection, deleted)
    return collected


def _drop_unwanted(connection: Connection, before: float) -> None:
    """Delete the index rows of snapshots of trials that will not resume."""
    of_it = trials.c.id == snapshots.c.trial
    over = sa.exists().where(of_it, spare_files.UNWANTED, spare_files.over_since(before))
    connection.execute(sa.delete(snapshots).where(over, ~spare_files.needed_by_siblings()))


def _take(collected: Collected, folder: Folder, file: spare_files.Spare, *, dry_run: bool) -> bool:
    """Delete a file, and return whether it certainly no longer exists."""
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

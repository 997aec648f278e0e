"""Weights that go from one database to another, with their files."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import StoreError
from fedsweep.store import artifacts, file_names, file_places
from fedsweep.store.file_index import Weights
from fedsweep.store.rows import Row
from fedsweep.store.tables import (
    trials,
)
from fedsweep.transfer.rows import Values


def weights_to_add(
    source: Connection,
    target: Connection,
    rows: Iterable[Row],
    keys: Mapping[int, int] | None,
    lost: list[str],
) -> list[Values]:
    """Return FROM's rows of weights to add, under INTO's row ids, after copying their files.

    Missing and damaged files are added to the list.
    """
    brought = []
    for row in rows:
        came = row | {"trial": keys[row["trial"]] if keys else row["trial"]}
        source_folder = artifacts.folder_of(
            source.engine.url, file_places.home(source, row["trial"])
        )
        target_folder = artifacts.folder_of(
            target.engine.url, file_places.home(target, came["trial"])
        )
        content = source_folder.read(Weights(row["name"], row["bytes"], row["sha256"]))
        if content is None:
            lost.append(f"{source_folder}/{row['name']}")
            continue
        try:
            came["name"] = _bring(target, came, target_folder, content)
        except OSError as error:
            raise StoreError(
                f"{target_folder} cannot be written ({error}): make room there, or make it writable"
            ) from error
        brought.append(tuple(came.values()))
    return brought


def _bring(target: Connection, came: Row, folder: artifacts.Folder, content: bytes) -> str:
    """Write weights to a new file, and return its name. No file is ever overwritten.

    Raises:
        OSError: it cannot be written.

    """
    query = sa.select(trials.c.trial_id, trials.c.fence).where(trials.c.id == came["trial"])
    trial_id, fence = target.execute(query).one()
    for name in file_names.brought_names(
        file_places.home(target, came["trial"]).store, trial_id, fence
    ):
        with contextlib.suppress(FileExistsError):
            folder.write(name, content, overwrite=False)
            return name
        if folder.read(Weights(name, came["bytes"], came["sha256"])) is not None:
            return name  # an earlier try was rolled back
    raise FileExistsError(errno.EEXIST, "every name is taken", str(folder))

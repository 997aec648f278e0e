"""Places for a store's files that this user has approved on this machine.

A database names the places of its files, and may come from any person. The folder next to a
database, and the one in the user's data folder, belong to it. Any other place is used only after
this user has named it: by `plan --artifacts`, `work --artifacts`, FEDSWEEP_ARTIFACTS or `db trust`.

Approvals are kept in the user's data folder, one file for each store and place. Machines that share
the folder share the approvals.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from platformdirs import user_data_path

from fedsweep.errors import RequestError
from fedsweep.files import make_folder, write_whole
from fedsweep.settings import ARTIFACTS
from fedsweep.store.places import spelled

VARIABLE = ARTIFACTS
"""The environment variable with a place that is approved for every store."""

_allowed: set[str] = set()
"""Places that this process was given."""


def allow(places: Iterable[str]) -> None:
    """Approve places for the rest of this process, for every store."""
    _allowed.update(places)


def approve(store: str, place: str) -> None:
    """Approve a place for a store, for this user.

    Raises:
        OSError: it cannot be remembered.

    """
    file = _file(store, place)
    make_folder(file.parent)
    write_whole(file, place.encode(errors="surrogateescape"))


def is_approved(store: str, place: str) -> bool:
    """Return whether this user has approved a place for a store."""
    if place in _allowed or place == of_variable():
        return True
    with suppress(OSError):
        return _file(store, place).read_bytes() == place.encode(errors="surrogateescape")
    return False


def of_variable() -> str | None:
    """Return the place in the environment variable; None if it is not set, or is no place."""
    text = os.environ.get(VARIABLE, "").strip()
    with suppress(RequestError, RuntimeError):
        return spelled(text) if text else None
    return None


def _file(store: str, place: str) -> Path:
    name = hashlib.sha256(place.encode(errors="surrogateescape")).hexdigest()[:32]
    return user_data_path("fedsweep") / "approved" / store / name

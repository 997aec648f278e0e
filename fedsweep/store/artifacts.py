"""Snapshot files: written aside, synced, renamed; read only when their sum agrees."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from platformdirs import user_data_path
from sqlalchemy.engine import URL

from fedsweep.spec import Claim
from fedsweep.store.engine import sqlite_file
from fedsweep.store.writes import Snapshot


def folder(url: URL) -> Path:
    """Where a store's snapshots lie: beside a SQLite file; for a server, in the user's data folder
    of each machine (a snapshot left on another one costs rounds, never a trial).
    """
    file = sqlite_file(url)
    if file is not None:
        return file.with_name(file.name + ".artifacts").absolute()
    name = hashlib.sha256(url.set(password=None).render_as_string().encode()).hexdigest()[:16]
    return user_data_path("fedsweep") / "artifacts" / name


def write(place: Path, claim: Claim, round: int, numerics_id: str, content: bytes) -> Snapshot:
    """Put a snapshot in its place in one step; its name carries the fence, so that two attempts
    never write the same file.
    """
    place.mkdir(parents=True, exist_ok=True)
    name = f"{claim.trial_id}-{claim.fence}-{round}.safetensors"
    aside = place / f".{name}.{os.getpid()}"
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(place / name)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    digest = hashlib.sha256(content).hexdigest()
    return Snapshot(round, numerics_id, name, len(content), digest)


def read(place: Path, snapshot: Snapshot) -> bytes | None:
    """A snapshot's content; None where the file is missing, unreadable or not what was written."""
    path = place / snapshot.name
    if Path(snapshot.name).name != snapshot.name:
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == snapshot.sha256 else None


def remove(place: Path, names: Iterable[str]) -> None:
    """Delete snapshot files by the names that the index held."""
    for name in names:
        if Path(name).name == name:
            (place / name).unlink(missing_ok=True)

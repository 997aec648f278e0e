"""The place of a SQLite database: one file, under every name that a URL gives it."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes

from sqlalchemy.engine import URL

from fedsweep.errors import RequestError

WRITE_A_URL = (
    "--db is not a database URL: write sqlite:///fedsweep.db or "
    "postgresql://user:password@host/name"
)


URI_OPTIONS = frozenset({"uri", "mode", "cache", "immutable", "nolock", "psow", "vfs"})
"""Options that SQLite reads after the `?` of a URL."""


DRIVER_OPTIONS = frozenset(
    {"timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements"}
)
"""Options that Python's driver of SQLite reads after the `?` of a URL."""


SIDECARS = ("-wal", "-shm", "-journal", "-turn")
"""Suffixes of the files that SQLite and fedsweep keep next to a database file."""


ARTIFACTS = ".artifacts"
"""Suffix of the folder for snapshots and weights next to a database file."""


_links: dict[Path, dict[Path, None]] = {}
"""Symbolic links through which this process opened each database file.

The inner dictionaries serve as ordered sets."""


def of_text(text: str, url: URL) -> URL:
    """Return the URL of the SQLite file that a text names, resolved.

    Percent signs are decoded here, because the versions of SQLAlchemy differ in that.

    Raises:
        RequestError: The URL does not name a file, or its name contains a `?`.

    """
    address, mark, options = text.partition("?")
    names = [name for name, _ in parse_qsl(options, keep_blank_values=True)]
    unknown = [name for name in names if name not in URI_OPTIONS | DRIVER_OPTIONS]
    if unknown or (mark and not names):
        raise RequestError(
            f"--db has a ? before {options!r}, which is not an option of SQLite: if it is part of "
            "the file's name, write %3F for it"
        )
    return resolved(url.set(database=unquote(address.partition(":///")[2])))


def resolved(url: URL) -> URL:
    """Return the URL of the same SQLite file without links, `..` or a relative path.

    Raises:
        RequestError: The URL does not name a file, or its links cannot be followed.

    """
    if url.host:
        raise RequestError(WRITE_A_URL)
    name = url.database or ""
    is_uri = name.startswith("file:") or bool(URI_OPTIONS & set(url.query))
    if not name or ":memory:" in name or url.query.get("mode") == "memory":
        raise RequestError(
            "a database in memory cannot be shared by workers: name a file in --db, as in "
            "sqlite:///fedsweep.db"
        )
    path = _decoded(name) if is_uri else Path(name)
    spelled = Path(os.path.abspath(path.expanduser() if name.startswith("~") else path))  # noqa: PTH100  # keeps the link
    try:
        file = spelled.parent.resolve() / spelled.name
        target = file.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise RequestError(
            f"{spelled} cannot be followed to a database file: correct the links or --db"
        ) from error
    if target != file:
        _links.setdefault(target, {})[file] = None
    if is_uri or "?" in str(target):
        quoted = quote(os.fsencode(target))
        return url.set(database=f"file:{quoted}").update_query_dict({"uri": "true"})
    return url.set(database=str(target))


def _decoded(name: str) -> Path:
    """Return the path of a `file:` URI, as SQLite reads it."""
    rest = name.removeprefix("file:").partition("#")[0]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise RequestError(WRITE_A_URL)
        rest = slash + path
    return Path(os.fsdecode(unquote_to_bytes(os.fsencode(rest))))


@lru_cache(maxsize=64)  # each transaction calls it: a parsed path keeps its text and its hash
def file_named(database: str) -> Path:
    """Return the file of a SQLite URL from the URL's database part."""
    if database.startswith("file:"):
        return _decoded(database.partition("?")[0])
    return Path(database)


def links_to(file: Path) -> tuple[Path, ...]:
    """Return the symbolic links through which this process opened a database file."""
    return tuple(_links.get(file, ()))


@lru_cache(maxsize=256)
def sidecar(file: Path, end: str) -> Path:
    """Return the file next to a database file with this suffix."""
    return file.with_name(file.name + end)


def owner_of(file: Path) -> Path | None:
    """Return the database that a sidecar or an artifact belongs to, None for another file."""
    names = [file.name.removesuffix(end) for end in SIDECARS if file.name.endswith(end)]
    owners = [file.with_name(name) for name in names if name]
    if file.parent.name.endswith(ARTIFACTS):
        owners.append(file.parent.with_name(file.parent.name.removesuffix(ARTIFACTS)))
    return next((owner for owner in owners if owner.is_file()), None)


def shown(file: Path) -> Path:
    """Return the path for a message: relative if it is in the working directory."""
    try:
        return file.relative_to(Path.cwd())
    except (OSError, ValueError):
        return file

"""Options that several commands share, and their values from the environment."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

MOST_STORED = 2**63 - 1
"""The largest integer that a database column holds."""

Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        help="URL of the database. Default: $FEDSWEEP_DB, otherwise sqlite:///fedsweep.db in this "
        "folder.",
        show_default=False,
    ),
]
Sweep = Annotated[
    str | None,
    typer.Option(
        "--sweep", metavar="NAME", help="Use only this sweep. Default: all.", show_default=False
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Folder of the data sets. Default: $FEDSWEEP_DATA.",
        show_default=False,
    ),
]


BYTE_ORDER_MARK = "\ufeff"
"""The character that some editors write first in a file, which `"$(cat url.txt)"` then reads."""

opened = ExitStack()
"""The stack that closes the databases of a command when the command ends."""


def open_store(db: str | None, *, create: bool = False) -> Engine:
    """Open the database that --db or its default names; it is closed when the command ends."""
    from fedsweep.store import schema

    engine = schema.open_store(url(db), create=create)
    opened.callback(engine.dispose)
    return engine


def read_store(db: str | None) -> Engine:
    """Open the database that --db or its default names for reading.

    It is closed when the command ends. An empty database gets its schema first, if it can be
    written.
    """
    from fedsweep.errors import StoreEmpty
    from fedsweep.store import schema
    from fedsweep.store.readonly import open_to_read

    try:
        engine = open_to_read(url(db))
    except StoreEmpty:
        schema.open_store(url(db)).dispose()
        engine = open_to_read(url(db))
    opened.callback(engine.dispose)
    return engine


def read_existing_store(db: str | None) -> Engine | None:
    """Open a database for reading as `read_store` does; return None if its file does not exist."""
    from fedsweep.store.dialects import sqlite_file
    from fedsweep.store.engine import parse_url

    file = sqlite_file(parse_url(url(db)))
    return read_store(db) if file is None or file.exists() else None


def url(db: str | None) -> str:
    """Return the URL of --db, otherwise of $FEDSWEEP_DB, otherwise of fedsweep.db."""
    global _url_is_from  # noqa: PLW0603  # one process runs one command
    option, variable = tidy(db or ""), setting("FEDSWEEP_DB")
    _url_is_from = OPTION if option or not variable else "$FEDSWEEP_DB"
    return option or variable or "sqlite:///fedsweep.db"


OPTION = "--db"
_url_is_from = OPTION
"""The option or variable that the database's URL was last read from."""


def as_given(message: str) -> str:
    """Return a message about the database with the option or variable that gave its URL.

    The layers below do not know the variable, and write `--db` in each message.
    """
    return re.sub(rf"(?<![\w-]){OPTION}(?![\w-])", lambda _match: _url_is_from, message)


def tidy(value: str) -> str:
    """Return a value without a byte-order mark and without white space around it."""
    return value.strip().removeprefix(BYTE_ORDER_MARK).strip()


def setting(name: str) -> str | None:
    """Return an environment variable without white space; None if it is not set or blank."""
    return tidy(os.environ.get(name, "")) or None


def data_folder(data: Path | None) -> Path | None:
    """Return the folder of --data, otherwise of $FEDSWEEP_DATA, otherwise None."""
    variable = setting("FEDSWEEP_DATA")
    folder = data or (Path(variable) if variable else None)
    return folder.expanduser().absolute() if folder else None

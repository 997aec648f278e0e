"""Options that several commands share, and their values from the environment."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.settings import DATABASE, database, setting, tidy

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


opened = ExitStack()
"""The stack that closes the databases of a command when the command ends."""


def open_store(db: str | None, *, create: bool = False) -> Engine:
    """Open the database that --db or its default names; it is closed when the command ends."""
    from fedsweep.store import schema

    engine = schema.open_store(url(db), create=create)
    opened.callback(engine.dispose)
    return engine


def read_store(db: str | None) -> Engine:
    """Open the database that --db or its default names for reading; see `actions.stores`.

    It is closed when the command ends.
    """
    from fedsweep.actions import stores

    engine = stores.read_store(url(db))
    opened.callback(engine.dispose)
    return engine


def read_existing_store(db: str | None) -> Engine | None:
    """Open a database for reading as `read_store` does; return None if its file does not exist."""
    from fedsweep.actions import stores

    engine = stores.read_existing_store(url(db))
    if engine is not None:
        opened.callback(engine.dispose)
    return engine


def url(db: str | None) -> str:
    """Return the URL of --db, otherwise of $FEDSWEEP_DB, otherwise of fedsweep.db."""
    global _url_is_from  # noqa: PLW0603  # one process runs one command
    given = tidy(db or "") or not setting(DATABASE)
    _url_is_from = OPTION if given else f"${DATABASE}"
    return database(db)


OPTION = "--db"
_url_is_from = OPTION
"""The option or variable that the database's URL was last read from."""


def as_given(message: str) -> str:
    """Return a message about the database with the option or variable that gave its URL.

    The layers below do not know the variable, and write `--db` in each message.
    """
    return re.sub(rf"(?<![\w-]){OPTION}(?![\w-])", lambda _match: _url_is_from, message)

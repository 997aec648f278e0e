"""Options that several commands share, and what turns them into what the layers below take."""

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
"""The largest whole number that a database holds."""

Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        help="The database; else $FEDSWEEP_DB, else sqlite:///fedsweep.db in this folder.",
        show_default=False,
    ),
]
Sweep = Annotated[
    str | None, typer.Option("--sweep", metavar="NAME", help="Only this sweep.", show_default=False)
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Where the data lie; else $FEDSWEEP_DATA.",
        show_default=False,
    ),
]


BYTE_ORDER_MARK = "\ufeff"
"""The start of a text that was read from a file of some editors, as in `"$(cat url.txt)"`."""

opened = ExitStack()
"""What closes the stores that a command has opened, at its end."""


def open_store(db: str | None, *, create: bool = False) -> Engine:
    """The store that --db, or what stands in for it, names; closed when the command ends."""
    from fedsweep.store import schema

    engine = schema.open_store(url(db), create=create)
    opened.callback(engine.dispose)
    return engine


def read_store(db: str | None) -> Engine:
    """Return the store that --db names, to read; closed when the command ends.

    An empty database gets its schema first, if it can be written.
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


def url(db: str | None) -> str:
    """The URL of --db, else of $FEDSWEEP_DB, else fedsweep.db in this folder."""
    global _url_is_from  # noqa: PLW0603  # one process runs one command
    given, of_variable = tidy(db or ""), setting("FEDSWEEP_DB")
    _url_is_from = OPTION if given or not of_variable else "$FEDSWEEP_DB"
    return given or of_variable or "sqlite:///fedsweep.db"


OPTION = "--db"
_url_is_from = OPTION
"""The setting that the database's URL was last read from."""


def as_given(message: str) -> str:
    """Return a message about the database that names the setting its URL was given by.

    The layers below do not know of the variable, and say `--db` in each message.
    """
    return re.sub(rf"(?<![\w-]){OPTION}(?![\w-])", lambda _match: _url_is_from, message)


def tidy(value: str) -> str:
    """Return a setting without a byte-order mark and without blanks and line ends around it."""
    return value.strip().removeprefix(BYTE_ORDER_MARK).strip()


def setting(name: str) -> str | None:
    """Return a tidy environment variable; None if it is not set or blank."""
    return tidy(os.environ.get(name, "")) or None


def data_folder(data: Path | None) -> Path | None:
    """The folder of --data, else of $FEDSWEEP_DATA, else none."""
    named = data or (Path(given) if (given := setting("FEDSWEEP_DATA")) else None)
    return named.expanduser().absolute() if named else None

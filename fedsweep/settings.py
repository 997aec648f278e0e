"""Settings from the environment: the database, the data folder, and single variables."""

from __future__ import annotations

import os
from pathlib import Path

DATABASE = "FEDSWEEP_DB"
"""The variable with the URL of the database."""

DATA = "FEDSWEEP_DATA"
"""The variable with the folder of the data sets."""

DEFAULT_URL = "sqlite:///fedsweep.db"
"""The database without an option and a variable: a file in the working folder."""

BYTE_ORDER_MARK = "\ufeff"
"""The character that some editors write first in a file, which `"$(cat url.txt)"` then reads."""


def tidy(value: str) -> str:
    """Return a value without a byte-order mark and without white space around it."""
    return value.strip().removeprefix(BYTE_ORDER_MARK).strip()


def setting(name: str) -> str | None:
    """Return an environment variable without white space; None if it is not set or blank."""
    return tidy(os.environ.get(name, "")) or None


def database(url: str | None) -> str:
    """Return a database's URL, otherwise that of $FEDSWEEP_DB, otherwise `DEFAULT_URL`."""
    return tidy(url or "") or setting(DATABASE) or DEFAULT_URL


def data_folder(folder: str | os.PathLike[str] | None) -> Path | None:
    """Return the absolute path of a folder, otherwise of $FEDSWEEP_DATA, otherwise None."""
    named = folder or setting(DATA)
    return Path(named).expanduser().absolute() if named else None

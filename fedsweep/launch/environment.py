"""The environment of launched workers, in a file that only the user can read.

URLs of databases and webhooks hold passwords. They never stand in a script, a job's name or a
command line, because other users of a cluster can read these.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from fedsweep.errors import RequestError
from fedsweep.settings import DATABASE, NOTIFY, setting

FILE = "environment.json"
"""The file in a launch's folder."""
PREFIXES = ("FEDSWEEP_", "PG", "AWS_", "GOOGLE_", "AZURE_", "FSSPEC_")
"""Beginnings of the variables that workers need: ours, the database's, those of remote storage."""
ONLY_HERE = ("FEDSWEEP_LAUNCH", "FEDSWEEP_TEST_")
"""Beginnings of variables that are not passed on."""


def gather(url: str, notify: Iterable[str], more: Iterable[str]) -> dict[str, str]:
    """Return the variables of a launched worker. `more` names further ones of this process.

    Raises:
        RequestError: a variable that is named is not set.

    """
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PREFIXES) and not name.startswith(ONLY_HERE)
    }
    for name in more:
        if name not in os.environ:
            raise RequestError(f"--env {name}: this variable is not set here")
        passed[name] = os.environ[name]
    addresses = list(notify)
    passed |= {NOTIFY: " ".join(addresses)} if addresses else {}
    return {**passed, DATABASE: url}


def write(folder: Path, variables: Mapping[str, str]) -> None:
    """Write the variables into a launch's folder.

    Raises:
        RequestError: the folder cannot be written.

    """
    file = folder / FILE
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            json.dump(dict(variables), opened)
    except OSError as error:
        raise RequestError(f"{file} cannot be written: {error.strerror or error}") from error


def read(folder: Path) -> dict[str, str]:
    """Return the variables that `write` has stored.

    Raises:
        RequestError: the file is missing or unreadable.

    """
    file = folder / FILE
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{file} cannot be read on this node: launch from a folder that all nodes see"
        ) from error
    return {name: str(value) for name, value in stored.items()}


def remove(folder: Path) -> None:
    """Remove the file, when no worker of the launch can start any more."""
    (folder / FILE).unlink(missing_ok=True)


def database(variables: Mapping[str, str]) -> str:
    """Return the database's URL, from variables or from this process."""
    return variables.get(DATABASE) or setting(DATABASE) or ""

"""Run commands on broken outputs, each in a fork, so that modules are imported only once.

Read a list of cases (JSON) from standard input, and write the list of their results.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import traceback
from functools import cache
from typing import Any

import scipy.special
import typer.main

from fedsweep.cli import app, console, main
from fedsweep.reports import fit, latex, records, search_results, search_tables, selection, tables
from fedsweep.store import schema, trial_rows
from fedsweep.store.sql import ask, recipes
from fedsweep.transfer import integrity

__all__ = [  # imported before the forks
    "app",
    "ask",
    "console",
    "fit",
    "integrity",
    "latex",
    "main",
    "recipes",
    "records",
    "schema",
    "scipy",
    "search_results",
    "search_tables",
    "selection",
    "tables",
    "trial_rows",
]


def run(arguments: list[str], broken: str) -> dict[str, Any]:
    """Run a command in a fork; return its exit code, standard output and standard error."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(err.fileno(), 2)
            _break(broken, out.fileno())
            os._exit(_code(arguments))
        _, status = os.waitpid(child, 0)
        encoding = broken if broken in ("latin-1", "ascii") else "utf-8"
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
        return {
            "code": os.waitstatus_to_exitcode(status),
            "out": texts[0].decode(encoding, "replace"),
            "bytes": texts[0].hex(),
            "err": texts[1].decode(encoding, "replace"),
        }


def _break(broken: str, out: int) -> None:
    """Make standard output the stream that Python makes of such a descriptor."""
    encoding = "utf-8"
    if broken == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif broken == "gone":
        source, writer = os.pipe()
        os.close(source)
        os.dup2(writer, 1)
    elif broken == "closed":
        os.close(1)
    else:
        os.dup2(out, 1)
        encoding = broken
    sys.stdout = None if broken == "closed" else _stream(1, encoding, "strict")
    sys.stderr = _stream(2, encoding, "backslashreplace")
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]  # as at a start


def _stream(descriptor: int, encoding: str, errors: str) -> io.TextIOWrapper:
    return open(descriptor, "w", encoding=encoding, errors=errors, closefd=False)  # kept


def _code(arguments: list[str]) -> int:
    """Return the exit code of the interpreter, which is 120 if the last flush fails."""
    sys.argv = ["fedsweep", *arguments]
    code: Any = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:  # noqa: BLE001  # a traceback is what the tests look for
        traceback.print_exc()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, UnicodeError):
        return 120
    return int(code)


if __name__ == "__main__":
    typer.main.get_command = cache(typer.main.get_command)  # type: ignore[assignment]  # as at_once
    typer.main.get_command(app.app)
    json.dump([run(*case) for case in json.load(sys.stdin)], sys.__stdout__)

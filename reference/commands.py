"""The page on commands: each command with its options, and the exit codes."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from fedsweep.cli.app import app
from fedsweep.errors import EXIT_CODES
from reference.markdown import code, document, fence, paragraphs, prose, table

KINDS: dict[type, str] = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}
"""The placeholder of a value, by the type of an option that names none of its own."""

VARIABLE = re.compile(r"\$([A-Z][A-Z_]+)")
"""An environment variable in a help text."""

HELP_OPTIONS = frozenset({"install_completion", "show_completion", "help"})
"""Options that every program of this kind has."""

OUTPUT = """
Output that cannot be written (a full disk, a closed pipe, a stopped reader) never ends a worker.
Another command then ends with exit code 1 and one sentence, or silently with 141 if its reader has
ended.

Control characters in text from a database, a plan or a name are not sent to a terminal. In a file
or a pipe, CSV, Markdown and LaTeX contain the text unchanged. A character that the terminal's
encoding lacks is replaced, as `*` for `⋆`.

The command `fedsweep`, and each process that it starts, runs no Python file of the working folder.
`python -m` looks there first, so write `python -P -m fedsweep`.
"""
"""The facts about the output of all commands."""


def page() -> str:
    """Return the page."""
    root: Any = typer.main.get_command(app)
    commands = list(_commands(root, ("fedsweep",)))
    names = table(
        ["command", "purpose"],
        (
            [f"[{code(' '.join(path))}](#{'-'.join(path)})", prose(_first(command.help))]
            for path, command in commands
        ),
    )
    exits = table(["code", "meaning"], ([str(c), prose(text)] for c, text in EXIT_CODES.items()))
    return document(
        "Commands",
        "Each command prints its options with `--help`. An option that is marked with … may be "
        "given several times. [Environment variables](environment.md) give some of the defaults.",
        names,
        *(block for path, command in commands for block in _section(path, command)),
        "## Exit codes",
        "A command that is refused prints one sentence on stderr. [Errors](errors.md) lists them.",
        exits,
        "## Output",
        *paragraphs(OUTPUT),
        sources=("fedsweep/cli/", "fedsweep/errors.py"),
    )


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command that does something, with the words that call it."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, child in command.commands.items():
        yield from _commands(child, (*path, name))


def _first(text: str) -> str:
    return text.strip().partition("\n\n")[0]


def _section(path: tuple[str, ...], command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    shown = [p for p in options if p.name not in HELP_OPTIONS]
    yield f"## {code(' '.join(path))}"
    yield from paragraphs(command.help)
    yield fence(f"$ {command.epilog.removeprefix('Example: ')}", "console")
    if arguments:
        yield table(
            ["argument", "required", "meaning"],
            ([_argument(p), "yes" if p.required else "no", prose(p.help)] for p in arguments),
        )
    if shown:
        yield table(
            ["option", "value", "default", "variable", "meaning"],
            ([_names(p), _value(p), _default(p), _variable(p), prose(_meaning(p))] for p in shown),
        )


def _argument(parameter: Any) -> str:
    name = code(parameter.metavar or parameter.name.upper())
    return f"{name} …" if parameter.nargs == -1 else name


def _names(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    shown = ", ".join(code(name) for name in names if name.strip())
    return f"{shown} …" if parameter.multiple else shown


def _value(parameter: Any) -> str:
    if parameter.is_flag:
        return "–"
    if parameter.metavar:
        return code(parameter.metavar)
    kind = parameter.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(code(member.value) for member in kind)
    low, high = parameter.min, parameter.max
    limits = {
        (True, True): f", {low} to {high}",
        (True, False): f", {low} or more",
        (False, True): f", {high} or less",
    }.get((low is not None, high is not None), "")
    return code(KINDS[kind]) + limits


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    told = re.search(r"Default: (.+?)\.?$", " ".join(parameter.help.split()))
    if told:
        return prose(told[1])
    if parameter.is_flag or parameter.default is None:
        return "–"
    value = parameter.default
    return code(value.value if isinstance(value, enum.Enum) else value)


def _meaning(parameter: Any) -> str:
    """Return the help without its default, which has a column of its own."""
    return re.sub(r" ?Default: (.+?)\.?$", "", " ".join(parameter.help.split()))


def _variable(parameter: Any) -> str:
    names = [parameter.envvar] if parameter.envvar else VARIABLE.findall(parameter.help)
    return ", ".join(f"[{code(name)}](environment.md)" for name in names) or "–"

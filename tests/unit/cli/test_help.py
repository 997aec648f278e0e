"""The help of every command: an example that can be typed, and an explanation of each option."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from fedsweep.cli.app import app
from tests.acceptance.command import at_once

MARK = "Example: "
BANNED = re.compile(r"(Who|What)(ever)?|Of|Where|Whether")
"""Words that no help text begins with."""
COLUMNS = 78
"""The width to which click wraps a help text."""


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command that is not a group."""
    if not hasattr(command, "commands"):
        yield path
        return
    for name, child in command.commands.items():
        yield from _commands(child, (*path, name))


ROOT: Any = typer.main.get_command(app)
PATHS = sorted(_commands(ROOT))


def command_at(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the first words name, and the words that follow."""
    command, rest = ROOT, list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    return command, rest


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_the_help_of_a_command_ends_with_an_example_of_it(path: tuple[str, ...]) -> None:
    """The example is one line, and its words parse as this command."""
    text = at_once(*path, "--help", COLUMNS=str(COLUMNS)).stdout
    last = text.rstrip().splitlines()[-1].strip()
    assert last.startswith(f"{MARK}fedsweep {' '.join(path)}")
    words = shlex.split(last.removeprefix(MARK))[1:]
    command, rest = command_at(words)
    assert command is command_at(list(path))[0]
    command.make_context(" ".join(path), rest)


def test_every_command_has_been_found() -> None:
    """The walk through the tree reaches the top level and the groups."""
    assert ("plan",) in PATHS
    assert ("db", "gc") in PATHS
    assert len(PATHS) >= 30


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_and_option_is_explained(path: tuple[str, ...]) -> None:
    """No explanation is empty or begins with a question word."""
    command, _ = command_at(list(path))
    texts = [command.help or ""]
    texts += [getattr(parameter, "help", "") or "" for parameter in command.params]
    assert all(texts)
    assert [text for text in texts if BANNED.fullmatch(text.split()[0])] == []

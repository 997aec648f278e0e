"""The language of the project: plain English, checked as far as a program can."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from fedsweep.cli.app import app

ROOT = Path(__file__).parents[1]
REJECTED = Path(__file__).parent / "rejected_words.txt"
FOLDERS = ("fedsweep", "trainers", "reference", "examples", "tests", "docs", "migrations")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
KINDS = {".py", ".md", ".toml", ".html", ".js", ".css", ".sql", ".txt"}
OPENINGS = re.compile(r"\W*(What|Who|Whoever|Whatever|Of|Where|Whether)\b")


def texts() -> Iterator[Path]:
    """Yield every file that a person reads or writes, except stored data and these rules."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in KINDS and path not in (REJECTED, Path(__file__)):
                yield path
    yield from (ROOT / name for name in DOCUMENTS)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring, with those below assignments."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        documented |= isinstance(node, ast.AsyncFunctionDef)
        for place, statement in enumerate(body):
            if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
                continue
            before = body[place - 1] if place else None
            first = place == 0 and documented
            if first or isinstance(before, (ast.Assign, ast.AnnAssign)):
                yield statement.lineno, str(statement.value.value)


def commands(command: Any, path: str = "fedsweep") -> Iterator[tuple[str, Any]]:
    """Yield each command with the words that call it."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


PYTHON = [path for path in texts() if path.suffix == ".py"]


def test_no_text_has_a_rejected_word() -> None:
    """Each line of the list is a pattern that matches nothing."""
    lines = REJECTED.read_text().splitlines()
    patterns = [re.compile(line, re.IGNORECASE) for line in lines if line and line[0] != "#"]
    every = re.compile("|".join(f"(?:{p.pattern})" for p in patterns), re.IGNORECASE)
    assert len(patterns) >= 20
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := every.search(line))
    ]
    assert hits == []


def test_no_docstring_begins_with_a_pronoun_or_a_preposition() -> None:
    """A docstring says what it returns or does, and its subject is a noun."""
    read = [(path, *found) for path in PYTHON for found in docstrings(ast.parse(path.read_text()))]
    assert len(read) > 1000
    hits = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path, line, text in read
        if OPENINGS.match(text)
    ]
    assert hits == []


def test_no_test_name_begins_with_a_pronoun_or_a_preposition() -> None:
    """A test's name is a claim with a subject."""
    names = [
        node.name
        for path in PYTHON
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(names) > 1000
    assert [name for name in names if OPENINGS.match(name[5:].capitalize().replace("_", " "))] == []


@pytest.mark.parametrize("path", [path for path, _ in commands(typer.main.get_command(app))])
def test_no_help_text_begins_with_a_pronoun_or_a_preposition(path: str) -> None:
    """Neither that of a command nor that of an option or argument."""
    command = dict(commands(typer.main.get_command(app)))[path]
    helps = [getattr(parameter, "help", None) for parameter in command.params]
    read = [text for text in (command.help, *helps) if text]
    assert read
    assert [text for text in read if OPENINGS.match(text)] == []

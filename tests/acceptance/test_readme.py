"""The commands of the README and of the pages in docs can be typed, and their names exist."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
from sqlalchemy.engine import Engine

from fedsweep.cli.app import app
from fedsweep.store.sql import ask
from fedsweep.store.sql.recipes import recipes
from fedsweep.store.views import NAMES
from tests.builders import REPOSITORY

TEXT = (REPOSITORY / "README.md").read_text()
PAGES = [page.read_text() for page in sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCKS = [
    block
    for text in (TEXT, *PAGES)
    for block in re.findall(r"```(?:console|sh)\n(.*?)```", text, flags=re.DOTALL)
]
COMMANDS = sorted(
    {
        line.removeprefix("$ ").partition(" #")[0].strip()
        for block in BLOCKS
        for line in block.splitlines()
        if line.removeprefix("$ ").startswith("fedsweep ") and "; fedsweep" not in line
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_in_the_readme_is_one(line: str) -> None:
    """Its name and its options are known, and its arguments fit."""
    words = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, line
        command = command.commands[name]
    command.make_context(line, words)


@pytest.mark.parametrize(
    "line", [line for line in COMMANDS if line.startswith('fedsweep sql "') and line in TEXT]
)
def test_every_statement_in_the_readme_is_answered(line: str, store: Engine) -> None:
    """On both databases."""
    statement = shlex.split(line)[2]
    assert ask.ask(store, statement).columns


def test_the_readme_has_commands() -> None:
    """Otherwise the test above would test nothing."""
    assert len(COMMANDS) >= 10


def test_every_path_of_the_file_map_exists() -> None:
    """Every Python file of both packages is in the map."""
    block = re.search(r"## Files\n.*?```\n(.*?)```", TEXT, flags=re.DOTALL)
    assert block is not None
    named: set[str] = set()
    folder = ""
    for line in block.group(1).splitlines():
        word = line.split()[0]
        if line.startswith(" "):
            named.add(folder + word)
        else:
            folder = word
            named.add(word)
    missing = [name for name in named if not (REPOSITORY / name).exists()]
    assert missing == []
    files = [p for name in ("fedsweep", "trainers") for p in (REPOSITORY / name).rglob("*.py")]
    unnamed = [str(p.relative_to(REPOSITORY)) for p in files if not p.name.startswith("__")]
    unnamed = [path for path in unnamed if path not in named]
    assert [path for path in unnamed if path.rpartition("/")[0] + "/" not in named] == []


def test_the_readme_names_every_recipe() -> None:
    """Its section on SQL names them in backquotes, and names no others."""
    section = TEXT.partition("## SQL\n")[2].partition("\n## ")[0]
    listed = section.partition("| recipe |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `([a-z-]+)` \|", listed, flags=re.MULTILINE)
    assert sorted(named) == [recipe.name for recipe in recipes()]


def test_the_readme_tells_every_view_and_make_target() -> None:
    """Users rely on them."""
    for name in (*NAMES, "make demo", "make test"):
        assert f"`{name}`" in TEXT

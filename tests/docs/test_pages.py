"""The README and every page of the site: their commands, statements, links and tests exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy.engine import Engine

from fedsweep.cli.app import app
from fedsweep.store.sql import ask
from fedsweep.store.sql.recipes import recipes
from tests.builders import REPOSITORY
from tests.docs import documents
from tests.docs.documents import DOCS, DOCUMENTS, PAGES

README = REPOSITORY / "README.md"
EVERY = [*DOCUMENTS, *PAGES]
COMMANDS = sorted({words for page in EVERY for words in documents.commands(page.read_text())})
STATEMENTS = sorted({
    words[2] for words in COMMANDS
    if words[1:2] == ("sql",) and len(words) > 2 and not words[2].startswith("-")
})  # fmt: skip
ROOT: Any = typer.main.get_command(app)
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
LONGEST_README = 150


@pytest.mark.parametrize("words", COMMANDS, ids=shlex.join)
def test_every_command_of_the_pages_is_one(words: tuple[str, ...]) -> None:
    """Its name and its options are known, and its arguments fit."""
    command, rest = ROOT, list(words[1:])
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        assert name in command.commands, words
        command = command.commands[name]
    if not hasattr(command, "commands"):
        command.make_context(shlex.join(words), rest)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_statement_of_the_pages_is_answered(statement: str, store: Engine) -> None:
    """A statement with a function of Postgres is for Postgres; the others are for both."""
    if "pg_" in statement and store.dialect.name == "sqlite":
        pytest.skip("it is for Postgres")
    assert ask.ask(store, statement).columns


def test_every_recipe_of_the_pages_exists() -> None:
    named = [words[words.index("--recipe") + 1] for words in COMMANDS if "--recipe" in words]
    assert set(named) == {recipe.name for recipe in recipes()}


def test_every_target_of_make_in_the_pages_exists() -> None:
    """The README has one that trains the demo."""
    makefile = (REPOSITORY / "Makefile").read_text()
    called = {words[1] for page in EVERY for words in documents.commands(page.read_text(), "make")}
    assert {"demo", "docs", "reference"} <= called
    assert [name for name in called if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []
    assert any(words[1:] == ("demo",) for words in documents.commands(README.read_text(), "make"))


@pytest.mark.parametrize("page", EVERY, ids=documents.shown)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    """An anchor of the site works on GitHub, too."""
    assert list(documents.broken(page)) == []


def test_the_navigation_names_every_page_once() -> None:
    """A page that it does not name can only be found by the search."""
    named = sorted(documents.navigation())
    assert named == [page.relative_to(DOCS).as_posix() for page in PAGES]


@pytest.mark.parametrize("page", HOW_TO, ids=documents.shown)
def test_the_last_line_of_a_how_to_names_its_tests(page: Path) -> None:
    """Each is a file of tests. A page that is its own test is run by `test_how_to.py`."""
    last = page.read_text().rstrip().splitlines()[-1]
    assert last.startswith("Tested by: ")
    if last == "Tested by: this page":
        assert list(documents.commands(page.read_text()))
        return
    tests = re.findall(r"\[([^\]]+)\]\(([^)]+)\)", last)
    assert tests
    for name, address in tests:
        file = (page.parent / address).resolve()
        assert file.is_file()
        assert file.name.startswith("test_")
        assert name == documents.shown(file)


def test_the_readme_fits_two_screens() -> None:
    """Everything else has a page of its own."""
    assert len(README.read_text().splitlines()) <= LONGEST_README


def test_the_commands_and_statements_are_found() -> None:
    """Otherwise the tests above would test nothing."""
    assert len(COMMANDS) >= 60
    assert len(STATEMENTS) >= 3
    assert list(documents.commands(README.read_text()))


def test_every_path_of_the_file_map_exists() -> None:
    """Every Python file of both packages is in the map."""
    text = (DOCS / "explanation" / "architecture.md").read_text()
    maps = [block for block in documents.fences(text, "", "text") if block.startswith("fedsweep/ ")]
    assert len(maps) == 1
    named: set[str] = set()
    folder = ""
    for line in maps[0].splitlines():
        word = line.split()[0]
        if line.startswith(" "):
            named.add(folder + word)
        else:
            folder = word
            named.add(word)
    assert [name for name in named if not (REPOSITORY / name).exists()] == []
    files = [p for name in ("fedsweep", "trainers") for p in (REPOSITORY / name).rglob("*.py")]
    unnamed = [documents.shown(path) for path in files if not path.name.startswith("__")]
    unnamed = [path for path in unnamed if path not in named]
    assert [path for path in unnamed if path.rpartition("/")[0] + "/" not in named] == []


def test_a_command_is_found_among_other_words_of_a_shell() -> None:
    text = """
```console
$ FEDSWEEP_DB=sqlite:///a.db fedsweep status | head -1   # the first line
fedsweep 0.1.0
$ cd study && .venv/bin/fedsweep plan a.toml \\
    --dry-run; fedsweep report > table.txt
$ fedsweep trial retry $(fedsweep sql "SELECT max(trial_id) FROM results" --format csv | tail -1)
```
"""
    assert list(documents.commands(text)) == [
        ("fedsweep", "status"),
        (".venv/bin/fedsweep", "plan", "a.toml", "--dry-run"),
        ("fedsweep", "report"),
        ("fedsweep", "trial", "retry", "OUTPUT"),
        ("fedsweep", "sql", "SELECT max(trial_id) FROM results", "--format", "csv"),
    ]


def test_a_link_in_code_is_no_link() -> None:
    text = '`[a](b)` [`c`](d.md#e) ![f](g.png "h")\n\n```text\n[i](j)\n```\n<img src="k.svg">\n'
    assert documents.links(text) == ["d.md#e", "g.png", "k.svg"]


def test_the_anchors_of_headings_differ_between_github_and_the_site() -> None:
    """Two headings with one text, and a sign between two spaces."""
    text = "# `T⋆` = T\n\n## Values\n\n```\n# none\n```\n\n## Values\n"
    assert documents.on_github(text) == {"t--t", "values", "values-1"}
    assert documents.on_the_site(text) == {"t-t", "values", "values_1"}


def test_a_broken_link_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a heading, and a heading that only GitHub has."""
    monkeypatch.setattr(documents, "REPOSITORY", tmp_path)
    monkeypatch.setattr(documents, "DOCS", tmp_path)
    page = tmp_path / "a.md"
    page.write_text("# T = T\n\n[1](b.md) [2](#none) [3](#t--t) [4](#) [5](https://x.org) [6](.)\n")
    assert list(documents.broken(page)) == [
        "a.md: b.md does not exist",
        "a.md: #none is no heading on GitHub",
        "a.md: #t--t is no heading on the site",
    ]

"""`fedsweep sql`: statements and recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsweep.store.schema import open_store
from fedsweep.store.sql.recipes import recipe, recipes
from tests import study
from tests.acceptance.command import at_once


@pytest.fixture
def folder(sqlite_url: str, tmp_path: Path) -> Path:
    """A folder whose database has the study."""
    store = open_store(sqlite_url)
    study.fill(store, tmp_path)
    store.dispose()
    return tmp_path


def test_a_recipe_is_run_by_name_for_a_sweep(folder: Path) -> None:
    """The table has six digits, and JSON has all digits."""
    run = ("sql", "--recipe", "best-freeze-round", "--sweep", "study")
    output = at_once(*run, cwd=folder).stdout
    assert "0.0848528" in output
    (row,) = json.loads(at_once(*run, "--format", "json", cwd=folder).stdout)
    assert (row["freeze_round"], row["n"]) == (1, 2)
    assert row["std"] == pytest.approx(0.12 / 2**0.5, abs=1e-12)


def test_recipes_are_listed_and_shown_without_a_database(tmp_path: Path) -> None:
    """A recipe is listed with its sentence, and shown as it would be run."""
    listed = at_once("sql", "--recipes", cwd=tmp_path).stdout
    assert all(one.name in listed for one in recipes())
    shown = at_once("sql", "--recipe", "ledger", "--show", cwd=tmp_path).stdout
    assert shown == recipe("ledger").text


def test_a_statement_can_use_the_parameter_sweep(folder: Path) -> None:
    """The value of --sweep is bound to :sweep."""
    count = "SELECT count(*) AS n FROM members WHERE sweep = :sweep"
    output = at_once("sql", count, "--sweep", "study", "--format", "csv", cwd=folder).stdout
    assert output == "n\n12\n"


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ([], "give a SELECT or a --recipe, and not both: `fedsweep sql --recipes` lists them"),
        (["SELECT 1", "--recipe", "ledger"], "give a SELECT or a --recipe, and not both"),
        (["--show"], "give a SELECT or a --recipe, and not both"),
        (["--recipe", "legder"], "there is no recipe 'legder': did you mean ledger?"),
        (["SELECT 1", "--sweep", "study"], "--sweep sets the parameter :sweep"),
        (["--recipe", "ledger", "--sweep", "x' --"], 'there is no sweep "x\' --": there are stu'),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_in_one_sentence(
    arguments: list[str], output: str, folder: Path
) -> None:
    """The exit code is 2."""
    refused = at_once("sql", *arguments, cwd=folder, code=2).stderr
    assert output in refused
    assert refused.count("\n") == 1


def test_a_value_cannot_control_the_terminal(folder: Path) -> None:
    """Tables and blocks replace control characters; JSON and CSV keep the value as it is."""
    statement = "SELECT 'a' || char(27) || '[2J' || char(7) AS \"x\x1b[0m\""
    for columns in ("160", "10"):
        output = at_once("sql", statement, cwd=folder, COLUMNS=columns).stdout
        assert "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}" in output
        assert "\x1b" not in output
    output = at_once("sql", statement, "--format", "json", cwd=folder).stdout
    assert json.loads(output) == [{"x\x1b[0m": "a\x1b[2J\x07"}]

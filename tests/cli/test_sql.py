"""`fedsweep sql`: a statement, or a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsweep.store.schema import open_store
from fedsweep.store.sql.recipes import recipe, recipes
from tests import study
from tests.acceptance.command import at_once, fedsweep


@pytest.fixture
def here(sqlite_url: str, tmp_path: Path) -> Path:
    """A folder whose database has the study."""
    store = open_store(sqlite_url)
    study.fill(store, tmp_path)
    store.dispose()
    return tmp_path


def test_a_recipe_is_run_by_name_for_a_sweep(here: Path) -> None:
    """As a table with six digits, and as JSON with all."""
    run = ("sql", "--recipe", "best-freeze-round", "--sweep", "study")
    said = fedsweep(*run, cwd=here).stdout
    assert "0.0848528" in said
    (row,) = json.loads(fedsweep(*run, "--format", "json", cwd=here).stdout)
    assert (row["freeze_round"], row["n"]) == (1, 2)
    assert row["std"] == pytest.approx(0.12 / 2**0.5, abs=1e-12)


def test_recipes_are_listed_and_shown_without_a_database(tmp_path: Path) -> None:
    """Each with its sentence; shown as it would be run."""
    listed = at_once("sql", "--recipes", cwd=tmp_path).stdout
    assert all(found.name in listed for found in recipes())
    shown = at_once("sql", "--recipe", "ledger", "--show", cwd=tmp_path).stdout
    assert shown == recipe("ledger").text


def test_a_statement_of_one_s_own_may_name_the_sweep(here: Path) -> None:
    """:sweep is bound."""
    count = "SELECT count(*) AS n FROM members WHERE sweep = :sweep"
    said = at_once("sql", count, "--sweep", "study", "--format", "csv", cwd=here).stdout
    assert said == "n\n12\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a SELECT or a --recipe, and not both: `fedsweep sql --recipes` lists them"),
        (["SELECT 1", "--recipe", "ledger"], "give a SELECT or a --recipe, and not both"),
        (["--show"], "give a SELECT or a --recipe, and not both"),
        (["--recipe", "legder"], "there is no recipe 'legder': did you mean ledger?"),
        (["SELECT 1", "--sweep", "study"], "--sweep says what :sweep stands for"),
        (["--recipe", "ledger", "--sweep", "x' --"], 'there is no sweep "x\' --": there are stu'),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(
    arguments: list[str], said: str, here: Path
) -> None:
    """With exit 2."""
    refused = at_once("sql", *arguments, cwd=here, code=2).stderr
    assert said in refused
    assert refused.count("\n") == 1


def test_a_terminal_obeys_nothing_that_a_value_says(here: Path) -> None:
    """A table, and its blocks where it is too wide; json and csv have the value as it is."""
    statement = "SELECT 'a' || char(27) || '[2J' || char(7) AS \"x\x1b[0m\""
    for columns in ("160", "10"):
        said = fedsweep("sql", statement, cwd=here, COLUMNS=columns).stdout
        assert "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}" in said
        assert "\x1b" not in said
    said = at_once("sql", statement, "--format", "json", cwd=here).stdout
    assert json.loads(said) == [{"x\x1b[0m": "a\x1b[2J\x07"}]

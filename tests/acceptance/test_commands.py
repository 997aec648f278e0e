"""The other commands, as a user sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.command import environment, fedsweep, query

WHICH = (
    "import sys; sys.argv = ['fedsweep', *{arguments}]\n"
    "from fedsweep.cli import main\n"
    "try: main()\n"
    "except SystemExit as end: assert not end.code, end.code\n"
    "heavy = {{'torch', 'optuna', 'matplotlib', 'sklearn', 'torchvision'}}\n"
    "print(sorted(heavy & set(sys.modules)))"
)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plan", "--help"], ["plan", "tiny.toml"], ["plan", "tiny.toml", "--dry-run"],
     ["status"], ["sql", "SELECT 1"], ["report"]],
    ids=" ".join,
)  # fmt: skip
def test_what_does_not_train_does_not_import_what_trains(arguments: list[str], tiny: Path) -> None:
    """Neither torch nor optuna nor matplotlib."""
    fedsweep("plan", "tiny.toml", cwd=tiny.parent)
    done = subprocess.run(
        [sys.executable, "-c", WHICH.format(arguments=arguments)],
        cwd=tiny.parent,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_help_names_every_command() -> None:
    """And its own version."""
    said = fedsweep("--help").stdout
    commands = ("plan", "work", "report", "status", "trial", "sweep", "sql", "db")
    assert all(f" {name} " in said for name in commands)
    assert fedsweep("--version").stdout.startswith("fedsweep 0.")


def test_planning_again_and_changing_a_plan_say_what_they_did(tiny: Path) -> None:
    """New and kept trials, the difference of the texts, and what stays."""
    here = tiny.parent
    assert fedsweep("plan", "tiny.toml", cwd=here).stdout == "tiny: 6 new trials, 0 kept\n"
    assert fedsweep("plan", "tiny.toml", cwd=here).stdout == "tiny: 0 new trials, 6 kept\n"
    tiny.write_text(tiny.read_text().replace("seed = [0, 1]", "seed = [1, 2]"))
    said = fedsweep("plan", "tiny.toml", cwd=here).stdout
    assert "tiny: 3 new trials, 3 kept" in said
    assert "-seed = [0, 1]" in said
    assert "+seed = [1, 2]" in said
    assert "3 trials of the earlier plan stay in the sweep" in said


def test_trials_are_listed_cancelled_and_retried(tiny: Path) -> None:
    """By unique beginnings of their ids."""
    here = tiny.parent
    fedsweep("plan", "tiny.toml", cwd=here)
    url = f"sqlite:///{here}/fedsweep.db"
    first, second = [
        row[0] for row in query(url, "SELECT trial_id FROM trials ORDER BY id LIMIT 2")
    ]
    assert first[:10] in fedsweep("trial", "list", cwd=here).stdout
    assert "2 trials cancelled" in fedsweep("trial", "cancel", first[:8], second, cwd=here).stdout
    listed = fedsweep("trial", "list", "--state", "cancelled", cwd=here).stdout
    assert first[:10] in listed
    assert second[:10] in listed
    assert "only queued and running" in fedsweep("trial", "cancel", first, cwd=here, code=2).stderr
    assert "1 trial queued again" in fedsweep("trial", "retry", first[:8], cwd=here).stdout
    said = fedsweep("plan", "tiny.toml", cwd=here).stdout
    assert "1 cancelled trial queued again" in said
    shown = fedsweep("trial", "show", first[:8], cwd=here).stdout
    assert "configuration" in shown
    assert "normalizer" in shown
    assert "0 attempts" in shown


def test_cancelling_a_sweep_leaves_trials_that_another_one_has(tiny: Path) -> None:
    """Two sweeps share the bn trials of seed 0."""
    here = tiny.parent
    fedsweep("plan", "tiny.toml", cwd=here)
    other = here / "other.toml"
    other.write_text(tiny.read_text().replace('"tiny"', '"other"').replace('["bn", "gn"]', '"bn"'))
    fedsweep("plan", "other.toml", "--set", "seed=0", "--set", "normalizer=bn", cwd=here)
    said = fedsweep("sweep", "cancel", "tiny", cwd=here).stdout
    assert "tiny: 5 trials cancelled" in said
    assert "1 trial of other sweeps too: left alone" in said
    assert "tiny" in fedsweep("sweep", "list", cwd=here).stdout


def test_status_and_sql_speak_json(tiny: Path) -> None:
    """For scripts: one list of objects each."""
    here = tiny.parent
    fedsweep("plan", "tiny.toml", cwd=here)
    (standing,) = json.loads(fedsweep("status", "--json", cwd=here).stdout)
    assert (standing["sweep"], standing["queued"], standing["trials"]) == ("tiny", 6, 6)
    assert standing["seconds_left"] is None
    counted = "SELECT normalizer, count(*) AS n FROM results GROUP BY 1 ORDER BY 1"
    rows = json.loads(fedsweep("sql", counted, "--format", "json", cwd=here).stdout)
    assert rows == [
        {"normalizer": "bn", "n": 2},
        {"normalizer": "fixbn", "n": 2},
        {"normalizer": "gn", "n": 2},
    ]
    text = fedsweep("sql", counted, "--format", "csv", cwd=here).stdout
    assert text == "normalizer,n\nbn,2\nfixbn,2\ngn,2\n"
    assert "fixbn" in fedsweep("sql", counted, cwd=here).stdout
    assert "0/6" in fedsweep("status", cwd=here).stdout


def test_a_wide_row_is_printed_as_a_block(tiny: Path) -> None:
    """Where a table would not fit, no letter is folded away."""
    here = tiny.parent
    fedsweep("plan", "tiny.toml", cwd=here)
    said = fedsweep("sql", "SELECT * FROM results LIMIT 1", cwd=here, COLUMNS="80").stdout
    assert said.startswith("row 1\n  trial_id ")


def test_the_database_is_named_by_option_variable_or_habit(tiny: Path) -> None:
    """--db before $FEDSWEEP_DB before ./fedsweep.db."""
    here = tiny.parent
    fedsweep("plan", "tiny.toml", "--db", "sqlite:///a.db", cwd=here, FEDSWEEP_DB="sqlite:///b.db")
    fedsweep("plan", "tiny.toml", cwd=here, FEDSWEEP_DB="sqlite:///b.db")
    fedsweep("plan", "tiny.toml", cwd=here)
    assert {p.name for p in here.glob("*.db")} == {"a.db", "b.db", "fedsweep.db"}
    assert "sound, schema 0001" in fedsweep("db", "check", cwd=here).stdout
    assert "already there" in fedsweep("db", "upgrade", cwd=here).stdout

"""Commands that plan, list, change and export, as a user sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedsweep.store import schema
from tests.acceptance.command import at_once, environment, fedsweep, query

IMPORTS = """
import json, os, sys
from fedsweep.cli import main
from fedsweep.cli.console import console
heavy = {"torch", "optuna", "matplotlib", "sklearn", "torchvision"}
imported = []
for arguments in json.load(sys.stdin):
    sys.argv = ["fedsweep", *arguments]
    before = set(sys.modules)
    console.cache_clear()
    try:
        main()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
    imported.append(sorted(heavy & (set(sys.modules) - before)))
print(json.dumps(imported))
"""
"""A program that runs commands and prints the heavy packages that each of them imports."""

LIGHT = (
    ["--help"],
    ["plan", "--help"],
    ["plan", "tiny.toml"],
    ["plan", "tiny.toml", "--dry-run"],
    ["status"],
    ["sql", "SELECT 1"],
    ["report"],
    ["export", "weights", "--help"],
    ["sql", "--recipes"],
    ["export", "parquet", "--output", "out"],
)
"""Commands that do not train."""


def test_commands_that_do_not_train_import_no_heavy_package(tiny: Path) -> None:
    """They import neither torch nor optuna nor matplotlib."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        cwd=tiny.parent,
        env=environment(),
        input=json.dumps(LIGHT),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout.splitlines()[-1])
    assert dict(zip(map(" ".join, LIGHT), imported, strict=True)) == {
        " ".join(command): [] for command in LIGHT
    }


def test_help_names_every_command() -> None:
    """`--version` prints the version."""
    output = fedsweep("--help").stdout
    commands = ("plan", "work", "report", "status", "trial", "sweep", "sql", "export", "db")
    assert all(f" {name} " in output for name in commands)
    assert fedsweep("--version").stdout.startswith("fedsweep 0.")


def test_planning_again_and_changing_a_plan_say_what_they_did(tiny: Path) -> None:
    """They print the new and kept trials, the difference of the texts, and the trials that stay."""
    folder = tiny.parent
    first, *decisions = at_once("plan", "tiny.toml", cwd=folder).stdout.splitlines()
    again, *same = at_once("plan", "tiny.toml", cwd=folder).stdout.splitlines()
    assert [first, again] == ["tiny: 6 new trials, 0 kept", "tiny: 0 new trials, 6 kept"]
    assert decisions == same
    tiny.write_text(tiny.read_text().replace("seed = [0, 1]", "seed = [1, 2]"))
    output = at_once("plan", "tiny.toml", cwd=folder).stdout
    assert "tiny: 3 new trials, 3 kept" in output
    assert "-seed = [0, 1]" in output
    assert "+seed = [1, 2]" in output
    assert "  3 trials of earlier plans stay in the sweep and its report: plan under" in output


def test_one_trial_of_an_earlier_plan_stays(tiny: Path) -> None:
    """The verb is in the singular."""
    one = ("plan", "tiny.toml", "--set", "normalizer=bn", "--set", "alpha=0.5", "--set", "seed=0")
    at_once(*one, cwd=tiny.parent)
    tiny.write_text(tiny.read_text().replace("lr = 0.05", "lr = 0.06"))
    output = at_once(*one, cwd=tiny.parent).stdout
    assert "  1 trial of earlier plans stays in the sweep and its report" in output


def test_planning_with_the_data_after_planning_without_says_that_the_earlier_trials_stay(
    tiny: Path, image_folder: Path
) -> None:
    """Their identities differ, because the second ones have the content of the data."""
    plan = ("plan", "tiny.toml", "--set", "dataset=imagefolder")
    unpinned = at_once(*plan, cwd=tiny.parent).stdout
    assert "With the data, the same plan makes other trials" in " ".join(unpinned.split())
    pinned = at_once(*plan, "--data", str(image_folder), cwd=tiny.parent).stdout
    assert "tiny: 6 new trials, 0 kept" in pinned
    assert "  6 trials of earlier plans stay in the sweep and its report" in pinned


def test_trials_are_listed_cancelled_and_retried(tiny: Path) -> None:
    """A unique beginning of an id is enough."""
    folder = tiny.parent
    at_once("plan", "tiny.toml", cwd=folder)
    url = f"sqlite:///{folder}/fedsweep.db"
    first, second = [
        row[0] for row in query(url, "SELECT trial_id FROM trials ORDER BY id LIMIT 2")
    ]
    assert first[:10] in at_once("trial", "list", cwd=folder).stdout
    assert "2 trials cancelled" in at_once("trial", "cancel", first[:8], second, cwd=folder).stdout
    listed = at_once("trial", "list", "--state", "cancelled", cwd=folder).stdout
    assert first[:10] in listed
    assert second[:10] in listed
    assert "only queued and running" in at_once("trial", "cancel", first, cwd=folder, code=2).stderr
    assert "1 trial queued again" in at_once("trial", "retry", first[:8], cwd=folder).stdout
    output = at_once("plan", "tiny.toml", cwd=folder).stdout
    assert "1 cancelled trial queued again" in output
    shown = at_once("trial", "show", first[:8], cwd=folder).stdout
    assert "configuration" in shown
    assert "normalizer" in shown
    assert "0 attempts" in shown


def test_cancelling_a_sweep_leaves_trials_that_another_one_has(tiny: Path) -> None:
    """Two sweeps share the bn trials of seed 0."""
    folder = tiny.parent
    at_once("plan", "tiny.toml", cwd=folder)
    other = folder / "other.toml"
    other.write_text(tiny.read_text().replace('"tiny"', '"other"').replace('["bn", "gn"]', '"bn"'))
    at_once("plan", "other.toml", "--set", "seed=0", "--set", "normalizer=bn", cwd=folder)
    output = at_once("sweep", "cancel", "tiny", cwd=folder).stdout
    assert "tiny: 5 trials cancelled" in output
    assert "1 trial of other sweeps too: left alone" in output
    assert "tiny" in at_once("sweep", "list", cwd=folder).stdout


def test_status_and_sql_speak_json(tiny: Path) -> None:
    """Each prints one list of objects."""
    folder = tiny.parent
    at_once("plan", "tiny.toml", cwd=folder)
    (standing,) = json.loads(at_once("status", "--json", cwd=folder).stdout)
    assert (standing["sweep"], standing["queued"], standing["trials"]) == ("tiny", 6, 6)
    assert standing["seconds_left"] is None
    counted = "SELECT normalizer, count(*) AS n FROM results GROUP BY 1 ORDER BY 1"
    rows = json.loads(at_once("sql", counted, "--format", "json", cwd=folder).stdout)
    assert rows == [
        {"normalizer": "bn", "n": 2},
        {"normalizer": "fixbn", "n": 2},
        {"normalizer": "gn", "n": 2},
    ]
    text = at_once("sql", counted, "--format", "csv", cwd=folder).stdout
    assert text == "normalizer,n\nbn,2\nfixbn,2\ngn,2\n"
    assert "fixbn" in at_once("sql", counted, cwd=folder).stdout
    assert "0/6" in at_once("status", cwd=folder).stdout


def test_a_wide_row_is_printed_as_a_block(tiny: Path) -> None:
    """If a table does not fit the width, no character is lost."""
    folder = tiny.parent
    at_once("plan", "tiny.toml", cwd=folder)
    output = at_once("sql", "SELECT * FROM results LIMIT 1", cwd=folder, COLUMNS="80").stdout
    assert output.startswith("row 1\n  trial_id ")


def test_the_database_is_named_by_option_variable_or_habit(tiny: Path) -> None:
    """--db comes before $FEDSWEEP_DB, and that before ./fedsweep.db."""
    folder = tiny.parent
    at_once("plan", "tiny.toml", "--db", "sqlite:///a.db", cwd=folder, FEDSWEEP_DB="sqlite:///b.db")
    at_once("plan", "tiny.toml", cwd=folder, FEDSWEEP_DB="sqlite:///b.db")
    at_once("plan", "tiny.toml", cwd=folder)
    assert {p.name for p in folder.glob("*.db")} == {"a.db", "b.db", "fedsweep.db"}
    assert f"sound, schema {schema.head()}" in at_once("db", "check", cwd=folder).stdout
    assert "already there" in at_once("db", "upgrade", cwd=folder).stdout


def test_a_plan_s_partitions_are_drawn_without_a_database(tiny: Path) -> None:
    """With --dry-run only the figure is written. The partitions that are not drawn are counted."""
    alphas = ", ".join(str(0.1 * i) for i in range(1, 14))
    tiny.write_text(tiny.read_text().replace("alpha = 0.5", "") + f"alpha = [{alphas}]\n")
    tiny.write_text(tiny.read_text().replace('["bn", "gn"]', '["bn", "gn"]\nalpha = 0.1'))
    done = at_once("plan", "tiny.toml", "--dry-run", "--show-partition", "p.svg", cwd=tiny.parent)
    assert "p.svg: 12 partitions\n  1 partition more left out" in done.stdout
    assert {path.name for path in tiny.parent.iterdir()} == {"tiny.toml", "p.svg"}
    assert "<svg" in (tiny.parent / "p.svg").read_text()


@pytest.mark.usefixtures("walk_in_test")
def test_planning_to_measure_more_of_begun_trials_says_that_it_does_not(tiny: Path) -> None:
    """Begun trials keep their measures. The others get the new ones."""
    at_once("plan", "tiny.toml", cwd=tiny.parent)
    at_once("work", "--device", "cpu", "--max-trials", "1", cwd=tiny.parent)
    output = at_once("plan", "tiny.toml", "--set", "keep_weights=true", cwd=tiny.parent).stdout
    assert "tiny: 0 new trials, 6 kept" in output
    assert "1 kept trial began as planned before" in output
    url = f"sqlite:///{tiny.parent}/fedsweep.db"
    assert query(url, "SELECT sum(keep_weights) FROM results") == [(5,)]


def test_a_trial_that_is_planned_twice_has_the_measures_of_both(tiny: Path) -> None:
    """Two blocks of a grid name it, one with diagnostics."""
    twice = '[[grid]]\nnormalizer = "bn"\nseed = [0, 1]\ndiagnostics = true\n'
    tiny.write_text(tiny.read_text().replace("[[grid]]", twice + "[[grid]]", 1))
    at_once("plan", "tiny.toml", cwd=tiny.parent)
    url = f"sqlite:///{tiny.parent}/fedsweep.db"
    sums = "SELECT normalizer, sum(diagnostics) FROM results GROUP BY 1 ORDER BY 1"
    assert query(url, sums) == [("bn", 2), ("fixbn", 0), ("gn", 0)]


def test_a_refused_plan_draws_nothing(tiny: Path) -> None:
    """If the database cannot be used, no figure is written, and an older one is kept."""
    figure = tiny.parent / "who.png"
    figure.write_bytes(b"precious")
    (tiny.parent / "not.db").write_text("no database, but long enough to be looked at" * 30)
    where = ("--db", f"sqlite:///{tiny.parent}/not.db", "--show-partition", str(figure))
    at_once("plan", "tiny.toml", *where, cwd=tiny.parent, code=2)
    assert figure.read_bytes() == b"precious"
    assert sorted(p.name for p in tiny.parent.iterdir()) == ["not.db", "tiny.toml", "who.png"]


def test_a_misspelled_data_folder_is_not_made(tiny: Path) -> None:
    """A plan that draws a figure and is refused makes no folder."""
    changes = ("--set", "dataset=cifar10", "--data", str(tiny.parent / "no" / "where"))
    draw = ("--dry-run", "--show-partition", str(tiny.parent / "who.png"))
    refused = at_once("plan", "tiny.toml", *changes, *draw, cwd=tiny.parent, code=2).stderr
    assert "cifar-10-batches-py" in refused
    assert [p.name for p in tiny.parent.iterdir()] == ["tiny.toml"]


def test_a_machine_without_the_packages_gives_the_trial_back(tmp_path: Path, tiny: Path) -> None:
    """It prints one sentence with the remedy and exits with 1. The trial is queued."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torchmetrics' else found(name, *a)\n"
    )
    road = ("dataset=camvid", "model=deeplabv3plus", "partition=natural", "seed=0")
    at_once("plan", "tiny.toml", *(f"--set={change}" for change in road), cwd=tiny.parent)
    work = ("work", "--device", "cpu", "--until-empty")
    refused = fedsweep(*work, cwd=tiny.parent, code=1, PYTHONPATH=str(blocked)).stderr
    assert "deeplabv3plus needs packages: pip install 'fedsweep[segmentation]'" in refused
    url = f"sqlite:///{tiny.parent}/fedsweep.db"
    assert query(url, "SELECT DISTINCT state, failure FROM results") == [("queued", None)]


@pytest.fixture(scope="module")
def one_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of two trials that keep their weights, one of them finished."""
    from tests.builders import TINY

    folder = tmp_path_factory.mktemp("kept")
    (folder / "tiny.toml").write_text(TINY)
    changes = ("normalizer=bn", "keep_weights=true", "client_accuracy=true", "rounds=2")
    at_once("plan", "tiny.toml", *(f"--set={change}" for change in changes), cwd=folder)
    at_once("work", "--device", "cpu", "--max-trials", "1", cwd=folder)
    return folder


def trials(folder: Path) -> tuple[str, str]:
    """Return the ids of the finished trial and the queued one."""
    rows = query(f"sqlite:///{folder}/fedsweep.db", "SELECT trial_id FROM results ORDER BY state")
    return rows[0][0], rows[1][0]


def test_final_weights_are_exported_and_nothing_is_overwritten_unasked(one_trained: Path) -> None:
    """The file is named after the trial, or by --output."""
    from safetensors.numpy import load_file

    folder, (trial, _) = one_trained, trials(one_trained)
    output = at_once("export", "weights", trial[:8], cwd=folder).stdout
    assert str(folder / f"{trial}.safetensors") in output
    assert "norm1.running_mean" in load_file(folder / f"{trial}.safetensors")
    refused = at_once("export", "weights", trial, cwd=folder, code=2).stderr
    assert "already there: replace it with --force, or name another with --output" in refused
    at_once("export", "weights", trial, "--force", cwd=folder)
    at_once("export", "weights", trial, "--output", "other.safetensors", cwd=folder)
    contents = [
        (folder / name).read_bytes() for name in (f"{trial}.safetensors", "other.safetensors")
    ]
    assert contents[0] == contents[1]
    for target in ("no/such.safetensors", "."):
        done = at_once(
            "export", "weights", trial, "--output", target, "--force", cwd=folder, code=2
        )
        assert "cannot be written" in done.stderr or "is a folder" in done.stderr


def test_missing_weights_are_refused_with_the_remedy(one_trained: Path) -> None:
    """The trial is not finished, or the file is damaged or missing."""
    trial, waiting = trials(one_trained)
    refused = at_once("export", "weights", waiting, cwd=one_trained, code=2).stderr
    assert f"trial {waiting} is queued: wait until it has finished" in refused
    (file,) = (one_trained / "fedsweep.db.artifacts").glob("*-weights.safetensors")
    content = file.read_bytes()
    for harm, state in ((content[:-1], "damaged"), (None, "missing")):
        file.unlink()
        if harm is not None:
            file.write_bytes(harm)
        ask = ("export", "weights", trial, "--output", "harmed.safetensors")
        refused = at_once(*ask, cwd=one_trained, code=2).stderr
        assert f"are {state} in " in refused
        assert "restore that file from a backup" in refused
        assert not (one_trained / "harmed.safetensors").exists()
    file.write_bytes(content)


def test_a_trial_shows_the_accuracies_of_its_clients_if_it_has_them(one_trained: Path) -> None:
    """It has no line for a measure that the trial does not have."""
    output = at_once("trial", "show", trials(one_trained)[0], cwd=one_trained).stdout
    assert "worst_client_accuracy  0." in output
    assert "mean_client_accuracy " in output
    assert "test_miou" not in output

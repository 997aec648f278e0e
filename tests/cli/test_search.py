"""`fedsweep search`, and what plan and report say of searches, from plan to answer."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import optuna
import pytest

from tests.acceptance.command import at_once, fedsweep
from tests.search.searches import PLAN
from tests.shared import made_once

optuna.logging.set_verbosity(optuna.logging.WARNING)


def search(folder: Path) -> None:
    """Plan a search and let `fedsweep work` run it to its end."""
    confirmed = PLAN.replace("extra_seeds = 1", "extra_seeds = 0\nconfirm_seeds = 2")
    (folder / "plan.toml").write_text(confirmed)
    forecast = at_once("plan", "plan.toml", "--dry-run", cwd=folder).stdout
    assert "search   1 arm: 74 rounds at most, trunks included, of 120" in forecast
    text = at_once("plan", "plan.toml", cwd=folder).stdout
    assert "searched: 4 new trials, 0 kept" in text
    assert "1 arm to search, 0 as before" in text
    assert "0 arms to search, 1 as before" in at_once("plan", "plan.toml", cwd=folder).stdout
    fedsweep("work", "--device", "cpu", "--slots", "2", "--until-empty", cwd=folder)


@pytest.fixture(scope="module")
def searched(walk: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a finished search. All processes of the run share it."""
    return made_once(tmp_path_factory, "searched", search)


def test_the_answer_is_shown_with_what_was_tried_and_why(searched: Path) -> None:
    """A table; with --arm each proposal; with --json all of it."""
    (record,) = json.loads(at_once("search", "show", "--json", cwd=searched).stdout)
    assert record["standing"] in ("settled", "budget", "tried")
    assert record["freeze_round"] in range(0, 11, 2)
    assert record["rounds_spent"] <= 74
    assert {gain["over"] for gain in record["gains"]} == {"bn", "gn"}
    assert all(gain["fresh_seeds"] for gain in record["gains"])
    assert [gain["seeds"] for gain in record["gains"]] == [[2, 3], [2, 3]]
    shown = at_once("search", "show", cwd=searched).stdout
    assert "the best freeze round" in shown
    told = at_once("search", "show", "--arm", record["arm_id"][:6], cwd=searched).stdout
    assert "BN to the end, the trunk of all others" in told
    assert "on seeds that did not choose it" in told


def test_the_report_has_the_answer_in_every_form_that_people_read(searched: Path) -> None:
    """Terminal, Markdown, a page with its figure; the lists of cells stay lists of cells."""
    assert "the best freeze round" in at_once("report", cwd=searched).stdout
    markdown = at_once("report", "--format", "markdown", cwd=searched).stdout
    assert "### searched: the best freeze round" in markdown
    at_once("report", "--format", "html", "--output", "report.html", cwd=searched)
    page = (searched / "report.html").read_text()
    assert "<h2>The best freeze round</h2>" in page
    assert "Gaussian process" in page
    cells = json.loads(at_once("report", "--format", "json", cwd=searched).stdout)
    assert all("mean_test_accuracy" in cell for cell in cells)


def test_an_export_is_a_study_that_optuna_opens(searched: Path) -> None:
    """Values, parameters, curves; written anew where it is there already."""
    url = f"sqlite:///{searched}/study.db"
    for _ in range(2):
        said = at_once("search", "export", "--storage", url, cwd=searched).stdout
        assert "trials" in said
    (record,) = json.loads(at_once("search", "show", "--json", cwd=searched).stdout)
    (summary,) = optuna.get_all_study_summaries(url)
    study = optuna.load_study(study_name=summary.study_name, storage=url)
    tried = {t["freeze_round"]: t["values"].values() for t in record["tried"]}
    found = {t.params["freeze_round"]: t.value for t in study.trials}
    assert found == pytest.approx({t: sum(v) / len(v) for t, v in tried.items()})
    assert study.best_params["freeze_round"] in tried
    assert study.metric_names == ["validation_accuracy"]
    for trial in study.trials:
        assert list(trial.intermediate_values) == list(range(1, 11))
        assert trial.intermediate_values[10] == pytest.approx(trial.value)


def test_what_cannot_be_exported_or_shown_is_refused_in_one_sentence(
    searched: Path, tmp_path: Path
) -> None:
    """A storage that is none, an arm that is none, a store that searches nothing."""
    for arguments, says in (
        (("export", "--storage", "nothing://x"), "--storage nothing://x cannot be used"),
        (("show", "--arm", "zzz"), "there is no arm 'zzz'"),
        (("show", "--sweep", "other"), "there is no sweep 'other'"),
    ):
        done = at_once("search", *arguments, cwd=searched, code=2)
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    grid = PLAN[: PLAN.index("[search]")].replace('"gn", "fixbn"', '"gn"')
    (tmp_path / "grid.toml").write_text(grid)
    at_once("plan", "grid.toml", cwd=tmp_path)
    done = at_once("search", "show", cwd=tmp_path, code=2)
    assert "no sweep here has a [search] section" in done.stderr


def test_a_search_is_plain_sql(searched: Path) -> None:
    """Why each T* was tried, beside what it took."""
    with sqlite3.connect(searched / "fedsweep.db") as c:
        rows = c.execute(
            "SELECT number, freeze_round, cost FROM proposals ORDER BY number"
        ).fetchall()
    assert rows[0] == (1, 10, 0)
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))

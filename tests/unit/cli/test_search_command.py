"""`fedsweep search`, and the output of plan and report about searches."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import optuna
import pytest

from tests.acceptance.command import at_once
from tests.shared import made_once
from tests.unit.search.searches import PLAN

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
    at_once("work", "--device", "cpu", "--slots", "2", "--until-empty", cwd=folder)


@pytest.fixture(scope="module")
def searched(walk: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a finished search. All processes of the run share it."""
    return made_once(tmp_path_factory, "searched", search)


def test_the_answer_is_shown_with_the_tried_freeze_rounds_and_reasons(searched: Path) -> None:
    """The output is a table, with --arm also each proposal, and with --json everything."""
    (record,) = json.loads(at_once("search", "show", "--json", cwd=searched).stdout)
    assert record["standing"] in ("settled", "budget", "tried")
    assert record["freeze_round"] in range(0, 11, 2)
    assert record["rounds_spent"] <= 74
    assert {gain["over"] for gain in record["gains"]} == {"bn", "gn"}
    assert all(gain["fresh_seeds"] for gain in record["gains"])
    assert [gain["seeds"] for gain in record["gains"]] == [[2, 3], [2, 3]]
    shown = at_once("search", "show", cwd=searched).stdout
    assert "the best freeze round" in shown
    proposals = at_once("search", "show", "--arm", record["arm_id"][:6], cwd=searched).stdout
    assert "BN to the end, the trunk of all others" in proposals
    assert "on seeds that did not choose it" in proposals


def test_the_report_has_the_answer_in_every_format_for_readers(searched: Path) -> None:
    """Terminal, Markdown and page have it, the page with its figure; lists of cells do not."""
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
    """The study has values, parameters and curves, and a second export replaces it."""
    url = f"sqlite:///{searched}/study.db"
    for _ in range(2):
        output = at_once("search", "export", "--storage", url, cwd=searched).stdout
        assert "trials" in output
    (record,) = json.loads(at_once("search", "show", "--json", cwd=searched).stdout)
    (summary,) = optuna.get_all_study_summaries(url)
    study = optuna.load_study(study_name=summary.study_name, storage=url)
    tried = {t["freeze_round"]: t["values"].values() for t in record["tried"]}
    values = {t.params["freeze_round"]: t.value for t in study.trials}
    assert values == pytest.approx({t: sum(v) / len(v) for t, v in tried.items()})
    assert study.best_params["freeze_round"] in tried
    assert study.metric_names == ["validation_accuracy"]
    for trial in study.trials:
        assert list(trial.intermediate_values) == list(range(1, 11))
        assert trial.intermediate_values[10] == pytest.approx(trial.value)


def test_wrong_storages_and_arms_are_refused_in_one_sentence(
    searched: Path, tmp_path: Path
) -> None:
    """A wrong storage, a wrong arm and a database without a search are refused."""
    for arguments, message in (
        (("export", "--storage", "nothing://x"), "--storage nothing://x cannot be used"),
        (("show", "--arm", "zzz"), "there is no arm 'zzz'"),
        (("show", "--sweep", "other"), "there is no sweep 'other'"),
    ):
        done = at_once("search", *arguments, cwd=searched, code=2)
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    grid = PLAN[: PLAN.index("[search]")].replace('"gn", "fixbn"', '"gn"')
    (tmp_path / "grid.toml").write_text(grid)
    at_once("plan", "grid.toml", cwd=tmp_path)
    done = at_once("search", "show", cwd=tmp_path, code=2)
    assert "no sweep here has a [search] section" in done.stderr


def test_a_search_can_be_queried_in_sql(searched: Path) -> None:
    """A query returns the reason of each tried T* with its cost."""
    with sqlite3.connect(searched / "fedsweep.db") as c:
        rows = c.execute(
            "SELECT number, freeze_round, cost FROM proposals ORDER BY number"
        ).fetchall()
    assert rows[0] == (1, 10, 0)
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))

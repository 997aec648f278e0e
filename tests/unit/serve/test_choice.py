"""The choice of arms, panel and grouping in the address of a sweep's screen."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from fedsweep.plans import read_plan
from fedsweep.reports import freeze_rounds, tables
from fedsweep.reports.grouping import summarize
from fedsweep.reports.selection import tune
from fedsweep.serve.app import _query, screen_state
from fedsweep.serve.read_cache import ReadCache
from fedsweep.serve.totals import TABLE_MEASURES, filled, pooled_curve, shape_of
from fedsweep.store import browse, planning, trial_rows
from fedsweep.store.browse import Mean
from fedsweep.store.tables import rounds, trials
from fedsweep.store.transactions import reading, transaction
from tests.unit.serve import study
from tests.unit.serve.pages import HOSTILE, text

pytestmark = pytest.mark.quick_on("sqlite")


@pytest.fixture
def studied(store: Engine, tmp_path: Path) -> Engine:
    study.fill(store, tmp_path)
    return store


def figures(cache: ReadCache, *parameters: tuple[str, str]) -> dict[str, Any]:
    """Return the figures of the sweep as an address with these parameters has them."""
    query = _query("sweep", [("sweep", "study"), *parameters])
    return dict(screen_state(cache, "sweep", query)[0].figures)


def names(figure: dict[str, Any]) -> list[str]:
    return [trace["name"] for trace in figure["traces"]]


def test_the_address_chooses_the_arms(read_cache: ReadCache, studied: Engine) -> None:
    """All are drawn if it names none. Unknown ones are ignored."""
    every = ["BN", "FIXBN T⋆=3", "FIXBN T⋆=6", "GN"]
    assert sorted(names(figures(read_cache)["arms"])) == sorted(every)
    two = figures(read_cache, ("arm", "GN"), ("arm", "BN"), ("arm", HOSTILE))["arms"]
    assert sorted(names(two)) == ["BN", "GN"]
    assert figures(read_cache, ("arm", ""))["arms"]["traces"] == []
    assert figures(read_cache, ("panel", "none such")) == figures(read_cache)


def test_the_style_of_an_arm_does_not_depend_on_the_choice(
    read_cache: ReadCache, studied: Engine
) -> None:
    """An arm that is drawn alone looks the same as among the others."""
    every = {trace["name"]: trace for trace in figures(read_cache)["arms"]["traces"]}
    for name, trace in every.items():
        (alone,) = figures(read_cache, ("arm", name))["arms"]["traces"]
        for key in ("color", "dash", "marker"):
            assert alone[key] == trace[key], (name, key)


def test_the_panel_that_was_planned_first_is_shown_first(
    read_cache: ReadCache, store: Engine, tmp_path: Path
) -> None:
    """It has the first results. The panels are in the order of the table, as everywhere."""
    file = tmp_path / "turned.toml"
    file.write_text(study.PLAN.replace("alpha = [0.1, 1.0]", "alpha = [1.0, 0.1]"))
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(file))
        study.finish(connection, trials.c.alpha == 1.0)
        shape = shape_of("study", browse.cells(connection, "study"))
    assert list(shape.panels) == [f"α = {alpha}, E = 2, momentum = reset" for alpha in ("0.1", "1")]
    assert shape.first == "α = 1, E = 2, momentum = reset"
    assert names(figures(read_cache)["arms"])
    assert (
        figures(read_cache, ("panel", "α = 0.1, E = 2, momentum = reset"))["arms"]["traces"] == []
    )


def test_the_style_of_an_arm_does_not_depend_on_the_panel(
    read_cache: ReadCache, studied: Engine, tmp_path: Path
) -> None:
    """One panel has one T⋆ more than the other. The colors are those of the whole sweep."""
    more = '[[grid]]\nnormalizer = "fixbn"\nfreeze_round = 1\nalpha = 1.0\nseed = [0, 1, 2]\n'
    file = tmp_path / "more.toml"
    file.write_text(study.PLAN + more)
    with transaction(studied) as connection:
        planning.add_sweep(connection, read_plan(file))
        study.finish(connection, trials.c.state == "queued")
    panels = [
        {trace["name"]: trace for trace in figures(read_cache, ("panel", panel))["arms"]["traces"]}
        for panel in ("α = 0.1, E = 2, momentum = reset", "α = 1, E = 2, momentum = reset")
    ]
    assert [len(panel) for panel in panels] == [4, 5]
    for name, trace in panels[0].items():
        for key in ("color", "dash", "marker"):
            assert panels[1][name][key] == trace[key], (name, key)


def test_fixbn_is_drawn_from_its_fork_if_bn_is_drawn(
    read_cache: ReadCache, studied: Engine
) -> None:
    """Without BN, it is drawn from the first round on."""
    firsts = {t["name"]: t["first"] for t in figures(read_cache)["arms"]["traces"]}
    assert firsts == {"BN": 0, "GN": 0, "FIXBN T⋆=3": 3, "FIXBN T⋆=6": 6}
    (alone,) = figures(read_cache, ("arm", "FIXBN T⋆=6"))["arms"]["traces"]
    assert alone["first"] == 0


def test_the_form_shows_the_choice_of_the_address(client: TestClient, studied: Engine) -> None:
    """Its checkboxes are checked, and its event stream and CSV link have the same choice."""
    page = client.get("/sweeps/study?arm=GN&group=").text
    checked = re.findall(r'name="(arm|group)" value="([^"]*)"[^>]* checked', page)
    assert checked == [("arm", "GN")]
    assert 'data-choice="arm=GN&amp;group="' in page
    assert "csv/sweep/accuracy-by-round?arm=GN&amp;group=&amp;sweep=study" in page
    assert "<noscript><button>Show</button></noscript>" in page


def test_no_arm_may_be_chosen(client: TestClient, studied: Engine) -> None:
    """The page says so."""
    assert "No arm is chosen." in text(client.get("/sweeps/study?arm=").text)
    assert "No arm is chosen." not in text(client.get("/sweeps/study").text)


def test_a_figure_has_room_for_24_arms(
    client: TestClient, read_cache: ReadCache, store: Engine, tmp_path: Path
) -> None:
    """The first 24 are checked and drawn. Any others can be chosen instead."""
    file = tmp_path / "wide.toml"
    values = ", ".join(map(str, range(1, 31)))
    wide = study.PLAN.replace("[3, 6]", f"[{values}]").replace("[0.1, 1.0]", "0.1")
    file.write_text(wide.replace("rounds = 12", "rounds = 40"))
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(file))
        study.finish(connection, trials.c.seed == 0)
    assert len(figures(read_cache)["arms"]["traces"]) == 24
    page = client.get("/sweeps/study").text
    assert len(re.findall(r'name="arm"[^>]* checked', page)) == 24
    assert "Not drawn: 8 arms more." in text(page)
    assert names(figures(read_cache, ("arm", "GN"))["arms"]) == ["GN"]
    (line,) = (t for t in figures(read_cache)["by-freeze-round"]["traces"] if t["name"] == "FIXBN")
    assert line["x"] == list(range(1, 31))


@pytest.mark.parametrize("group_by", [None, (), ("alpha",)])
def test_a_grouped_table_has_the_numbers_of_the_report(
    studied: Engine, group_by: tuple[str, ...] | None
) -> None:
    """The database averages the trials of each cell, and the page pools cells."""
    with transaction(studied) as connection:
        failed = trials.update().where(trials.c.id == 1)
        connection.execute(failed.values(state="failed", failure="diverged", error="inf"))
        connection.execute(trials.update().where(trials.c.id == 5).values(state="queued"))
    with reading(studied) as connection:
        shape = shape_of("study", browse.cells(connection, "study"), group_by)
        page, states = filled(shape, browse.groups(connection, "study", TABLE_MEASURES))
        rows = trial_rows.results(connection, "study")
    axes = None if group_by is None else ["local_steps", "momentum", *group_by]
    report = summarize("study", rows, group_by=axes)
    assert shape.fields == ("alpha",)
    assert {tuple(sorted(zip(page.axes, key, strict=True))) for key in page.cells} == {
        tuple(sorted(zip(report.axes, key, strict=True))) for key in report.cells
    }
    assert states["failed"] == 1
    by_name = {frozenset(zip(page.axes, key, strict=True)): key for key in page.cells}
    for key, columns in report.cells.items():
        mine = page.cells[by_name[frozenset(zip(report.axes, key, strict=True))]]
        assert set(mine) == set(columns)
        for column, cell in columns.items():
            assert (mine[column].n, mine[column].unfinished) == (cell.n, cell.unfinished)
            assert mine[column].failures == cell.failures
            assert mine[column].mean == pytest.approx(cell.mean)
            assert mine[column].std == pytest.approx(cell.std)
    assert page.usual_n == report.usual_n


def test_a_row_that_pools_names_the_pooled_fields(client: TestClient, studied: Engine) -> None:
    """The table and the caption of the figure say that they pool α."""
    content = text(client.get("/sweeps/study?group=").text)
    assert "n = 6 trials unless given, over seed and α" in content
    assert "Mean over the seeds and over α of finished trials" in content
    assert "over α" not in text(client.get("/sweeps/study").text)


def test_pooled_curves_have_the_rounds_of_all_trials() -> None:
    """A cell counts by its number of trials. Another round has fewer trials, and is left out."""
    two = [Mean(1, 0.5, 0.25, 2), Mean(2, 0.5, 0.25, 2)]
    one = [Mean(1, 0.2, 0.04, 1)]
    (point,) = pooled_curve([two, one])
    assert (point.round, point.n) == (1, 3)
    assert point.mean == pytest.approx(0.4)
    assert point.square == pytest.approx((0.25 * 2 + 0.04) / 3)
    assert pooled_curve([two]) == two
    assert pooled_curve([]) == []


def test_the_figure_by_freeze_round_has_the_numbers_of_the_report(
    read_cache: ReadCache, studied: Engine
) -> None:
    """FIXBN is a line over T⋆. BN and GN are levels from 0 to the number of rounds."""
    with reading(studied) as connection:
        report = summarize("study", trial_rows.results(connection, "study"))
    panels = freeze_rounds.by_freeze_round(report)
    assert len(panels) == 2
    for number, panel in enumerate(panels.values()):
        name = ("α = 0.1", "α = 1")[number] + ", E = 2, momentum = reset"
        shown = figures(read_cache, ("panel", name))["by-freeze-round"]
        assert names(shown) == ["BN", "FIXBN", "GN"]
        by_name = {trace["name"]: trace for trace in shown["traces"]}
        (points,) = panel.lines.values()
        assert by_name["FIXBN"]["x"] == [3, 6] == [frozen for frozen, _ in points]
        for key, of_cell in (("y", "mean"), ("std", "std")):
            values = [100 * getattr(cell, of_cell) for _, cell in points]
            assert by_name["FIXBN"][key] == pytest.approx(values, abs=6e-4)
        for column, cell in panel.levels.items():
            level = by_name[column[0].upper()]
            assert level["x"] == [0, 12]
            assert level["y"] == pytest.approx([100 * (cell.mean or 0)] * 2, abs=6e-4)


def test_t_star_is_a_share_if_rounds_vary_with_e(
    client: TestClient, read_cache: ReadCache, store: Engine, tmp_path: Path
) -> None:
    """Two E of as many steps have one column per share. Forks and the data are in rounds."""
    plan = study.PLAN.replace("rounds = 12\nlocal_steps = 2\n", "")
    base, _, _ = plan.partition("[[grid]]")
    for steps, total in ((1, 24), (2, 12)):
        same = f"alpha = 0.1\nseed = [0, 1]\nlocal_steps = {steps}\nrounds = {total}\n"
        base += f'[[grid]]\nnormalizer = "bn"\n{same}'
        base += f'[[grid]]\nnormalizer = "fixbn"\nfreeze_round = ["25%", "50%"]\n{same}'
    file = tmp_path / "shares.toml"
    file.write_text(base)
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(file))
        study.finish(connection)
    for steps, total in ((1, 24), (2, 12)):
        panel = f"α = 0.1, E = {steps}, momentum = reset"
        shown = figures(read_cache, ("panel", panel))
        firsts = {trace["name"]: trace["first"] for trace in shown["arms"]["traces"]}
        assert firsts == {"BN": 0, "FIXBN T⋆=25%": total // 4, "FIXBN T⋆=50%": total // 2}
        by_name = {trace["name"]: trace for trace in shown["by-freeze-round"]["traces"]}
        assert by_name["FIXBN"]["x"] == [25, 50]
        assert by_name["BN"]["x"] == [0, 100]
        assert shown["by-freeze-round"]["x"] == "T⋆, % of the rounds"
        path = f"/csv/sweep/accuracy-by-freeze-round?sweep=study&panel={quote(panel)}"
        lines = list(csv.DictReader(io.StringIO(client.get(path).text)))
        frozen = sorted(int(line["freeze_round"]) for line in lines if line["freeze_round"])
        assert frozen == [total // 4, total // 2]
        assert [line["freeze_share"] for line in lines] == ["0.25", "0.5", ""]
    page = text(client.get("/sweeps/study").text)
    assert "rounds: 24 at E = 1, 12 at E = 2" in page


@pytest.fixture
def tuned(store: Engine, tmp_path: Path) -> Engine:
    """Return a finished sweep. FIXBN validates best at another learning rate than BN and GN."""
    study.fill_tuned(store, tmp_path)
    return store


@pytest.mark.parametrize("fields", [("lr",), ("lr", "freeze_round"), ("freeze_round",)])
def test_a_tuned_table_has_the_cells_of_the_report(tuned: Engine, fields: tuple[str, ...]) -> None:
    """Each cell chooses by the mean validation accuracy, as `fedsweep report --tune` does."""
    with reading(tuned) as connection:
        cells, finals = browse.cells(connection, "study"), browse.finals(connection, "study")
        shape = shape_of("study", cells, None, fields, finals)
        page, states = filled(shape, browse.groups(connection, "study", TABLE_MEASURES))
        rows = trial_rows.results(connection, "study")
    report = summarize("study", tune(rows, fields), tuned=shape.empty.tuned)
    assert set(shape.tunable) == {"freeze_round", "lr"}
    assert (page.axes, page.columns, page.tuned) == (report.axes, report.columns, report.tuned)
    assert states["finished"] == len(rows)
    for key, columns in report.cells.items():
        for column, cell in columns.items():
            mine = page.cells[key][column]
            assert (mine.cell_ids, mine.n) == (cell.cell_ids, cell.n) == (cell.cell_ids, 2)
            assert tables.cell_text(page, mine, "test_accuracy") == tables.cell_text(
                report, cell, "test_accuracy"
            )


def test_the_address_tunes(client: TestClient, read_cache: ReadCache, tuned: Engine) -> None:
    """Without it, each learning rate is a row. Unknown fields are ignored."""
    plain = client.get("/sweeps/study").text
    assert "<legend>Best on validation</legend>" in plain
    assert not re.findall(r'name="tune"[^>]* checked', plain)
    assert 'id="group-lr"' in plain
    page = client.get(f"/sweeps/study?tune=lr&tune={quote(HOSTILE)}").text
    assert re.findall(r'name="tune" value="([^"]*)"[^>]* checked', page) == ["lr"]
    assert 'id="group-lr"' not in page
    assert "lr: chosen in each cell by the mean validation accuracy" in text(page)
    assert re.findall(r"\(lr=([\d.]+)\)", text(page)) == ["0.1", "0.05", "0.05", "0.1"]
    assert "csv/sweep/accuracy-by-round?tune=lr" in page
    table = client.get("/csv/sweep/accuracy-by-round?sweep=study&tune=lr").text
    lines = list(csv.DictReader(io.StringIO(table)))
    assert len(lines) == 4 * 12
    rates = {line["normalizer"]: line["lr"] for line in lines}
    assert rates == {"bn": "0.1", "fixbn": "0.05", "gn": "0.1"}
    both = ("tune", "lr"), ("tune", "freeze_round")
    assert names(figures(read_cache, *both)["arms"]) == ["BN", "FIXBN", "GN"]
    assert figures(read_cache, *both)["by-freeze-round"]["traces"] == []
    page = client.get("/sweeps/study?tune=lr&tune=freeze_round").text
    assert "T⋆ is chosen on validation, so there is no accuracy by T⋆." in text(page)


def test_fixbn_forks_from_bn_of_its_own_learning_rate(read_cache: ReadCache, tuned: Engine) -> None:
    """If tuning has chosen another one for it, its line is drawn from the first round on."""
    firsts = {t["name"]: t["first"] for t in figures(read_cache, ("tune", "lr"))["arms"]["traces"]}
    assert firsts == {"BN": 0, "GN": 0, "FIXBN T⋆=3": 0, "FIXBN T⋆=6": 0}
    freeze = ("tune", "freeze_round")
    one = {t["name"]: t["first"] for t in figures(read_cache, freeze)["arms"]["traces"]}
    assert one == {"BN": 0, "GN": 0, "FIXBN": 6}
    alike = {t["name"]: t["first"] for t in figures(read_cache)["arms"]["traces"]}
    assert alike == {"BN": 0, "GN": 0, "FIXBN T⋆=3": 3, "FIXBN T⋆=6": 6}


def test_the_newest_results_choose(
    read_cache: ReadCache, tuned: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learning rate that becomes the best is shown."""
    now = 0.0
    monkeypatch.setattr(read_cache, "clock", lambda: now)
    before = figures(read_cache, ("tune", "lr"))["arms"]["traces"][0]["y"]
    with transaction(tuned) as connection:
        better = trials.update().where(trials.c.normalizer == "bn", trials.c.lr == 0.05)
        connection.execute(better.values(validation_accuracy=0.9))
        of_bn = sa.select(trials.c.id).where(trials.c.normalizer == "bn", trials.c.lr == 0.05)
        higher = rounds.update().where(rounds.c.trial.in_(of_bn))
        connection.execute(higher.values(test_accuracy=rounds.c.test_accuracy + 0.1))
    now = 100.0
    after = figures(read_cache, ("tune", "lr"))["arms"]["traces"][0]["y"]
    assert after == pytest.approx([value + 10 for value in before], abs=2e-3)


def test_tuning_does_not_change_the_panel_that_is_shown_first(
    read_cache: ReadCache, store: Engine, tmp_path: Path
) -> None:
    """Another α may come first among the chosen trials."""
    one = study.TUNED.replace("alpha = 0.1\n", "").replace("seed =", "alpha = [0.1, 1.0]\nseed =")
    study.fill_tuned(store, tmp_path, plan=one)
    with transaction(store) as connection:
        best = sa.case(((trials.c.lr == 0.05) == (trials.c.alpha == 1.0), 0.9), else_=0.1)
        connection.execute(trials.update().values(validation_accuracy=best))
    with reading(store) as connection:
        cells, finals = browse.cells(connection, "study"), browse.finals(connection, "study")
    shape = shape_of("study", cells, None, ("lr",), finals)
    assert shape.cells[0]["alpha"] == 1.0
    assert shape.first == "α = 0.1, E = 2, momentum = reset"


def test_a_pooled_curve_of_fixbn_forks_only_from_the_same_cells_of_bn(
    read_cache: ReadCache, studied: Engine
) -> None:
    """If BN has results at one α only, and FIXBN at two, their means differ before T⋆."""
    pooled = ("group", "")
    firsts = {t["name"]: t["first"] for t in figures(read_cache, pooled)["arms"]["traces"]}
    assert firsts["FIXBN T⋆=6"] == 6
    with transaction(studied) as connection:
        some = sa.select(trials.c.id).where(trials.c.normalizer == "bn", trials.c.alpha == 1.0)
        connection.execute(sa.delete(rounds).where(rounds.c.trial.in_(some)))
        values = {"state": "queued", "test_accuracy": None, "final_round": None}
        connection.execute(trials.update().where(trials.c.id.in_(some)).values(**values))
    fresh = ReadCache(studied)
    firsts = {t["name"]: t["first"] for t in figures(fresh, pooled)["arms"]["traces"]}
    assert firsts == {"BN": 0, "GN": 0, "FIXBN T⋆=3": 0, "FIXBN T⋆=6": 0}


def test_a_finished_trial_without_a_validation_accuracy_switches_tuning_off(
    client: TestClient, tuned: Engine
) -> None:
    """Its clients may have had too few samples. The page is the usual one."""
    with transaction(tuned) as connection:
        connection.execute(trials.update().where(trials.c.id == 1).values(validation_accuracy=None))
    response = client.get("/sweeps/study?tune=lr")
    assert response.status_code == 200
    assert "chosen in each cell" not in response.text
    assert 'id="group-lr"' in response.text


def test_a_sweep_without_validation_offers_no_tuning(client: TestClient, studied: Engine) -> None:
    """The test set chooses nothing."""
    page = client.get("/sweeps/study?tune=freeze_round").text
    assert "Best on validation" not in page
    assert "FIXBN T⋆=3" in page


def test_the_figure_by_freeze_round_is_empty_without_a_finished_trial(
    read_cache: ReadCache, store: Engine, tmp_path: Path
) -> None:
    """It appears with the first trial that finishes."""
    study.plan(store, tmp_path)
    assert figures(read_cache)["by-freeze-round"]["traces"] == []
    with transaction(store) as connection:
        study.finish(connection, trials.c.freeze_round == 3)
    assert names(figures(read_cache)["by-freeze-round"]) == ["FIXBN"]


def test_a_sweep_without_freeze_rounds_has_no_figure_by_freeze_round(
    client: TestClient, read_cache: ReadCache, store: Engine, tmp_path: Path
) -> None:
    """Its page does not mention T⋆ in a heading."""
    file = tmp_path / "plain.toml"
    file.write_text(study.PLAN.partition('[[grid]]\nnormalizer = "fixbn"')[0])
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(file))
    assert set(figures(read_cache)) == {"arms"}
    assert "Accuracy by T⋆" not in client.get("/sweeps/study").text


def test_repeated_parameters_are_joined() -> None:
    """NUL and line breaks in values are replaced. Of other parameters, the last one counts."""
    query = _query("sweep", [("sweep", "a"), ("sweep", "s"), ("arm", "B\nN"), ("arm", ""),
                             ("arm", "G\0N"), ("panel", ""), ("unknown", "x")])  # fmt: skip
    assert query == {"sweep": "s", "arm": "B N\nG\ufffdN"}
    assert _query("sweep", [("arm", "")]) == {"arm": ""}
    assert json.dumps(_query("trials", [("sweep", "")])) == "{}"

"""Sweeps whose rounds vary, such as those with as many local steps at each E.

T* is then a share of the rounds, so that trials of different rounds meet in one column.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsweep.errors import RequestError
from fedsweep.reports import plots, tables
from fedsweep.reports.differences import differences_to_centralized, find_column
from fedsweep.reports.freeze_rounds import by_freeze_round, place_of
from fedsweep.reports.grouping import Summary, column_text, summarize
from fedsweep.reports.labels import Row
from fedsweep.reports.panels import Plot
from fedsweep.reports.records import records
from tests.unit.reports.figures import panels
from tests.unit.reports.rows import trial

BUDGETS = ((1, 80), (20, 4))
"""E and the rounds, with as many local steps in both."""


def sweep(*budgets: tuple[int, int]) -> list[Row]:
    """Return BN, and FIXBN at two shares of the rounds, on two seeds of each budget."""
    rows: list[Row] = []
    for steps, rounds in budgets:
        of_budget: dict[str, Any] = {"local_steps": steps, "rounds": rounds}
        for seed in (0, 1):
            level = 0.5 + steps / 100 + seed / 50
            rows.append(trial("bn", seed, level, **of_budget))
            for part in (2, 4):
                frozen = of_budget | {"freeze_round": rounds // part}
                rows.append(trial("fixbn", seed, level + part / 100, **frozen))
    return rows


def names(summary: Summary) -> list[str]:
    return [column_text(summary, column) for column in summary.columns]


def drawn(plot: Plot | None) -> tuple[Plot, list[dict[str, str]]]:
    """Return a figure and the rows of its data."""
    assert plot is not None
    text = plot.data.csv()
    assert text is not None
    return plot, list(csv.DictReader(io.StringIO(text)))


def test_trials_of_different_rounds_share_the_columns_of_their_t_star() -> None:
    """E decides the rounds, so that they are a note and no axis."""
    summary = summarize("s", sweep(*BUDGETS))
    assert names(summary) == ["BN", "FIXBN T⋆=25%", "FIXBN T⋆=50%"]
    assert summary.axes == ("alpha", "local_steps", "momentum")
    assert [len(cells) for cells in summary.cells.values()] == [3, 3]
    assert "rounds: 80 at E = 1, 4 at E = 20" in tables.footnotes(summary)


def test_records_have_t_star_and_the_rounds_as_numbers() -> None:
    """The columns are those of the views."""
    rows = records(summarize("s", sweep(*BUDGETS)))
    frozen = [(r["local_steps"], r["rounds"], r["freeze_round"]) for r in rows if r["freeze_round"]]
    assert sorted(frozen) == [(1, 80, 20), (1, 80, 40), (20, 4, 1), (20, 4, 2)]


def test_the_rounds_stay_an_axis_if_e_does_not_decide_them() -> None:
    """One E has two numbers of rounds."""
    summary = summarize("s", sweep((1, 80), (1, 40), (20, 4)))
    assert summary.axes == ("alpha", "local_steps", "momentum", "rounds")
    assert names(summary) == ["BN", "FIXBN T⋆=25%", "FIXBN T⋆=50%"]
    assert not [note for note in tables.footnotes(summary) if note.startswith("rounds")]


def test_t_star_stays_in_rounds_if_shares_would_not_meet() -> None:
    """The same T* at two numbers of rounds is one column, as is the case with equal rounds."""
    fixed = [trial("fixbn", 0, 0.5, freeze_round=6, rounds=rounds) for rounds in (12, 24)]
    assert names(summarize("s", fixed)) == ["FIXBN T⋆=6"]
    equal = [trial("fixbn", 0, 0.5, freeze_round=frozen) for frozen in (4, 8)]
    assert names(summarize("s", equal)) == ["FIXBN T⋆=4", "FIXBN T⋆=8"]


def test_a_baseline_may_be_named_by_its_share() -> None:
    summary = summarize("s", sweep(*BUDGETS))
    assert column_text(summary, find_column(summary, "fixbn:25%")) == "FIXBN T⋆=25%"
    with pytest.raises(RequestError, match=r"as fixbn:25%$"):
        find_column(summary, "fixbn")


def test_the_figure_by_t_star_has_percent_and_its_data_rounds() -> None:
    """Both panels have one scale, from 0 to 100 percent."""
    summary = summarize("s", sweep(*BUDGETS))
    shown = by_freeze_round(summary)
    for panel in shown.values():
        (points,) = panel.lines.values()
        assert [place_of(frozen) for frozen, _ in points] == [25, 50]
        assert (panel.end, panel.heading) == (100, "T⋆, % of the rounds")
    plot, data = drawn(plots.accuracy_by_freeze_round(summary))
    assert {axis.get_xlabel() for axis in panels(plot.figure)} == {"T⋆, % of the rounds"}
    frozen = {(row["local_steps"], row["freeze_round"]) for row in data if row["freeze_round"]}
    assert frozen == {("1", "20"), ("1", "40"), ("20", "1"), ("20", "2")}


def test_the_accuracy_is_drawn_by_e_although_the_rounds_vary_with_it() -> None:
    """One panel has a line for each column, with a point at each E."""
    plot, data = drawn(plots.accuracy_by_field(summarize("s", sweep(*BUDGETS)), "local_steps"))
    assert len(panels(plot.figure)) == 1
    for arm in ("BN", "FIXBN T⋆=25%", "FIXBN T⋆=50%"):
        assert [row["local_steps"] for row in data if row["arm"] == arm] == ["1", "20"]


def test_a_curve_forks_at_the_t_star_of_its_own_rounds() -> None:
    """The trials of E = 20 fork at round 1 and 2, those of E = 1 at 20 and 40."""
    rows = sweep(*BUDGETS)
    curves = {row["trial_id"]: dict.fromkeys(range(1, row["rounds"] + 1), 0.5) for row in rows}
    _, data = drawn(plots.arms_by_round(summarize("s", rows), rows, curves))
    first: dict[tuple[str, str], int] = {}
    for row in data:
        if row["normalizer"] == "fixbn":
            key = (row["local_steps"], row["freeze_round"])
            first[key] = min(first.get(key, 99), int(row["round"]))
    assert first == {("1", "20"): 20, ("1", "40"): 40, ("20", "1"): 1, ("20", "2"): 2}


def test_a_trial_that_has_not_reached_t_star_is_not_drawn_beside_bn() -> None:
    """Until then, its line is BN's. Without BN, the line has no fork."""
    rows = [trial("bn", 0, 0.5), trial("fixbn", 0, None, freeze_round=8, state="running")]
    curves = {row["trial_id"]: {4: 0.3} for row in rows}
    curves[rows[0]["trial_id"]][16] = 0.5
    _, data = drawn(plots.arms_by_round(summarize("s", rows), rows, curves))
    assert {row["normalizer"] for row in data} == {"bn"}
    plot, data = drawn(plots.arms_by_round(summarize("s", rows[1:]), rows[1:], curves))
    assert [row["round"] for row in data] == ["4"]
    (axis,) = panels(plot.figure)
    assert not [line for line in axis.lines if line.get_markeredgecolor() == "black"]


def test_fixbn_does_not_fork_from_bn_of_another_learning_rate() -> None:
    """Tuning may choose one for each arm. FIXBN's line is then drawn from the first round on."""
    rows = [trial("bn", 0, 0.5), trial("fixbn", 0, 0.6, freeze_round=8)]
    rows.append(trial("fixbn", 0, 0.7, freeze_round=4, lr=0.1))
    rows.append(trial("fixbn", 0, None, freeze_round=12, lr=0.1, state="running"))
    curves = {row["trial_id"]: {4: 0.3, 8: 0.4, 16: 0.5} for row in rows}
    curves[rows[-1]["trial_id"]] = {4: 0.3, 8: 0.4}
    summary = summarize("s", rows, tuned=["lr"])
    _, data = drawn(plots.arms_by_round(summary, rows, curves))
    firsts = {row["arm"]: int(row["round"]) for row in reversed(data)}
    assert firsts == {"BN": 4, "FIXBN T⋆=8": 8, "FIXBN T⋆=4": 4, "FIXBN T⋆=12": 4}


def test_a_row_that_pools_e_pools_trials_of_equal_shares() -> None:
    """Rounds and T* have several values then, so that they have none in the records."""
    rows = sweep(*BUDGETS)
    summary = summarize("s", rows, group_by=["alpha"])
    assert names(summary) == ["BN", "FIXBN T⋆=25%", "FIXBN T⋆=50%"]
    assert summary.pooled == ("local_steps",)
    (cells,) = summary.cells.values()
    assert [cell.n for cell in cells.values()] == [4, 4, 4]
    assert {(r["rounds"], r["freeze_round"]) for r in records(summary)} == {(None, None)}
    curves = {row["trial_id"]: {1: 0.5, 2: 0.6} for row in rows}
    _, data = drawn(plots.arms_by_round(summary, rows, curves))
    assert {row["freeze_round"] for row in data} == {""}
    assert {row["round"] for row in data if row["normalizer"] == "fixbn"} == {"1", "2"}


def test_a_tuned_t_star_is_named_only_where_there_is_one() -> None:
    """BN has none."""
    chosen = [row for row in sweep(*BUDGETS) if row["freeze_round"] not in (40, 2)]
    summary = summarize("s", chosen, tuned=["freeze_round"])
    texts = [entry.text for _, entries in tables.rows(summary) for entry in entries]
    assert ["T⋆" in text for text in texts] == [False, True, False, True]
    assert "(T⋆=20)" in texts[1]


@given(st.integers(1, 500), st.integers(0, 500), st.integers(2, 50))
def test_equal_shares_are_one_column(rounds: int, frozen: int, times: int) -> None:
    """The quotients of equal fractions are one number, and T* is found again."""
    frozen = min(frozen, rounds)
    rows = [
        trial("fixbn", 0, 0.5, freeze_round=frozen * k, rounds=rounds * k, local_steps=k)
        for k in (1, times)
    ]
    summary = summarize("s", rows)
    (column,) = summary.columns
    for row in rows:
        point = {"local_steps": row["local_steps"]}
        assert summary.column_fields(column, point)["freeze_round"] == row["freeze_round"]
        assert summary.column(row) == column


@pytest.mark.parametrize("tuned", ["local_steps", "rounds"])
def test_trials_of_different_rounds_are_no_cell_if_one_of_them_is_tuned(tuned: str) -> None:
    """A cell never has two trials of one seed."""
    rows = sweep(*BUDGETS)
    summary = summarize("s", rows, tuned=[tuned])
    cells = [cell for row in summary.cells.values() for cell in row.values()]
    assert [cell.n for cell in cells] == [2] * 6
    assert all(len(cell.values["test_accuracy"]) == 2 for cell in cells)


def test_the_query_of_a_table_has_the_rounds_that_turn_a_share_into_t_star() -> None:
    """The note has them for each E, also if the row pools E."""
    for group_by in (None, ["alpha"]):
        summary = summarize("s", sweep(*BUDGETS), group_by=group_by)
        query, note = (
            tables.query_note(summary, "test_accuracy", tables.ReportOptions()),
            "rounds: 80",
        )
        assert re.search(r", (r\.)?rounds, ", query.partition(" FROM ")[0])
        assert any(text.startswith(note) for text in tables.footnotes(summary))


def test_the_data_of_the_figure_by_t_star_have_the_shares() -> None:
    """They are the x axis, and all that a row that pools E has."""
    for group_by in (None, ["alpha"]):
        summary = summarize("s", sweep(*BUDGETS), group_by=group_by)
        _, data = drawn(plots.accuracy_by_freeze_round(summary))
        shares = {(row["arm"], row["freeze_share"]) for row in data}
        assert shares == {("BN", ""), ("FIXBN T⋆=25%", "0.25"), ("FIXBN T⋆=50%", "0.5")}


def test_a_centralized_twin_has_as_many_rounds() -> None:
    """E = 20 has no twin of 4 rounds. The twin of E = 1 has as many rounds, but other steps."""
    rows = [row | {"centralized": 0} for row in sweep(*BUDGETS)]
    rows += [
        trial("bn", seed, 0.9 + seed / 50, local_steps=1, rounds=80, alpha=None, centralized=1)
        for seed in (0, 1)
    ]
    differences = differences_to_centralized(summarize("s", rows), "test_accuracy")
    assert {cell.key[1] for cell in differences} == {1}
    assert len(differences) == 3


def test_shares_are_written_with_four_digits() -> None:
    rows = [trial("fixbn", 0, 0.5, freeze_round=k, rounds=3 * k, local_steps=k) for k in (1, 2)]
    assert names(summarize("s", rows)) == ["FIXBN T⋆=33.33%"]
    assert summarize("s", rows).columns[0][1] == pytest.approx(1 / 3)

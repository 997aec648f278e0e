"""Results of searches in a report: small numbers, checked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from fedsweep.plans import TrialSpec, read_plan
from fedsweep.reports import search_plot, search_results, search_tables
from fedsweep.reports.search_results import SearchResult, paired_gain, search_result
from fedsweep.search import Probe, Space
from fedsweep.store.arms import Arm, Proposal
from tests.unit.reports.figures import check, svg
from tests.unit.search.searches import PLAN

SPACE = Space(0, 10, 2, 10, (0, 1))


@pytest.fixture
def arm(tmp_path: Path) -> Arm:
    (tmp_path / "plan.toml").write_text(PLAN)
    (spec,) = read_plan(tmp_path / "plan.toml").arms
    return Arm(1, 1, "searched", spec, 0, 3, "settled", "no more gain than noise", 6)


HISTORY = [Probe(10, {0: 0.6, 1: 0.7}), Probe(6, {0: 0.8, 1: 0.8}), Probe(8, {0: 0.7, 1: 0.7})]


def rows(arm: Arm, values: dict[tuple[str, int], float]) -> list[dict[str, Any]]:
    """Return rows of `results` for BN, GN and the best T*, from values by normalizer and seed."""
    cells = {c.normalizer: TrialSpec.of(c).cell_id for c in arm.spec.rivals}
    cells["fixbn"] = arm.spec.trial(6, 0).cell_id
    return [
        {"cell_id": cells[name], "seed": seed, "test_accuracy": value}
        for (name, seed), value in values.items()
    ]


def result(arm: Arm, values: dict[tuple[str, int], float]) -> SearchResult:
    proposals = [Proposal(1, 10, None, "-", 0, 0.0)]
    return search_result(arm, SPACE, HISTORY, proposals, rows(arm, values))


def test_a_gain_is_paired_by_seed_and_has_the_interval_of_student_s_t(arm: Arm) -> None:
    """It equals scipy's paired test on the seeds that both have."""
    accuracies = {0: 0.8, 1: 0.9, 2: 0.85, 3: 0.5}
    bn_accuracies = {0: 0.7, 1: 0.85, 2: 0.7, 9: 0.1}
    gain = paired_gain("BN", accuracies, bn_accuracies, {0, 1, 2})
    assert gain is not None
    test = stats.ttest_rel([0.8, 0.9, 0.85], [0.7, 0.85, 0.7])
    interval = test.confidence_interval(0.95)
    assert gain.mean == pytest.approx(0.1)
    assert (gain.low, gain.high) == pytest.approx((interval.low, interval.high))
    assert gain.seeds == (0, 1, 2)
    assert not gain.fresh


def test_a_gain_is_over_seeds_that_the_search_did_not_use(arm: Arm) -> None:
    """If there are two or more of them, the used seeds are left out, and there is no mark."""
    values = {("fixbn", s): 0.8 + s / 100 for s in range(4)}
    values |= {("bn", s): 0.7 for s in range(4)} | {("gn", s): 0.9 for s in (0, 1, 2)}
    bn, gn = result(arm, values).gains
    assert (bn.rival, bn.seeds, bn.fresh) == ("BN", (2, 3), True)
    assert bn.mean == pytest.approx(0.125)
    assert (gn.rival, gn.seeds, gn.fresh) == ("GN", (0, 1), False)
    assert search_tables.gain_text(bn).endswith(")")
    assert search_tables.gain_text(gn).endswith("†")


def test_one_seed_has_a_gain_but_no_interval(arm: Arm) -> None:
    """Without a common seed there is no gain."""
    gain = paired_gain("GN", {0: 0.8}, {0: 0.75}, {0})
    assert gain is not None
    assert (gain.low, gain.high) == (None, None)
    assert search_tables.gain_text(gain) == "+5.00†"
    assert paired_gain("GN", {0: 0.8}, {1: 0.75}, {0, 1}) is None
    assert search_tables.gain_text(None) == "–"


def test_the_table_has_a_line_for_each_arm_and_says_how_to_read_it(arm: Arm) -> None:
    """It shows the best T*, its interval, value and gains, the tried T*, and the cost."""
    values = {("fixbn", 0): 0.8, ("fixbn", 1): 0.9, ("bn", 0): 0.7, ("bn", 1): 0.7}
    one = result(arm, values)
    headings, (line,) = search_tables.rows([one])
    shown = dict(zip(headings, line, strict=True))
    assert shown["best T⋆"] == "6"
    assert shown["validation, %"] == "80.00"
    half = 100 * stats.t.ppf(0.975, 1) * math.sqrt(0.005) / math.sqrt(2)
    assert shown["gain over BN"] == f"+15.00 ({15 - half:+.2f} to {15 + half:+.2f})†"
    assert shown["tried"] == "3 of 6"
    # For two seeds: 10 rounds of the trunk, 4 and 2 of the tails.
    assert shown["rounds, of a grid's"] == "32 of 120 (27%)"
    notes = "\n".join(search_tables.notes([one]))
    assert "† on the seeds that selected T⋆" in notes
    assert "settled: no more gain than noise" in notes
    markdown = search_tables.markdown([one])
    assert "| best T⋆ |" in markdown
    assert "+15.00" in markdown


def test_a_note_tells_that_an_interval_holds_every_freeze_round(arm: Arm) -> None:
    """It comes after two T* have results, and only if the interval holds the first and the last."""
    one = result(arm, {})
    first, last = arm.spec.points[0], arm.spec.points[-1]
    assert sum(bool(probe.values) for probe in one.history) > 1
    for low, high, undecided in ((first, last, True), (first, last - 2, False), (2, last, False)):
        shown = replace(one, estimate=replace(one.estimate, low=low, high=high))
        noted = any("holds every T⋆" in note for note in search_tables.notes([shown]))
        assert noted is undecided
    begun = replace(shown, estimate=replace(one.estimate, low=first, high=last), history=())
    assert not any("holds every T⋆" in note for note in search_tables.notes([begun]))


def test_a_search_by_the_test_set_says_so(arm: Arm) -> None:
    """The notes say so in capitals."""
    settings = arm.spec.search.model_copy(update={"metric": "test_accuracy"})
    other = replace(arm, spec=replace(arm.spec, search=settings))
    notes = search_tables.notes([result(other, {})])
    assert any("TEST accuracy" in note for note in notes)
    assert not any("TEST" in note for note in search_tables.notes([result(arm, {})]))


def test_there_is_no_best_freeze_round_before_a_trial_has_ended(arm: Arm) -> None:
    """The line has dashes, the record has nulls, and there is no figure."""
    begun = replace(arm, ended=None, said=None, freeze_round=None)
    one = search_result(begun, SPACE, [Probe(10, {}, pending=frozenset({0, 1}))], [], [])
    _, (line,) = search_tables.rows([one])
    assert line[1:4] == ["–", "–", "–"]
    assert line[-1] == "searching"
    record = search_results.record(one)
    assert record["freeze_round"] is None
    assert record["tried"][0]["pending"] == [0, 1]
    assert search_plot.searches([one], ["an arm"]) is None


def test_arms_are_named_by_the_fields_in_which_they_differ(arm: Arm) -> None:
    """Two arms may differ only in alpha. A single arm is named by the usual fields."""
    spec = replace(arm.spec, config=arm.spec.config.model_copy(update={"alpha": 1.0}))
    other = replace(arm, spec=spec)
    two = [result(arm, {}), result(other, {})]
    assert search_results.arm_names(two) == ["α = 0.3", "α = 1"]
    assert search_results.arm_names(two[:1]) == ["α = 0.3, E = 2, momentum = reset"]


def test_a_search_is_drawn_with_its_best_freeze_round(arm: Arm) -> None:
    """The figure is an SVG, and its legend names the best T*."""
    shown = svg(search_plot.searches([result(arm, {})], ["α = 0.3"]))
    assert shown.startswith("<svg")
    assert "best T" in shown


@pytest.mark.parametrize(("worst", "lowest"), [(0.6, 59.0), (0.05, 14.0)])
def test_only_collapsed_trials_lie_below_the_figure_of_a_search(
    arm: Arm, worst: float, lowest: float
) -> None:
    """The worst seed is in the figure, unless it would flatten all other points."""
    history = [Probe(10, {0: worst, 1: 1.3 - worst}), *HISTORY[1:]]
    plot = search_plot.searches([replace(result(arm, {}), history=history)], ["an arm"])
    assert plot is not None
    assert plot.figure.axes[0].get_ylim()[0] == pytest.approx(lowest)


@pytest.mark.parametrize("arms", [1, 12])
def test_every_text_of_the_searches_lies_inside_their_figure(arm: Arm, arms: int) -> None:
    """Each panel has a title of many fields."""
    title = "momentum = global, participation = 0.25, normalizer = some_package:filter_response"
    titles = [f"{title}, lr = {i}" for i in range(arms)]
    plot = search_plot.searches([result(arm, {})] * arms, titles)
    assert plot is not None
    assert len(plot.figure.legends[0].get_texts()) == 4
    check(plot.figure)

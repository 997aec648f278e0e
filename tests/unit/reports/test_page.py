"""The HTML page of a report, and its figures."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from fedsweep.measures import MEASURES
from fedsweep.reports import page, plots
from fedsweep.reports.figures import captioned_figures
from fedsweep.reports.grouping import summarize
from fedsweep.reports.labels import Row
from fedsweep.reports.tables import ReportOptions
from fedsweep.store.rows import Curves
from tests.unit.reports.figures import panels, svg, words
from tests.unit.reports.rows import ROWS, trial

CURVES = {row["trial_id"]: {1: 0.2, 2: 0.5, 3: row["test_accuracy"] or 0.6} for row in ROWS}

CURVES_BY_MEASURE = {"test_accuracy": CURVES}
"""The same curves, by measure."""


def test_figures_are_valid_svg_and_name_every_arm() -> None:
    """Every arm, every T* and both axes are named."""
    by_round = svg(plots.arms_by_round(summarize("s", ROWS), ROWS, CURVES))
    by_freeze_round = svg(plots.accuracy_by_freeze_round(summarize("s", ROWS)))
    for text in (by_round, by_freeze_round):
        assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    for name in ("BN", "GN", "FIXBN T⋆=6", "FIXBN T⋆=12", "round", "test accuracy, %"):
        assert name in words(by_round)
    for name in ("FIXBN", "BN", "GN", "T⋆, rounds"):
        assert name in words(by_freeze_round)


def test_there_is_no_figure_without_data() -> None:
    """There are no curves before the first evaluation, and no T* without fixbn."""
    assert plots.arms_by_round(summarize("s", ROWS), ROWS, {}) is None
    assert plots.accuracy_by_freeze_round(summarize("s", [trial("bn", 0, 0.5)])) is None


def test_each_point_of_the_other_axes_has_a_panel() -> None:
    """Two learning rates are never one curve."""
    rows = [
        trial("bn", 0, 0.5),
        trial("bn", 0, 0.7, lr=0.1),
        trial("fixbn", 0, 0.7, freeze_round=2),
    ]
    curves = {row["trial_id"]: {1: 0.1, 2: row["test_accuracy"]} for row in rows}
    summary = summarize("s", rows)
    plot = plots.arms_by_round(summary, rows, curves)
    assert plot is not None
    titles = [axis.get_title() for axis in panels(plot.figure)]
    assert titles == ["lr = 0.05", "lr = 0.1"]
    assert plot.note == "In all panels, α = 0.1, E = 5, momentum = reset."


def test_a_failed_seed_does_not_cut_its_arm_s_curve() -> None:
    """Only finished trials are drawn if there are any."""
    rows = [trial("bn", 0, 0.5), trial("bn", 1, None, state="failed", failure="diverged")]
    curves = {rows[0]["trial_id"]: dict.fromkeys(range(1, 30), 0.5), rows[1]["trial_id"]: {1: 0.1}}
    whole = svg(plots.arms_by_round(summarize("s", rows), rows, curves))
    alone = svg(plots.arms_by_round(summarize("s", rows[:1]), rows[:1], curves))
    assert len(whole) == len(alone)


def test_frozen_layers_and_frozen_statistics_have_different_lines() -> None:
    """Their names differ in the figure by T*."""
    rows = [trial("fixbn", 0, 0.5, freeze_round=2, freeze=f) for f in ("layer", "statistics")]
    shown = plots.accuracy_by_freeze_round(summarize("s", [*rows, trial("bn", 0, 0.7)]))
    figure = svg(shown)
    assert "FIXBN layer" in words(figure)
    assert "BN" in words(figure)


def section(sweep: str, rows: Sequence[Row], curves: Sequence[Row], plan: str = "") -> page.Section:
    summary = summarize(sweep, rows)
    return page.Section(summary, ReportOptions(), captioned_figures(summary, rows, curves), plan)


def render(sweep: str = "s", plan: str = "name = 's'") -> str:
    return page.render([section(sweep, ROWS, CURVES_BY_MEASURE, plan)], "2024-01-01 00:00")


def test_the_page_needs_nothing_from_outside() -> None:
    """It contains the table, the figures, their data and the plan, without files to load."""
    text = render()
    assert "<script" not in text
    assert not re.search(r'(?:src|href)="(?!#|data:text/csv;)', text.replace("xlink:href", "href"))
    assert text.count("<svg") == 2
    assert "93.00 ± 3.61" in text
    assert "name = &#39;s&#39;" in text
    assert "1 diverged" in text


def measured(**values: float) -> dict[str, Curves]:
    """Return curves of three rounds of every trial, with these measures too."""
    return CURVES_BY_MEASURE | {
        name: {trial: dict.fromkeys(curve, value) for trial, curve in CURVES.items()}
        for name, value in values.items()
    }


def headings(text: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", text)


def test_the_page_has_a_figure_for_each_measure_that_was_taken() -> None:
    """Diagnostics, the mIoU and the worst client have figures only if they were measured."""
    plain = page.render([section("s", ROWS, CURVES_BY_MEASURE)], "now")
    usual = ["Test accuracy", "Accuracy by freeze round", "Accuracy by round", "Plan"]
    assert headings(plain) == usual
    diagnosed = measured(statistics_mismatch=0.1, gradient_deviation=0.2, client_drift=0.3)
    text = page.render([section("s", ROWS, diagnosed)], "now")
    more = ["Statistics mismatch by round", "Gradient deviation by round", "Client drift by round"]
    assert headings(text) == [*usual[:3], *more, "Plan"]
    tested = measured(test_miou=0.5, worst_client_accuracy=0.1)
    text = page.render([section("s", ROWS, tested)], "now")
    more = ["Test mIoU by round", "Worst client&#39;s test accuracy by round"]
    assert headings(text) == [*usual[:3], *more, "Plan"]


def test_the_page_has_a_table_for_each_optional_final_measure() -> None:
    """The table has percent by normalizer, like that of the accuracy."""
    rows = [trial("bn", s, 0.5, worst_client_accuracy=w) for s, w in enumerate((0.125, 0.375))]
    text = page.render([section("s", rows, {})], "now")
    assert headings(text) == ["Test accuracy", "Worst client&#39;s test accuracy", "Plan"]
    assert "25.00 ± 17.68" in text


def test_the_mismatch_has_a_line_for_each_alpha_and_a_panel_for_each_arm() -> None:
    """The lines are means over seeds. An arm without statistics has no panel."""
    rows = [
        trial(name, seed, 0.5, alpha=alpha, freeze_round=frozen)
        for name, frozen in (("bn", None), ("fixbn", 2), ("fixbn", 3), ("gn", None))
        for alpha in (0.1, 0.5)
        for seed in (0, 1)
    ]
    curves = {r["trial_id"]: {1: 0.1, 2: 0.2} for r in rows if r["normalizer"] != "gn"}
    mismatch = MEASURES["statistics_mismatch"]
    plot = plots.alphas_by_round(summarize("s", rows), rows, curves, mismatch)
    assert plot is not None
    titles = [axis.get_title() for axis in panels(plot.figure)]
    assert titles == ["BN", "FIXBN T⋆=2", "FIXBN T⋆=3"]
    for text in ("α = 0.1", "α = 0.5", "statistics mismatch"):
        assert text in words(svg(plot))


def test_arms_are_in_the_order_of_the_table() -> None:
    """BN is first, then FIXBN by T*, then the others in the order of their columns."""
    rows = [trial(name, 0, 0.5) for name in ("ws", "ln", "gn", "fedbn", "bn")]
    rows += [trial("fixbn", 0, 0.5, freeze_round=t) for t in (10, 9)]
    curves = {row["trial_id"]: {1: 0.1} for row in rows}
    figure = svg(plots.arms_by_round(summarize("s", rows), rows, curves))
    names = [text for text in words(figure) if re.fullmatch(r"[A-Z]+( T⋆=\d+)?", text)]
    assert names == ["BN", "FIXBN T⋆=9", "FIXBN T⋆=10", "GN", "LN", "FEDBN", "WS"]


def test_hostile_names_are_escaped() -> None:
    """HTML in a sweep's name or plan is text."""
    text = render(sweep="<img src=x onerror=alert(1)>", plan="</pre><script>alert(1)</script>")
    assert "<script>" not in text
    assert "<img" not in text

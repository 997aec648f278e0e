"""Which cells stand out, and how far they are from a baseline and from centralized training."""

from __future__ import annotations

import pytest
from scipy import stats

from fedsweep.errors import RequestError
from fedsweep.report import tables
from fedsweep.report.differences import against, find_column, gaps, marks
from fedsweep.report.grouping import summarize
from tests.report.rows import failed, trial

BN, GN, LN = ("bn", None), ("gn", None), ("ln", None)

ROWS = [
    *[trial("bn", s, a, test_loss=1 - a) for s, a in enumerate((0.90, 0.91, 0.92))],
    *[trial("gn", s, a, test_loss=1 - a) for s, a in enumerate((0.89, 0.92, 0.90))],
    *[trial("ln", s, a, test_loss=1 - a) for s, a in enumerate((0.70, 0.71, 0.73))],
]


def test_a_better_mean_of_a_cell_that_lacks_a_trial_is_explained() -> None:
    """It is not marked as the best of its row, and a note says why."""
    for mean, explained in ((0.95, True), (0.50, False)):
        lacking = [trial("bn", 0, mean), trial("bn", 1, mean), failed("bn", 2)]
        summary = summarize("s", [*lacking, *ROWS[3:]])
        ((_, entries),) = tables.rows(summary)
        assert [entry.mark for entry in entries] == ["", "best", ""]
        assert (tables.PARTIAL in tables.footnotes(summary)) is explained


def test_the_best_is_bold_and_what_is_not_worse_underlined() -> None:
    """On the terminal, in Markdown; nothing in a column that is worse."""
    summary = summarize("s", ROWS)
    ((_, entries),) = tables.rows(summary)
    assert [entry.mark for entry in entries] == ["best", "level", ""]
    text = tables.markdown(summary)
    assert "| **91.00 ± 1.00** | <u>90.33 ± 1.53</u> | 71.33 ± 1.53 |" in text
    assert "- bold: the best of its row; underlined: not worse" in text
    plain = tables.terminal(summary, view=tables.View(plain=True))[0]
    assert "*: the best of its row; ~: not worse" in str(plain.caption)
    assert [str(next(iter(column.cells))) for column in plain.columns][3:] == [
        "91.00 ± 1.00 *",
        "90.33 ± 1.53 ~",
        "71.33 ± 1.53",
    ]


def test_a_lower_loss_is_better() -> None:
    """The same trials by their loss."""
    ((_, entries),) = tables.rows(summarize("s", ROWS), "test_loss", tables.View("test_loss"))
    assert [entry.mark for entry in entries] == ["best", "level", ""]
    assert entries[0].text == "0.0900 ± 0.0100"


def test_a_cell_with_a_diverged_or_missing_seed_is_never_bold() -> None:
    """However good the rest of it is; nor is a column that stands alone."""
    rows = [*ROWS, *[trial("wn", s, 0.99) for s in (0, 1)], failed("wn", 2)]
    rows += [*[trial("in", s, 0.98) for s in (0, 1)], trial("in", 2, None)]
    (cells,) = summarize("s", rows).cells.values()
    found = marks(cells, "test_accuracy")
    assert found.best == BN
    assert found.level == {GN}
    alone = summarize("s", [trial("bn", 0, 0.5)])
    assert marks(*alone.cells.values(), "test_accuracy").best is None


def test_differences_to_a_baseline_are_paired_and_adjusted() -> None:
    """By scipy, and by Holm, who doubles the smaller of two p-values. Only common seeds count."""
    rows = [*ROWS, trial("gn", 3, 0.99)]
    found = against(summarize("s", rows), "test_accuracy", BN)
    assert [c.column for c in found] == [GN, LN]
    values = {
        name: [r["test_accuracy"] for r in ROWS if r["normalizer"] == name]
        for name in ("bn", "gn", "ln")
    }
    tests = [stats.ttest_rel(values[name], values["bn"]) for name in ("gn", "ln")]
    assert tests[1].pvalue < tests[0].pvalue / 2
    adjusted = (tests[0].pvalue, 2 * tests[1].pvalue)
    for contrast, test, p in zip(found, tests, adjusted, strict=True):
        assert contrast.found.n == 3
        assert contrast.found.p == pytest.approx(test.pvalue)
        assert contrast.p == pytest.approx(p)
    low, high = stats.ttest_rel(values["ln"], values["bn"]).confidence_interval()
    text = tables.contrast_text("test_accuracy", found[1])
    assert text == f"-19.67 [{100 * low:+.2f}, {100 * high:+.2f}] p<0.001"


def test_a_baseline_is_named_as_people_name_it() -> None:
    """With its T* where there are several; else a sentence says what there is."""
    rows = [*ROWS, *[trial("fixbn", s, 0.9, freeze_round=t) for s in (0, 1) for t in (6, 12)]]
    summary = summarize("s", rows)
    assert find_column(summary, "BN") == BN
    assert find_column(summary, "fixbn:12") == ("fixbn", 12)
    with pytest.raises(RequestError, match=r"say which of its columns \(FIXBN T⋆=6, FIXBN T⋆=12\)"):
        find_column(summary, "fixbn")
    with pytest.raises(RequestError, match="no such column: it has BN, FIXBN T⋆=6"):
        find_column(summary, "in")


def test_the_gap_to_centralized_training_is_by_seed_and_by_what_is_the_same() -> None:
    """FIXBN's twin is BN, which has nothing to freeze there; another model has its own."""
    federated = {"centralized": 0}
    central = {"centralized": 1, "alpha": None}
    rows = [trial("bn", s, a, **federated) for s, a in enumerate((0.5, 0.6))]
    rows += [trial("fixbn", s, 0.7, freeze_round=3, **federated) for s in (0, 1)]
    rows += [trial("gn", 0, 0.5, **federated)]
    rows += [trial("bn", s, a, **central) for s, a in enumerate((0.9, 0.8))]
    found = {c.column: c.found for c in gaps(summarize("s", rows), "test_accuracy")}
    assert found["bn", None].mean == pytest.approx(-0.3)
    assert found["fixbn", 3].mean == pytest.approx(-0.15)
    assert set(found) == {("bn", None), ("fixbn", 3)}
    assert gaps(summarize("s", ROWS), "test_accuracy") == []


def test_a_centralized_trial_is_the_twin_of_what_takes_as_many_steps() -> None:
    """E = 1 and E = 5 are two baselines; so are two numbers of groups."""
    rows = [
        trial("bn", 0, base + steps / 100, local_steps=steps, centralized=central, alpha=alpha)
        for base, central, alpha in ((0.5, 0, 0.1), (0.7, 1, None))
        for steps in (1, 5)
    ]
    rows += [
        trial("gn", 0, base + groups / 100, gn_groups=groups, centralized=central, alpha=alpha)
        for base, central, alpha in ((0.5, 0, 0.1), (0.7, 1, None))
        for groups in (2, 4)
    ]
    found = gaps(summarize("s", rows), "test_accuracy")
    assert len(found) == 4
    assert [contrast.found.mean for contrast in found] == pytest.approx([-0.2] * 4)


def test_the_best_of_a_pooled_row_is_one_of_those_that_cover_it() -> None:
    """FIXBN, which has the easier α alone, is not compared."""
    rows = [trial("bn", s, a, alpha=al) for s in (0, 1) for al, a in ((0.1, 0.6), (1.0, 0.9))]
    rows += [trial("gn", s, a, alpha=al) for s in (0, 1) for al, a in ((0.1, 0.5), (1.0, 0.8))]
    rows += [trial("fixbn", s, 0.85, alpha=1.0, freeze_round=2) for s in (0, 1)]
    (cells,) = summarize("s", rows, group_by=["local_steps"]).cells.values()
    assert marks(cells, "test_accuracy").best == BN
    assert ("fixbn", 2) not in marks(cells, "test_accuracy").level


def test_centralized_trials_are_never_pooled_with_federated_ones() -> None:
    """Though nobody asked for a row of their own."""
    rows = [trial("bn", s, 0.5, centralized=0) for s in (0, 1)]
    rows += [trial("bn", s, 0.9, centralized=1, alpha=None) for s in (0, 1)]
    summary = summarize("s", rows, group_by=["local_steps"])
    assert list(summary.cells) == [(5, 0), (5, 1)]


def test_any_column_can_be_a_baseline() -> None:
    """By whatever tells it apart."""
    rows = [trial("gn", 0, 0.5, gn_groups=g) for g in (2, 4)]
    rows += [trial("fixbn", 0, 0.5, freeze_round=t, freeze_rule="given") for t in (2, 4)]
    rows += [trial("fixbn", 0, 0.5, freeze_rule="auto")]
    summary = summarize("s", rows)
    assert summary.arm_fields == ("freeze_round", "freeze_rule", "gn_groups")
    assert find_column(summary, "gn:4") == ("gn", None, None, 4)
    assert find_column(summary, "fixbn:auto") == ("fixbn", None, "auto", None)
    assert find_column(summary, "fixbn:2") == ("fixbn", 2, "given", None)

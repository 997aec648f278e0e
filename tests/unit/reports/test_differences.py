"""Marked cells, and differences to a baseline and to centralized training."""

from __future__ import annotations

import pytest
from scipy import stats

from fedsweep.errors import RequestError
from fedsweep.reports import tables
from fedsweep.reports.differences import (
    differences_to_baseline,
    differences_to_centralized,
    find_column,
    marks,
)
from fedsweep.reports.grouping import summarize
from tests.unit.reports.rows import failed, trial

BN, GN, LN = ("bn", None), ("gn", None), ("ln", None)

ROWS = [
    *[trial("bn", s, a, test_loss=1 - a) for s, a in enumerate((0.90, 0.91, 0.92))],
    *[trial("gn", s, a, test_loss=1 - a) for s, a in enumerate((0.89, 0.92, 0.90))],
    *[trial("ln", s, a, test_loss=1 - a) for s, a in enumerate((0.70, 0.71, 0.73))],
]


def test_a_better_mean_of_a_cell_that_lacks_a_trial_is_explained() -> None:
    """The cell is not marked as the best of its row, and a note says why."""
    for mean, explained in ((0.95, True), (0.50, False)):
        lacking = [trial("bn", 0, mean), trial("bn", 1, mean), failed("bn", 2)]
        summary = summarize("s", [*lacking, *ROWS[3:]])
        ((_, entries),) = tables.rows(summary)
        assert [entry.mark for entry in entries] == ["", "best", ""]
        assert (tables.PARTIAL in tables.footnotes(summary)) is explained


def test_the_best_cell_is_bold_and_cells_that_are_not_worse_are_underlined() -> None:
    """Plain text has signs instead. A cell that is significantly worse has no mark."""
    summary = summarize("s", ROWS)
    ((_, entries),) = tables.rows(summary)
    assert [entry.mark for entry in entries] == ["best", "level", ""]
    text = tables.markdown(summary)
    assert "| **91.00 ± 1.00** | <u>90.33 ± 1.53</u> | 71.33 ± 1.53 |" in text
    assert "- bold: the best of its row; underlined: not worse" in text
    plain = tables.terminal(summary, options=tables.ReportOptions(plain=True))[0]
    assert "*: the best of its row; ~: not worse" in str(plain.caption)
    assert [str(next(iter(column.cells))) for column in plain.columns][3:] == [
        "91.00 ± 1.00 *",
        "90.33 ± 1.53 ~",
        "71.33 ± 1.53",
    ]


def test_a_lower_loss_is_better() -> None:
    """The same trials are marked by their loss."""
    ((_, entries),) = tables.rows(
        summarize("s", ROWS), "test_loss", tables.ReportOptions("test_loss")
    )
    assert [entry.mark for entry in entries] == ["best", "level", ""]
    assert entries[0].text == "0.0900 ± 0.0100"


def test_a_cell_with_a_diverged_or_missing_seed_is_never_bold() -> None:
    """Its mean does not matter. A row with one column has no best cell, either."""
    rows = [*ROWS, *[trial("wn", s, 0.99) for s in (0, 1)], failed("wn", 2)]
    rows += [*[trial("in", s, 0.98) for s in (0, 1)], trial("in", 2, None)]
    (cells,) = summarize("s", rows).cells.values()
    row_marks = marks(cells, "test_accuracy")
    assert row_marks.best == BN
    assert row_marks.level == {GN}
    alone = summarize("s", [trial("bn", 0, 0.5)])
    assert marks(*alone.cells.values(), "test_accuracy").best is None


def test_differences_to_a_baseline_are_paired_and_adjusted() -> None:
    """They equal those of scipy. Holm's method doubles the smaller of two p values."""
    rows = [*ROWS, trial("gn", 3, 0.99)]
    differences = differences_to_baseline(summarize("s", rows), "test_accuracy", BN)
    assert [c.column for c in differences] == [GN, LN]
    values = {
        name: [r["test_accuracy"] for r in ROWS if r["normalizer"] == name]
        for name in ("bn", "gn", "ln")
    }
    tests = [stats.ttest_rel(values[name], values["bn"]) for name in ("gn", "ln")]
    assert tests[1].pvalue < tests[0].pvalue / 2
    adjusted = (tests[0].pvalue, 2 * tests[1].pvalue)
    for cell, test, p in zip(differences, tests, adjusted, strict=True):
        assert cell.difference.n == 3
        assert cell.difference.p == pytest.approx(test.pvalue)
        assert cell.p == pytest.approx(p)
    low, high = stats.ttest_rel(values["ln"], values["bn"]).confidence_interval()
    text = tables.difference_text("test_accuracy", differences[1])
    assert text == f"-19.67 [{100 * low:+.2f}, {100 * high:+.2f}] p<0.001"


def test_cells_without_a_common_seed_with_the_baseline_are_counted_in_a_note() -> None:
    """One is in a row without the baseline, one has other seeds. A failed cell does not count."""
    other_row = [trial("ln", s, 0.6, local_steps=50) for s in (0, 1)]
    rows = [*ROWS, *other_row, *[trial("wn", s, 0.5) for s in (3, 4)], failed("in", 0)]
    summary = summarize("s", rows)
    compared = {cell.column for cell in differences_to_baseline(summary, "test_accuracy", BN)}
    assert compared == {GN, LN}
    note = "not compared with BN: {} without a trial of BN to pair with"
    to_bn = tables.ReportOptions(baseline=BN)
    assert note.format("2 cells") in tables.footnotes(summary, to_bn)
    one = tables.footnotes(summarize("s", [*ROWS, *other_row]), to_bn)
    assert note.format("1 cell") in one
    assert not [
        line for line in tables.footnotes(summarize("s", ROWS), to_bn) if "not compared" in line
    ]
    assert not [line for line in tables.footnotes(summary) if "not compared" in line]


def test_a_pooled_cell_needs_the_same_value_and_seed_to_be_compared() -> None:
    """BN has other alpha than GN, so that no trial of BN pairs with one of GN."""
    rows = [trial("bn", s, 0.9, alpha=a) for s in (0, 1) for a in (0.5, 0.7)]
    rows += [trial("gn", s, 0.8, alpha=0.1) for s in (0, 1)]
    notes = tables.footnotes(
        summarize("s", rows, group_by=["local_steps"]), tables.ReportOptions(baseline=BN)
    )
    assert "not compared with BN: 1 cell without a trial of BN to pair with" in notes


def test_a_baseline_is_named_by_normalizer_and_freeze_round() -> None:
    """The T* is needed if there are several. The error lists the columns."""
    rows = [*ROWS, *[trial("fixbn", s, 0.9, freeze_round=t) for s in (0, 1) for t in (6, 12)]]
    summary = summarize("s", rows)
    assert find_column(summary, "BN") == BN
    assert find_column(summary, "fixbn:12") == ("fixbn", 12)
    with pytest.raises(RequestError, match=r"say which of its columns \(FIXBN T⋆=6, FIXBN T⋆=12\)"):
        find_column(summary, "fixbn")
    with pytest.raises(RequestError, match="no such column: it has BN, FIXBN T⋆=6"):
        find_column(summary, "in")


def test_differences_to_centralized_training_are_paired_by_seed_and_shared_fields() -> None:
    """The centralized twin of FIXBN is BN, because there is nothing to freeze."""
    federated = {"centralized": 0}
    central = {"centralized": 1, "alpha": None}
    rows = [trial("bn", s, a, **federated) for s, a in enumerate((0.5, 0.6))]
    rows += [trial("fixbn", s, 0.7, freeze_round=3, **federated) for s in (0, 1)]
    rows += [trial("gn", 0, 0.5, **federated)]
    rows += [trial("bn", s, a, **central) for s, a in enumerate((0.9, 0.8))]
    differences = {
        c.column: c.difference
        for c in differences_to_centralized(summarize("s", rows), "test_accuracy")
    }
    assert differences["bn", None].mean == pytest.approx(-0.3)
    assert differences["fixbn", 3].mean == pytest.approx(-0.15)
    assert set(differences) == {("bn", None), ("fixbn", 3)}
    assert differences_to_centralized(summarize("s", ROWS), "test_accuracy") == []


def test_a_centralized_trial_is_the_twin_of_trials_with_the_same_number_of_steps() -> None:
    """E = 1 and E = 5 have two baselines, and so have two numbers of groups."""
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
    differences = differences_to_centralized(summarize("s", rows), "test_accuracy")
    assert len(differences) == 4
    assert [cell.difference.mean for cell in differences] == pytest.approx([-0.2] * 4)


def test_the_best_cell_of_a_pooled_row_covers_all_pooled_values() -> None:
    """FIXBN has only the easier α, so it is not compared."""
    rows = [trial("bn", s, a, alpha=al) for s in (0, 1) for al, a in ((0.1, 0.6), (1.0, 0.9))]
    rows += [trial("gn", s, a, alpha=al) for s in (0, 1) for al, a in ((0.1, 0.5), (1.0, 0.8))]
    rows += [trial("fixbn", s, 0.85, alpha=1.0, freeze_round=2) for s in (0, 1)]
    (cells,) = summarize("s", rows, group_by=["local_steps"]).cells.values()
    assert marks(cells, "test_accuracy").best == BN
    assert ("fixbn", 2) not in marks(cells, "test_accuracy").level


def test_centralized_trials_are_never_pooled_with_federated_ones() -> None:
    """They have their own row without being asked for."""
    rows = [trial("bn", s, 0.5, centralized=0) for s in (0, 1)]
    rows += [trial("bn", s, 0.9, centralized=1, alpha=None) for s in (0, 1)]
    summary = summarize("s", rows, group_by=["local_steps"])
    assert list(summary.cells) == [(5, 0), (5, 1)]


def test_any_column_can_be_a_baseline() -> None:
    """It is named by the value in which it differs from the other columns."""
    rows = [trial("gn", 0, 0.5, gn_groups=g) for g in (2, 4)]
    rows += [trial("fixbn", 0, 0.5, freeze_round=t, freeze_rule="given") for t in (2, 4)]
    rows += [trial("fixbn", 0, 0.5, freeze_rule="auto")]
    summary = summarize("s", rows)
    assert summary.arm_fields == ("freeze_round", "freeze_rule", "gn_groups")
    assert find_column(summary, "gn:4") == ("gn", None, None, 4)
    assert find_column(summary, "fixbn:auto") == ("fixbn", None, "auto", None)
    assert find_column(summary, "fixbn:2") == ("fixbn", 2, "given", None)

"""From rows to a report's values and tables."""

from __future__ import annotations

import csv
import io
import json
import statistics
from typing import Any

import pytest

from fedsweep.report import tables
from fedsweep.report.grouping import column_text, mean_curve, summarize
from fedsweep.report.labels import describe
from fedsweep.report.records import as_csv, as_json, records
from tests.report.rows import ROWS, failed, trial


def test_normalizers_and_their_t_star_are_columns_and_the_rest_are_rows() -> None:
    """Means and sample deviations over finished seeds."""
    summary = summarize("s", ROWS)
    assert summary.columns == (("bn", None), ("fixbn", 6), ("fixbn", 12), ("gn", None))
    assert summary.axes == ("alpha", "local_steps", "momentum")
    assert list(summary.cells) == [(0.1, 5, "reset")]
    gn = summary.cells[0.1, 5, "reset"]["gn", None]
    assert gn.n == 3
    assert gn.mean == pytest.approx(0.83)
    assert gn.std == pytest.approx(statistics.stdev([0.80, 0.82, 0.87]))
    assert summary.usual_n == 3


def test_what_is_not_the_usual_mean_says_so() -> None:
    """Fewer seeds, failures and unfinished trials stand beside the number."""
    summary = summarize("s", ROWS)
    ((_, entries),) = tables.rows(summary)
    assert [entry.text for entry in entries] == [
        "93.00 ± 3.61",
        "50.00 (n=1, 2 unfinished)",
        "93.00 ± 2.83 (n=2, 1 diverged)",
        "83.00 ± 3.61",
    ]


def test_a_field_that_varies_becomes_a_column_of_its_own() -> None:
    """Two learning rates are two rows, never one mean."""
    rows = [trial("bn", 0, 0.5), trial("bn", 0, 0.7, lr=0.1)]
    summary = summarize("s", rows)
    assert summary.axes[-1] == "lr"
    assert [cells["bn", None].mean for cells in summary.cells.values()] == [0.5, 0.7]


def test_other_pictures_are_other_rows() -> None:
    """A folder that changed between two plans: its trials are never averaged with the old ones."""
    rows = [trial("bn", 0, 0.5, fingerprint="a"), trial("bn", 0, 0.7, fingerprint="b")]
    assert len(summarize("s", rows).cells) == 2


def test_brackets_in_an_error_are_no_markup() -> None:
    """What Rich would read as a tag is printed as it is."""
    from rich.console import Console

    out = io.StringIO()
    row = failed("bn", 0) | {"error": "cannot open [/data/x.png] [enforce fail]"}
    Console(file=out, width=160).print(*tables.terminal(summarize("[b]s", [row])))
    assert "[/data/x.png] [enforce fail]" in out.getvalue()
    assert "[b]s" in out.getvalue()


def test_a_frozen_layer_is_another_arm_than_frozen_statistics() -> None:
    """They do not fall into one cell."""
    rows = [
        trial("fixbn", 0, a, freeze_round=3, freeze=f)
        for a, f in ((0.5, "layer"), (0.7, "statistics"))
    ]
    summary = summarize("s", [*rows, trial("bn", 0, 0.4)])
    told = [column_text(summary, column) for column in summary.columns]
    assert told == ["BN", "FIXBN T⋆=3 layer", "FIXBN T⋆=3 statistics"]


def test_the_footnotes_count_and_name_what_is_missing() -> None:
    """Unfinished trials by state, failed ones by id, kind and error."""
    notes = tables.footnotes(summarize("s", ROWS))
    assert notes[:3] == ["n = 3 seeds unless given", "unfinished: 1 queued, 1 running", "failed: 1"]
    assert "diverged: the training loss of round 3 is inf" in notes[3]
    many = tables.footnotes(summarize("s", [failed("bn", s) for s in range(13)]))
    assert many[-2] == "  and 3 more: fedsweep trial list --state failed"


def test_a_sweep_without_a_result_still_has_a_table() -> None:
    """Nothing has finished: no mean, no crash."""
    summary = summarize("s", [trial("bn", 0, None), trial("bn", 1, None)])
    assert [entries for _, entries in tables.rows(summary)] == [[tables.Entry("(2 unfinished)")]]
    assert summary.usual_n == 0


def test_markdown_is_the_same_table() -> None:
    """A line a row, every cell of it."""
    text = tables.markdown(summarize("digits", ROWS))
    assert text.startswith("### digits\n")
    assert "| α | E | momentum | BN | FIXBN T⋆=6 | FIXBN T⋆=12 | GN |" in text
    assert "| 50.00 (n=1, 2 unfinished) | 93.00 ± 2.83 (n=2, 1 diverged) |" in text
    assert "- failed: 1" in text


def test_csv_and_json_hold_the_numbers_unrounded() -> None:
    """A record a cell, with its whole configuration."""
    summary = summarize("s", ROWS)
    found = json.loads(as_json(records(summary)))
    assert len(found) == 4
    fixbn = next(r for r in found if r["freeze_round"] == 12)
    assert fixbn["mean_test_accuracy"] == pytest.approx(0.93, abs=1e-15)
    counts = {k: fixbn[k] for k in ("n", "n_failed", "n_diverged", "n_unfinished")}
    assert counts == {"n": 2, "n_failed": 1, "n_diverged": 1, "n_unfinished": 0}
    lines = list(csv.DictReader(io.StringIO(as_csv(records(summary)))))
    assert [float(line["mean_test_accuracy"]) for line in lines] == [
        r["mean_test_accuracy"] for r in found
    ]


def test_curves_are_averaged_over_the_rounds_they_share() -> None:
    """A running seed does not bend the mean after its last round."""
    curve = mean_curve([{1: 0.1, 2: 0.2, 3: 0.9}, {1: 0.3, 2: 0.4}])
    assert curve.rounds == (1, 2)
    assert curve.mean == pytest.approx((0.2, 0.3))
    assert curve.std == pytest.approx((0.1 * 2**0.5, 0.1 * 2**0.5))
    assert mean_curve([{1: 0.5}]).std == (0.0,)


def test_the_terminal_s_table_fits_eighty_columns() -> None:
    """No line is longer."""
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=80).print(*tables.terminal(summarize("s", ROWS), 80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("93.00 ± 3.61" in line for line in lines)


TEN = ("bn", "fixbn", "gn", "ln", "in", "wn", "none", "fedbn", "silobn", "ws")


def ten(**more: Any) -> list[dict[str, Any]]:
    """Every normalizer, in reverse, at two seeds."""
    return [trial(name, s, 0.5 + s / 10, **more) for name in reversed(TEN) for s in (0, 1)]


def printed(rows: list[dict[str, Any]], width: int) -> list[str]:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width).print(*tables.terminal(summarize("s", rows), width))
    return out.getvalue().splitlines()


def test_normalizers_stand_in_a_fixed_order() -> None:
    """Ours as given, those of other packages behind them by name."""
    rows = [*ten(), trial("zn", 0, 0.5), trial("an", 0, 0.5)]
    assert [column[0] for column in summarize("s", rows).columns] == [*TEN, "an", "zn"]


def test_a_table_that_does_not_fit_has_a_line_for_each_normalizer() -> None:
    """Ten columns do not fit 120; every number stays whole, and no line is too long."""
    lines = printed(ten(), 120)
    assert max(map(len, lines)) <= 120
    assert sum("55.00 ± 7.07" in line for line in lines) == 10
    found = [line.split("│")[4].strip() for line in lines if "55.00" in line]
    assert found == [name.upper() for name in TEN]
    wide = printed(ten(), 200)
    assert sum("55.00 ± 7.07" in line for line in wide) == 1
    assert max(map(len, wide)) <= 200


def test_what_is_measured_beside_is_no_axis() -> None:
    """Nor how often: such trials are the same trials."""
    rows = ten(client_accuracy=0, keep_weights=0, diagnostics=0)
    rows += [row | {"diagnostics": 1, "keep_weights": 1, "client_accuracy": 1} for row in rows]
    assert summarize("s", rows).axes == ("alpha", "local_steps", "momentum")


def test_a_centralized_trial_has_a_row_of_its_own_that_can_be_read() -> None:
    """No α, and "yes" under "central"; what it cannot have makes no further column."""
    federated = {"centralized": 0, "partition": "dirichlet", "participation": 1.0}
    rows = [trial("bn", 0, 0.5, **federated), trial("bn", 0, 0.9, centralized=1, alpha=None)]
    summary = summarize("s", rows)
    assert summary.axes[3:] == ("centralized",)
    assert tables.headings(summary)[3] == "central"
    texts = [tables.key_texts(summary, key) for key in summary.cells]
    assert texts == [["–", "5", "reset", "yes"], ["0.1", "5", "reset", "no"]]
    what = [describe(row) for row in rows]
    assert what == ["bn α=0.1 E=5 momentum=reset seed=0", "bn E=5 momentum=reset central seed=0"]


def test_local_epochs_are_told_wherever_they_are() -> None:
    """Also a single number of them: no number of steps stands for it."""
    rows = [trial("bn", 0, 0.5, local_steps=None, local_epochs=2)]
    assert summarize("s", rows).axes[3:] == ("local_epochs",)
    assert describe(rows[0]) == "bn α=0.1 momentum=reset epochs=2 seed=0"
    both = summarize("s", [*rows, trial("bn", 0, 0.7)])
    assert [cells["bn", None].mean for cells in both.cells.values()] == [0.5, 0.7]


def test_further_measures_are_averaged_over_those_who_took_them() -> None:
    """In the records too; where nobody did, there is none."""
    rows = [trial("bn", s, 0.5, worst_client_accuracy=w) for s, w in enumerate((0.1, 0.3, None))]
    summary = summarize("s", rows)
    assert summary.taken() == ["worst_client_accuracy"]
    (record,) = records(summary)
    assert record["mean_worst_client_accuracy"] == pytest.approx(0.2)
    assert record["std_worst_client_accuracy"] == pytest.approx(0.2 / 2**0.5)
    assert record["mean_test_miou"] is None

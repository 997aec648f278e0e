"""Grouping of rows into the values and tables of a report."""

from __future__ import annotations

import csv
import io
import json
import statistics
from typing import Any

import pytest

from fedsweep.reports import tables
from fedsweep.reports.grouping import column_text, mean_curve, summarize
from fedsweep.reports.labels import describe
from fedsweep.reports.records import as_csv, as_json, records
from tests.unit.reports.rows import ROWS, failed, trial


def test_normalizers_and_their_t_star_are_columns_and_the_rest_are_rows() -> None:
    """Cells have means and sample standard deviations over finished seeds."""
    summary = summarize("s", ROWS)
    assert summary.columns == (("bn", None), ("fixbn", 6), ("fixbn", 12), ("gn", None))
    assert summary.axes == ("alpha", "local_steps", "momentum")
    assert list(summary.cells) == [(0.1, 5, "reset")]
    gn = summary.cells[0.1, 5, "reset"]["gn", None]
    assert gn.n == 3
    assert gn.mean == pytest.approx(0.83)
    assert gn.std == pytest.approx(statistics.stdev([0.80, 0.82, 0.87]))
    assert summary.usual_n == 3


def test_an_unusual_mean_is_noted() -> None:
    """Fewer seeds, failures and unfinished trials follow the number."""
    summary = summarize("s", ROWS)
    ((_, entries),) = tables.rows(summary)
    assert [entry.text for entry in entries] == [
        "93.00 ± 3.61",
        "50.00 (n=1, 2 unfinished)",
        "93.00 ± 2.83 (n=2, 1 diverged)",
        "83.00 ± 3.61",
    ]


def test_a_field_that_varies_becomes_an_axis() -> None:
    """Two learning rates are two rows, never one mean."""
    rows = [trial("bn", 0, 0.5), trial("bn", 0, 0.7, lr=0.1)]
    summary = summarize("s", rows)
    assert summary.axes[-1] == "lr"
    assert [cells["bn", None].mean for cells in summary.cells.values()] == [0.5, 0.7]


def test_trials_on_other_images_are_other_rows() -> None:
    """If a folder has changed between two plans, old and new trials are never averaged."""
    rows = [trial("bn", 0, 0.5, fingerprint="a"), trial("bn", 0, 0.7, fingerprint="b")]
    assert len(summarize("s", rows).cells) == 2


def test_brackets_in_an_error_are_not_markup() -> None:
    """Text that Rich would read as a tag is printed as it is."""
    from rich.console import Console

    out = io.StringIO()
    row = failed("bn", 0) | {"error": "cannot open [/data/x.png] [enforce fail]"}
    Console(file=out, width=160).print(*tables.terminal(summarize("[b]s", [row])))
    assert "[/data/x.png] [enforce fail]" in out.getvalue()
    assert "[b]s" in out.getvalue()


def test_a_frozen_layer_is_another_arm_than_frozen_statistics() -> None:
    """The two are not averaged in one cell."""
    rows = [
        trial("fixbn", 0, a, freeze_round=3, freeze=f)
        for a, f in ((0.5, "layer"), (0.7, "statistics"))
    ]
    summary = summarize("s", [*rows, trial("bn", 0, 0.4)])
    names = [column_text(summary, column) for column in summary.columns]
    assert names == ["BN", "FIXBN T⋆=3 layer", "FIXBN T⋆=3 statistics"]


def test_the_footnotes_count_and_name_what_is_missing() -> None:
    """Unfinished trials are counted by state. Failed ones are named with their error."""
    notes = tables.footnotes(summarize("s", ROWS))
    assert notes[:3] == ["n = 3 seeds unless given", "unfinished: 1 queued, 1 running", "failed: 1"]
    assert "diverged: the training loss of round 3 is inf" in notes[3]
    many = tables.footnotes(summarize("s", [failed("bn", s) for s in range(13)]))
    assert many[-2] == "  and 3 more: fedsweep trial list --state failed"


def test_a_sweep_without_a_result_still_has_a_table() -> None:
    """If no trial has finished, there is no mean."""
    summary = summarize("s", [trial("bn", 0, None), trial("bn", 1, None)])
    assert [entries for _, entries in tables.rows(summary)] == [[tables.Entry("(2 unfinished)")]]
    assert summary.usual_n == 0


def test_markdown_is_the_same_table() -> None:
    """Each row is a line with all cells."""
    text = tables.markdown(summarize("digits", ROWS))
    assert text.startswith("### digits\n")
    assert "| α | E | momentum | BN | FIXBN T⋆=6 | FIXBN T⋆=12 | GN |" in text
    assert "| 50.00 (n=1, 2 unfinished) | 93.00 ± 2.83 (n=2, 1 diverged) |" in text
    assert "- failed: 1" in text


def test_csv_and_json_hold_the_numbers_unrounded() -> None:
    """Each cell is a record with its whole configuration."""
    summary = summarize("s", ROWS)
    parsed = json.loads(as_json(records(summary)))
    assert len(parsed) == 4
    fixbn = next(r for r in parsed if r["freeze_round"] == 12)
    assert fixbn["mean_test_accuracy"] == pytest.approx(0.93, abs=1e-15)
    counts = {k: fixbn[k] for k in ("n", "n_failed", "n_diverged", "n_unfinished")}
    assert counts == {"n": 2, "n_failed": 1, "n_diverged": 1, "n_unfinished": 0}
    lines = list(csv.DictReader(io.StringIO(as_csv(records(summary)))))
    assert [float(line["mean_test_accuracy"]) for line in lines] == [
        r["mean_test_accuracy"] for r in parsed
    ]


def test_curves_are_averaged_over_the_rounds_they_share() -> None:
    """A running seed does not change the mean after its last round."""
    curve = mean_curve([{1: 0.1, 2: 0.2, 3: 0.9}, {1: 0.3, 2: 0.4}])
    assert curve.rounds == (1, 2)
    assert curve.mean == pytest.approx((0.2, 0.3))
    assert curve.std == pytest.approx((0.1 * 2**0.5, 0.1 * 2**0.5))
    assert mean_curve([{1: 0.5}]).std == (0.0,)


def test_a_table_fits_a_terminal_of_eighty_characters() -> None:
    """No line is longer."""
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=80).print(*tables.terminal(summarize("s", ROWS), 80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("93.00 ± 3.61" in line for line in lines)


TEN = ("bn", "fixbn", "gn", "ln", "in", "wn", "none", "fedbn", "silobn", "ws")


def ten(**more: Any) -> list[dict[str, Any]]:
    """Return two seeds of every normalizer, in reverse order."""
    return [trial(name, s, 0.5 + s / 10, **more) for name in reversed(TEN) for s in (0, 1)]


def printed(rows: list[dict[str, Any]], width: int) -> list[str]:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width).print(*tables.terminal(summarize("s", rows), width))
    return out.getvalue().splitlines()


def test_normalizers_stand_in_a_fixed_order() -> None:
    """Normalizers of other packages come last, by name."""
    rows = [*ten(), trial("zn", 0, 0.5), trial("an", 0, 0.5)]
    assert [column[0] for column in summarize("s", rows).columns] == [*TEN, "an", "zn"]


def test_a_table_that_does_not_fit_has_a_line_for_each_normalizer() -> None:
    """Ten columns do not fit 120 characters. No number is cut, and no line is too long."""
    lines = printed(ten(), 120)
    assert max(map(len, lines)) <= 120
    assert sum("55.00 ± 7.07" in line for line in lines) == 10
    names = [line.split("│")[4].strip() for line in lines if "55.00" in line]
    assert names == [name.upper() for name in TEN]
    wide = printed(ten(), 200)
    assert sum("55.00 ± 7.07" in line for line in wide) == 1
    assert max(map(len, wide)) <= 200


def test_optional_measurements_are_not_an_axis() -> None:
    """Such options do not change the identity of a trial."""
    rows = ten(client_accuracy=0, keep_weights=0, diagnostics=0)
    options = {"diagnostics": 1, "keep_weights": 1, "client_accuracy": 1}
    rows += [row | options | {"seed": row["seed"] + len(rows)} for row in rows]
    assert summarize("s", rows).axes == ("alpha", "local_steps", "momentum")


def test_a_centralized_trial_has_a_row_of_its_own() -> None:
    """The row has no α, and "yes" as "central". Unset fields do not become axes."""
    federated = {"centralized": 0, "partition": "dirichlet", "participation": 1.0}
    rows = [trial("bn", 0, 0.5, **federated), trial("bn", 0, 0.9, centralized=1, alpha=None)]
    summary = summarize("s", rows)
    assert summary.axes[3:] == ("centralized",)
    assert tables.headings(summary)[3] == "central"
    texts = [tables.key_texts(summary, key) for key in summary.cells]
    assert texts == [["–", "5", "reset", "yes"], ["0.1", "5", "reset", "no"]]
    texts = [describe(row) for row in rows]
    assert texts == ["bn α=0.1 E=5 momentum=reset seed=0", "bn E=5 momentum=reset central seed=0"]


def test_a_trial_is_described_by_an_unusual_algorithm_and_optimizer() -> None:
    """FedAvg and SGD go without saying, and are an axis if they vary."""
    rows = [
        trial("bn", 0, 0.5, algorithm="fedavg", optimizer="sgd"),
        trial("bn", 0, 0.7, algorithm="scaffold", server_lr=1.0, optimizer="adam"),
    ]
    assert [describe(row) for row in rows] == [
        "bn α=0.1 E=5 momentum=reset seed=0",
        "bn algorithm=scaffold optimizer=adam α=0.1 E=5 momentum=reset seed=0",
    ]
    assert summarize("s", rows).axes[3:] == ("optimizer", "algorithm")


def test_local_epochs_are_always_shown() -> None:
    """They are shown even if they do not vary, because there is no number of steps then."""
    rows = [trial("bn", 0, 0.5, local_steps=None, local_epochs=2)]
    assert summarize("s", rows).axes[3:] == ("local_epochs",)
    assert describe(rows[0]) == "bn α=0.1 momentum=reset epochs=2 seed=0"
    both = summarize("s", [*rows, trial("bn", 0, 0.7)])
    assert [cells["bn", None].mean for cells in both.cells.values()] == [0.5, 0.7]


def test_optional_measures_are_averaged_over_the_trials_that_have_them() -> None:
    """The records have them, too. A measure that no trial has is null."""
    rows = [trial("bn", s, 0.5, worst_client_accuracy=w) for s, w in enumerate((0.1, 0.3, None))]
    summary = summarize("s", rows)
    assert summary.taken() == ["worst_client_accuracy"]
    (record,) = records(summary)
    assert record["mean_worst_client_accuracy"] == pytest.approx(0.2)
    assert record["std_worst_client_accuracy"] == pytest.approx(0.2 / 2**0.5)
    assert record["mean_test_miou"] is None

"""From rows to a report's values and tables."""

from __future__ import annotations

import csv
import io
import json
import statistics
from typing import Any

import pytest

from fedsweep.report import tables
from fedsweep.report.summary import FIELDS, mean_curve, summarize


def trial(normalizer: str, seed: int, accuracy: float | None, **more: Any) -> dict[str, Any]:
    """A row of `results`."""
    row: dict[str, Any] = dict.fromkeys(FIELDS)
    row |= {"alpha": 0.1, "local_steps": 5, "momentum": "reset", "lr": 0.05, "clients": 10}
    row |= {"trial_id": f"{normalizer}{seed}{more}", "normalizer": normalizer, "seed": seed}
    state = "finished" if accuracy is not None else "queued"
    row |= {"test_accuracy": accuracy, "state": state, "failure": None, "error": None}
    return row | more


def failed(normalizer: str, seed: int, kind: str = "diverged") -> dict[str, Any]:
    why = "the training loss of round 3 is inf"
    return trial(normalizer, seed, None, state="failed", failure=kind, error=why)


ROWS = [
    *[trial("gn", s, a) for s, a in enumerate((0.80, 0.82, 0.87))],
    *[trial("bn", s, a) for s, a in enumerate((0.90, 0.92, 0.97))],
    *[trial("fixbn", s, a, freeze_round=12) for s, a in enumerate((0.91, 0.95))],
    failed("fixbn", 2) | {"freeze_round": 12},
    trial("fixbn", 0, 0.5, freeze_round=6),
    trial("fixbn", 1, None, freeze_round=6),
    trial("fixbn", 2, None, freeze_round=6, state="running"),
]


def test_normalisers_are_columns_and_the_rest_are_rows() -> None:
    """Means and sample deviations over finished seeds."""
    summary = summarize("s", ROWS)
    assert summary.normalizers == ("bn", "fixbn", "gn")
    assert summary.axes == ("alpha", "local_steps", "freeze_round", "momentum")
    assert list(summary.cells) == [
        (0.1, 5, None, "reset"),
        (0.1, 5, 6, "reset"),
        (0.1, 5, 12, "reset"),
    ]
    gn = summary.cells[0.1, 5, None, "reset"]["gn"]
    assert gn.n == 3
    assert gn.mean == pytest.approx(0.83)
    assert gn.std == pytest.approx(statistics.stdev([0.80, 0.82, 0.87]))
    assert summary.usual_n == 3


def test_what_is_not_the_usual_mean_says_so() -> None:
    """Fewer seeds, failures and unfinished trials stand beside the number."""
    summary = summarize("s", ROWS)
    texts = {key[2]: cells for key, cells in tables.rows(summary)}
    assert texts[None] == ["93.00 ± 3.61", "", "83.00 ± 3.61"]
    assert texts[12][1] == "93.00 ± 2.83 (n=2, 1 diverged)"
    assert texts[6][1] == "50.00 (n=1, 2 unfinished)"


def test_a_field_that_varies_becomes_a_column_of_its_own() -> None:
    """Two learning rates are two rows, never one mean."""
    rows = [trial("bn", 0, 0.5), trial("bn", 0, 0.7, lr=0.1)]
    summary = summarize("s", rows)
    assert summary.axes[-1] == "lr"
    assert [cells["bn"].mean for cells in summary.cells.values()] == [0.5, 0.7]


def test_other_pictures_are_other_rows() -> None:
    """A folder that changed between two plans: its trials are never averaged with the old ones."""
    rows = [trial("bn", 0, 0.5, fingerprint="a"), trial("bn", 0, 0.7, fingerprint="b")]
    assert len(summarize("s", rows).cells) == 2


def test_brackets_in_an_error_are_no_markup() -> None:
    """What Rich would read as a tag is printed as it is."""
    from rich.console import Console

    out = io.StringIO()
    row = failed("bn", 0) | {"error": "cannot open [/data/x.png] [enforce fail]"}
    Console(file=out, width=160).print(tables.terminal(summarize("[b]s", [row])))
    assert "[/data/x.png] [enforce fail]" in out.getvalue()
    assert "[b]s" in out.getvalue()


def test_a_frozen_layer_is_another_arm_than_frozen_statistics() -> None:
    """They do not fall into one cell."""
    rows = [
        trial("fixbn", 0, a, freeze_round=3, freeze=f)
        for a, f in ((0.5, "layer"), (0.7, "statistics"))
    ]
    assert len(summarize("s", [*rows, trial("bn", 0, 0.4)]).cells) == 3


def test_the_footnotes_count_and_name_what_is_missing() -> None:
    """Unfinished trials by state, failed ones by id, kind and error."""
    notes = tables.footnotes(summarize("s", ROWS))
    assert notes[:3] == ["n = 3 seeds unless given", "unfinished: 1 queued, 1 running", "failed: 1"]
    assert "diverged: the training loss of round 3 is inf" in notes[3]
    many = tables.footnotes(summarize("s", [failed("bn", s) for s in range(13)]))
    assert many[-1] == "  and 3 more: fedsweep trial list --state failed"


def test_a_sweep_without_a_result_still_has_a_table() -> None:
    """Nothing has finished: no mean, no crash."""
    summary = summarize("s", [trial("bn", 0, None), trial("bn", 1, None)])
    assert [texts for _, texts in tables.rows(summary)] == [["(2 unfinished)"]]
    assert summary.usual_n == 0


def test_markdown_is_the_same_table() -> None:
    """A line a row, every cell of it."""
    text = tables.markdown(summarize("digits", ROWS))
    assert text.startswith("### digits\n")
    assert "| α | E | T⋆ | momentum | BN | FIXBN | GN |" in text
    assert "| 0.1 | 5 | 12 | reset |  | 93.00 ± 2.83 (n=2, 1 diverged) |  |" in text
    assert "- failed: 1" in text


def test_csv_and_json_hold_the_numbers_unrounded() -> None:
    """A record a cell, with its whole configuration."""
    summary = summarize("s", ROWS)
    records = json.loads(tables.as_json([summary]))
    assert len(records) == 4
    fixbn = next(r for r in records if r["freeze_round"] == 12)
    assert fixbn["mean_test_accuracy"] == pytest.approx(0.93, abs=1e-15)
    counts = {k: fixbn[k] for k in ("n", "n_failed", "n_diverged", "n_unfinished")}
    assert counts == {"n": 2, "n_failed": 1, "n_diverged": 1, "n_unfinished": 0}
    lines = list(csv.DictReader(io.StringIO(tables.as_csv([summary]))))
    assert [float(line["mean_test_accuracy"]) for line in lines] == [
        r["mean_test_accuracy"] for r in records
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
    Console(file=out, width=80).print(tables.terminal(summarize("s", ROWS)))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("93.00 ± 3.61" in line for line in lines)

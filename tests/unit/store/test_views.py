"""The views' numbers, on every database."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Connection, Engine

from fedsweep import queue
from fedsweep.plans import ClientScore, Round, SweepSpec, read_plan
from fedsweep.states import FailureKind
from fedsweep.store import planning, round_rows
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.transactions import transaction

WORKER = queue.Claimant("w", "cpu", "h", 1)


def finish_all(c: Connection, accuracies: list[float]) -> list[Claim]:
    claims = []
    for accuracy in accuracies:
        claim = queue.claim(c, WORKER, read_clock(c))
        assert claim is not None
        done = [Round(r, "explore", 1.0, 0.5, accuracy, None, 0.25, 1, 1, 0.5) for r in (1, 2, 3)]
        assert round_rows.add_rounds(c, claim, done) is None
        queue.finish(c, claim)
        claims.append(claim)
    return claims


def rows(c: Connection, text: str) -> list[dict[str, object]]:
    return [dict(row) for row in c.execute(sa.text(text)).mappings()]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(accuracies=st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_cells_have_the_mean_and_the_sample_deviation(
    accuracies: list[float], store: Engine, tiny: Path
) -> None:
    """To the last bits: two passes, and a root by Newton where the database has none."""
    plan = read_plan(tiny, ["normalizer=bn"])
    one = plan.trials[0].config
    trials = [
        type(plan.trials[0]).of(one.model_copy(update={"seed": s})) for s in range(len(accuracies))
    ]
    with store.connect() as c, c.begin() as attempt:
        planning.add_sweep(c, SweepSpec("s", "t", tuple(trials)))
        finish_all(c, accuracies)
        (cell,) = rows(c, "SELECT * FROM cells")
        attempt.rollback()
    assert cell["n"] == len(accuracies)
    mean, std = cell["mean_test_accuracy"], cell["std_test_accuracy"]
    assert isinstance(mean, float)
    assert isinstance(std, float)
    assert math.isclose(mean, statistics.fmean(accuracies), rel_tol=1e-14)
    assert math.isclose(std, statistics.stdev(accuracies), rel_tol=1e-7, abs_tol=1e-9)


def test_a_cell_counts_what_finished_and_what_failed(store: Engine, tiny: Path) -> None:
    """A single finished trial has no deviation; diverged ones are counted among the failed."""
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
        finish_all(c, [0.75])
        claim = queue.claim(c, WORKER, read_clock(c))
        assert claim is not None
        queue.fail(c, claim, read_clock(c), FailureKind.DIVERGED, "inf")
        cells = rows(c, "SELECT * FROM cells WHERE normalizer = 'bn'")
    assert len(cells) == 1
    found = {k: cells[0][k] for k in ("n", "n_failed", "n_diverged")}
    assert found == {"n": 1, "n_failed": 1, "n_diverged": 1}
    assert cells[0]["mean_test_accuracy"] == 0.75
    assert cells[0]["std_test_accuracy"] is None


def test_unfinished_trials_have_no_final_accuracy(store: Engine, tiny: Path) -> None:
    """So that avg(test_accuracy) over results is over finished trials."""
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
        finish_all(c, [0.5, 0.7])
        claim = queue.claim(c, WORKER, read_clock(c))
        assert claim is not None
        round_rows.add_rounds(c, claim, [Round(1, "explore", 1.0, 0.5, 0.9, None, None, 1, 1, 0.5)])
        means = rows(
            c,
            "SELECT normalizer, alpha, avg(test_accuracy) AS mean FROM results "
            "GROUP BY 1, 2 ORDER BY 1",
        )
        running = rows(c, "SELECT final_round, test_accuracy FROM results WHERE state = 'running'")
        curve = rows(c, f"SELECT * FROM curves WHERE trial_id = '{claim.trial_id}'")
    assert [(m["normalizer"], m["mean"]) for m in means] == [
        ("bn", 0.6),
        ("fixbn", None),
        ("gn", None),
    ]
    assert running == [{"final_round": 1, "test_accuracy": None}]
    assert (curve[0]["round"], curve[0]["test_accuracy"], curve[0]["inherited"]) == (1, 0.9, 0)


def test_a_trial_of_two_sweeps_counts_in_both(store: Engine, tiny: Path) -> None:
    """Membership is a table; the trial names the sweep that planned it first."""
    plan = read_plan(tiny)
    with transaction(store) as c:
        planning.add_sweep(c, plan)
        assert planning.add_sweep(c, SweepSpec("second", plan.text, plan.trials[:2])).new == 0
        finish_all(c, [0.5])
        cells = rows(c, "SELECT sweep, n FROM cells WHERE normalizer = 'bn' ORDER BY sweep")
        ledger = rows(c, "SELECT * FROM ledger ORDER BY sweep")
        first = rows(c, "SELECT DISTINCT sweep FROM results")
    assert cells == [{"sweep": "second", "n": 1}, {"sweep": "tiny", "n": 1}]
    assert first == [{"sweep": "tiny"}]
    for entry in ledger:
        assert (entry["rounds_trained"], entry["rounds_shared"], entry["rounds_lost"]) == (3, 0, 0)
        assert (entry["seconds_trained"], entry["seconds_lost"]) == (1.5, 0)


def test_fields_without_a_meaning_are_null_and_booleans_are_numbers(
    store: Engine, tiny: Path
) -> None:
    """The same on both databases."""
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny, ["dataset=imagefolder", "weight_decay=0.1"]))
        found = rows(c, "SELECT normalizer, freeze_round, gn_groups, augment, decay_norm, "
                        "shards_per_client FROM results ORDER BY normalizer")  # fmt: skip
    assert [tuple(row.values()) for row in found[::2]] == [
        ("bn", None, None, 1, 1, None),
        ("fixbn", 1, None, 1, 1, None),
        ("gn", None, 2, 1, 1, None),
    ]


def test_clients_have_a_row_for_each_round_that_tested_them(store: Engine, tiny: Path) -> None:
    """By trial, round and client; none where a round or a trial did not."""
    scores = (ClientScore(0, 30, 0.5), ClientScore(2, 10, 0.25, 0.75, 4))
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
        claim = queue.claim(c, WORKER, read_clock(c))
        assert claim is not None
        plain = Round(1, "explore", 1.0, None, None, None, None, 1, 1, 0.5)
        tested = Round(2, "explore", 1.0, 0.5, 0.5, None, None, 1, 1, 0.5, clients=scores)
        assert round_rows.add_rounds(c, claim, [plain, tested]) is None
        found = rows(c, "SELECT * FROM clients ORDER BY client")
    assert [tuple(row.values()) for row in found] == [
        (claim.trial_id, 2, 0, 30, 0.5, None, None),
        (claim.trial_id, 2, 2, 10, 0.25, 0.75, 4),
    ]


def test_the_new_fields_of_a_configuration_are_told(store: Engine, tiny: Path) -> None:
    """In `results` and `cells`; a centralized trial has no partition."""
    changes = ["normalizer=bn", "seed=0", "local_epochs=2", "centralized=true", "diagnostics=true"]
    tiny.write_text(tiny.read_text().replace("local_steps = 2", ""))
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny, changes))
        columns = "centralized, partition, alpha, local_steps, local_epochs, lr_schedule, lr_gamma"
        for view in ("results", "cells"):
            (row,) = rows(c, f"SELECT {columns}, diagnostics FROM {view}")
            assert tuple(row.values()) == (1, None, None, None, 2, "constant", None, 1)

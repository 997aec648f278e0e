"""Conditions on trials, pooled rows, and tuned hyperparameters."""

from __future__ import annotations

from typing import Any

import pytest

from fedsweep.errors import RequestError
from fedsweep.reports import queries, tables
from fedsweep.reports.grouping import summarize
from fedsweep.reports.selection import parse_condition, require_field, select, tune
from tests.unit.reports.rows import failed, trial


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("alpha=0.1", [0.1]),
        ("alpha=0.1,1", [0.1, 1.0]),
        ("alpha!=0.1", [0.5, 1.0, None]),
        ("alpha >= 0.5", [0.5, 1.0]),
        ("alpha<0.5", [0.1]),
        ("alpha=none", [None]),
        ("alpha!=none,1", [0.1, 0.5]),
        ("momentum=reset", [0.1, 0.5, 1.0, None]),
        ("momentum=none", []),
        ("normalizer=none,bn", [0.1, 0.5, 1.0, None]),
        ("centralized=true", [1.0]),
    ],
)
def test_a_condition_keeps_the_rows_that_meet_it(text: str, kept: list[float | None]) -> None:
    """Numbers are compared by value. For a number, "none" means unset. For a text, it is a text."""
    rows = [trial("bn", 0, 0.5, alpha=a, centralized=int(a == 1)) for a in (0.1, 0.5, 1.0, None)]
    assert [row["alpha"] for row in select(rows, [parse_condition(text)])] == kept


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alpha", "is not a condition: write field=value"),
        ("alfa=1", "there is no field 'alfa': did you mean alpha?"),
        ("alpha=x", "alpha is a number, not 'x'"),
        ("centralized=maybe", "centralized is true or false, not 'maybe'"),
        ("momentum<reset", "< needs one number"),
        ("alpha<1,2", "< needs one number"),
        ("alpha<none", "< needs one number"),
    ],
)
def test_a_wrong_condition_is_refused(text: str, says: str) -> None:
    """The message is one line."""
    with pytest.raises(RequestError) as refused:
        parse_condition(text)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_quote_in_a_condition_is_data() -> None:
    """It is escaped in SQL."""
    assert parse_condition("model=x' OR 1=1 --").sql() == "model IN ('x'' OR 1=1 --')"
    assert (
        parse_condition("alpha!=none,1").sql("r.") == "r.alpha IS NOT NULL AND r.alpha NOT IN (1.0)"
    )
    assert require_field("lr", "--tune") == "lr"


def test_rows_can_be_pooled_and_are_still_paired() -> None:
    """A row has one α. E and the seed pair its trials, and n counts both."""
    rows = [
        trial(name, seed, base + seed / 100 + steps / 1000, local_steps=steps)
        for name, base in (("bn", 0.8), ("gn", 0.7))
        for steps in (1, 5)
        for seed in (0, 1)
    ]
    summary = summarize("s", rows, group_by=["alpha"])
    assert summary.axes == ("alpha",)
    assert summary.pooled == ("local_steps",)
    cell = summary.cells[(0.1,)]["bn", None]
    assert sorted(cell.values["test_accuracy"]) == [(0, 1), (0, 5), (1, 1), (1, 5)]
    assert cell.mean == pytest.approx(0.808)
    assert tables.footnotes(summary)[0] == "n = 4 trials unless given, over seed and E"


def runs(lr: float, *pairs: tuple[float, float]) -> list[dict[str, object]]:
    """Return trials of a learning rate from the (validation, test) accuracy of each seed."""
    return [
        trial("bn", seed, test, lr=lr, validation_accuracy=validation)
        for seed, (validation, test) in enumerate(pairs)
    ]


def test_the_learning_rate_is_chosen_by_validation_accuracy() -> None:
    """The other learning rate is better on the test set, which does not matter."""
    rows = [*runs(0.1, (0.8, 0.6), (0.7, 0.6)), *runs(0.2, (0.5, 0.9), (0.6, 0.9))]
    summary = summarize("s", tune(rows, ["lr"]), tuned=["lr"])
    ((_, entries),) = tables.rows(summary)
    assert entries[0].text == "60.00 ± 0.00 (lr=0.1)"
    assert summary.axes == ("alpha", "local_steps", "momentum")


def test_a_learning_rate_at_which_a_seed_diverged_is_not_chosen() -> None:
    """The other seeds have a higher validation accuracy, which does not matter."""
    rows = [*runs(0.1, (0.5, 0.5), (0.5, 0.5)), *runs(0.2, (0.9, 0.9))]
    rows.append(failed("bn", 1) | {"lr": 0.2, "validation_accuracy": None})
    assert {row["lr"] for row in tune(rows, ["lr"])} == {0.1}


def test_tuning_without_validation_is_refused() -> None:
    """The message says to plan with validation."""
    rows = [trial("bn", 0, 0.5, lr=lr) for lr in (0.1, 0.2)]
    with pytest.raises(RequestError, match=r"has none: plan with validation = 0\.1"):
        tune(rows, ["lr"])


def test_t_star_can_be_tuned_like_any_other_field() -> None:
    """FIXBN is one column then, and each cell has its own T*."""
    rows = [
        trial("fixbn", seed, 0.5 + t / 100, freeze_round=t, validation_accuracy=0.9 - t / 100)
        for t in (3, 6)
        for seed in (0, 1)
    ]
    summary = summarize("s", tune(rows, ["freeze_round"]), tuned=["freeze_round"])
    assert summary.columns == (("fixbn",),)
    ((_, (entry,)),) = tables.rows(summary)
    assert entry.text == "53.00 ± 0.00 (T⋆=3)"


DEPENDENT = [
    ("weight_decay", [{"weight_decay": 0.0}, {"weight_decay": 1e-3, "decay_norm": 1}]),
    (
        "lr_schedule",
        [
            {"lr_schedule": "constant"},
            {"lr_schedule": "step", "lr_step": 4, "lr_gamma": 0.1},
            {"lr_schedule": "cosine"},
        ],
    ),
]


@pytest.mark.parametrize(("field", "values"), DEPENDENT, ids=[name for name, _ in DEPENDENT])
def test_a_value_that_makes_other_fields_meaningless_competes_with_those_that_do_not(
    field: str, values: list[dict[str, Any]]
) -> None:
    """No weight decay has no `decay_norm`, and a constant learning rate has no step."""
    rows = [
        trial("bn", seed, 0.5, validation_accuracy=0.5 + place / 10, **value)
        for place, value in enumerate(values)
        for seed in (0, 1)
    ]
    chosen = tune(rows, [field])
    assert {row[field] for row in chosen} == {values[-1][field]}
    (cells,) = summarize("s", chosen, tuned=[field]).cells.values()
    assert [cell.n for cell in cells.values()] == [2]


def test_seeds_that_were_evaluated_at_other_rounds_are_tuned_together() -> None:
    """`evaluate_every` is not part of a trial's identity, so seeds may differ in it."""
    rows = [
        *runs(0.1, (0.8, 0.6), (0.4, 0.6)),
        *runs(0.2, (0.7, 0.9), (0.7, 0.9)),
    ]
    rows = [row | {"evaluate_every": 1 + (row["seed"] == 1)} for row in rows]
    chosen = tune(rows, ["lr"])
    assert {row["lr"] for row in chosen} == {0.2}
    (cells,) = summarize("s", chosen, tuned=["lr"]).cells.values()
    assert [cell.n for cell in cells.values()] == [2]


def test_a_pooled_row_of_several_tuned_values_says_so() -> None:
    """Each E has its own learning rate."""
    rows = [
        row | {"local_steps": steps, "trial_id": f"{steps}{row['trial_id']}"}
        for steps, lr in ((1, 0.1), (5, 0.2))
        for row in runs(lr, (0.5, 0.5), (0.5, 0.5))
    ]
    summary = summarize("s", rows, group_by=["alpha"], tuned=["lr"])
    ((_, (entry,)),) = tables.rows(summary)
    assert entry.text == "50.00 ± 0.00 (several lr)"


def test_a_query_uses_a_view_that_has_the_fields_of_the_condition() -> None:
    """The view `cells` has no seeds, so a condition on seeds needs single trials."""
    rows = [trial("bn", s, 0.5) for s in (0, 1)]
    summary = summarize("s", rows)
    assert " FROM cells " in queries.table_query(
        summary, "test_accuracy", [parse_condition("alpha=0.1")]
    )
    assert " FROM results " in queries.table_query(
        summary, "test_accuracy", [parse_condition("seed=0")]
    )

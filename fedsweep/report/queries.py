"""The SQL behind the numbers: each table and figure names the query that gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedsweep.plan import OUTSIDE_IDENTITY
from fedsweep.report.selection import sql_value

if TYPE_CHECKING:
    from fedsweep.report.grouping import Summary
    from fedsweep.report.selection import Condition


def cells(summary: Summary, conditions: Sequence[Condition] = ()) -> str:
    """Means and deviations of the test accuracy, a row for each cell."""
    fields = ["normalizer", *summary.arm_fields, *summary.axes]
    numbers = ["n", "n_failed", "mean_test_accuracy", "std_test_accuracy"]
    where = [f"sweep = {sql_value(summary.sweep)}", *(c.sql() for c in conditions)]
    return (
        f"SELECT {', '.join([*fields, *numbers])} FROM cells WHERE {' AND '.join(where)} "
        f"ORDER BY {', '.join(fields)}"
    )


def values(summary: Summary, measure: str, conditions: Sequence[Condition] = ()) -> str:
    """A final measure of each finished trial: what means, intervals and tests are made of."""
    fields = ["normalizer", *summary.arm_fields, *summary.axes, *summary.pooled, *summary.tuned]
    names = [f"r.{name}" for name in [*dict.fromkeys(fields), "seed", measure]]
    if summary.tuned:
        names.append("r.validation_accuracy")
    where = [
        f"m.sweep = {sql_value(summary.sweep)}",
        "r.state = 'finished'",
        *(c.sql("r.") for c in conditions),
    ]
    return (
        f"SELECT {', '.join(names)} FROM results r JOIN members m ON m.trial_id = r.trial_id "
        f"WHERE {' AND '.join(where)} ORDER BY {', '.join(names[:-1])}"
    )


def of_table(summary: Summary, measure: str, conditions: Sequence[Condition] = ()) -> str:
    """The shortest query that gives a table's numbers."""
    # `cells` has no seed, and one value of what trials of a cell may differ in.
    finer = {"seed", *OUTSIDE_IDENTITY} & {*summary.axes, *(c.field for c in conditions)}
    if measure == "test_accuracy" and not (summary.pooled or summary.tuned or finer):
        return cells(summary, conditions)
    return values(summary, measure, conditions)


def curves(sweep: str, measure: str, conditions: Sequence[Condition] = ()) -> str:
    """A measure by round."""
    where = [f"m.sweep = {sql_value(sweep)}", *(c.sql("r.") for c in conditions)]
    return (
        f"SELECT c.trial_id, c.round, c.{measure} FROM curves c "
        "JOIN results r ON r.trial_id = c.trial_id JOIN members m ON m.trial_id = c.trial_id "
        f"WHERE {' AND '.join(where)} ORDER BY c.trial_id, c.round"
    )


def searched(sweep: str, metric: str) -> str:
    """What each arm's search saw: the metric of each trial that a proposal had."""
    return (
        f"SELECT a.arm_id, p.number, r.freeze_round, r.seed, r.{metric}, p.why FROM sweeps s "
        "JOIN arms a ON a.sweep = s.id JOIN proposals p ON p.arm = a.id "
        "JOIN proposed d ON d.arm = a.id AND d.number = p.number "
        "JOIN trials t ON t.id = d.trial JOIN results r ON r.trial_id = t.trial_id "
        f"WHERE s.name = {sql_value(sweep)} ORDER BY a.id, p.number, r.seed"
    )

"""The SQL queries that give the numbers of tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedsweep.plans import OUTSIDE_IDENTITY
from fedsweep.reports.selection import sql_value

if TYPE_CHECKING:
    from fedsweep.reports.grouping import Summary
    from fedsweep.reports.selection import Condition


def cells_query(summary: Summary, conditions: Sequence[Condition] = ()) -> str:
    """Select the mean and standard deviation of the test accuracy of each cell."""
    fields = ["normalizer", *summary.arm_fields, *summary.axes, *_rounds(summary)]
    numbers = ["n", "n_failed", "mean_test_accuracy", "std_test_accuracy"]
    where = [f"sweep = {sql_value(summary.sweep)}", *(c.sql() for c in conditions)]
    return (
        f"SELECT {', '.join([*fields, *numbers])} FROM cells WHERE {' AND '.join(where)} "
        f"ORDER BY {', '.join(fields)}"
    )


def values_query(summary: Summary, measure: str, conditions: Sequence[Condition] = ()) -> str:
    """Select a final measure of each finished trial."""
    fields = ["normalizer", *summary.arm_fields, *summary.axes, *summary.pooled, *summary.tuned]
    fields += _rounds(summary)
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


def _rounds(summary: Summary) -> list[str]:
    """Return the field that turns a share of the rounds into T*, if the columns have shares."""
    return ["rounds"] if summary.has_shares and "rounds" not in summary.axes else []


def table_query(summary: Summary, measure: str, conditions: Sequence[Condition] = ()) -> str:
    """Return the shortest query that gives the numbers of a table."""
    # The view `cells` has no seeds, and one value of each field in which its trials may differ.
    finer = {"seed", *OUTSIDE_IDENTITY} & {*summary.axes, *(c.field for c in conditions)}
    if measure == "test_accuracy" and not (summary.pooled or summary.tuned or finer):
        return cells_query(summary, conditions)
    return values_query(summary, measure, conditions)


def curves_query(sweep: str, measure: str, conditions: Sequence[Condition] = ()) -> str:
    """Select a measure by trial and round."""
    where = [f"m.sweep = {sql_value(sweep)}", *(c.sql("r.") for c in conditions)]
    return (
        f"SELECT c.trial_id, c.round, c.{measure} FROM curves c "
        "JOIN results r ON r.trial_id = c.trial_id JOIN members m ON m.trial_id = c.trial_id "
        f"WHERE {' AND '.join(where)} ORDER BY c.trial_id, c.round"
    )


def search_query(sweep: str, metric: str) -> str:
    """Select the metric of each trial that a search proposed, by arm and proposal."""
    return (
        f"SELECT a.arm_id, p.number, r.freeze_round, r.seed, r.{metric}, p.why FROM sweeps s "
        "JOIN arms a ON a.sweep = s.id JOIN proposals p ON p.arm = a.id "
        "JOIN proposed d ON d.arm = a.id AND d.number = p.number "
        "JOIN trials t ON t.id = d.trial JOIN results r ON r.trial_id = t.trial_id "
        f"WHERE s.name = {sql_value(sweep)} ORDER BY a.id, p.number, r.seed"
    )

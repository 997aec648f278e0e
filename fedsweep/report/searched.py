"""What a sweep's searches found, read from the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from fedsweep.report.findings import Finding
    from fedsweep.report.labels import Row


def findings(
    connection: Connection, sweep: str, rows: Sequence[Row] | None = None
) -> list[Finding]:
    """What a sweep's searches found, in the order of the plan.

    Of `rows` (the sweep's rows of `results`) cell, seed and test accuracy are looked at.
    """
    from fedsweep.store import arms, trial_rows

    found = arms.of_sweep(connection, sweep)
    if not found:  # before anything heavy is imported
        return []
    from fedsweep.report.findings import find
    from fedsweep.search.planner import history_of, space_of

    rows = trial_rows.results(connection, sweep) if rows is None else rows
    out = []
    for arm in found:
        history = history_of(arms.tried(connection, arm))
        space = space_of(connection, arm, history)
        proposals = arms.proposals_of(connection, arm.key)
        out.append(find(arm, space, history, proposals, rows))
    return out

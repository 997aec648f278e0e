"""The views: a documented contract, with the same columns and values on both databases.

They are dropped before a migration and created after it, from this file. New columns are only added
at the end, so none changes its place. The views use only functions of a stock sqlite3, which has no
square root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep import fields, measures
from fedsweep.fields import config_columns
from fedsweep.measures import IN_CURVES, OF_TRIALS, Measure
from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.base import Deviation, Dialect

NAMES = ["results", "curves", "members", "cells", "ledger", "clients"]

ROWS = {
    "results": "trial: identity, state, configuration, final numbers",
    "curves": "trial and round: phase, losses, accuracies, seconds, diagnostics",
    "members": "sweep and trial that belongs to it",
    "cells": "sweep and configuration without its seed: counts, mean, sample standard deviation",
    "ledger": "sweep: rounds and seconds trained, shared and lost",
    "clients": "trial, round and client, if `client_accuracy` is set",
}
"""The subject of one row of each view, with its contents."""

MEANINGS = {
    "trial_id": "Id of the trial, a hash of its identity.",
    "cell_id": "Id of the configuration without its seed.",
    "sweep": "Name of the sweep.",
    "state": "State of the trial.",
    "failure": "Kind of failure; NULL if the trial has not failed.",
    "config": "The whole configuration, as JSON.",
    "final_round": "Last round that is stored.",
    "device": "Device of the last attempt.",
    "numerics_id": "Hash of the settings that decide the bits of the stored rounds.",
    "attempts": "Number of attempts.",
    "error": "Message of the failure.",
    "priority": "Priority; the highest runs first.",
    "held": "Reason why the trial is not claimed: pause, drain, budget or cancel.",
    "rounds_shared": "Rounds that were inherited from another trial of the same trunk.",
    "frozen_at": "T⋆, also of a trial that has chosen it itself.",
    "round": "Round, counted from 1.",
    "phase": "`explore` until the statistics are frozen, `calibrate` afterwards.",
    "inherited": "1 if another trial of the same trunk has trained the round, otherwise 0.",
    "client": "Number of the client, counted from 0.",
    "samples": "Training samples of the client.",
    "own_accuracy": "Accuracy of the client on its own test images.",
    "own_samples": "Test images of the client.",
    "n": "Finished trials.",
    "n_failed": "Failed trials.",
    "n_diverged": "Diverged trials, which are failed trials too.",
    "mean_test_accuracy": "Mean of the test accuracy over the finished trials.",
    "std_test_accuracy": "Sample standard deviation of it; NULL for one trial.",
    "rounds_trained": "Rounds that attempts have trained.",
    "rounds_lost": "Rounds that were trained again although they had been stored, or replaced.",
    "seconds_trained": "Seconds of training.",
    "seconds_saved": "Seconds that the inherited rounds took in the trials that trained them.",
    "seconds_lost": "Seconds of lost rounds.",
}
"""The meaning of each column that is neither a field of the configuration nor a measure."""

IN_VIEW = {
    ("results", "sweep"): "Name of the sweep that planned the trial first; see `members`.",
    ("ledger", "rounds_shared"): "Rounds that trials inherited instead of training them.",
}
"""The meaning of columns that differs from that of the same name in other views."""


def create_views(connection: Connection) -> None:
    """Create every view. Call it after the tables have this version's columns."""
    for statement in statements(dialect_of(connection)).values():
        connection.execute(sa.text(statement))


@cache
def statements(dialect: Dialect) -> dict[str, str]:
    """Return the statement that makes each view, as SQLite keeps it."""
    bodies = _bodies() | {"cells": _cells(dialect.deviation)}
    return {name: f"CREATE VIEW {name} AS {bodies[name]}".rstrip() for name in NAMES}


def drop_views(connection: Connection) -> None:
    """Remove every view, so that the tables can change under them."""
    for name in reversed(NAMES):
        connection.execute(sa.text(f"DROP VIEW IF EXISTS {name}"))


_ADDED = {
    3: ["t.priority", "t.held"],
    4: ["t.rounds_shared"],
    5: ["coalesce(t.freeze_round, t.frozen_at) AS frozen_at"],
}
"""Columns of `results` that are no field and no measure, by the schema that added them."""

_LATEST = max(
    *_ADDED,
    *(field.since for field in fields.CATALOG),
    *(measure.since for measure in measures.CATALOG),
)
"""The last schema that added a column to a view."""


def _fields(schema: int) -> list[str]:
    """Return the columns of the configuration fields that this schema added."""
    # SQLite has no boolean: 0 and 1 on both.
    kinds = config_columns()
    return [
        f"CAST(t.{name} AS INTEGER) AS {name}" if kinds[name] is bool else f"t.{name}"
        for name in fields.added_by(schema)
    ]


def _measures(alias: str, shown: Iterable[Measure], schema: int) -> list[str]:
    """Return the columns of those of the measures that this schema added."""
    return [f"{alias}.{measure.name}" for measure in shown if measure.since == schema]


def _list(columns: Iterable[str]) -> str:
    return ", ".join(columns)


def _later(columns: Callable[[int], Iterable[str]]) -> str:
    """Return the columns that each schema after the first added: a new one comes last."""
    return _list(column for schema in range(2, _LATEST + 1) for column in columns(schema))


def _added_to_results(schema: int) -> list[str]:
    return [*_fields(schema), *_measures("t", OF_TRIALS, schema), *_ADDED.get(schema, ())]


def _bodies() -> dict[str, str]:
    return {
        "results": f"""
            SELECT t.trial_id, t.cell_id, s.name AS sweep, t.state, t.failure,
                   {_list(_fields(1))},
                   t.config, t.final_round, {_list(_measures("t", OF_TRIALS, 1))},
                   t.device, t.numerics_id,
                   (SELECT count(*) FROM attempts a WHERE a.trial = t.id) AS attempts, t.error,
                   {_later(_added_to_results)}
            FROM trials t JOIN sweeps s ON s.id = t.sweep""",
        "curves": f"""
            SELECT t.trial_id, r.round, r.phase, {_list(_measures("r", IN_CURVES, 1))},
                   r.inherited, {_later(lambda schema: _measures("r", IN_CURVES, schema))}
            FROM rounds r JOIN trials t ON t.id = r.trial""",
        "members": """
            SELECT s.name AS sweep, t.trial_id
            FROM sweep_members m JOIN sweeps s ON s.id = m.sweep JOIN trials t ON t.id = m.trial""",
        "ledger": """
            SELECT s.name AS sweep,
                   coalesce(a.rounds_trained, 0) AS rounds_trained,
                   coalesce(i.rounds_shared, 0) AS rounds_shared,
                   coalesce(a.rounds_lost, 0) AS rounds_lost,
                   coalesce(a.seconds_trained, 0) AS seconds_trained,
                   coalesce(i.seconds_saved, 0) AS seconds_saved,
                   coalesce(a.seconds_lost, 0) AS seconds_lost
            FROM sweeps s
            LEFT JOIN (
                SELECT m.sweep, CAST(sum(rounds_trained) AS BIGINT) AS rounds_trained,
                       CAST(sum(rounds_lost) AS BIGINT) AS rounds_lost,
                       sum(seconds_trained) AS seconds_trained, sum(seconds_lost) AS seconds_lost
                FROM sweep_members m JOIN attempts a ON a.trial = m.trial GROUP BY m.sweep
            ) a ON a.sweep = s.id
            LEFT JOIN (
                SELECT m.sweep, count(*) AS rounds_shared, sum(r.seconds) AS seconds_saved
                FROM rounds r JOIN sweep_members m ON m.trial = r.trial
                WHERE r.inherited = 1 GROUP BY m.sweep
            ) i ON i.sweep = s.id""",
        "clients": """
            SELECT t.trial_id, c.round, c.client, c.samples, c.test_accuracy,
                   c.own_accuracy, c.own_samples
            FROM client_rounds c JOIN trials t ON t.id = c.trial""",
    }


_GROUPS = """
    SELECT m.sweep, t.cell_id, min(t.id) AS one,
           sum(CASE WHEN t.state = 'finished' THEN 1 ELSE 0 END) AS n,
           sum(CASE WHEN t.state = 'failed' THEN 1 ELSE 0 END) AS n_failed,
           sum(CASE WHEN t.failure = 'diverged' THEN 1 ELSE 0 END) AS n_diverged,
           avg(CASE WHEN t.state = 'finished' THEN t.test_accuracy END) AS mean
"""

_FROM_MEMBERS = "FROM sweep_members m JOIN trials t ON t.id = m.trial GROUP BY m.sweep, t.cell_id"


def _cells_select(std: str, joins: str) -> str:
    first = [column for column in _fields(1) if column != "t.seed"]
    return f"""
        SELECT s.name AS sweep, g.cell_id, {_list(first)},
               g.n, g.n_failed, g.n_diverged,
               g.mean AS mean_test_accuracy, {std} AS std_test_accuracy,
               {_later(_fields)}
        FROM g JOIN trials t ON t.id = g.one JOIN sweeps s ON s.id = g.sweep {joins}"""


def _cells(std: Deviation) -> str:
    groups = f"{_GROUPS}{std.aggregate} {_FROM_MEMBERS}"
    return f"{std.start} g AS ({groups}){std.tables}{_cells_select(std.column, std.join)}"

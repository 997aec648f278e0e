"""The views: a documented contract, the same columns and values on both databases.

They are dropped before a migration and made again after it, from this file. Columns are only ever
added, at the end: none changes its place. Only functions that a stock sqlite3 has: no square root,
for one.
"""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.spec import config_columns
from fedsweep.store.dialects import dialect_of
from fedsweep.store.dialects.base import Deviation, Dialect

FIRST_FIELDS = [
    "dataset",
    "model",
    "normalizer",
    "partition",
    "alpha",
    "local_steps",
    "freeze_round",
    "momentum",
    "clients",
    "participation",
    "rounds",
    "seed",
]
"""The configuration columns that lead, by contract."""

NEXT_FIELDS = [
    "fingerprint",
    "image_size",
    "augment",
    "gn_groups",
    "freeze",
    "shards_per_client",
    "validation",
    "batch_size",
    "lr",
    "clip_norm",
    "momentum_factor",
    "weight_decay",
    "decay_norm",
    "dtype",
    "evaluate_every",
]
"""Those that follow at once: the rest of the first schema's."""

LATER_FIELDS = [
    "image_height",
    "agc_clip",
    "centralized",
    "min_samples",
    "local_epochs",
    "lr_schedule",
    "lr_step",
    "lr_gamma",
    "server_momentum",
    "client_accuracy",
    "keep_weights",
    "diagnostics",
]
"""Those of the second schema, behind the first one's columns."""

LATEST_FIELDS = ["snapshot_every"]
"""Those of the third."""

NEWEST_FIELDS = ["freeze_rule"]
"""Those of the fifth."""

NAMES = ["results", "curves", "members", "cells", "ledger", "clients"]


def create_views(connection: Connection) -> None:
    """Make every view; to be called after the tables are as this version wants them."""
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


def _fields(names: list[str], *, seed: bool = True) -> str:
    # SQLite has no boolean: 0 and 1 on both.
    kinds = config_columns()
    return ", ".join(
        f"CAST(t.{name} AS INTEGER) AS {name}" if kinds[name] is bool else f"t.{name}"
        for name in names
        if seed or name != "seed"
    )


def _bodies() -> dict[str, str]:
    return {
        "results": f"""
            SELECT t.trial_id, t.cell_id, s.name AS sweep, t.state, t.failure,
                   {_fields(FIRST_FIELDS + NEXT_FIELDS)},
                   t.config, t.final_round, t.test_accuracy, t.test_loss, t.validation_accuracy,
                   t.best_test_accuracy, t.best_round, t.bytes_up, t.bytes_down, t.seconds,
                   t.device, t.numerics_id,
                   (SELECT count(*) FROM attempts a WHERE a.trial = t.id) AS attempts, t.error,
                   {_fields(LATER_FIELDS)},
                   t.test_miou, t.mean_client_accuracy, t.worst_client_accuracy,
                   {_fields(LATEST_FIELDS)}, t.priority, t.held,
                   t.rounds_shared, {_fields(NEWEST_FIELDS)},
                   coalesce(t.freeze_round, t.frozen_at) AS frozen_at
            FROM trials t JOIN sweeps s ON s.id = t.sweep""",
        "curves": """
            SELECT t.trial_id, r.round, r.phase, r.train_loss, r.test_loss, r.test_accuracy,
                   r.validation_loss, r.validation_accuracy, r.seconds, r.inherited,
                   r.test_miou, r.mean_client_accuracy, r.worst_client_accuracy,
                   r.statistics_mismatch, r.gradient_deviation, r.client_drift,
                   r.statistics_mismatch_layers
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
            SELECT t.trial_id, c.round, c.client, c.samples, c.test_accuracy
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
    return f"""
        SELECT s.name AS sweep, g.cell_id, {_fields(FIRST_FIELDS + NEXT_FIELDS, seed=False)},
               g.n, g.n_failed, g.n_diverged,
               g.mean AS mean_test_accuracy, {std} AS std_test_accuracy,
               {_fields(LATER_FIELDS + LATEST_FIELDS + NEWEST_FIELDS)}
        FROM g JOIN trials t ON t.id = g.one JOIN sweeps s ON s.id = g.sweep {joins}"""


def _cells(std: Deviation) -> str:
    groups = f"{_GROUPS}{std.aggregate} {_FROM_MEMBERS}"
    return f"{std.start} g AS ({groups}){std.tables}{_cells_select(std.column, std.join)}"

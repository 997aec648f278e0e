"""Whether a store is sound: by the database's own check, and by what must hold in it."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from fedsweep.store.engine import reading, unbound

RULES = {
    "finished, but not every round is there once": """
        SELECT t.trial_id FROM trials t LEFT JOIN (
            SELECT trial, count(*) AS n, min(round) AS first, max(round) AS last
            FROM rounds GROUP BY trial
        ) r ON r.trial = t.id
        WHERE t.state = 'finished'
          AND (r.n IS NULL OR r.n <> t.rounds OR r.first <> 1 OR r.last <> t.rounds)""",
    "finished, but not by one attempt": """
        SELECT t.trial_id FROM trials t WHERE t.state = 'finished' AND 1 <> (
            SELECT count(*) FROM attempts a WHERE a.trial = t.id AND a.outcome = 'finished')""",
    "finished, but its numbers are not its last round's": """
        SELECT t.trial_id FROM trials t
        JOIN rounds r ON r.trial = t.id AND r.round = t.rounds
        WHERE t.state = 'finished' AND NOT (
            t.test_accuracy = r.test_accuracy AND t.final_round = t.rounds)""",
    "running, but its attempt has ended": """
        SELECT t.trial_id FROM trials t WHERE t.state = 'running' AND NOT EXISTS (
            SELECT 1 FROM attempts a
            WHERE a.trial = t.id AND a.fence = t.fence AND a.outcome IS NULL)""",
    "not running, but an attempt has no end": """
        SELECT t.trial_id FROM trials t JOIN attempts a ON a.trial = t.id
        WHERE a.outcome IS NULL AND (t.state <> 'running' OR a.fence <> t.fence)""",
    "a gap in its rounds": """
        SELECT t.trial_id FROM trials t JOIN rounds r ON r.trial = t.id GROUP BY t.trial_id
        HAVING count(*) <> max(r.round) OR min(r.round) <> 1""",
}
"""What is wrong with a trial that a query finds."""


def faults(engine: Engine) -> list[str]:
    """What is wrong with a store, a line each; none where it is sound."""
    with reading(engine) as connection:
        found = _OWN_CHECK[engine.dialect.name](connection)
        for wrong, query in RULES.items():
            ids = list(connection.execute(sa.text(query)).scalars())
            found += [f"trial {trial_id}: {wrong}" for trial_id in ids]
    return found


def _check_sqlite(connection: Connection) -> list[str]:
    unbound(connection)
    said = list(connection.execute(sa.text("PRAGMA integrity_check")).scalars())
    keys = connection.execute(sa.text("PRAGMA foreign_key_check")).all()
    damaged = [f"SQLite: {line}" for line in said if line != "ok"]
    return damaged + [f"SQLite: a row of {row[0]} refers to none of {row[2]}" for row in keys]


def _check_postgres(connection: Connection) -> list[str]:
    """By the extension amcheck, where an administrator has installed it."""
    there = sa.text("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'")
    if connection.execute(there).first() is None:
        return []
    indexes = sa.text(
        "SELECT c.oid, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_am a ON a.oid = c.relam JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE a.amname = 'btree' AND n.nspname = current_schema()"
    )
    found = []
    for oid, name in connection.execute(indexes).all():
        try:
            with connection.begin_nested():
                connection.execute(sa.text("SELECT bt_index_check(:oid, true)"), {"oid": oid})
        except DBAPIError as error:
            found.append(f"Postgres: index {name}: {error.orig}")
    return found


_OWN_CHECK = {"sqlite": _check_sqlite, "postgresql": _check_postgres}

"""The integrity of a store: the database's own check, and the rules that its rows must meet."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep.states import Outcome
from fedsweep.store.artifacts import Folder, folder_of
from fedsweep.store.dialects import dialect_of
from fedsweep.store.file_index import Weights
from fedsweep.store.file_places import Home
from fedsweep.store.tables import attempts, identity, snapshots, sweeps, trials, weights
from fedsweep.store.transactions import reading

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
    "its weights are in a file of another trial": """
        SELECT t.trial_id FROM trials t JOIN weights w ON w.trial = t.id
        WHERE substr(w.name, 1, length(t.trial_id) + 1) <> t.trial_id || '-'""",
    "its weights are in the file of a snapshot": """
        SELECT t.trial_id FROM trials t JOIN weights w ON w.trial = t.id
        JOIN snapshots s ON s.trial = t.id AND s.name = w.name""",
}
"""The fault of the trials that each query finds."""


def faults(engine: Engine) -> list[str]:
    """Return the faults of a store, one line each. The list is empty if it is sound."""
    with reading(engine) as connection:
        lines = dialect_of(engine).own_check(connection)
        for fault, query in RULES.items():
            ids = list(connection.execute(sa.text(query)).scalars())
            lines += [f"trial {trial_id}: {fault}" for trial_id in ids]
    return lines


@dataclass
class FilesChecked:
    """The result of a check of every file that the database names."""

    sound: int = 0
    """The number of files that are as they were written."""
    faults: list[str] = field(default_factory=list)
    """A line for each file that is missing, damaged or out of reach."""
    elsewhere: Counter[str] = field(default_factory=Counter)
    """The number of files that are on other machines, by machine."""


def check_files(engine: Engine) -> FilesChecked:
    """Read every file of weights and snapshots, and compare it with its checksum."""
    checked = FilesChecked()
    for table, what in ((weights, "weights are"), (snapshots, "snapshot is")):
        with reading(engine) as connection:
            rows = connection.execute(_files_of(table)).all()
        folders = {home: folder_of(engine.url, home) for home in {_home(row) for row in rows}}
        for row in rows:
            folder = folders[_home(row)]
            if folder.read(Weights(row.name, row.bytes, row.sha256)) is not None:
                checked.sound += 1
                continue
            fault = _fault(folder, row.name)
            if fault == MISSING and not folder.shared and row.host != platform.node():
                checked.elsewhere[str(row.host)] += 1
            elif _is_named(engine, table, row):
                place = f"{folder}/{row.name}"
                checked.faults.append(f"trial {row.trial_id}: its {what} {fault} ({place})")
    return checked


MISSING = "missing"


def _home(row: Any) -> Home:
    return Home(row.id, row.artifacts)


def _files_of(table: sa.Table) -> sa.Select[Any]:
    """Select the files that a table names, with their places and the machines that wrote them."""
    finished = attempts.c.outcome == Outcome.FINISHED.value
    host = (
        sa.select(attempts.c.host)
        .where(attempts.c.trial == table.c.trial)
        .order_by(sa.case((finished, 0), else_=1), attempts.c.fence.desc())
        .limit(1)
        .scalar_subquery()
        .label("host")
    )
    return (
        sa.select(trials.c.trial_id, table.c.trial, table.c.name, table.c.bytes, table.c.sha256)
        .add_columns(identity.c.id, sweeps.c.artifacts, host)
        .select_from(table.join(trials, trials.c.id == table.c.trial))
        .join(sweeps, sweeps.c.id == trials.c.sweep)
        .join(identity, sa.true())
        .order_by(table.c.trial, table.c.name)
    )


def _fault(folder: Folder, name: str) -> str:
    """Return the fault of a file that could not be read."""
    try:
        return MISSING if folder.size(name) is None else "damaged"
    except OSError as error:
        return f"out of reach: {error.strerror or error}"


def _is_named(engine: Engine, table: sa.Table, row: Any) -> bool:
    """Return whether the database still names a file.

    A worker may have replaced a snapshot in the meantime.
    """
    same = (table.c.trial == row.trial) & (table.c.name == row.name)
    with reading(engine) as connection:
        query = sa.select(sa.literal(1)).where(same, table.c.sha256 == row.sha256)
        return connection.execute(query).first() is not None

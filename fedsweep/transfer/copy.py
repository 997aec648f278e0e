"""Copy a database while workers use it, and read the copy back."""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fedsweep.errors import FedsweepError, RequestError
from fedsweep.states import Outcome, TrialState
from fedsweep.store.dialects import dialect_of
from fedsweep.store.rows import Row
from fedsweep.store.tables import (
    attempts,
    files,
    identity,
    launches,
    metadata,
    snapshots,
    stops,
    trials,
    weights,
)
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer.rows import Parts, Values, begin, dicts, insert, row_parts
from fedsweep.transfer.stores import share_approvals
from fedsweep.transfer.weights import weights_to_add

COPIED = "copied"
"""The error of an attempt that was still open in the source of the copy."""


TABLES = [
    t for t in metadata.sorted_tables if t not in (identity, launches, snapshots, files, stops)
]
"""The tables of a copy. A table comes after the tables that it refers to."""


@dataclass(frozen=True)
class CopiedTable:
    """A table that was copied and checked: the number of rows and the sum of their hashes agree."""

    name: str
    rows: int


@dataclass(frozen=True)
class Copied:
    """The result of a copy: its tables and files."""

    tables: tuple[CopiedTable, ...]
    lost: tuple[str, ...]
    """Files of weights that were missing or damaged. They were left out, with their rows."""


def copy_store(source: Engine, target: Engine) -> Copied:
    """Copy a store into an empty one, and read back the copy. All of it is written, or nothing.

    Values are the same, bit for bit, except that SQLite does not keep the sign of a zero. Row ids
    stay the same.

    Raises:
        RequestError: the target is the source, or not empty.
        StoreError: a value, or a file, cannot be stored in the target.
        FedsweepError: what was read back is not what was written.

    """
    lost: list[str] = []
    with reading(source) as reader, transaction(target) as writer:
        begin(reader, writer)
        _require_empty(writer)
        share_approvals(reader, writer)
        now = time.time()

        def carried(table: sa.Table) -> Parts:
            for part in row_parts(reader, sa.select(table)):
                if table is weights:
                    yield weights_to_add(reader, writer, dicts(table, part), None, lost)
                elif table in (trials, attempts):
                    rows = [at_rest(table.name, row, now) for row in dicts(table, part)]
                    yield [tuple(row.values()) for row in rows]
                else:
                    yield [tuple(row) for row in part]

        tables = tuple(_copy_table(writer, table, carried(table)) for table in TABLES)
        dialect_of(writer).advance_keys(writer, TABLES)
    return Copied(tables, tuple(lost))


def at_rest(table: str, row: Row, now: float) -> Row:
    """Return a row for a copy, in which no attempt is running.

    This is the only change of a trial's state outside `queue`. A running trial is queued, and its
    attempt is released. Times on the source's clock are removed.
    """
    if table == trials.name:
        state = TrialState.QUEUED.value if row["state"] == TrialState.RUNNING else row["state"]
        return row | {"state": state, "lease_until": None, "clock": None, "not_before": None}
    if table == attempts.name and row["outcome"] is None:
        return row | {"outcome": Outcome.RELEASED.value, "error": COPIED, "ended_at": now}
    return row


def _copy_table(writer: Connection, table: sa.Table, parts: Parts) -> CopiedTable:
    written, stored = _Tally(), _Tally()
    with contextlib.closing(parts):
        for part in parts:
            insert(writer, table, table.columns.keys(), part)
            written.count(part)
    for stored_part in row_parts(writer, sa.select(table)):
        stored.count(map(tuple, stored_part))
    if written != stored:
        raise FedsweepError(
            f"{table.name} did not come over: {stored.rows:,} rows were read back where "
            f"{written.rows:,} were written, or values differ; nothing was kept: check the disk of "
            "the copy, and try again"
        )
    return CopiedTable(table.name, written.rows)


@dataclass
class _Tally:
    """The number of rows, and a sum over a hash of each row, in any order."""

    rows: int = 0
    sum: int = 0

    def count(self, rows: Iterable[Values]) -> None:
        for row in rows:
            packed = marshal.dumps(row, 2)  # types, and the bits of floats; the same for equal rows
            if _MINUS_ZERO in packed:
                packed = marshal.dumps(tuple([_without_sign_of_zero(v) for v in row]), 2)
            digest = hashlib.blake2b(packed, digest_size=8).digest()
            self.sum += int.from_bytes(digest, "little")
            self.rows += 1


_MINUS_ZERO = marshal.dumps(-0.0, 2)


def _without_sign_of_zero(value: Any) -> Any:
    return value + 0.0 if isinstance(value, float) else value


def _require_empty(writer: Connection) -> None:
    for table in TABLES:
        if writer.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first():
            raise RequestError(
                f"TO is not empty, it has {table.name}: name a new database, or add to this one "
                "with `fedsweep db merge`"
            )

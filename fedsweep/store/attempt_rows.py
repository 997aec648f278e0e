"""Attempts: their rows, their logs and the last lines of their processes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.log_handler import Line, cut
from fedsweep.store.claim import Claim
from fedsweep.store.dialects.base import Dialect
from fedsweep.store.file_index import ADD_FILE, drop_snapshots
from fedsweep.store.file_names import file_names
from fedsweep.store.prepared import Prepared
from fedsweep.store.tables import (
    attempts,
    client_rounds,
    logs,
    rounds,
    trials,
)


def start_attempt(
    connection: Connection,
    claim: Claim,
    *,
    numerics_id: str,
    numerics: Mapping[str, str],
    data_fingerprint: str,
    provenance: Mapping[str, Any] | None = None,
) -> list[str]:
    """Store the numerics, data and provenance of an attempt, and index the files it may write.

    All rounds of a trial have the same numerics. If the stored rounds have others, they are
    deleted with their snapshots, and the attempt counts them as lost.

    Returns the names of the deleted snapshots' files. Call this after `queue.renew`.
    """
    key = {"trial": claim.trial, "fence": claim.fence}
    ADD_FILE.many(connection, [key | {"name": name} for name in file_names(claim)])
    this_attempt = (attempts.c.trial == claim.trial) & (attempts.c.fence == claim.fence)
    lost = seconds = 0
    dropped: list[str] = []
    if claim.numerics_id is not None and claim.numerics_id != numerics_id:
        old = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(rounds.c.seconds), 0))
        lost, seconds = connection.execute(old.where(rounds.c.trial == claim.trial)).one()
        for table in (rounds, client_rounds):
            connection.execute(sa.delete(table).where(table.c.trial == claim.trial))
        dropped = drop_snapshots(connection, claim.trial)
        connection.execute(
            sa.update(trials)
            .where(trials.c.id == claim.trial)
            .values(final_round=None, seconds=None, rounds_shared=0)
        )
    connection.execute(
        sa.update(attempts)
        .where(this_attempt)
        .values(
            numerics_id=numerics_id,
            numerics=json.dumps(dict(numerics)),
            data_fingerprint=data_fingerprint,
            provenance=None if provenance is None else json.dumps(dict(provenance)),
            rounds_lost=attempts.c.rounds_lost + lost,
            seconds_lost=attempts.c.seconds_lost + seconds,
        )
    )
    connection.execute(
        sa.update(trials)
        .where(trials.c.id == claim.trial)
        .values(numerics_id=numerics_id, data_fingerprint=data_fingerprint)
    )
    return dropped


def add_logs(connection: Connection, claim: Claim, lines: Sequence[Line]) -> None:
    """Store the log lines of an attempt. A stored line of the same number is overwritten.

    Call this after `queue.renew`, so that an attempt without a lease adds nothing.
    """
    key = {"trial": claim.trial, "fence": claim.fence}
    if lines:
        _ADD_LINE.many(connection, [key | asdict(line) for line in lines])


def add_last_words(connection: Connection, claim: Claim, words: Sequence[str]) -> None:
    """Store the last output of a slot's dead process after its stored lines; see `add_logs`."""
    this_attempt = (logs.c.trial == claim.trial) & (logs.c.fence == claim.fence)
    last = sa.select(sa.func.coalesce(sa.func.max(logs.c.n), 0)).where(this_attempt)
    first, now = connection.execute(last).scalar_one() + 1, time.time()
    lines = [Line(n, now, "stderr", cut(word)) for n, word in enumerate(words, first)]
    add_logs(connection, claim, lines)


def _upsert_line(dialect: Dialect) -> sa.ClauseElement:
    added = dialect.insert(logs).values({c.name: sa.bindparam(c.name) for c in logs.c})
    changed = {name: added.excluded[name] for name in ("at", "level", "message")}
    upsert: sa.ClauseElement = added.on_conflict_do_update(
        index_elements=["trial", "fence", "n"], set_=changed
    )
    return upsert


_ADD_LINE = Prepared(_upsert_line)

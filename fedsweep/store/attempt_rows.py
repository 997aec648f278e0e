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
    """Say what an attempt computes under and runs with, and index the files that it may write.
    Rounds stored under other numerics are dropped, as lost, and so are their snapshots: a trial's
    rounds are all of one kind.

    Returns the names of the dropped snapshots' files; to be called behind `queue.renew`.
    """
    key = {"trial": claim.trial, "fence": claim.fence}
    ADD_FILE.many(connection, [key | {"name": name} for name in file_names(claim)])
    mine = (attempts.c.trial == claim.trial) & (attempts.c.fence == claim.fence)
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
        .where(mine)
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
    """Store what was said during an attempt; a line that is there is written over.

    To be called behind `queue.renew`, so that who has lost its lease adds nothing.
    """
    key = {"trial": claim.trial, "fence": claim.fence}
    if lines:
        _SAY.many(connection, [key | asdict(line) for line in lines])


def add_last_words(connection: Connection, claim: Claim, words: Sequence[str]) -> None:
    """Store what a slot's process said as it died, behind what it had stored; see `add_logs`."""
    mine = (logs.c.trial == claim.trial) & (logs.c.fence == claim.fence)
    last = sa.select(sa.func.coalesce(sa.func.max(logs.c.n), 0)).where(mine)
    first, now = connection.execute(last).scalar_one() + 1, time.time()
    said = [Line(n, now, "stderr", cut(word)) for n, word in enumerate(words, first)]
    add_logs(connection, claim, said)


def _saying(dialect: Dialect) -> sa.ClauseElement:
    added = dialect.insert(logs).values({c.name: sa.bindparam(c.name) for c in logs.c})
    said = {name: added.excluded[name] for name in ("at", "level", "message")}
    rewritten: sa.ClauseElement = added.on_conflict_do_update(
        index_elements=["trial", "fence", "n"], set_=said
    )
    return rewritten


_SAY = Prepared(_saying)

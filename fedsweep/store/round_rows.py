"""Rounds: store the measurements of an attempt, and compare them with stored ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.plans import (
    ClientScore,
    Round,
)
from fedsweep.store.batches import batches
from fedsweep.store.claim import Claim
from fedsweep.store.prepared import Prepared, Steps
from fedsweep.store.round_difference import Differs, as_stored, differences
from fedsweep.store.tables import (
    client_rounds,
    rounds,
)


def add_rounds(
    connection: Connection,
    claim: Claim,
    done: Sequence[Round],
    final_round: int | None = None,
    memory: int | None = None,
) -> Differs | None:
    """Store an attempt's rounds. A round that is stored already is compared, and counts as lost.

    Return the first difference, with nothing written. Call it after `queue.renew`, which returns
    the last stored round: later rounds have nothing to compare with. `memory` is the maximum of the
    device's memory that the attempt has taken, in bytes.
    """
    if not done:
        return None
    beyond = final_round is not None and done[0].round > final_round
    stored = {} if beyond else _stored(connection, claim, done)
    again = [r for r in done if r.round in stored]
    if difference := _difference(connection, claim, again, stored):
        return difference
    fresh = [r for r in done if r.round not in stored]
    if fresh:
        _ADD_ROUND.many(connection, [as_stored(r) | {"trial": claim.trial} for r in fresh])
        for rows in batches([row for r in fresh for row in _client_rows(claim, r)]):
            connection.execute(sa.insert(client_rounds), rows)
    counts = {
        "of_trial": claim.trial,
        "of_fence": claim.fence,
        "last": fresh[-1].round if fresh else None,
        "more_seconds": sum(r.seconds for r in fresh),
        "n_trained": len(done),
        "n_new": len(fresh),
        "n_lost": len(again),
        "s_trained": sum(r.seconds for r in done),
        "s_lost": sum(r.seconds for r in again),
        "at_most": memory,
    }
    statement: Prepared | Steps = _GET_ON if fresh else _COUNT
    statement(connection, **counts)
    return None


_COLUMNS = [column.name for column in rounds.c if column.name != "inherited"]
_ADD_ROUND = Prepared.named(
    "add_round",
    {"columns": ", ".join(_COLUMNS), "values": ", ".join(f":{name}" for name in _COLUMNS)},
)


_GET_ON = Steps("get_on")


_COUNT = Prepared.named("count_rounds")


def _stored(
    connection: Connection, claim: Claim, done: Sequence[Round]
) -> dict[int, sa.RowMapping]:
    """Return the stored rows in the span of these rounds, by round."""
    span = rounds.c.round.between(done[0].round, done[-1].round)
    rows = connection.execute(sa.select(rounds).where(rounds.c.trial == claim.trial, span))
    return {row["round"]: row for row in rows.mappings()}


def _client_rows(claim: Claim, measured: Round) -> list[dict[str, Any]]:
    key = {"trial": claim.trial, "round": measured.round}
    return [key | asdict(score) for score in measured.clients]


def _difference(
    connection: Connection,
    claim: Claim,
    again: Sequence[Round],
    stored: Mapping[int, sa.RowMapping],
) -> Differs | None:
    """Return the first difference between rounds that were trained again and the stored ones,
    clients included.
    """
    clients = _stored_clients(connection, claim, again)
    for measured in again:
        row, scores = stored[measured.round], clients.get(measured.round, {})
        if difference := next(differences(row, scores, measured), None):
            return difference
    return None


def _stored_clients(
    connection: Connection, claim: Claim, again: Sequence[Round]
) -> dict[int, dict[int, ClientScore]]:
    scores: dict[int, dict[int, ClientScore]] = {}
    if any(r.clients for r in again):
        c = client_rounds.c
        span = c.round.between(again[0].round, again[-1].round)
        query = sa.select(c.round, *(c[field.name] for field in fields(ClientScore)))
        for number, *values in connection.execute(query.where(c.trial == claim.trial, span)):
            score = ClientScore(*values)
            scores.setdefault(number, {})[score.client] = score
    return scores

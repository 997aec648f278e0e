"""The record of a trial: its rounds, and the numerics under which they were computed."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import RequestError
from fedsweep.plans import ClientScore
from fedsweep.states import FailureKind, TrialState
from fedsweep.store.rows import Row
from fedsweep.store.tables import (
    attempts,
    client_rounds,
    rounds,
    trials,
)


@dataclass(frozen=True)
class Record:
    """The stored rounds of a trial, and the conditions under which they were computed."""

    trial_id: str
    config: Row
    state: TrialState
    failure: FailureKind | None
    error: str | None
    numerics_id: str
    numerics: dict[str, str]
    data_fingerprint: str
    rounds: list[Row]
    clients: dict[int, dict[int, ClientScore]]
    """By round and client."""


def trial_record(connection: Connection, trial: int) -> Record:
    """Return the stored rounds that must come out again when the trial is trained again.

    Raises:
        RequestError: nothing is stored of it yet.

    """
    row = connection.execute(sa.select(trials).where(trials.c.id == trial)).one()
    stored = sa.select(rounds).where(rounds.c.trial == trial).order_by(rounds.c.round)
    rows = [dict(r) for r in connection.execute(stored).mappings()]
    under = sa.select(attempts.c.numerics).where(
        attempts.c.trial == trial, attempts.c.numerics_id == row.numerics_id
    )
    numerics = connection.execute(under.order_by(attempts.c.fence.desc()).limit(1)).scalar()
    if numerics is None or not (rows or row.failure == FailureKind.DIVERGED):
        raise RequestError(
            f"trial {row.trial_id} is {row.state} and has no stored rounds: there is nothing to "
            "compare yet"
        )
    scores: dict[int, dict[int, ClientScore]] = {}
    c = client_rounds.c
    each = sa.select(c.round, *(c[field.name] for field in fields(ClientScore)))
    for number, *values in connection.execute(each.where(c.trial == trial)):
        score = ClientScore(*values)
        scores.setdefault(number, {})[score.client] = score
    return Record(
        trial_id=row.trial_id,
        config=json.loads(row.config),
        state=TrialState(row.state),
        failure=FailureKind(row.failure) if row.failure else None,
        error=row.error,
        numerics_id=row.numerics_id,
        numerics=json.loads(numerics),
        data_fingerprint=row.data_fingerprint,
        rounds=rows,
        clients=scores,
    )

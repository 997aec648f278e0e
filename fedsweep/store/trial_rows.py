"""Trials: their results, curves, attempts and logs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import NotFound, RequestError
from fedsweep.fields import config_columns
from fedsweep.measures import CURVES
from fedsweep.states import TrialState
from fedsweep.store.clock import as_sql, is_ahead, read_clock
from fedsweep.store.packed import CurvePacker, PackedRow, pack
from fedsweep.store.rows import Curves, Row
from fedsweep.store.tables import (
    attempts,
    logs,
    members,
    rounds,
    sweeps,
    trials,
)

FETCHED_ROWS = 5_000
"""Number of rows of a long answer that are fetched in one step."""


def results(
    connection: Connection, sweep: str, columns: Sequence[str] | None = None
) -> list[PackedRow]:
    """Return the view `results` of a sweep's trials, in the order of planning.

    `columns` names the columns to read. By default, all are read.
    """
    chosen = ", ".join(f"r.{name}" for name in columns) if columns else "r.*"
    query = sa.text(
        f"SELECT {chosen} FROM results r JOIN members m ON m.trial_id = r.trial_id "
        "JOIN trials t ON t.trial_id = r.trial_id WHERE m.sweep = :sweep ORDER BY t.id"
    )
    options = {"yield_per": FETCHED_ROWS}
    with connection.execute(query, {"sweep": sweep}, execution_options=options) as rows:
        return pack(list(rows.keys()), rows, _SHARED)


_SHARED = frozenset({*config_columns(), "cell_id", "sweep", "state", "failure"} - {"seed"})
"""Columns of `results` whose values many trials share."""


def curves(connection: Connection, sweep: str) -> dict[str, Curves]:
    """Return the measures by round of a sweep's trials in any state, if they were taken.

    One measure is read at a time, and rows are read one after another, because a study has
    millions.
    """
    of_sweep = (
        sa.select(members.c.trial)
        .join(sweeps, sweeps.c.id == members.c.sweep)
        .where(sweeps.c.name == sweep)
    )
    ids = sa.select(trials.c.id, trials.c.trial_id).where(trials.c.id.in_(of_sweep))
    trial_ids = {row.id: row.trial_id for row in connection.execute(ids)}
    its_rounds = rounds.c.trial.in_(of_sweep)
    counted = sa.select(*(sa.func.count(rounds.c[name]) for name in CURVES)).where(its_rounds)
    taken = connection.execute(counted).one()
    curves_by_measure: dict[str, Curves] = {}
    packer = CurvePacker()
    for name in (name for name, count in zip(CURVES, taken, strict=True) if count):
        value = rounds.c[name]
        query = sa.select(rounds.c.trial, rounds.c.round, value).where(its_rounds)
        query = query.where(value.is_not(None)).order_by(rounds.c.trial, rounds.c.round)
        with connection.execute(query, execution_options={"yield_per": FETCHED_ROWS}) as points:
            curves_by_measure[name] = {
                trial_ids[trial]: packer.pack((round, value) for _, round, value in of_it)
                for trial, of_it in groupby(points, key=itemgetter(0))
            }
    return curves_by_measure


def trial_list(
    connection: Connection, sweep: str | None, state: TrialState | None, limit: int
) -> list[Row]:
    """Return trials from the view `results`, in the order of planning."""
    query = "SELECT r.* FROM results r JOIN trials t ON t.trial_id = r.trial_id"
    conditions, values = [], {}
    if sweep is not None:
        conditions.append(
            "EXISTS (SELECT 1 FROM members m WHERE m.trial_id = r.trial_id AND m.sweep = :sweep)"
        )
        values["sweep"] = sweep
    if state is not None:
        conditions.append("r.state = :state")
        values["state"] = state.value
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = connection.execute(sa.text(f"{query}{where} ORDER BY t.id LIMIT {int(limit)}"), values)
    return [dict(row) for row in rows.mappings()]


def find_trial(connection: Connection, prefix: str) -> tuple[int, str]:
    """Return the row and the full id of the only trial whose id begins with this text.

    Raises:
        NotFound: no id has this prefix. RequestError: several have it.

    """
    beginning = prefix.strip().lower()
    start = trials.c.trial_id.startswith(beginning, autoescape=True)
    rows = connection.execute(sa.select(trials.c.id, trials.c.trial_id).where(start).limit(6)).all()
    if not rows or not beginning:
        raise NotFound(f"there is no trial {prefix!r}: `fedsweep trial list` names them")
    if len(rows) > 1:
        choices = ", ".join(row.trial_id[: len(beginning) + 4] for row in rows[:5])
        raise RequestError(
            f"{prefix!r} begins the ids of several trials ({choices} …): give more digits"
        )
    return rows[0].id, rows[0].trial_id


def trial_result(connection: Connection, trial_id: str) -> Row:
    """Return one row of the view `results`."""
    query = sa.text("SELECT * FROM results WHERE trial_id = :trial_id")
    return dict(connection.execute(query, {"trial_id": trial_id}).mappings().one())


def trial_attempts(connection: Connection, trial: int) -> list[Row]:
    """Return a trial's attempts, the first one first."""
    query = sa.select(attempts).where(attempts.c.trial == trial).order_by(attempts.c.fence)
    return [dict(row) for row in connection.execute(query).mappings()]


def trial_standing(connection: Connection, trial: int) -> Row:
    """Return the cost of a trial's failures, and the reasons for which it waits.

    `seconds_off` counts down to the end of its back-off, or is None without one. `held_by` are its
    held sweeps and the reasons, as rows. `waits` is true if it waits for its trunk. `carrier` is
    the trial that trains the trunk, or None.
    """
    c, now = trials.c, read_clock(connection)
    # On another clock, that of an earlier boot, it is over.
    until, at = c.not_before, as_sql(now)
    wait = sa.case(((c.clock != now.clock) | is_ahead(until, at), 0.0), else_=until - at)
    off = sa.case((c.not_before.is_not(None), wait))
    other = trials.alias("other")
    carrier = sa.select(sa.func.min(other.c.trial_id)).where(
        sa.text("other.trunk IS NOT NULL AND other.state = 'running'"),
        other.c.trunk == c.trunk,
        sa.func.coalesce(other.c.final_round, 0) < other.c.fork_round,
    )
    query = sa.select(
        *(c.failures, c.losses, c.wish, c.held, c.waits),
        off.label("seconds_off"),
        carrier.correlate(trials).scalar_subquery().label("carrier"),
    )
    row = dict(connection.execute(query.where(c.id == trial)).mappings().one())
    holding = sa.select(sweeps.c.name, sweeps.c.held).join(members, members.c.sweep == sweeps.c.id)
    holding = holding.where(members.c.trial == trial, sweeps.c.held.is_not(None))
    held = connection.execute(holding.order_by(sweeps.c.id)).mappings()
    return row | {"held_by": [dict(sweep) for sweep in held]}


def trial_logs(
    connection: Connection, trial: int, fence: int, last: int | None = None
) -> list[Row]:
    """Return the log lines of an attempt, in order. Of many lines, return the last ones."""
    query = sa.select(logs.c.at, logs.c.level, logs.c.message)
    query = query.where(logs.c.trial == trial, logs.c.fence == fence)
    newest = query.order_by(logs.c.n.desc()).limit(last)
    return [dict(row) for row in connection.execute(newest).mappings()][::-1]

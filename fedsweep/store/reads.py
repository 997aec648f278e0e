"""What is read from the store, as plain rows. Views where they say it, tables where they do not."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedsweep.errors import NotFound, Refused, RequestError
from fedsweep.fields import TIMED, config_columns
from fedsweep.forecast import Pace, TimeLeft, Work, time_left
from fedsweep.measures import CURVES
from fedsweep.plan import ClientScore
from fedsweep.states import FailureKind, Hold, Outcome, TrialState
from fedsweep.store.engine import as_sql, is_ahead, read_clock
from fedsweep.store.packed import CurvePacker, PackedRow, pack
from fedsweep.store.prepared import Prepared
from fedsweep.store.tables import (
    arms,
    attempts,
    client_rounds,
    files,
    identity,
    lattices,
    logs,
    members,
    plans,
    rounds,
    snapshots,
    sweeps,
    trials,
    weights,
)
from fedsweep.store.writes import Weights

Row = dict[str, Any]
Curves = Mapping[str, Mapping[int, float]]
"""A measure by trial and round."""

BATCH = 5_000
"""Rows of a long answer that are fetched at once."""
LATEST = 1_000
"""Attempts that tell how long things take around the rounds."""
MOST_OVERHEAD = 10.0
"""Where an attempt takes longer than ten times its rounds, its clock was set."""


@dataclass(frozen=True)
class Progress:
    """Where a sweep stands."""

    sweep: str
    queued: int
    running: int
    finished: int
    failed: int
    cancelled: int
    rounds_done: int
    rounds_total: int
    """Of the trials that are not cancelled; a failed trial's are done as far as it got."""
    seconds_left: float | None
    """Of one slot's work, from measured seconds a round; None before the first."""
    held: str | None = None
    """Why nothing of it is claimed: paused, drained, its budget used up, cancelled."""
    time_left: TimeLeft | None = None
    """Until its last trial is over, with the slots that are at work on it now."""
    searching: int = 0
    """Arms whose best T* is still searched for: more trials will come."""

    @property
    def trials(self) -> int:
        """All of the sweep's trials."""
        return self.queued + self.running + self.finished + self.failed + self.cancelled

    @property
    def done(self) -> int:
        """Those that nobody will work on any more."""
        return self.finished + self.failed + self.cancelled


def sweep_names(connection: Connection) -> list[str]:
    """All sweeps, in the order in which they were planned."""
    return list(connection.execute(sa.select(sweeps.c.name).order_by(sweeps.c.id)).scalars())


def require_sweep(connection: Connection, name: str) -> str:
    """Return the name as it is stored, if there is such a sweep.

    Raises:
        NotFound: there is none; says which there are.

    """
    # A character that the database cannot hold is escaped in both.
    known = connection.execute(sa.select(sweeps.c.name).where(sweeps.c.name == name)).scalar()
    if known is None:
        names = sweep_names(connection)
        there = f"there are {', '.join(names)}" if names else "nothing is planned yet"
        raise NotFound(f"there is no sweep {name!r}: {there}")
    return str(known)


def require_free(connection: Connection, name: str) -> None:
    """Refuse a sweep that is cancelled.

    Raises:
        NotFound: there is none of that name. Refused: it is cancelled.

    """
    require_sweep(connection, name)
    held = connection.execute(sa.select(sweeps.c.held).where(sweeps.c.name == name)).scalar_one()
    if held == Hold.CANCEL:
        raise Refused(f"sweep {name} is cancelled: plan it again to take that back")


def progress(connection: Connection, sweep: str | None = None) -> list[Progress]:
    """Each sweep's standing; of one sweep, where it is named."""
    is_open = trials.c.state.in_([TrialState.QUEUED, TrialState.RUNNING])
    done = sa.func.coalesce(trials.c.final_round, 0)
    left = sa.case((is_open, trials.c.rounds - done), else_=0)
    # What waits for its trunk will not train the trunk's rounds.
    shared = sa.case((is_open & (trials.c.waits == 1), trials.c.fork_round - done), else_=0)
    kind = _cost_key()
    query = (
        sa.select(
            sweeps.c.name,
            trials.c.state,
            *kind,
            sa.func.count().label("n"),
            _total(left).label("rounds_left"),
            _total(left - shared).label("rounds_to_train"),
            sa.func.max(left - shared).label("longest"),
            _total(done).label("rounds_done"),
        )
        .select_from(sweeps.join(members, members.c.sweep == sweeps.c.id))
        .join(trials, trials.c.id == members.c.trial)
        .group_by(sweeps.c.id, sweeps.c.name, trials.c.state, *kind)
        .order_by(sweeps.c.id)
    )
    if sweep is not None:
        query = query.where(sweeps.c.name == sweep)
    found, around = paces(connection), overhead(connection)
    grouped: dict[str, list[Any]] = {
        name: [] for name in ([sweep] if sweep else sweep_names(connection))
    }
    for row in connection.execute(query):
        grouped[row.name].append(row)
    held = {
        row.name: row.held for row in connection.execute(sa.select(sweeps.c.name, sweeps.c.held))
    }
    of_sweep = sa.select(sweeps.c.name, sa.func.count().label("n"))
    still = of_sweep.select_from(arms.join(sweeps, sweeps.c.id == arms.c.sweep))
    still = still.where(sa.text("arms.ended IS NULL")).group_by(sweeps.c.name)
    open_arms = {row.name: row.n for row in connection.execute(still)}
    return [
        _progress(name, rows, found, around, held.get(name), open_arms.get(name, 0))
        for name, rows in grouped.items()
    ]


def _progress(
    name: str,
    rows: Sequence[Any],
    paces: dict[tuple[Any, ...], Pace],
    around: float,
    held: str | None,
    searching: int,
) -> Progress:
    counts = dict.fromkeys(TrialState, 0)
    done = left = 0
    work = []
    for row in rows:
        counts[TrialState(row.state)] += row.n
        if row.state == TrialState.CANCELLED:
            continue
        done += row.rounds_done
        left += row.rounds_left
        kind = tuple(getattr(row, c.name) for c in _cost_key())
        work.append(Work(kind, row.rounds_to_train, row.longest))
    slots = counts[TrialState.RUNNING]
    alone = time_left(work, paces, 1, around)
    return Progress(
        sweep=name,
        **{state.value: n for state, n in counts.items()},
        rounds_done=done,
        rounds_total=done + left,
        seconds_left=alone.middle if alone is not None else None,
        time_left=time_left(work, paces, slots, around),
        held=held,
        searching=searching,
    )


def failed(connection: Connection, sweep: str | None = None) -> int:
    """Failed trials, of one sweep where it is named, each once."""
    query = (
        sa.select(sa.func.count()).select_from(trials).where(trials.c.state == TrialState.FAILED)
    )
    if sweep is not None:
        query = query.join(members, members.c.trial == trials.c.id)
        query = query.join(sweeps, sweeps.c.id == members.c.sweep).where(sweeps.c.name == sweep)
    return int(connection.execute(query).scalar_one())


def _total(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """A sum that is an integer on Postgres too, not a decimal."""
    return sa.cast(sa.func.sum(column), sa.BigInteger)


def _cost_key() -> list[sa.Column[Any]]:
    """What the time of a round depends on, other than the machine."""
    return [trials.c[name] for name in TIMED]


def paces(connection: Connection) -> dict[tuple[Any, ...], Pace]:
    """What rounds have taken so far, for each kind of trial that has any."""
    own, seconds = trials.c.final_round - trials.c.rounds_shared, trials.c.seconds
    query = (
        sa.select(
            *_cost_key(),
            sa.func.count().label("trials"),
            _total(own).label("rounds"),
            sa.func.sum(seconds).label("seconds"),
            sa.func.sum(seconds * seconds / own).label("squares"),
        )
        .where(own > 0, seconds.is_not(None))
        .group_by(*_cost_key())
    )
    return {
        tuple(row)[:-4]: Pace(row.trials, row.rounds, row.seconds, row.squares)
        for row in connection.execute(query)
    }


def seconds_a_round(connection: Connection) -> dict[tuple[Any, ...], float]:
    """Measured mean seconds of a round, for each kind of trial that has any."""
    return {kind: pace.mean for kind, pace in paces(connection).items()}


def overhead(connection: Connection) -> float:
    """Seconds of the latest attempts a second of the rounds that they trained, at least 1."""
    latest = sa.select(attempts).order_by(attempts.c.id.desc()).limit(LATEST).subquery("latest")
    took = sa.func.sum(latest.c.ended_at - latest.c.started_at)
    query = sa.select(took, sa.func.sum(latest.c.seconds_trained))
    query = query.where(latest.c.outcome == Outcome.FINISHED, latest.c.rounds_trained > 0)
    wall, trained = connection.execute(query).one()
    return max(1.0, min(wall / trained, MOST_OVERHEAD)) if trained else 1.0


def cost_key(config: Any) -> tuple[Any, ...]:
    """A configuration's key in `seconds_a_round`."""
    return tuple(getattr(config, column.name) for column in _cost_key())


def present(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Those of these trials that the store has."""
    found: set[str] = set()
    for i in range(0, len(ids), 1000):
        some = trials.c.trial_id.in_(ids[i : i + 1000])
        found |= set(connection.execute(sa.select(trials.c.trial_id).where(some)).scalars())
    return found


def plan_texts(connection: Connection, sweep: str) -> list[str]:
    """Every text under which a sweep was planned, the newest last."""
    query = sa.select(plans.c.text).join(sweeps, sweeps.c.id == plans.c.sweep)
    return list(
        connection.execute(query.where(sweeps.c.name == sweep).order_by(plans.c.id)).scalars()
    )


def results(
    connection: Connection, sweep: str, columns: Sequence[str] | None = None
) -> list[PackedRow]:
    """The view `results` of a sweep's members, in the order of planning.

    `columns` names those that are read; by default, all are.
    """
    chosen = ", ".join(f"r.{name}" for name in columns) if columns else "r.*"
    query = sa.text(
        f"SELECT {chosen} FROM results r JOIN members m ON m.trial_id = r.trial_id "
        "JOIN trials t ON t.trial_id = r.trial_id WHERE m.sweep = :sweep ORDER BY t.id"
    )
    options = {"yield_per": BATCH}
    with connection.execute(query, {"sweep": sweep}, execution_options=options) as rows:
        return pack(list(rows.keys()), rows, _SHARED)


_SHARED = frozenset({*config_columns(), "cell_id", "sweep", "state", "failure"} - {"seed"})
"""Columns of `results` whose values many trials share."""


def curves(connection: Connection, sweep: str) -> dict[str, Curves]:
    """The measures by round of a sweep's trials, whatever became of them: those that were taken.

    A measure at a time, and rows as they come: a study has millions.
    """
    of_sweep = (
        rounds.join(trials, trials.c.id == rounds.c.trial)
        .join(members, members.c.trial == trials.c.id)
        .join(sweeps, sweeps.c.id == members.c.sweep)
    )
    mine = sweeps.c.name == sweep
    counted = sa.select(*(sa.func.count(rounds.c[name]) for name in CURVES)).select_from(of_sweep)
    taken = connection.execute(counted.where(mine)).one()
    found: dict[str, Curves] = {}
    packer = CurvePacker()
    for name in (name for name, count in zip(CURVES, taken, strict=True) if count):
        value = rounds.c[name]
        query = sa.select(trials.c.trial_id, rounds.c.round, value).select_from(of_sweep)
        query = query.where(mine, value.is_not(None)).order_by(rounds.c.trial, rounds.c.round)
        with connection.execute(query, execution_options={"yield_per": BATCH}) as points:
            found[name] = {
                trial: packer.pack((round, value) for _, round, value in of_it)
                for trial, of_it in groupby(points, key=itemgetter(0))
            }
    return found


def trial_list(
    connection: Connection, sweep: str | None, state: TrialState | None, limit: int
) -> list[Row]:
    """Trials by the view `results`, in the order of planning."""
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
    found = connection.execute(sa.text(f"{query}{where} ORDER BY t.id LIMIT {int(limit)}"), values)
    return [dict(row) for row in found.mappings()]


def find_trial(connection: Connection, prefix: str) -> tuple[int, str]:
    """The row and full id of the one trial whose id begins so.

    Raises:
        NotFound: none does. RequestError: several do.

    """
    wanted = prefix.strip().lower()
    start = trials.c.trial_id.startswith(wanted, autoescape=True)
    found = connection.execute(
        sa.select(trials.c.id, trials.c.trial_id).where(start).limit(6)
    ).all()
    if not found or not wanted:
        raise NotFound(f"there is no trial {prefix!r}: `fedsweep trial list` names them")
    if len(found) > 1:
        some = ", ".join(row.trial_id[: len(wanted) + 4] for row in found[:5])
        raise RequestError(
            f"{prefix!r} begins the ids of several trials ({some} …): give more digits"
        )
    return found[0].id, found[0].trial_id


def trial_result(connection: Connection, trial_id: str) -> Row:
    """One row of the view `results`."""
    query = sa.text("SELECT * FROM results WHERE trial_id = :trial_id")
    return dict(connection.execute(query, {"trial_id": trial_id}).mappings().one())


def trial_attempts(connection: Connection, trial: int) -> list[Row]:
    """A trial's attempts, the first one first."""
    query = sa.select(attempts).where(attempts.c.trial == trial).order_by(attempts.c.fence)
    return [dict(row) for row in connection.execute(query).mappings()]


def trial_standing(connection: Connection, trial: int) -> Row:
    """What the view `results` does not say: what its failures cost, and why it waits.

    `seconds_off`: until it has backed off, None where it does not; `held_by`: its sweeps that are
    held, and why, as rows; `waits`: for its trunk; `carrier`: the trial that trains it, or None.
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
    found = connection.execute(holding.order_by(sweeps.c.id)).mappings()
    return row | {"held_by": [dict(sweep) for sweep in found]}


def trial_logs(
    connection: Connection, trial: int, fence: int, last: int | None = None
) -> list[Row]:
    """What was said during an attempt, in order; of many lines the last ones."""
    query = sa.select(logs.c.at, logs.c.level, logs.c.message)
    query = query.where(logs.c.trial == trial, logs.c.fence == fence)
    newest = query.order_by(logs.c.n.desc()).limit(last)
    return [dict(row) for row in connection.execute(newest).mappings()][::-1]


@dataclass(frozen=True)
class Record:
    """All that is stored of a trial's rounds, and what they were computed under."""

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
    """What is to come out again when the trial is trained again.

    Raises:
        RequestError: nothing is stored of it yet.

    """
    row = connection.execute(sa.select(trials).where(trials.c.id == trial)).one()
    stored = sa.select(rounds).where(rounds.c.trial == trial).order_by(rounds.c.round)
    found = [dict(r) for r in connection.execute(stored).mappings()]
    under = sa.select(attempts.c.numerics).where(
        attempts.c.trial == trial, attempts.c.numerics_id == row.numerics_id
    )
    numerics = connection.execute(under.order_by(attempts.c.fence.desc()).limit(1)).scalar()
    if numerics is None or not (found or row.failure == FailureKind.DIVERGED):
        raise RequestError(
            f"trial {row.trial_id} is {row.state} and has no stored rounds: there is nothing to "
            "compare yet"
        )
    scores: dict[int, dict[int, ClientScore]] = {}
    c = client_rounds.c
    each = sa.select(c.round, c.client, c.samples, c.test_accuracy).where(c.trial == trial)
    for r in connection.execute(each):
        scores.setdefault(r.round, {})[r.client] = ClientScore(r.client, r.samples, r.test_accuracy)
    return Record(
        trial_id=row.trial_id,
        config=json.loads(row.config),
        state=TrialState(row.state),
        failure=FailureKind(row.failure) if row.failure else None,
        error=row.error,
        numerics_id=row.numerics_id,
        numerics=json.loads(numerics),
        data_fingerprint=row.data_fingerprint,
        rounds=found,
        clients=scores,
    )


def sweep_trials(connection: Connection, sweep: str) -> list[int]:
    """The rows of a sweep's members."""
    query = sa.select(members.c.trial).join(sweeps, sweeps.c.id == members.c.sweep)
    return list(connection.execute(query.where(sweeps.c.name == sweep)).scalars())


def held_alone(connection: Connection, sweep: str) -> list[int]:
    """The rows of a sweep's members that no other live sweep has."""
    own = sa.select(sweeps.c.id).where(sweeps.c.name == sweep).scalar_subquery()
    other, live = members.alias(), sweeps.alias()
    shared = sa.exists().where(
        other.c.trial == members.c.trial,
        other.c.sweep != own,
        live.c.id == other.c.sweep,
        live.c.held.is_distinct_from(Hold.CANCEL.value),
    )
    query = sa.select(members.c.trial).where(members.c.sweep == own, ~shared)
    return list(connection.execute(query).scalars())


def trial_rows(connection: Connection, ids: Sequence[str]) -> list[int]:
    """The rows of trials, by their ids."""
    found: list[int] = []
    for i in range(0, len(ids), 1000):
        some = trials.c.trial_id.in_(ids[i : i + 1000])
        found += connection.execute(sa.select(trials.c.id).where(some)).scalars()
    return found


@dataclass(frozen=True)
class Home:
    """Where a trial's files lie: see `artifacts.folder_of`."""

    store: str
    """This database's own name."""
    artifacts: str | None
    """As its sweep says."""


def home(connection: Connection, trial: int) -> Home:
    """Where the files of a trial lie: where the sweep says that planned it first."""
    row = _HOME(connection, trial=trial).one()
    return Home(row.id, row.artifacts)


_HOME = Prepared(
    lambda _: (
        sa.select(identity.c.id, sweeps.c.artifacts)
        .select_from(trials.join(sweeps, sweeps.c.id == trials.c.sweep))
        .join(identity, sa.true())
        .where(trials.c.id == sa.bindparam("trial", type_=sa.BigInteger()))
    )
)


def homes(connection: Connection, sweep: str | None = None) -> dict[Home, list[str]]:
    """Return where files of trials lie that are not done, with the names of the sweeps."""
    some = sa.exists().where(
        trials.c.sweep == sweeps.c.id,
        trials.c.state.in_([TrialState.QUEUED.value, TrialState.RUNNING.value]),
    )
    query = sa.select(sweeps.c.name, identity.c.id, sweeps.c.artifacts)
    query = query.join(identity, sa.true()).where(some).order_by(sweeps.c.id)
    if sweep is not None:
        query = query.where(sweeps.c.name == sweep)
    found: dict[Home, list[str]] = {}
    for row in connection.execute(query):
        found.setdefault(Home(row.id, row.artifacts), []).append(row.name)
    return found


def places(connection: Connection) -> dict[Home, list[str]]:
    """Return every place that the database names for files, with the names of the sweeps."""
    query = sa.select(sweeps.c.name, identity.c.id, sweeps.c.artifacts)
    query = query.select_from(identity.outerjoin(sweeps, sa.true())).order_by(sweeps.c.id)
    found: dict[Home, list[str]] = {}
    for row in connection.execute(query):
        names = found.setdefault(Home(row.id, row.artifacts), [])
        names += [] if row.name is None else [row.name]
    return found


def unreferenced(connection: Connection, trial: int, names: Collection[str]) -> list[str]:
    """Those of a trial's files that neither a snapshot nor weights are in."""
    one = sa.select(snapshots.c.name).where(snapshots.c.trial == trial)
    other = sa.select(weights.c.name).where(weights.c.trial == trial)
    return sorted(set(names) - set(connection.execute(one.union(other)).scalars()))


@dataclass(frozen=True)
class Spare:
    """A file that nothing needs any more."""

    name: str
    home: Home
    host: str
    """Where it was written."""


UNWANTED = trials.c.state.in_([TrialState.FINISHED, TrialState.CANCELLED]) | (
    sa.func.coalesce(trials.c.failure, "") == FailureKind.DIVERGED
)
"""Trials that will not go on, or, of a cancelled one, may as well begin again: their snapshots are
not needed."""


def needed_by_siblings() -> sa.ColumnElement[bool]:
    """Whether a sibling that is not done would go on from this snapshot of the trunk, or a search
    may yet let one fork there.
    """
    of_arm = lattices.c
    live = arms.join(sweeps, sweeps.c.id == arms.c.sweep)
    alive = sa.exists(sa.select(sa.literal(1)).select_from(live).where(
        arms.c.id == of_arm.arm, sweeps.c.held.is_distinct_from(Hold.CANCEL.value)
    ).correlate(lattices))  # fmt: skip
    searched = sa.exists().where(
        of_arm.trunk == snapshots.c.trunk,
        snapshots.c.round.between(of_arm.low, of_arm.high),
        (snapshots.c.round - of_arm.low) % of_arm.step == 0,
        alive,
    )
    later, sibling, s = snapshots.alias("later"), trials.alias("sibling"), snapshots.c
    nearer = sa.select(sa.literal(1)).where(
        later.c.trunk == s.trunk,
        later.c.numerics_id == s.numerics_id,
        later.c.round > s.round,
        later.c.round <= sibling.c.fork_round,
    )
    goes_on = sa.select(sa.literal(1)).where(
        sa.text("sibling.trunk IS NOT NULL AND sibling.state IN ('queued', 'running')"),
        sibling.c.trunk == s.trunk,
        sibling.c.waits.in_([0, 1]),
        sibling.c.fork_round >= s.round,
        sa.func.coalesce(sibling.c.final_round, 0) <= s.round,
        ~sa.exists(nearer.correlate(snapshots, sibling)),
    )
    return sa.exists(goes_on.correlate(snapshots)) | searched.correlate(snapshots)


def over_since(before: float) -> sa.ColumnElement[bool]:
    """Trials whose last attempt ended before this wall time."""
    last = sa.select(sa.func.max(attempts.c.ended_at)).where(attempts.c.trial == trials.c.id)
    return last.correlate(trials).scalar_subquery() <= before


def spare_files(connection: Connection, before: float) -> list[Spare]:
    """Files that nothing has needed since this wall time, by the index alone.

    None of a running attempt, and none that weights are in, or the snapshot of a trial that may go
    on. Nothing ever refers to a file again, once it is here: an attempt writes only its own names.
    """
    mine = (attempts.c.trial == files.c.trial) & (attempts.c.fence == files.c.fence)
    at_work = (trials.c.state == TrialState.RUNNING) & (trials.c.fence == files.c.fence)
    needed = [
        sa.exists().where(weights.c.trial == files.c.trial, weights.c.name == files.c.name),
        sa.exists().where(
            snapshots.c.trial == files.c.trial,
            snapshots.c.name == files.c.name,
            ~(UNWANTED & over_since(before)) | needed_by_siblings(),
        ),
    ]
    query = (
        sa.select(files.c.name, identity.c.id, sweeps.c.artifacts, attempts.c.host)
        .select_from(files.join(trials, trials.c.id == files.c.trial))
        .join(attempts, mine)
        .join(sweeps, sweeps.c.id == trials.c.sweep)
        .join(identity, sa.true())
        .where(~at_work, sa.func.coalesce(files.c.free_since, attempts.c.ended_at) <= before)
        .where(*(~need for need in needed))
        .order_by(files.c.trial, files.c.fence, files.c.name)
    )
    found = connection.execute(query)
    return [Spare(row.name, Home(row.id, row.artifacts), row.host) for row in found]


def kept_weights(connection: Connection, trial: int) -> Weights | None:
    """Where a finished trial's weights lie; None where none were kept."""
    query = sa.select(weights.c.name, weights.c.bytes, weights.c.sha256)
    row = connection.execute(query.where(weights.c.trial == trial)).one_or_none()
    return Weights(*row) if row else None

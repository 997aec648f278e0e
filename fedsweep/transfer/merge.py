"""Merge a database into another: its sweeps, trials and measurements."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fedsweep.errors import Refused
from fedsweep.measures import COMPARED
from fedsweep.plans import OUTSIDE_IDENTITY
from fedsweep.states import FailureKind, Outcome, TrialState
from fedsweep.store.dialects import dialect_of
from fedsweep.store.rows import Row
from fedsweep.store.tables import (
    arms,
    attempts,
    client_rounds,
    lattices,
    logs,
    members,
    plans,
    proposals,
    proposed,
    rounds,
    sweeps,
    trials,
    weights,
)
from fedsweep.store.transactions import reading
from fedsweep.transfer.copy import at_rest
from fedsweep.transfer.rows import Values, begin, dicts, insert, row_parts
from fedsweep.transfer.stores import share_approvals
from fedsweep.transfer.weights import weights_to_add

TRIALS = 500
"""Trials of one step of a merge, so that the rows of a step fit in memory."""


MERGED = "finished in a database that was merged, as another attempt had here"
"""The error of an attempt that finished a trial which another attempt had already finished."""


@dataclass(frozen=True)
class Merged:
    """The result of a merge."""

    added: int
    """Trials that only FROM had."""
    taken_over: int
    """Trials of both that are now as FROM had them."""
    kept: int
    """Trials of both that are as INTO had them."""
    rounds: int
    """Rounds that INTO did not have."""
    sweeps: tuple[str, ...]
    """FROM's sweeps. Their holds and budgets must be checked again."""
    lost: tuple[str, ...]
    """Files of weights that were missing or damaged. They were left out, with their rows."""


def merge_stores(engine: Engine, target: Connection) -> Merged:
    """Add a store's sweeps, trials and measurements to another store, within its transaction.

    A trial of both stores is one trial: the rounds that both have must be equal, bit for bit. The
    trial continues from the store that trained it further. INTO wins a tie, and finished counts as
    furthest. The rounds that are dropped for it count as lost. Every attempt is kept, so the ledger
    shows the whole cost.

    INTO decides whether a trial is cancelled, held or urgent, and how an arm of both is searched. A
    second merge adds nothing.

    Raises:
        Refused: a trial of both runs in INTO, or the two contradict each other. The caller must
            roll back the transaction.
        RequestError: the two are one database.
        StoreError: a value, or a file, cannot be stored in INTO.

    """
    with reading(engine) as source:
        begin(source, target)
        share_approvals(source, target)
        joined = _join_sweeps(source, target)
        merging = _Merging(source, target, joined, time.time())
        ids = list(source.execute(sa.select(trials.c.id).order_by(trials.c.id)).scalars())
        for i in range(0, len(ids), TRIALS):
            merging.add(ids[i : i + TRIALS])
        _add_arms(source, target, joined)
        names = source.execute(sa.select(sweeps.c.name).order_by(sweeps.c.id)).scalars()
        return Merged(
            merging.added,
            merging.taken_over,
            merging.kept,
            merging.rounds,
            tuple(names),
            tuple(merging.lost),
        )


def _join_sweeps(source: Connection, target: Connection) -> dict[int, int]:
    """Add the sweeps and plan texts that INTO does not have.

    Returns INTO's keys of FROM's sweeps, by FROM's keys.
    """
    columns = [c for c in sweeps.c if c is not sweeps.c.id]
    query = sa.select(sweeps.c.name, sweeps.c.id)
    had = {row.name for row in target.execute(query)}
    fresh = [tuple(row) for row in source.execute(sa.select(*columns).order_by(sweeps.c.id))]
    at = columns.index(sweeps.c.name)
    insert(target, sweeps, [c.name for c in columns], [row for row in fresh if row[at] not in had])
    keys = {row.name: row.id for row in target.execute(query)}
    joined = {row.id: keys[row.name] for row in source.execute(query)}
    known = {
        (row.sweep, row.text) for row in target.execute(sa.select(plans.c.sweep, plans.c.text))
    }
    texts = sa.select(plans.c.sweep, plans.c.text, plans.c.created_at)
    for row in source.execute(texts.order_by(plans.c.created_at, plans.c.id)):
        if (joined[row.sweep], row.text) not in known:
            known.add((joined[row.sweep], row.text))
            new = sa.insert(plans).values(sweep=joined[row.sweep], text=row.text)
            target.execute(new.values(created_at=row.created_at))
    return joined


KEPT = frozenset({"id", "trial_id", "cell_id", "sweep", "priority", "fence", "wish", "held"})
"""Columns in which a trial of both keeps INTO's values when FROM's trial is taken over."""


KEPT_IF_CANCELLED = frozenset({"state", "failure", "failures", "error", "losses"})
"""Columns that also keep INTO's values if either store has cancelled the trial."""


@dataclass
class _Merging:
    """A merge that adds a few trials at a time."""

    source: Connection
    target: Connection
    sweeps: Mapping[int, int]
    now: float
    added: int = 0
    taken_over: int = 0
    kept: int = 0
    rounds: int = 0
    lost: list[str] = field(default_factory=list)

    def add(self, ids: Sequence[int]) -> None:
        """Add the trials of FROM with these row ids, and the rows that belong to them."""
        incoming = [
            at_rest(trials.name, row, self.now) for row in _of(self.source, trials.c.id, ids)
        ]
        existing = _of(self.target, trials.c.trial_id, [t["trial_id"] for t in incoming], lock=True)
        had = {row["trial_id"]: row for row in existing}
        both = [(t, had[t["trial_id"]]) for t in incoming if t["trial_id"] in had]
        _require_agreement(both)
        _require_equal_rounds(self.source, self.target, both)
        over = [(t, o) for t, o in both if _standing(t) > _standing(o)]
        fresh = [t for t in incoming if t["trial_id"] not in had]
        self.rounds -= _take_over(self.target, over)
        step = _Step(
            keys=_add_trials(self.target, fresh, self.sweeps) | {t["id"]: o["id"] for t, o in both},
            fresh=frozenset(t["id"] for t in fresh),
            over=frozenset(t["id"] for t, _ in over),
            fences={t["id"]: o["fence"] for t, o in both},
        )
        self.carry(step)
        first = {t["id"]: self.sweeps[t["sweep"]] for t in fresh}
        first |= {t["id"]: o["sweep"] for t, o in both}
        _add_members(self.source, self.target, step, self.sweeps, first)
        self.added += len(fresh)
        self.taken_over += len(over)
        self.kept += len(both) - len(over)

    def carry(self, step: _Step) -> None:
        """Add the attempts with their logs, the rounds and the weights."""
        fences = _add_attempts(self.source, self.target, step, self.now)
        _add_logs(self.source, self.target, step, fences)
        self.rounds += _add_rows_of(self.source, self.target, rounds, step)
        _add_rows_of(self.source, self.target, client_rounds, step)
        _add_weights(self.source, self.target, step, self.lost)


@dataclass(frozen=True)
class _Step:
    """The trials of FROM in one step of a merge, by FROM's keys."""

    keys: Mapping[int, int]
    """INTO's keys of the trials."""
    fresh: frozenset[int]
    """Trials that INTO did not have."""
    over: frozenset[int]
    """The trials that continue as they are in FROM."""
    fences: Mapping[int, int]
    """INTO's last fences of the trials that it had."""


def _of(
    connection: Connection, column: sa.Column[Any], values: Iterable[Any], *, lock: bool = False
) -> list[Row]:
    """Return the rows of a table in which a column has one of these values. Each value has few
    rows.
    """
    table = column.table
    query = sa.select(table).where(column.in_(list(values))).order_by(*table.primary_key)
    rows = connection.execute(query.with_for_update() if lock else query)
    return [dict(row) for row in rows.mappings()]


def _require_agreement(both: Sequence[tuple[Row, Row]]) -> None:
    """Refuse trials that run in INTO, or that diverged in only one of the two stores."""
    for incoming, existing in both:
        trial = f"trial {incoming['trial_id']}"
        if existing["state"] == TrialState.RUNNING:
            raise Refused(
                f"{trial} is running in INTO: stop the workers there, or wait until it is done"
            )
        for one, other, where in ((incoming, existing, "INTO"), (existing, incoming, "FROM")):
            further = (one["final_round"] or 0) > (other["final_round"] or 0)
            if further and other["failure"] == FailureKind.DIVERGED:
                raise Refused(
                    f"{trial} diverged in {where} and went on in the other database: run it again "
                    f"in {where} (fedsweep trial retry), then merge"
                )


def _require_equal_rounds(
    source: Connection, target: Connection, both: Sequence[tuple[Row, Row]]
) -> None:
    """Refuse trials whose common rounds differ. Only measures that both trials take are
    compared.
    """
    begun = {t["trial_id"]: (t, o) for t, o in both if t["final_round"] and o["final_round"]}
    of_clients = ["samples", "test_accuracy", "own_accuracy", "own_samples"]
    for table, measured in ((rounds, COMPARED), (client_rounds, of_clients)):
        for key, sides in _side_by_side(source, target, table, measured, list(begun)):
            incoming, existing = begun[key[0]]
            if key[1] > min(incoming["final_round"], existing["final_round"]):
                continue
            same_measures = all(incoming[name] == existing[name] for name in OUTSIDE_IDENTITY)
            missing = (None,) * len(measured)
            pairs = zip(measured, sides.get(0, missing), sides.get(1, missing), strict=True)
            for column, one, other in pairs:
                if one != other and (same_measures or None not in (one, other)):
                    what = f"{column} of client {key[2]}" if len(key) > 2 else column
                    raise Refused(
                        _unequal(incoming, existing, key[1], f"{what} is {one} in FROM", other)
                    )


def _unequal(incoming: Row, existing: Row, number: int, difference: str, other: object) -> str:
    kinds = incoming["numerics_id"], existing["numerics_id"]
    trained = f"under the same numerics ({kinds[0]})"
    if kinds[0] != kinds[1]:
        trained = f"under numerics that cannot be compared ({kinds[0]} and {kinds[1]})"
    return (
        f"trial {incoming['trial_id']} differs in round {number}: {difference} and {other} "
        f"in INTO, trained {trained}; nothing was merged: keep the databases apart, and train it "
        "in a third one to see which is right"
    )


def _side_by_side(
    source: Connection, target: Connection, table: sa.Table, measured: Sequence[str], ids: list[str]
) -> Iterator[tuple[Values, dict[int, Values]]]:
    """Return the measurements in FROM (0) and in INTO (1), by trial, round and client."""
    within = [c for c in table.primary_key if c is not table.c.trial]
    head = 1 + len(within)
    query = sa.select(trials.c.trial_id, *within, *(table.c[name] for name in measured))
    query = query.join_from(table, trials, trials.c.id == table.c.trial)
    query = query.where(trials.c.trial_id.in_(ids))

    def side(connection: Connection, number: int) -> Iterator[tuple[Values, int, Values]]:
        by_id = sa.collate(trials.c.trial_id, dialect_of(connection).collation)
        for part in row_parts(connection, query.order_by(by_id, *within)):
            for row in part:
                yield tuple(row[:head]), number, tuple(row[head:])

    merged = heapq.merge(side(source, 0), side(target, 1), key=itemgetter(0, 1))
    for key, group in itertools.groupby(merged, key=itemgetter(0)):
        yield key, {number: values for _, number, values in group}


def _standing(row: Row) -> tuple[bool, int, bool]:
    """Return how far a trial is trained. A greater value is further."""
    diverged = row["failure"] == FailureKind.DIVERGED
    return row["state"] == TrialState.FINISHED, row["final_round"] or 0, diverged


def _add_trials(
    target: Connection, fresh: Sequence[Row], joined: Mapping[int, int]
) -> dict[int, int]:
    """Add trials that INTO does not have. Returns INTO's keys, by FROM's keys."""
    columns = [name for name in trials.columns.keys() if name != "id"]  # noqa: SIM118
    rows = [row | {"sweep": joined[row["sweep"]]} for row in fresh]
    insert(target, trials, columns, [tuple([row[name] for name in columns]) for row in rows])
    ids = [row["trial_id"] for row in fresh]
    added = target.execute(
        sa.select(trials.c.trial_id, trials.c.id).where(trials.c.trial_id.in_(ids))
    )
    keys = {row.trial_id: row.id for row in added}
    return {row["id"]: keys[row["trial_id"]] for row in fresh}


def _take_over(target: Connection, over: Sequence[tuple[Row, Row]]) -> int:
    """Replace INTO's rows of trials with FROM's, and delete INTO's rounds of these trials.

    Returns the number of deleted rounds.
    """
    if not over:
        return 0
    new = []
    for incoming, existing in over:
        undone = incoming["state"] != TrialState.FINISHED
        cancelled = undone and TrialState.CANCELLED in (incoming["state"], existing["state"])
        kept = KEPT | KEPT_IF_CANCELLED if cancelled else KEPT
        values = {
            name: (existing if name in kept else incoming)[name]
            for name in incoming
            if name != "id"
        }
        new.append(values | {"of_trial": existing["id"]})
    target.execute(sa.update(trials).where(trials.c.id == sa.bindparam("of_trial")), new)
    keys = [existing["id"] for _, existing in over]
    target.execute(sa.delete(client_rounds).where(client_rounds.c.trial.in_(keys)))
    return target.execute(sa.delete(rounds).where(rounds.c.trial.in_(keys))).rowcount


def _add_attempts(
    source: Connection, target: Connection, step: _Step, now: float
) -> dict[tuple[int, int], int]:
    """Add the attempts that INTO does not have, after its own. Return its fences by FROM's trials
    and fences.

    An attempt is identified by its trial, its worker and its start.
    """
    rows = _of(source, attempts.c.trial, step.keys)
    incoming = [at_rest(attempts.name, row, now) for row in rows]
    incoming.sort(key=itemgetter("trial", "fence"))
    existing = {_name(row): row for row in _of(target, attempts.c.trial, step.keys.values())}
    last = {step.keys[trial]: fence for trial, fence in step.fences.items()}
    fences, new, newer = {}, [], []
    for row in incoming:
        came = row | {"trial": step.keys[row["trial"]]}
        if known := existing.pop(_name(came), None):
            came |= {"id": known["id"], "fence": known["fence"]}
            if row["trial"] in step.over:
                newer.append(came)
        else:
            if row["trial"] not in step.fresh:
                came["fence"] = last[came["trial"]] = last[came["trial"]] + 1
            vain = row["trial"] not in step.fresh | step.over
            new.append(in_vain(came) if vain else came)
        fences[row["trial"], row["fence"]] = came["fence"]
    replaced = {step.keys[trial] for trial in step.over}
    newer += [in_vain(row) for row in existing.values() if row["trial"] in replaced]
    _write_attempts(target, new, newer)
    _raise_fences(target, last)
    return fences


def _name(attempt: Row) -> Values:
    return attempt["trial"], attempt["worker"], attempt["started_at"]


def in_vain(attempt: Row) -> Row:
    """Return an attempt of which no round is stored, because the other database's rounds are used.

    Its rounds count as lost. It has not finished the trial either, because another attempt has.
    """
    trained = {"rounds_lost": attempt["rounds_trained"], "seconds_lost": attempt["seconds_trained"]}
    if attempt["outcome"] == Outcome.FINISHED:
        trained |= {"outcome": Outcome.RELEASED.value, "error": MERGED}
    return attempt | trained | {"rounds_new": 0}


def _write_attempts(target: Connection, new: Sequence[Row], newer: Sequence[Row]) -> None:
    columns = [name for name in attempts.columns.keys() if name != "id"]  # noqa: SIM118
    insert(target, attempts, columns, [tuple([row[name] for name in columns]) for row in new])
    if newer:
        known = sa.update(attempts).where(attempts.c.id == sa.bindparam("of_attempt"))
        values = [
            {name: row[name] for name in columns} | {"of_attempt": row["id"]} for row in newer
        ]
        target.execute(known, values)


def _raise_fences(target: Connection, last: Mapping[int, int]) -> None:
    """Raise the fences, so that the next claim comes after the added attempts."""
    if last:
        raised = sa.update(trials).where(trials.c.id == sa.bindparam("of_trial"))
        target.execute(raised, [{"of_trial": key, "fence": fence} for key, fence in last.items()])


def _add_logs(
    source: Connection, target: Connection, step: _Step, fences: Mapping[tuple[int, int], int]
) -> None:
    """Add the log lines of attempts that INTO does not have."""
    c = logs.c
    last = sa.select(c.trial, c.fence, sa.func.max(c.n)).where(c.trial.in_(step.keys.values()))
    had = {(trial, fence): n for trial, fence, n in target.execute(last.group_by(c.trial, c.fence))}
    columns = logs.columns.keys()
    for part in row_parts(source, sa.select(logs).where(c.trial.in_(step.keys))):
        new = []
        for row in dicts(logs, part):
            trial, fence = step.keys[row["trial"]], fences[row["trial"], row["fence"]]
            if row["n"] > had.get((trial, fence), -1):
                came = row | {"trial": trial, "fence": fence}
                new.append(tuple([came[name] for name in columns]))
        insert(target, logs, columns, new)


def _add_rows_of(source: Connection, target: Connection, table: sa.Table, step: _Step) -> int:
    """Add a table's rows of the trials that are now as FROM had them. Returns their number."""
    query = sa.select(table).where(table.c.trial.in_(step.fresh | step.over))
    columns = table.columns.keys()
    at, count = columns.index("trial"), 0
    for part in row_parts(source, query):
        rows = [(*row[:at], step.keys[row[at]], *row[at + 1 :]) for row in part]
        insert(target, table, columns, rows)
        count += len(rows)
    return count


def _add_weights(source: Connection, target: Connection, step: _Step, lost: list[str]) -> None:
    """Add the weights of finished trials for which INTO has none."""
    had = {row["trial"] for row in _of(target, weights.c.trial, step.keys.values())}
    missing = [key for key, target_key in step.keys.items() if target_key not in had]
    rows = _of(source, weights.c.trial, missing)
    insert(
        target,
        weights,
        weights.columns.keys(),
        weights_to_add(source, target, rows, step.keys, lost),
    )


def _add_members(
    source: Connection,
    target: Connection,
    step: _Step,
    joined: Mapping[int, int],
    first: Mapping[int, int],
) -> None:
    """Add the memberships of these trials. `first` are INTO's sweeps that planned them first."""
    had = {(row["sweep"], row["trial"]) for row in _of(target, members.c.trial, step.keys.values())}
    new = []
    for row in _of(source, members.c.trial, step.keys):
        sweep, trial = joined[row["sweep"]], step.keys[row["trial"]]
        if (sweep, trial) not in had:
            new.append((sweep, trial, int(sweep != first[row["trial"]])))
    insert(target, members, ["sweep", "trial", "shared"], new)


def _add_arms(source: Connection, target: Connection, joined: Mapping[int, int]) -> None:
    """Add the searches that INTO does not have, with their proposals. Call it after all trials are
    added.
    """
    had = {tuple(row) for row in target.execute(sa.select(arms.c.sweep, arms.c.arm_id))}
    rows = source.execute(sa.select(arms).order_by(arms.c.id)).mappings().all()
    keys: dict[int, int] = {}
    for arm in rows:
        sweep = joined[arm["sweep"]]
        if (sweep, arm["arm_id"]) not in had:
            fields = {**arm, "sweep": sweep}
            new = sa.insert(arms).values({k: v for k, v in fields.items() if k != "id"})
            keys[arm["id"]] = target.execute(new.returning(arms.c.id)).scalar_one()
    for table in (proposals, lattices):
        for row in _of(source, table.c.arm, keys):
            target.execute(sa.insert(table).values({**row, "arm": keys[row["arm"]]}))
    named = sa.select(proposed, trials.c.trial_id).join(trials, trials.c.id == proposed.c.trial)
    trial_key = sa.select(trials.c.id).where(trials.c.trial_id == sa.bindparam("name"))
    for named_row in source.execute(named.where(proposed.c.arm.in_(keys))):
        trial = target.execute(trial_key, {"name": named_row.trial_id}).scalar_one()
        own = {"number": named_row.number, "fresh": named_row.fresh}
        target.execute(sa.insert(proposed).values(arm=keys[named_row.arm], trial=trial, **own))

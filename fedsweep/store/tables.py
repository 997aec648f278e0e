"""The tables. They hold everything that is known about a sweep.

Times ending in `_at` are wall-clock seconds since 1970, for display. Leases and delays are measured
on the database's clock (`store.moment.Moment`).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from fedsweep.fields import config_columns
from fedsweep.measures import OF_ROUNDS, OF_TRIALS, Measure, Unit
from fedsweep.states import FailureKind, Outcome, TrialState
from fedsweep.store.dialects.sqlite import Key

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

_COLUMN_TYPES = {bool: Boolean, int: BigInteger, float: Double, str: Text}


_UNIT_TYPES: dict[Unit, Any] = {
    "fraction": Double,
    "nats": Double,
    "number": Double,
    "seconds": Double,
    "bytes": BigInteger,
    "round": BigInteger,
    "numbers by layer": Text,  # JSON
}


def _measured(measure: Measure) -> Column[Any]:
    """Return the column of a round's measure."""
    return Column(measure.name, _UNIT_TYPES[measure.unit], nullable=not measure.required)


def _one_of(column: str, values: type[TrialState | FailureKind | Outcome]) -> str:
    return f"{column} IN ({', '.join(repr(v.value) for v in values)})"


sweeps = Table(
    "sweeps",
    metadata,
    Column("id", Key, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
    Column("held", Text),  # a `states.Hold`: why nothing of it is claimed
    Column("artifacts", Text),  # URL of the folder of its files; NULL: the store's own
    Column("budget_rounds", BigInteger),
    Column("budget_hours", Double),
)
"""The sweeps, each with its hold, its budget and the place of its files."""

plans = Table(
    "plans",
    metadata,
    Column("id", Key, primary_key=True),
    Column("sweep", Key, ForeignKey("sweeps.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)
"""Every text under which a sweep was planned, in order."""

trials = Table(
    "trials",
    metadata,
    Column("id", Key, primary_key=True),
    Column("trial_id", Text, nullable=False, unique=True),
    Column("cell_id", Text, nullable=False, index=True),
    Column("sweep", Key, ForeignKey("sweeps.id"), nullable=False),  # that planned it first
    Column("config", Text, nullable=False),  # JSON
    *(Column(name, _COLUMN_TYPES[kind]) for name, kind in config_columns().items()),
    Column("state", Text, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    # The clock on which the two times below were read: a boot id on SQLite, "server" on Postgres.
    Column("clock", Text),
    Column("lease_until", Double),
    Column("not_before", Double),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0"),  # in a row, without a new round
    Column("failure", Text),
    Column("error", Text),
    Column("numerics_id", Text),  # of the stored rounds
    Column("data_fingerprint", Text),  # of the data they were computed on
    Column("device", Text),
    Column("final_round", BigInteger),
    *(Column(measure.name, _UNIT_TYPES[measure.unit]) for measure in OF_TRIALS),
    Column("wish", Text),  # to hold this trial alone
    Column("held", Text),  # from its wish and its sweeps'; see `queue.statements.update_holds`
    Column("trunk", Text),  # what it shares with siblings, NULL where nothing: see `store.trunks`
    Column("fork_round", BigInteger),  # the last round that it may share
    Column("waits", Integer, nullable=False, server_default="0"),  # for its trunk to get on
    Column("rounds_shared", BigInteger, nullable=False, server_default="0"),  # of a sibling's
    Column("frozen_at", BigInteger),  # the T* that a trial found itself
    CheckConstraint(_one_of("state", TrialState), name="state"),
    CheckConstraint(_one_of("failure", FailureKind), name="failure"),
    CheckConstraint("state <> 'running' OR lease_until IS NOT NULL", name="running_has_lease"),
)
"""The trials: identity, state, configuration, final numbers."""

CLAIMABLE = "state = 'queued' AND held IS NULL AND not_before IS NULL AND waits = 0"
WAITING = "waits = 1 AND state = 'queued' AND held IS NULL AND not_before IS NULL"
SHARING = "trunk IS NOT NULL AND state IN ('queued', 'running')"
TRAINING = "trunk IS NOT NULL AND state = 'running'"
WHOLE = "trunk IS NOT NULL AND state = 'finished' AND fork_round = rounds"
BACKING_OFF = "state = 'queued' AND not_before IS NOT NULL"


def _partial(name: str, where: str, *columns: ColumnElement[Any]) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


_partial("ix_trials_claimable", CLAIMABLE, trials.c.priority.desc(), trials.c.id)
_partial("ix_trials_claimable_of", CLAIMABLE, trials.c.sweep, trials.c.priority.desc(), trials.c.id)
_partial("ix_trials_backing_off", BACKING_OFF, trials.c.clock, trials.c.not_before)
_partial("ix_trials_outstanding", "state IN ('queued', 'running')", trials.c.held, trials.c.sweep)
_partial("ix_trials_running", "state = 'running'", trials.c.lease_until)
_partial("ix_trials_sharing", SHARING, trials.c.trunk, trials.c.waits, trials.c.fork_round)
_partial(
    "ix_trials_next", WAITING, trials.c.trunk, trials.c.priority.desc(), trials.c.fork_round.desc()
)
_partial("ix_trials_training", TRAINING, trials.c.trunk)
_partial("ix_trials_whole", WHOLE, trials.c.trunk)

members = Table(
    "sweep_members",
    metadata,
    Column("sweep", Key, ForeignKey("sweeps.id"), primary_key=True),
    Column("trial", Key, ForeignKey("trials.id"), primary_key=True, index=True),
    Column("shared", Integer, nullable=False, server_default="0"),  # another sweep planned it first
)
"""The trials of each sweep. A trial may belong to several."""
_partial("ix_sweep_members_shared", "shared = 1", members.c.sweep, members.c.trial)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Key, primary_key=True),
    Column("trial", Key, ForeignKey("trials.id"), nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("worker", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("device", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("outcome", Text),
    Column("failure", Text),
    Column("error", Text),
    Column("traceback", Text),
    Column("numerics_id", Text),
    Column("numerics", Text),  # JSON
    Column("data_fingerprint", Text),
    Column("rounds_trained", BigInteger, nullable=False, server_default="0"),
    Column("rounds_new", BigInteger, nullable=False, server_default="0"),
    Column("rounds_lost", BigInteger, nullable=False, server_default="0"),
    Column("seconds_trained", Double, nullable=False, server_default="0"),
    Column("seconds_lost", Double, nullable=False, server_default="0"),
    Column("provenance", Text),  # JSON: packages, commit, device, driver
    Column("memory", BigInteger),  # bytes of the device that it took at most
    UniqueConstraint("trial", "fence"),
    CheckConstraint(_one_of("outcome", Outcome), name="outcome"),
    CheckConstraint(_one_of("failure", FailureKind), name="failure"),
)
"""The attempts at each trial.

`rounds_new` counts rounds that were stored for the first time. `rounds_lost` counts rounds that
were trained again although stored, or stored under numerics that this attempt replaced.
"""

rounds = Table(
    "rounds",
    metadata,
    Column("trial", Key, ForeignKey("trials.id"), primary_key=True),
    Column("round", BigInteger, primary_key=True),
    Column("phase", Text, nullable=False),
    *(_measured(measure) for measure in OF_ROUNDS if measure.since == 1),
    Column("inherited", Integer, nullable=False, server_default="0"),
    *(_measured(measure) for measure in OF_ROUNDS if measure.since > 1),
    CheckConstraint("phase IN ('explore', 'calibrate')", name="phase"),
    sqlite_with_rowid=False,
)
"""The measures of each round."""

client_rounds = Table(
    "client_rounds",
    metadata,
    Column("trial", Key, ForeignKey("trials.id"), primary_key=True),
    Column("round", BigInteger, primary_key=True),
    Column("client", BigInteger, primary_key=True),
    Column("samples", BigInteger, nullable=False),
    Column("test_accuracy", Double, nullable=False),
    Column("own_accuracy", Double),
    Column("own_samples", BigInteger),
    sqlite_with_rowid=False,
)
"""Each registered client's own test accuracy, if the trial measures it.

`test_accuracy` is on the client's class mix. `own_accuracy` is on its `own_samples` test images,
if the data have them.
"""

snapshots = Table(
    "snapshots",
    metadata,
    Column("trial", Key, ForeignKey("trials.id"), primary_key=True),
    Column("round", BigInteger, primary_key=True),
    Column("numerics_id", Text, nullable=False),
    Column("name", Text, nullable=False),  # of the file, within the store's own folder
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("trunk", Text),  # where siblings can go on from it too
)
"""The stored states that trials resume from."""
_partial("ix_snapshots_trunk", "trunk IS NOT NULL", snapshots.c.trunk, snapshots.c.round)

weights = Table(
    "weights",
    metadata,
    Column("trial", Key, ForeignKey("trials.id"), primary_key=True),
    Column("name", Text, nullable=False),  # of the file, in the folder of the snapshots
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)
"""The final weights of finished trials that were told to keep them."""

files = Table(
    "files",
    metadata,
    Column("name", Text, primary_key=True),
    Column("trial", Key, ForeignKey("trials.id"), nullable=False, index=True),
    Column("fence", BigInteger, nullable=False),
    Column("free_since", Double),  # when nothing referred to it any more
)
"""Every file that an attempt may write, named before it is written: none can be orphaned."""

logs = Table(
    "logs",
    metadata,
    Column("trial", Key, ForeignKey("trials.id"), primary_key=True),
    Column("fence", BigInteger, primary_key=True),
    Column("n", BigInteger, primary_key=True),
    Column("at", Double, nullable=False),
    Column("level", Text, nullable=False),
    Column("message", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""The lines that were logged during an attempt."""

arms = Table(
    "arms",
    metadata,
    Column("id", Key, primary_key=True),
    Column("sweep", Key, ForeignKey("sweeps.id"), nullable=False),
    Column("arm_id", Text, nullable=False),  # hash of the configuration without seed and T*
    Column("config", Text, nullable=False),  # JSON, with T* = T
    Column("rivals", Text, nullable=False),  # JSON: its rival configurations of BN and GN
    Column("settings", Text, nullable=False),  # JSON: see `store.arms.Arm`
    Column("seeds", Text, nullable=False),  # JSON: the plan's
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("asked", BigInteger, nullable=False, server_default="0"),  # proposals so far
    Column("ended", Text),  # why: budget, settled, tried; NULL while it is searched
    Column("said", Text),  # the same in a sentence
    Column("freeze_round", BigInteger),  # the T* that it proposes
    UniqueConstraint("sweep", "arm_id"),
    CheckConstraint("ended IN ('budget', 'settled', 'tried')", name="ended"),
)
"""The cells whose best T* a sweep searches for, each with its search."""
_partial("ix_arms_open", "ended IS NULL", arms.c.priority.desc(), arms.c.id)

proposals = Table(
    "proposals",
    metadata,
    Column("arm", Key, ForeignKey("arms.id"), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("freeze_round", BigInteger),  # NULL where it adds a seed
    Column("seed", BigInteger),  # the seed that it adds
    Column("why", Text, nullable=False),
    Column("cost", BigInteger, nullable=False),  # rounds that it was thought to take
    Column("at", Double, nullable=False),
    Column("pruned_at", BigInteger),  # the round in which it was given up
    sqlite_with_rowid=False,
)
"""The choices of an arm's search, in order, with the reason for each."""

proposed = Table(
    "proposed",
    metadata,
    Column("arm", Key, ForeignKey("arms.id"), primary_key=True),
    Column("trial", Key, ForeignKey("trials.id"), primary_key=True, index=True),
    Column("number", BigInteger, nullable=False),
    Column("fresh", Integer, nullable=False),  # 0 where it was there before
    sqlite_with_rowid=False,
)
"""The trials of proposals, and those of BN and GN that came with an added seed."""

lattices = Table(
    "lattices",
    metadata,
    Column("trunk", Text, primary_key=True),
    Column("arm", Key, ForeignKey("arms.id"), primary_key=True, index=True),
    Column("low", BigInteger, nullable=False),
    Column("high", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""The rounds at which trials of a trunk may still fork, as long as an arm is searched."""

stops = Table(
    "stops",
    metadata,
    Column("id", Key, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("device", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("lacks", Text),  # JSON: see `store.stops.Lack`; NULL if the worker stopped altogether
)
"""Why a worker stopped claiming, or passes over some trials. See `store.stops`."""

launches = Table(
    "launches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("sweep", Text),
    Column("at", Double, nullable=False),
    Column("person", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("folder", Text, nullable=False),
    Column("workers", Integer, nullable=False),
    Column("request", Text, nullable=False),  # JSON: options by name
    Column("jobs", Text, nullable=False),  # JSON: the scheduler's ids
    Column("stopped_at", Double),
)
"""Workers that a scheduler starts. See `store.launches`."""

identity = Table(
    "store",
    metadata,
    Column("id", Text, primary_key=True),
    Column("made_at", Double, nullable=False),
)
"""One row: this database's own name, under which its files lie."""

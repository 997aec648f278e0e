"""Stores with many trials, filled fast: one trial is planned, the others are copies of its row.

No figure contains the time to fill a store.
"""

from __future__ import annotations

import itertools
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url

from fedsweep import queue
from fedsweep.fields import config_columns
from fedsweep.plans import SweepSpec, TrainConfig, TrialSpec
from fedsweep.states import Hold
from fedsweep.store import planning
from fedsweep.store.clock import read_clock
from fedsweep.store.dialects import sqlite_file
from fedsweep.store.schema import open_store
from fedsweep.store.tables import attempts, members, rounds, sweeps, trials
from fedsweep.store.transactions import transaction
from tests.benchmarks.figure import timed

DIGITS: dict[str, Any] = {
    "dataset": "digits", "model": "cnn", "clients": 4, "local_steps": 2, "batch_size": 8,
    "lr": 0.05, "normalizer": "bn", "alpha": 0.5,
}  # fmt: skip
SEEDS = 20
"""Trials of a cell."""


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    """Open a store. It is created if it does not exist."""
    store = open_store(url, create=True)
    try:
        yield store
    finally:
        store.dispose()


def queued(url: str, sweep: str, count: int, *, measured: bool = False) -> None:
    """Add trials of one round to a sweep. If `measured`, their round is stored already."""
    with opened(url) as store:
        with transaction(store) as connection:
            template = _template(connection, sweep)
            first = connection.execute(sa.select(sa.func.max(trials.c.id))).scalar_one()
            _copy(connection, template, count, measured=measured)
            new = (trials.c.id > first) & (trials.c.sweep == template["sweep"])
            _into(connection, members, {"sweep": trials.c.sweep, "trial": trials.c.id}, new)
            if measured:
                _into(connection, rounds, _measured(sa.literal(1)), new)
        settle(store)


def pause(url: str, sweep: str) -> float:
    """Pause a sweep. Return the seconds that it takes."""
    with opened(url) as store:

        def hold() -> None:
            with transaction(store) as connection:
                queue.hold_sweep(connection, sweep, Hold.PAUSE)

        seconds = timed(hold)
        settle(store)
    return seconds


def one_trunk(url: str, sweep: str) -> None:
    """Let all of a sweep's trials wait for one trunk, which one of them trains for an hour."""
    with opened(url) as store:
        with transaction(store) as connection:
            key = sa.select(sweeps.c.id).where(sweeps.c.name == sweep).scalar_subquery()
            free = (trials.c.sweep == key) & (trials.c.state == "queued")
            first = connection.execute(sa.select(sa.func.min(trials.c.id)).where(free)).scalar_one()
            shared = sa.update(trials).where(free, trials.c.id != first)
            trunk = {"trunk": "0123456789abcdef0123", "fork_round": 1}
            connection.execute(shared.values(**trunk, waits=1))
            carrier = sa.update(trials).where(trials.c.id == first)
            connection.execute(carrier.values(**trunk, priority=1))
            worker = queue.Claimant("carrier", "cpu")
            claim = queue.claim(connection, worker, read_clock(connection), lease=3600)
            assert claim is not None
            assert claim.trial == first
        settle(store)


def finished(url: str, sweep: str, length: int) -> int:
    """Store 500 cells of finished trials of `length` rounds. Return the number of trials."""
    spec = SweepSpec(sweep, "", tuple(_grid(length)))
    with opened(url) as store:
        with transaction(store) as connection:
            planning.add_sweep(connection, spec)
            numbers = _numbers(length)
            measured = _measured(numbers.c.n)
            chosen = sa.select(*measured.values()).select_from(trials.join(numbers, sa.true()))
            connection.execute(sa.insert(rounds).from_select(list(measured), chosen))
            connection.execute(sa.update(trials).values(**_final(length)))
            _into(connection, attempts, _attempted(length), sa.true())
        settle(store)
    return len(spec.trials)


def _grid(length: int) -> Iterator[TrialSpec]:
    """Yield the trials of a study: ten values of T⋆ under fifty protocols."""
    axes: dict[str, list[Any]] = {
        "freeze_round": [length * tenth // 10 for tenth in range(10)],
        "alpha": [0.1, 0.3, 0.5, 1, 10],
        "local_steps": [1, 5, 20, 50, 100],
        "momentum": ["reset", "global"],
        "seed": list(range(SEEDS)),
    }
    for point in itertools.product(*axes.values()):
        chosen = dict(zip(axes, point, strict=True)) | {"normalizer": "fixbn", "rounds": length}
        yield TrialSpec.of(TrainConfig(**{**DIGITS, **chosen}))


def _template(connection: Connection, sweep: str) -> sa.RowMapping:
    """Return the row of a sweep's one planned trial, and end it. Its copies are claimed."""
    config = TrainConfig(**DIGITS, rounds=1, seed=zlib.crc32(sweep.encode()))
    trial = TrialSpec.of(config)
    planning.add_sweep(connection, SweepSpec(sweep, "", (trial,)))
    of_it = trials.c.trial_id == trial.trial_id
    connection.execute(sa.update(trials).where(of_it).values(state="cancelled"))
    return connection.execute(sa.select(trials).where(of_it)).mappings().one()


def _copy(connection: Connection, template: sa.RowMapping, count: int, *, measured: bool) -> None:
    numbers = _numbers(count)
    same = ["cell_id", "sweep", "config", *config_columns()]
    values: dict[str, Any] = {n: sa.literal(template[n], trials.c[n].type) for n in same}
    values |= {
        "trial_id": sa.literal_column(_RANDOM_ID[connection.dialect.name]),
        "seed": numbers.c.n,
        "state": sa.literal("queued"),
        "final_round": sa.literal(1 if measured else None, sa.BigInteger()),
    }
    connection.execute(sa.insert(trials).from_select(list(values), sa.select(*values.values())))


_RANDOM_ID = {
    "sqlite": "lower(hex(randomblob(10)))",
    "postgresql": "substr(md5(random()::text || random()::text), 1, 20)",
}
"""An id in random order, as real ids are, so that all parts of its index are used."""


def _numbers(count: int) -> sa.CTE:
    """Return a query of the numbers from 1 to count, for both databases."""
    start = sa.select(sa.literal(1).label("n")).cte("numbers", recursive=True)
    return start.union_all(sa.select(start.c.n + 1).where(start.c.n < count))


def _into(
    connection: Connection,
    table: sa.Table,
    values: Mapping[str, Any],
    which: sa.ColumnElement[bool],
) -> None:
    """Insert one row per trial."""
    chosen = sa.select(*values.values()).select_from(trials).where(which)
    connection.execute(sa.insert(table).from_select(list(values), chosen))


def _measured(round: Any) -> dict[str, Any]:
    """Return the measures of a round, with plausible accuracies."""
    accuracy = sa.cast((trials.c.id * 7919 + round * 104_729) % 1000, sa.Double()) / 1000
    return {
        "trial": trials.c.id, "round": round, "phase": sa.literal("explore"),
        "train_loss": sa.literal(1.25), "test_loss": 1 - accuracy, "test_accuracy": accuracy,
        "validation_loss": sa.literal(1.5), "validation_accuracy": accuracy,
        "bytes_up": sa.literal(1_000_000), "bytes_down": sa.literal(1_000_000),
        "seconds": sa.literal(0.125),
    }  # fmt: skip


def _final(length: int) -> dict[str, Any]:
    final = _measured(sa.literal(length))
    same = ("test_loss", "test_accuracy", "validation_accuracy")
    return {name: final[name] for name in same} | {
        "state": "finished", "fence": 1, "final_round": length, "best_round": length,
        "best_test_accuracy": final["test_accuracy"], "bytes_up": 10**6 * length,
        "bytes_down": 10**6 * length, "seconds": 0.125 * length, "device": "cpu",
        "numerics_id": "0" * 20,
    }  # fmt: skip


def _attempted(length: int) -> dict[str, Any]:
    values = {"fence": 1, "worker": "bench", "host": "here", "pid": 1, "device": "cpu"}
    values |= {"started_at": 0.0, "ended_at": 1.0, "outcome": "finished"}
    values |= {"rounds_trained": length, "rounds_new": length, "seconds_trained": 0.125 * length}
    return {"trial": trials.c.id} | {k: sa.literal(v) for k, v in values.items()}


def settle(store: Engine) -> None:
    """Do the database's maintenance now, so that it does not disturb a measurement."""
    file = sqlite_file(store.url)
    if file is not None:
        with closing(sqlite3.connect(file)) as driver:
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return
    with store.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql("VACUUM (ANALYZE)")
        connection.exec_driver_sql("CHECKPOINT")


def make_database(server: str, name: str) -> str:
    """Create a database on a Postgres server. Return its URL."""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name}")
    return make_url(server).set(database=name).render_as_string(hide_password=False)

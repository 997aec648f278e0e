"""The load of many workers on one Postgres: connections per worker, and bytes per row.

`python -m tests.benchmarks machines` prints the numbers of docs/how-to/many-machines.md.
The engine is `walk`, so that nothing is measured except the database.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest

from tests import walk
from tests.acceptance.command import at_once, eventually, fedsweep, query, start
from tests.benchmarks import fill
from tests.benchmarks.figure import Figure
from tests.builders import TINY

WORKERS = 4
"""The workers of a figure."""
SECONDS = 10.0
"""Seconds for which the connections are counted."""
SLOTS = (1, 4)
TRIALS = 150
ROUNDS = 100
"""Rounds of a trial whose bytes are measured."""
OPEN = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE application_name = 'fedsweep' AND datname = current_database()"
)
LISTENING = f"{OPEN} AND query LIKE 'LISTEN%'"
TABLES = "SELECT sum(pg_total_relation_size(relation)) FROM (VALUES {}) AS named (relation)"


def machines(folder: Path, server: str) -> Iterator[Figure]:
    """Measure idle and busy workers, and the bytes of trials, rounds and clients."""
    with pytest.MonkeyPatch.context() as patch:
        walk.install(patch)
        plan = folder / "machines.toml"
        plan.write_text(TINY.replace("seed = [0, 1]", f"seed = {list(range(TRIALS // 3))}"))
        for slots in SLOTS:
            url = fill.make_database(server, f"idle_{slots}")
            with working(url, slots, until=partial(all_listen, url, slots)):
                counts = [count / WORKERS for count in counted(url, SECONDS)]
            yield Figure(f"connections per idle worker, {slots} slots", f"{slots}", "", counts)
            url = fill.make_database(server, f"busy_{slots}")
            at_once("plan", str(plan), "--db", url, "--set", "rounds=1000")
            with working(url, slots, until=partial(all_train, url, slots), WALK_SECONDS="1"):
                counts = [count / WORKERS for count in counted(url, SECONDS)]
            mean = sum(counts) / len(counts)
            yield Figure(f"mean connections per busy worker, {slots} slots", "< 1", "", [mean])
            most = [max(counts) * WORKERS]
            yield Figure(f"most connections of {WORKERS} busy workers, {slots} slots", "", "", most)
        url = fill.make_database(server, "bytes")
        with fill.opened(url):
            yield Figure("bytes of a database without trials", "", "B", [database_bytes(url)])
        train(url, plan, ROUNDS)
        yield Figure("bytes per finished trial", "", "B", [bytes_of_trial(url)])
        yield Figure("bytes per round", "", "B", [bytes_per_row(url, "rounds")])
        url = fill.make_database(server, "more_bytes")
        train(url, plan, ROUNDS, "diagnostics=true", "client_accuracy=true")
        yield Figure("bytes per round with diagnostics", "", "B", [bytes_per_row(url, "rounds")])
        clients = bytes_per_row(url, "client_rounds")
        yield Figure("bytes per client and round with client_accuracy", "", "B", [clients])


def parts(folder: Path, server: str) -> dict[str, Callable[[], Iterator[Figure]]]:
    """Return the part by its name."""
    return {"machines": partial(machines, folder, server)}


@contextmanager
def working(
    url: str, slots: int, *, until: Callable[[], bool], workers: int = WORKERS, **env: str
) -> Iterator[None]:
    """Run workers while the context lasts, from the time when a condition is true."""
    options = ("--device", "cpu", "--slots", str(slots))
    running = [start("work", *options, FEDSWEEP_DB=url, **env) for _ in range(workers)]
    try:
        eventually(until)
        yield
    finally:
        for worker in running:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.communicate()


def all_listen(url: str, slots: int, workers: int = WORKERS) -> bool:
    """Return whether every slot waits for a notification."""
    return bool(query(url, LISTENING)[0][0] == workers * slots)


def all_train(url: str, slots: int, workers: int = WORKERS) -> bool:
    """Return whether every slot has stored a round."""
    trained = query(url, "SELECT count(DISTINCT trial) FROM rounds")[0][0]
    return bool(trained >= workers * slots)


def counted(url: str, seconds: float) -> list[int]:
    """Count the connections of all workers, about a hundred times per second."""
    counts = []
    with psycopg.connect(url, autocommit=True, application_name="counting") as connection:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ((count,),) = connection.execute(OPEN).fetchall()
            counts.append(count)
            time.sleep(0.01)
    return counts


def train(url: str, plan: Path, rounds: int, *changes: str) -> None:
    """Plan a sweep and finish it."""
    options = [word for change in (f"rounds={rounds}", *changes) for word in ("--set", change)]
    at_once("plan", str(plan), "--db", url, *options)
    fedsweep("work", "--db", url, "--device", "cpu", "--slots", "1", "--until-empty")


def database_bytes(url: str) -> int:
    """Return the bytes of a whole database."""
    return int(query(url, "SELECT pg_database_size(current_database())")[0][0])


def bytes_per_row(url: str, table: str) -> float:
    """Return the bytes of a table, with its indexes, divided by its rows."""
    text = f"SELECT pg_total_relation_size('{table}'), count(*) FROM {table}"
    ((size, rows),) = query(url, text)
    return float(size / rows)


def bytes_of_trial(url: str) -> float:
    """Return the bytes of all tables except those of rounds, divided by the trials."""
    names = "('trials'), ('attempts'), ('members')"
    ((size,),) = query(url, TABLES.format(names))
    ((trials,),) = query(url, "SELECT count(*) FROM trials")
    return float(size / trials)

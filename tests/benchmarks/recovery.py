"""The time until another worker runs a trial again whose worker was killed or told to stop.

The round from which it continues is measured too.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep.plans import SweepSpec, TrainConfig, TrialSpec
from fedsweep.store import planning
from fedsweep.store.tables import attempts, snapshots, trials
from fedsweep.store.transactions import reading, transaction
from tests.benchmarks import fill
from tests.benchmarks.figure import Figure
from tests.builders import REPOSITORY

KILLS = {5.0: 10, 15.0: 5}
"""Number of kills by the lease in seconds."""
STOPS = 5
"""Number of stops."""
POLL = 0.02
PATIENCE = 120.0
"""Longest wait in seconds."""
WITHIN = 1.0
"""Allowed seconds after the lease."""
LOOKS = 50
"""Checks in a row that find an idle slot asleep. A slot that still imports is not asleep."""


@dataclass(frozen=True)
class Takeover:
    """The next attempt of a trial that lost its worker."""

    seconds: float
    """Seconds from the signal to the next attempt."""
    unsaved: float
    """Seconds between the last commit of its rounds and the signal."""
    lost: int
    """Stored rounds that the next attempt trained again."""
    since: int
    """Stored rounds after the last snapshot."""
    outcome: str
    """Outcome of the interrupted attempt."""


class Workers:
    """Processes of `fedsweep work`: one trains, one waits, and ended ones are replaced."""

    def __init__(self, url: str, lease: float, log: Path) -> None:
        call = [sys.executable, "-m", "fedsweep", "work", "--db", url, "--lease", str(lease)]
        self.call = [*call, "--device", "cpu"]
        self.log = log
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start another worker in its own session."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.call, cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
            )
        self.running[process.pid] = process

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a worker and all its children at once, as a scheduler does."""
        with suppress(ProcessLookupError):
            os.killpg(pid, number)

    def ready(self) -> None:
        """Wait until each has a slot, and all but the one that trains are idle."""
        until = time.monotonic() + PATIENCE
        while sum(map(_idle, self.running)) < len(self.running) - 1:
            died = any(process.poll() is not None for process in self.running.values())
            if died or time.monotonic() > until:
                raise RuntimeError(f"no worker became idle: {self.log.read_text()[-2000:]}")

    def reap(self, pid: int) -> None:
        """Wait for the end of a worker after its signal."""
        self.running.pop(pid).wait(PATIENCE)

    def end(self) -> None:
        for pid, process in self.running.items():
            self.signal(pid, signal.SIGKILL)
            process.wait()


def _idle(pid: int) -> bool:
    """Return True if a worker's slot only waits for trials."""
    try:
        children = psutil.Process(pid).children()
        slots = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        return bool(slots) and all(_asleep(slot) for slot in slots)
    except psutil.NoSuchProcess:
        return False


def _asleep(slot: psutil.Process) -> bool:
    for _ in range(LOOKS):
        if slot.status() != psutil.STATUS_SLEEPING:
            return False
        time.sleep(POLL)
    return True


def long_trial(store: Engine) -> None:
    """Plan one trial that does not end."""
    config = TrainConfig(**fill.DIGITS, rounds=10**8)
    with transaction(store) as connection:
        planning.add_sweep(connection, SweepSpec("endless", "", (TrialSpec.of(config),)))


def attempt(store: Engine, after: int = 0) -> Any:
    """Return the attempt after another one."""
    newest = sa.select(attempts).where(attempts.c.id > after).order_by(attempts.c.id.desc())
    return _until(store, newest.limit(1))


def saved(store: Engine, fence: int) -> Any:
    """Wait for an attempt with stored rounds. Return it with its trial's round and snapshot."""
    stored = sa.select(
        attempts, trials.c.final_round, snapshots.c.round.label("safe"), snapshots.c.created_at
    ).select_from(
        attempts.join(trials, trials.c.id == attempts.c.trial).join(
            snapshots, snapshots.c.trial == trials.c.id
        )
    )
    return _until(store, stored.where(attempts.c.fence == fence, attempts.c.rounds_trained > 0))


def _until(store: Engine, query: sa.Select[Any]) -> Any:
    """Wait until a query has a row, and return it."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with reading(store) as connection:
            row = connection.execute(query).one_or_none()
        if row is not None:
            return row
        time.sleep(POLL)
    raise RuntimeError("nothing happened")


def takeover(store: Engine, workers: Workers, lease: float, number: signal.Signals) -> Takeover:
    """Send a signal to the training worker at a random moment of its lease; return the takeover."""
    victim = attempt(store)
    workers.start()
    workers.ready()
    saved(store, victim.fence)
    time.sleep(random.uniform(0, lease / 3))
    pid = int(victim.worker.removeprefix(f"{victim.host}-").split("-")[0])
    wall, began = time.time(), time.monotonic()
    workers.signal(pid, number)
    successor = attempt(store, after=victim.id)
    seconds = time.monotonic() - began
    left = saved(store, victim.fence)  # long before the successor has imported torch
    workers.reap(pid)
    return Takeover(
        seconds,
        unsaved=max(wall - left.created_at, 0.0),
        lost=saved(store, successor.fence).rounds_lost,
        since=left.final_round - left.safe,
        outcome=left.outcome,
    )


@contextmanager
def workplace(url: str, lease: float, log: Path) -> Iterator[tuple[Engine, Workers]]:
    """Create a store with an endless trial, and start a worker."""
    workers = Workers(url, lease, log)
    with fill.opened(url) as store:
        long_trial(store)
        try:
            workers.start()
            yield store, workers
        finally:
            workers.end()


def recoveries(folder: Path, server: str) -> Iterator[Figure]:
    """Measure kills at two leases, and stops, on each database."""
    for database in ("SQLite", "Postgres"):
        for lease, times in KILLS.items():
            url = _store(folder, server, database, f"killed{lease:g}")
            with workplace(url, lease, folder / "work.log") as (store, workers):
                kills = [takeover(store, workers, lease, signal.SIGKILL) for _ in range(times)]
                yield from _figures("killed", f"lease {lease:g} s, {database}", kills, lease)
                if lease == max(KILLS):
                    stops = [takeover(store, workers, lease, signal.SIGTERM) for _ in range(STOPS)]
                    yield from _figures("stopped", database, stops, None)


def _figures(what: str, where: str, done: list[Takeover], lease: float | None) -> Iterator[Figure]:
    seconds = sorted(each.seconds for each in done)
    unsaved = [each.unsaved for each in done]
    yield Figure(f"{what}: its trial runs again, {where}", "", "s", seconds)
    if lease is not None:
        p95 = seconds[min(int(0.95 * len(seconds)), len(seconds) - 1)]
        target = f"≤ {lease + WITHIN:g}"
        yield Figure(f"{what}: its trial runs again, p95, {where}", target, "s", [p95])
    yield Figure(
        f"{what}: since its last save, {where}", "≤ 1 + a round" if lease else "0", "s", unsaved
    )
    lost = [float(each.lost - each.since) for each in done]
    yield Figure(f"{what}: rounds lost beyond the last snapshot, {where}", "≤ 0", "", lost)
    expected = "expired" if lease else "released"
    others = sum(each.outcome != expected for each in done)
    yield Figure(f"{what}: attempts not {expected}, {where}", "0", "", [float(others)])


def _store(folder: Path, server: str, database: str, name: str) -> str:
    if database == "SQLite":
        return f"sqlite:///{folder}/{name}.db"
    return fill.make_database(server, name)


def parts(folder: Path, server: str) -> dict[str, Callable[[], Iterator[Figure]]]:
    """Return the measurements of this file by name."""
    return {"recovery": lambda: recoveries(folder, server)}

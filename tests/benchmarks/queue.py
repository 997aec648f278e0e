"""The queue: concurrent claims, claims per second next to its peers', claims after a backlog."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from fedsweep.plans import read_plan
from fedsweep.store.planning import add_sweep
from fedsweep.store.tables import attempts, rounds, sweeps, trials
from fedsweep.store.transactions import reading, transaction
from tests.benchmarks import fill, peers
from tests.benchmarks.claims import drain
from tests.benchmarks.crowd import Limit, Work, crowd
from tests.benchmarks.figure import Figure, ratios, timed
from tests.builders import TINY

WORKERS = 8
TURNS = 3
SECONDS = 5.0
"""Duration of one turn."""
STOCK = 120_000
"""Queued trials for all turns. A machine cannot claim as many in that time."""
ASKED = 200
"""Trials enqueued with Optuna. It takes as long for them as we do for thousands."""
JOBS = 2_000
"""Jobs for procrastinate."""

MANY = 1_000_000
FEW = 1_000
EACH = 100
"""Claims of a process from a backlog. A short queue has enough trials for them."""

CLAIMS = int(os.environ.get("FEDSWEEP_BENCH_CLAIMS", "1_000_000"))
"""Trials of the part `million`."""
RACERS = {"SQLite": 16, "Postgres": 32}
RATES = {"SQLite": "≥ 1500", "Postgres": "≥ 1000"}

Stores = Callable[[str, str], str]
"""A function that creates a store, by database and name, and returns its URL."""


def fresh(folder: Path, server: str, database: str, name: str) -> str:
    """Create a store. Return its URL."""
    if database == "SQLite":
        return f"sqlite:///{folder}/{name}.db"
    return fill.make_database(server, name)


def million(stores: Stores) -> Iterator[Figure]:
    """Let many processes claim and finish all trials of one round, and count them."""
    for database, racers in RACERS.items():
        url = stores(database, "million")
        fill.queued(url, "million", CLAIMS)
        work = crowd(racers, drain, url, Limit(), None, False, timeout=12 * 3600)
        what = f"of {CLAIMS:,}, {racers} processes, {database}"
        for name, count in faults(url, work).items():
            yield Figure(f"{name} {what}", "0", "", [float(count)])
        yield Figure(f"claims a second, by tenths, {what}", "", "/s", work.rates(10))
        yield Figure(f"longest claim {what}", "", "ms", [work.wait(1)])


def faults(url: str, work: Work) -> dict[str, int]:
    """Count the differences between the reports of the processes and the tables."""
    claimed = set(work.trials)
    sound = (trials.c.state == "finished") & (trials.c.fence == 1)
    with fill.opened(url) as store, reading(store) as c:

        def count(of: sa.FromClause, *where: Any) -> int:
            return c.execute(sa.select(sa.func.count()).select_from(of).where(*where)).scalar_one()

        once = count(trials, sound)
        tried: int = c.execute(sa.select(sa.func.count(attempts.c.trial.distinct()))).scalar_one()
        stored = count(rounds, rounds.c.round == 1)
        attempted = count(attempts)
        ended = count(attempts, attempts.c.outcome == "finished", attempts.c.fence == 1)
    return {
        "double claims": max(len(work.trials) - len(claimed), attempted - tried),
        "lost trials": CLAIMS - min(once, stored, ended, len(claimed)),
    }


def claiming(folder: Path, stores: Stores) -> Iterator[Figure]:
    """Measure eight processes that claim and finish, in turns with raw SQL and the peers."""
    for database in RATES:
        url, stocked = stores(database, "claims"), stores(database, "stocked")
        fill.queued(url, "claims", STOCK)
        fill.queued(stocked, "stocked", STOCK, measured=True)
        contenders: dict[str, Callable[[], dict[str, Any]]] = {
            "claim + one round + finish": partial(_ours, url, measured=False),
            "claim + finish": partial(_ours, stocked, measured=True),
            "raw SQL": _floor(database, folder, stores),
        }
        yield from _claiming(database, contenders, stores)


def _claiming(
    database: str, contenders: dict[str, Callable[[], dict[str, Any]]], stores: Stores
) -> Iterator[Figure]:
    answers_by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    missing = peers.missing()
    for turn in range(TURNS):
        for name, contend in contenders.items():
            answers_by_name[name].append(contend())
        if not missing:
            for name, answer in _others(database, turn, stores):
                answers_by_name[name].append(answer)
    for name, answers in answers_by_name.items():
        where, ours = f"{name}, {WORKERS} workers, {database}", name.startswith("claim")
        values = {key: [float(a[key]) for a in answers] for key in answers[0] if key != "version"}
        yield Figure(f"{where}: a second", RATES[database] if ours else "", "/s", values["rate"])
        if "p99" in values:
            yield Figure(f"{where}: p50 of a claim", "", "ms", values["p50"])
            yield Figure(f"{where}: p99 of a claim", "< 25" if ours else "", "ms", values["p99"])
            yield Figure(f"{where}: longest claim", "", "ms", values["longest"])
        if name.startswith("Optuna"):
            yield Figure(f"{where}: claimed twice", "", "", values["extra"])
    pure = [answer["rate"] for answer in answers_by_name["claim + finish"]]
    floor = [answer["rate"] for answer in answers_by_name["raw SQL"]]
    yield Figure(f"claim + finish / raw SQL, {database}", "", "", ratios(pure, floor))
    if missing:
        yield Figure(f"Optuna, procrastinate, {database}", "", missing=missing)


def _ours(url: str, *, measured: bool) -> dict[str, Any]:
    limit = Limit(seconds=SECONDS)
    return peers.told(crowd(WORKERS, drain, url, limit, None, measured))


def _floor(database: str, folder: Path, stores: Stores) -> Callable[[], dict[str, Any]]:
    """Return a turn of raw SQL on its own table."""
    limit = Limit(seconds=SECONDS)
    if database == "SQLite":
        file = folder / "floor.db"
        peers.fill_sqlite(file, 4 * STOCK)
        return lambda: peers.told(crowd(WORKERS, peers.floor_sqlite, file, limit))
    url = stores(database, "floor")
    peers.fill_postgres(url, 4 * STOCK)
    return lambda: peers.told(crowd(WORKERS, peers.floor_postgres, url, limit))


def _others(database: str, turn: int, stores: Stores) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the turns of Optuna and procrastinate on their own databases."""
    answer = peers.ask("optuna", stores(database, f"optuna{turn}"), ASKED)
    yield f"Optuna {answer['version']} ({ASKED} trials)", answer
    if database == "Postgres":
        answer = peers.ask("procrastinate", stores(database, f"procrastinate{turn}"), JOBS)
        yield f"procrastinate {answer['version']} ({JOBS:,} jobs)", answer


def backlog(stores: Stores) -> Iterator[Figure]:
    """Measure claims with a million queued trials, of all sweeps or of others, held or not."""
    for database in RATES:
        short, long = stores(database, "short"), stores(database, "long")
        fill.queued(long, "front", MANY)
        against = partial(_against, database, short, long)
        yield from against(f"{MANY:,} queued")
        yield from against(f"{MANY:,} of another in front, --sweep", "behind")
        seconds = fill.pause(long, "front")
        yield Figure(f"pause {MANY:,} trials, {database}", "", "s", [seconds])
        yield from against(f"{MANY:,} paused in front")
        yield from against(f"{MANY:,} paused in front, --sweep", "behind")
        short, long = stores(database, "few"), stores(database, "waiting")
        fill.queued(long, "front", MANY)
        fill.one_trunk(long, "front")
        yield from partial(_against, database, short, long)(f"{MANY:,} wait for one trunk")


def _against(
    database: str, short: str, long: str, name: str, sweep: str | None = None
) -> Iterator[Figure]:
    """Measure claims from a long queue and a short one in turns, and the ratio of their times."""
    works: dict[str, list[Work]] = {short: [], long: []}
    for _ in range(TURNS):
        for url, done in works.items():
            _top_up(url)
            done.append(crowd(WORKERS, drain, url, Limit(claims=EACH), sweep, False))
    rates = {url: [work.rate for work in done] for url, done in works.items()}
    waits = [work.wait(0.99) for work in works[long]]
    where = f"{name}, {database}"
    yield Figure(f"claims, {FEW:,} queued, {database}", "", "/s", rates[short])
    yield Figure(f"claims, {where}", "", "/s", rates[long])
    yield Figure(f"p99 of a claim, {where}", "< 25", "ms", waits)
    yield Figure(f"{FEW:,} queued / {where}", "≤ 1.5", "", ratios(rates[short], rates[long]))


def _top_up(url: str) -> None:
    """Fill the sweep `behind` up to a thousand queued trials."""
    behind = (trials.c.state == "queued") & (sweeps.c.name == "behind")
    waiting = sa.select(sa.func.count()).select_from(trials.join(sweeps)).where(behind)
    with fill.opened(url) as store, reading(store) as c:
        waiting_trials = c.execute(waiting).scalar_one()
    if waiting_trials < FEW:
        fill.queued(url, "behind", FEW - waiting_trials)


def planning(folder: Path, stores: Stores) -> Iterator[Figure]:
    """Plan 100,000 trials twice, and enqueue as many with Optuna for comparison."""
    file = folder / "large.toml"
    file.write_text(TINY.replace("seed = [0, 1]", f"seed = {list(range(33_334))}"))
    missing = peers.missing()
    first, again, peers_rates = defaultdict(list), defaultdict(list), defaultdict(list)
    for turn, database in itertools.product(range(TURNS), RATES):
        with fill.opened(stores(database, f"plan{turn}")) as store:

            def plan(store: Any = store) -> None:
                with transaction(store) as connection:
                    add_sweep(connection, read_plan(file))

            first[database].append(timed(plan))
            again[database].append(timed(plan))
        if not missing:
            answer = peers.ask("enqueue", stores(database, f"enqueue{turn}"), ASKED)
            peers_rates[database].append(float(answer["rate"]))
    for database, seconds in first.items():
        yield Figure(f"plan 100,002 trials, {database}", "< 10", "s", seconds)
        yield Figure(f"plan them again, {database}", "< 5", "s", again[database])
        rates = [100_002 / s for s in seconds]
        yield Figure(f"the same, trials a second, {database}", "", "/s", rates)
        enqueued = peers_rates[database]
        name = f"Optuna enqueues, {database}"
        yield Figure(name, "", "/s", enqueued, missing=missing)


def parts(folder: Path, server: str) -> dict[str, Callable[[], Iterator[Figure]]]:
    """Return the measurements of this file by name."""
    stores = partial(fresh, folder, server)
    return {
        "plan": lambda: planning(folder, stores),
        "claims": lambda: claiming(folder, stores),
        "backlog": lambda: backlog(stores),
        "million": lambda: million(stores),
    }

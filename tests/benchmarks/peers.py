"""The peers of the queue: raw SQL, Optuna and procrastinate, each by its own public interface.

Raw SQL is the lower bound, and runs in our environment. The others run in that of the `bench`
extra:
`python -m tests.benchmarks.peers optuna|enqueue|procrastinate URL COUNT` prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.crowd import Limit, Shift, Work, crowd, shift

REPOSITORY = Path(__file__).parent.parent.parent
PYTHON = REPOSITORY / ".venv-flower" / "bin" / "python"
"""The peers' own environment. `make bench` makes it."""
WORKERS = 8

TABLE = "CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT, fence INTEGER, lease_until REAL)"
INDEX = "CREATE INDEX queued ON jobs (id) WHERE state = 'queued'"
CLAIM = """
UPDATE jobs SET state = 'running', fence = fence + 1, lease_until = {now} + 15 WHERE id = (
    SELECT id FROM jobs WHERE state = 'queued' ORDER BY id LIMIT 1 {lock}
) RETURNING id, fence"""
FINISH = """
UPDATE jobs SET state = 'finished', lease_until = NULL
WHERE id = {0} AND fence = {0} AND state = 'running'"""

Row = tuple[int, int]


def fill_sqlite(file: Path, count: int) -> None:
    """Create a SQLite file with jobs."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(TABLE)
        connection.execute(INDEX)
        rows = ((i,) for i in range(1, count + 1))
        connection.executemany("INSERT INTO jobs VALUES (?, 'queued', 0, NULL)", rows)
        connection.commit()


def floor_sqlite(file: Path, limit: Limit, barrier: Any, out: Any) -> None:
    """Do jobs with two short transactions each, in plain SQL."""
    with closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = NORMAL")
        claiming = CLAIM.format(now="unixepoch()", lock="")

        def alone(statement: str, values: tuple[int, ...] = ()) -> Row | None:
            connection.execute("BEGIN IMMEDIATE")
            row: Row | None = connection.execute(statement, values).fetchone()
            connection.execute("COMMIT")
            return row

        def finish(row: Row) -> int:
            alone(FINISH.format("?"), row)
            return row[0]

        out.put(shift(lambda: alone(claiming), finish, limit, barrier))


def fill_postgres(url: str, count: int) -> None:
    """Store jobs in a Postgres database."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLE.replace("REAL", "DOUBLE PRECISION").encode())
        connection.execute(INDEX.encode())
        connection.execute(
            "INSERT INTO jobs SELECT i, 'queued', 0, NULL FROM generate_series(1, %s) i", (count,)
        )
        connection.execute("VACUUM (ANALYZE) jobs")


def floor_postgres(url: str, limit: Limit, barrier: Any, out: Any) -> None:
    """Do jobs with two statements each, every one in its own transaction."""
    import psycopg

    now = "extract(epoch FROM now())"
    claiming = CLAIM.format(now=now, lock="FOR UPDATE SKIP LOCKED").encode()
    finishing = FINISH.format("%s").encode()
    with psycopg.connect(url, autocommit=True) as connection:

        def claim() -> Row | None:
            return connection.execute(claiming).fetchone()

        def finish(row: Row) -> int:
            connection.execute(finishing, row)
            return row[0]

        out.put(shift(claim, finish, limit, barrier))


def optuna_storage(url: str) -> Any:
    """Return Optuna's storage in a database. It waits for SQLite's lock as long as ours."""
    from optuna import logging
    from optuna.storages import RDBStorage

    logging.set_verbosity(logging.ERROR)
    kind = url.replace("postgresql://", "postgresql+psycopg://")
    patience = {"connect_args": {"timeout": 30}} if url.startswith("sqlite") else {}
    return RDBStorage(kind, engine_kwargs=patience)


def enqueue(url: str, count: int) -> dict[str, Any]:
    """Let Optuna enqueue trials. Return their number per second."""
    from optuna import create_study

    study = create_study(study_name="bench", storage=optuna_storage(url), load_if_exists=True)
    began = time.perf_counter()
    for number in range(count):
        study.enqueue_trial({"x": number})
    return {"rate": count / (time.perf_counter() - began)}


def ask_and_tell(url: str, count: int, limit: Limit, barrier: Any, out: Any) -> None:
    """Ask for the enqueued trials, the first `count` of the study, and tell each one's value."""
    from optuna import exceptions, load_study, samplers, trial

    study = load_study(
        study_name="bench", storage=optuna_storage(url), sampler=samplers.RandomSampler()
    )

    def ask() -> trial.Trial | None:
        trial_of_study = study.ask()
        return trial_of_study if trial_of_study.number < count else None

    def tell(trial_of_study: trial.Trial) -> int:
        # Another process may have been given it too, and have told first.
        with suppress(exceptions.UpdateFinishedTrialError, ValueError):
            study.tell(trial_of_study, 0.5)
        return int(trial_of_study.number)

    out.put(shift(ask, tell, limit, barrier))


def optuna(url: str, count: int) -> dict[str, Any]:
    """Enqueue trials, and let eight processes ask for them until none is left."""
    enqueued = enqueue(url, count)
    return told(crowd(WORKERS, ask_and_tell, url, count, Limit())) | {"enqueued": enqueued["rate"]}


def told(work: Work) -> dict[str, Any]:
    """Return a crowd's claims per second, quantiles of a claim in ms, and duplicates."""
    return {
        "rate": work.rate,
        "p50": work.wait(0.5),
        "p99": work.wait(0.99),
        "longest": work.wait(1),
        "extra": len(work.trials) - len(set(work.trials)),
    }


def procrastinate_app(url: str) -> tuple[Any, Any]:
    """Make procrastinate's application, and its one task, which does nothing."""
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=url))

    @app.task(name="nothing")
    async def nothing() -> None:
        """Do nothing."""

    return app, nothing


def serve(url: str, barrier: Any, out: Any) -> None:
    """Run one of its workers until no job is left."""
    app, _ = procrastinate_app(url)

    async def all_jobs() -> tuple[float, float]:
        async with app.open_async():
            await app.check_connection_async()
            barrier.wait(300)
            began = time.perf_counter()
            await app.run_worker_async(
                wait=False, concurrency=1, install_signal_handlers=False, listen_notify=False
            )
            return began, time.perf_counter()

    out.put(Shift(*asyncio.run(all_jobs()), [], [], []))


def procrastinate(url: str, count: int) -> dict[str, Any]:
    """Defer jobs, and let eight workers do them. Return the jobs per second."""
    app, nothing = procrastinate_app(url)

    async def defer() -> None:
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            await nothing.batch_defer_async(*[{} for _ in range(count)])

    asyncio.run(defer())
    work = crowd(WORKERS, serve, url)
    seconds = max(s.ended for s in work.shifts) - min(s.began for s in work.shifts)
    return {"rate": count / seconds}


COMMANDS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "optuna": optuna,
    "enqueue": enqueue,
    "procrastinate": procrastinate,
}


def ask(peer: str, url: str, count: int) -> dict[str, Any]:
    """Run a peer in its own environment. Return its measurements."""
    call = [str(PYTHON), "-m", "tests.benchmarks.peers", peer, url, str(count)]
    done = subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{peer} failed: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def missing() -> str:
    """Return the reason why the peers cannot run, or an empty text."""
    call = [str(PYTHON), "-c", "import optuna, procrastinate"]
    if PYTHON.exists() and subprocess.run(call, check=False, capture_output=True).returncode == 0:
        return ""
    return f"no optuna and procrastinate in {PYTHON.parent.parent.name}: `make bench` makes it"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=COMMANDS)
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    given = parser.parse_args()
    answer = COMMANDS[given.peer](given.url, given.count)
    package = "procrastinate" if given.peer == "procrastinate" else "optuna"
    print(json.dumps(answer | {"version": version(package)}))


if __name__ == "__main__":
    # By its name, so that spawned processes find the functions.
    import_module("tests.benchmarks.peers").main()

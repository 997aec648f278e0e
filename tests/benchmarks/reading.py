"""Reading 10,000 finished trials of 200 rounds: views, as rows in Python, the report, Parquet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep.store.transactions import reading
from tests.benchmarks import fill, readers
from tests.benchmarks.figure import Figure, N, timed
from tests.builders import REPOSITORY

COUNT = 10_000
"""Trials of the peers, as many as ours."""
LENGTH = 200
"""Rounds of a trial."""

QUERIES = {
    "results": "SELECT * FROM results",
    "cells": "SELECT * FROM cells",
    "ledger": "SELECT * FROM ledger",
    "curves by round, of its members": """
        SELECT c.round, avg(c.test_accuracy), count(*) FROM curves c JOIN members USING (trial_id)
        WHERE sweep = 'reading' GROUP BY c.round ORDER BY c.round""",
    "curves by round and T⋆, of its results": """
        SELECT r.freeze_round, c.round, avg(c.test_accuracy) FROM curves c JOIN results r
        USING (trial_id) WHERE r.sweep = 'reading' GROUP BY 1, 2 ORDER BY 1, 2""",
}
REPORTS = ("table", "html")


def views(folder: Path, server: str) -> Iterator[Figure]:
    """Measure each whole view, a sweep's curves by round, and the command `fedsweep report`."""
    urls = {
        "SQLite": f"sqlite:///{folder}/reading.db",
        "Postgres": fill.make_database(server, "reading"),
    }
    for database, url in urls.items():
        count = fill.finished(url, "reading", LENGTH)
        what = f"{count:,} x {LENGTH}, {database}"
        with fill.opened(url) as store:
            for name, query in QUERIES.items():
                seconds = [timed(partial(rows, store, query)) for _ in range(N)]
                yield Figure(f"{name}, {what}", "< 1.5", "s", seconds)
        for format in REPORTS:
            output = folder / f"report-{database}.{format}"
            seconds = [timed(partial(report, url, format, output)) for _ in range(3)]
            yield Figure(f"report --format {format}, {what}", "< 10", "s", seconds)
        call = partial(export, url, folder / f"parquet-{database}")
        yield Figure(f"export parquet, {what}", "< 15", "s", [timed(call) for _ in range(3)])


def others(folder: Path) -> Iterator[Figure]:
    """Measure the readers of Optuna and MLflow on as many rows."""
    what = f"{COUNT:,} x {LENGTH}, SQLite"
    optuna, mlflow = folder / "optuna.db", folder / "mlflow.db"
    readers.fill_optuna(optuna, COUNT, LENGTH)
    readers.fill_mlflow(mlflow, COUNT, LENGTH)
    assert readers.read_optuna(optuna) == readers.read_mlflow(mlflow, COUNT) == COUNT
    seconds = [timed(partial(readers.read_optuna, optuna)) for _ in range(3)]
    yield Figure(f"Optuna's trials_dataframe(), {what}", "", "s", seconds)
    seconds = [timed(partial(readers.read_mlflow, mlflow, COUNT)) for _ in range(3)]
    yield Figure(f"MLflow's search_runs, {what}", "", "s", seconds)


def rows(store: Engine, query: str) -> int:
    """Read all rows of a query. Return their number."""
    with reading(store) as connection:
        return len(connection.execute(sa.text(query)).all())


def report(url: str, format: str, output: Path) -> None:
    """Run `fedsweep report` in another process."""
    call = [sys.executable, "-m", "fedsweep", "report", "--db", url, "--format", format]
    call += ["--output", str(output)]
    subprocess.run(call, cwd=REPOSITORY, capture_output=True, check=True)


def export(url: str, output: Path) -> None:
    """Run `fedsweep export parquet` in another process."""
    call = [sys.executable, "-m", "fedsweep", "export", "parquet", "--db", url]
    call += ["--output", str(output)]
    subprocess.run(call, cwd=REPOSITORY, capture_output=True, check=True)


def parts(folder: Path, server: str) -> dict[str, Callable[[], Iterator[Figure]]]:
    """Return the measurements of this file by name."""
    return {"reading": lambda: views(folder, server), "readers": lambda: others(folder)}

"""The peers of reading: Optuna and MLflow, each with as much data in its own SQLite store.

One trial is written through their own interface, with its parameters and a value per round. The
others are copies of its rows, because the interfaces would take hours. Reading uses them again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path

PARAMETERS = {
    "normalizer": "bn",
    "alpha": 0.1,
    "local_steps": 20,
    "freeze_round": 64,
    "momentum": "reset",
    "lr": 0.01,
}
NUMBERS = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})"""


def multiply(
    file: Path, table: str, change: Mapping[str, str], count: int, leave: Collection[str] = ()
) -> None:
    """Copy a table's rows. Some columns are changed, and the database fills others."""
    with closing(sqlite3.connect(file)) as connection:
        described = connection.execute(f"PRAGMA table_info({table})").fetchall()
        columns = [row[1] for row in described if row[1] not in leave]
        values = [change.get(name, f't."{name}"') for name in columns]
        names = ", ".join(f'"{name}"' for name in columns)
        connection.execute(
            f"INSERT INTO {table} ({names}) {NUMBERS.format(count=count)} "
            f"SELECT {', '.join(values)} FROM {table} t, numbers"
        )
        connection.commit()


def fill_optuna(file: Path, count: int, length: int) -> None:
    """Create a study of trials with intermediate values."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=f"sqlite:///{file}", study_name="reading")
    study.add_trial(
        optuna.trial.create_trial(
            params={
                name: value for name, value in PARAMETERS.items() if not isinstance(value, str)
            },
            distributions={
                name: optuna.distributions.FloatDistribution(0, 1000)
                for name, value in PARAMETERS.items()
                if not isinstance(value, str)
            },
            value=0.9,
            intermediate_values={r: r / length for r in range(1, length + 1)},
        )
    )
    copies = count - 1
    multiply(file, "trials", {"trial_id": "n + 1", "number": "n"}, copies)
    for table in ("trial_values", "trial_params", "trial_intermediate_values"):
        with closing(sqlite3.connect(file)) as connection:
            key = connection.execute(f"PRAGMA table_info({table})").fetchall()[0][1]
        multiply(file, table, {"trial_id": "n + 1"}, copies, {key})


def read_optuna(file: Path) -> int:
    """Call `Study.trials_dataframe()`. Return the number of rows."""
    import optuna

    study = optuna.load_study(storage=f"sqlite:///{file}", study_name="reading")
    return len(study.trials_dataframe())


def fill_mlflow(file: Path, count: int, length: int) -> None:
    """Create an experiment of runs with a metric of several steps."""
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{file}")
    run = client.create_run(client.create_experiment("reading"))
    metrics = [Metric("test_accuracy", r / length, r, r) for r in range(1, length + 1)]
    params = [Param(name, str(value)) for name, value in PARAMETERS.items()]
    client.log_batch(run.info.run_id, metrics=metrics, params=params)
    client.set_terminated(run.info.run_id)
    for table in ("runs", "metrics", "latest_metrics", "params", "tags"):
        multiply(file, table, {"run_uuid": "printf('%032x', n)"}, count - 1)


def read_mlflow(file: Path, count: int) -> int:
    """Call `mlflow.search_runs`. Return the number of rows."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{file}")
    return len(mlflow.search_runs(experiment_names=["reading"], max_results=count))

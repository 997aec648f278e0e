"""Exports to MLflow tracking stores, read back by MLflow's client."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep.errors import RequestError
from fedsweep.exports import mlflow
from fedsweep.store.transactions import transaction
from tests.builders import silent

pytestmark = pytest.mark.quick_on("sqlite")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Ignore the deprecation warnings of MLflow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def runs(folder: Path) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=mlflow.tracking_uri(str(folder)))
    experiment = client.get_experiment_by_name("study")
    return list(client.search_runs([experiment.experiment_id], order_by=["run_name"]))


def history(folder: Path, run: Any, metric: str) -> list[tuple[int, float]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=mlflow.tracking_uri(str(folder)))
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, metric)]


@pytest.mark.slow
def test_a_sweep_is_an_experiment_and_a_trial_a_run(filled: Engine, tmp_path: Path) -> None:
    """A run has parameters, metrics by round, tags and a status."""
    folder = tmp_path / "ml"
    counts = mlflow.export(filled, str(folder), "study", silent)
    assert counts == Counter(written=12)
    written = runs(folder)
    assert Counter(run.info.status for run in written) == {"FINISHED": 11, "FAILED": 1}
    first = next(
        run for run in written if run.info.run_name.startswith("bn-alpha0.5-E2-reset-seed0")
    )
    assert first.data.params["normalizer"] == "bn"
    assert first.data.params["lr"] == "0.05"
    assert first.data.metrics["test_accuracy"] == 0.8
    assert history(folder, first, "test_accuracy") == [(1, 0.2), (2, 0.5), (3, 0.8)]
    assert first.info.run_name.endswith(first.data.tags["trial_id"][:8])
    (failed,) = (run for run in written if run.info.status == "FAILED")
    assert failed.data.tags["failure"] == "diverged"


@pytest.mark.slow
def test_a_second_export_writes_nothing_twice(filled: Engine, tmp_path: Path) -> None:
    """Unchanged runs are kept, new rounds are added, and rounds trained again are written again."""
    folder = tmp_path / "ml"
    mlflow.export(filled, str(folder), None, silent)
    assert mlflow.export(filled, str(folder), None, silent) == Counter(kept=12)
    one = "trial = (SELECT min(trial) FROM rounds)"
    with transaction(filled) as connection:
        connection.execute(sa.text(f"DELETE FROM rounds WHERE {one} AND round = 3"))
    assert mlflow.export(filled, str(folder), None, silent) == Counter(kept=11, written=1)
    names = "trial, phase, train_loss, bytes_up, bytes_down, seconds"
    third = f"INSERT INTO rounds ({names}, round) SELECT {names}, 3 FROM rounds WHERE {one}"
    with transaction(filled) as connection:
        connection.execute(sa.text(f"{third} AND round = 2"))
    assert mlflow.export(filled, str(folder), None, silent) == Counter({"kept": 11, "added to": 1})
    written = runs(folder)
    assert len(written) == 12
    assert all(len(history(folder, run, "train_loss")) in (1, 3) for run in written)


@pytest.mark.slow
def test_an_incomplete_run_is_written_again(filled: Engine, tmp_path: Path) -> None:
    """Each trial has one run then."""
    folder = tmp_path / "ml"

    def breaks(_sweep: str, done: int, _total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mlflow.export(filled, str(folder), None, breaks)
    half = runs(folder)[0]
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=mlflow.tracking_uri(str(folder)))
    client.delete_tag(half.info.run_id, mlflow.ROUNDS_TAG)
    assert mlflow.export(filled, str(folder), None, silent) == Counter(kept=2, written=10)
    assert len(runs(folder)) == 12


def test_fedsweep_s_own_database_is_refused_as_a_tracking_store(filled: Engine) -> None:
    """MLflow would create its tables in it."""
    uri = filled.url.render_as_string(hide_password=False)
    with pytest.raises(RequestError, match="a fedsweep database"):
        mlflow.export(filled, uri, None, silent)


def test_the_error_for_an_unreachable_store_has_no_secrets(
    filled: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no user, password or query."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RequestError) as caught:
        mlflow.export(filled, "http://zoe:hunter2@127.0.0.1:9/x?key=s3cret", None, silent)
    message = str(caught.value)
    assert message.startswith("--output http://127.0.0.1:9/x cannot be used: ")
    assert not any(secret in message for secret in ("zoe", "hunter2", "s3cret", "\n"))

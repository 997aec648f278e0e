"""MLflow tracking stores, read back by its own client."""

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
    """MLflow's own deprecations are not ours."""
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


def test_a_sweep_is_an_experiment_and_a_trial_a_run(filled: Engine, tmp_path: Path) -> None:
    """Parameters, metrics by round, tags, and how it ended."""
    folder = tmp_path / "ml"
    did = mlflow.export(filled, str(folder), "study", silent)
    assert did == Counter(written=12)
    found = runs(folder)
    assert Counter(run.info.status for run in found) == {"FINISHED": 11, "FAILED": 1}
    first = next(run for run in found if run.info.run_name.startswith("bn-alpha0.5-E2-reset-seed0"))
    assert first.data.params["normalizer"] == "bn"
    assert first.data.params["lr"] == "0.05"
    assert first.data.metrics["test_accuracy"] == 0.8
    assert history(folder, first, "test_accuracy") == [(1, 0.2), (2, 0.5), (3, 0.8)]
    assert first.info.run_name.endswith(first.data.tags["trial_id"][:8])
    (failed,) = (run for run in found if run.info.status == "FAILED")
    assert failed.data.tags["failure"] == "diverged"


def test_written_again_nothing_is_there_twice(filled: Engine, tmp_path: Path) -> None:
    """What is unchanged is kept; what got on is added to; what was trained anew is written anew."""
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
    found = runs(folder)
    assert len(found) == 12
    assert all(len(history(folder, run, "train_loss")) in (1, 3) for run in found)


def test_a_run_that_was_not_written_to_its_end_is_written_again(
    filled: Engine, tmp_path: Path
) -> None:
    """Whatever it has; one run for each trial is left."""
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


def test_fedsweep_s_own_database_is_no_tracking_store(filled: Engine) -> None:
    """MLflow would make its tables there."""
    uri = filled.url.render_as_string(hide_password=False)
    with pytest.raises(RequestError, match="a fedsweep database"):
        mlflow.export(filled, uri, None, silent)


def test_what_cannot_be_reached_is_said_without_its_secrets(
    filled: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither user, nor password, nor query."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RequestError) as caught:
        mlflow.export(filled, "http://zoe:hunter2@127.0.0.1:9/x?key=s3cret", None, silent)
    said = str(caught.value)
    assert said.startswith("--output http://127.0.0.1:9/x cannot be used: ")
    assert not any(secret in said for secret in ("zoe", "hunter2", "s3cret", "\n"))

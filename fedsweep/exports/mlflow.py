"""Export to an MLflow tracking store: a run for each trial, an experiment for each sweep.

A later export finds a run by its tag `trial_id`. An unchanged run is kept. New rounds are added to
a run. A run that was not completely written, or whose rounds were trained again, is deleted and
written again.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

from fedsweep.errors import FedsweepError, RequestError, hide_secrets
from fedsweep.exports import ShowProgress, require
from fedsweep.exports.trials import Trial, read_trials, trial_ids_by_sweep
from fedsweep.files import make_folder
from fedsweep.states import TrialState
from fedsweep.store.targets import refuse_own

METRICS_PER_REQUEST = 1000
"""The most metrics per request, a limit of MLflow."""
PARAMS_PER_REQUEST = 100
"""The most parameters per request, a limit of MLflow."""
MOST_TAG_CHARACTERS = 5000
"""The most characters of a tag, a limit of MLflow."""
ROUNDS_TAG = "rounds_written"
"""The tag with the number of written rounds. A run gets it when it is complete."""
TAG_COLUMNS = ("sweep", "cell_id", "state", "failure", "error", "numerics_id", "device")
"""The columns of `results` that become tags."""
STATUS = {
    TrialState.QUEUED: "SCHEDULED",
    TrialState.RUNNING: "RUNNING",
    TrialState.FINISHED: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.CANCELLED: "KILLED",
}


def export(engine: Engine, output: str, sweep: str | None, progress: ShowProgress) -> Counter[str]:
    """Write every trial to a tracking store.

    `output` is a URI, or a folder in which an `mlflow.db` is created. Returns the number of runs
    that were "written", "added to" and "kept".

    Raises:
        PackageMissing: mlflow-skinny is not installed.
        NotFound: there is no such sweep.
        RequestError: the tracking store cannot be used.

    """
    require("mlflow", "trackers", "mlflow")
    uri = tracking_uri(output)
    refuse_own(engine, uri, "--output")
    sweeps = trial_ids_by_sweep(engine, sweep)
    counts: Counter[str] = Counter()
    with _quiet(), _translated(output):
        client = _client(uri)
        for name, ids in sweeps.items():
            experiment = _experiment(client, name)
            known = _runs(client, experiment)
            for done, trial in enumerate(read_trials(engine, ids), start=1):
                counts[_put(client, experiment, known.get(trial.trial_id), trial)] += 1
                progress(name, done, len(ids))
    return counts


def tracking_uri(output: str) -> str:
    """Return a URI as it is. For a folder, return the URI of a SQLite file in it."""
    if "://" in output or output.startswith("file:"):
        return output
    folder = Path(output).absolute()
    try:
        make_folder(folder)
    except OSError as error:
        raise RequestError(
            f"{folder} cannot be made ({error.strerror}): name another with --output"
        ) from error
    return f"sqlite:///{folder / 'mlflow.db'}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow: no telemetry, no warnings, and no log messages below warnings."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow uses deprecated functions
        import mlflow.tracking  # noqa: F401  # the import sets the levels of its loggers

        before = {name: logging.getLogger(name).level for name in ("mlflow", "alembic")}
        for name in before:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def _translated(output: str) -> Iterator[None]:
    """Turn all errors of MLflow and its drivers into a RequestError without secrets."""
    try:
        yield
    except FedsweepError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        for secret in (output, *_secrets(output)):
            message = message.replace(secret, "…")
        message = hide_secrets(message)  # before it is cut: half a secret is not recognized
        message = message if len(message) <= 200 else message[:199] + "…"
        raise RequestError(f"--output {shown_uri(output)} cannot be used: {message}") from error


def _secrets(output: str) -> list[str]:
    """Return the user, password and query of a URI, the longest first."""
    address, _, query = output.partition("://")[2].partition("?")
    user = address.rpartition("@")[0]
    secrets = {query, *query.split("&"), user, user.partition(":")[2]} - {""}
    return sorted(secrets, key=len, reverse=True)


def shown_uri(output: str) -> str:
    """Return a URI without its user, password and query."""
    head, sign, rest = output.partition("://")
    return hide_secrets(f"{head}{sign}{rest.partition('?')[0].rpartition('@')[2]}")


def _client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _experiment(client: Any, name: str) -> str:
    """Return the id of a sweep's experiment. It is created if it does not exist."""
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment else client.create_experiment(name))


def _runs(client: Any, experiment: str) -> dict[str, Any]:
    """Return the runs of an experiment by trial id."""
    runs: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        runs |= {r.data.tags["trial_id"]: r for r in page if "trial_id" in r.data.tags}
        token = page.token
        if not token:
            return runs


def _put(client: Any, experiment: str, run: Any, trial: Trial) -> str:
    """Bring a trial's run up to date. Return "written", "added to" or "kept"."""
    tags = _tags(trial)
    if run is None:
        _begin(client, experiment, trial, tags)
        return "written"
    same = tags.items() <= run.data.tags.items()
    if same and run.data.tags.get(ROUNDS_TAG) == str(len(trial.rounds)):
        return "kept"
    if not _continues(run.data.tags, tags, trial):
        client.delete_run(run.info.run_id)
        _begin(client, experiment, trial, tags)
        return "written"
    _fill(client, run.info.run_id, trial, tags, after=int(run.data.tags[ROUNDS_TAG]))
    return "added to"


def _continues(before: Mapping[str, str], now: Mapping[str, str], trial: Trial) -> bool:
    """Return whether the written rounds and tags are still those of the trial."""
    written = int(before.get(ROUNDS_TAG, -1))
    unchanged = written <= 0 or before.get("numerics_id") == now.get("numerics_id")
    # Such as the failure of a trial that was retried.
    outdated = set(before) & set(TAG_COLUMNS) - set(now)
    return 0 <= written <= len(trial.rounds) and unchanged and not outdated


def _begin(client: Any, experiment: str, trial: Trial, tags: dict[str, str]) -> None:
    from mlflow.entities import Param

    start = round(1000 * trial.began)
    run = client.create_run(experiment, start_time=start, tags=tags, run_name=trial.name)
    params = [Param(name, str(value)) for name, value in trial.config.items()]
    for batch in _batches(params, PARAMS_PER_REQUEST):
        client.log_batch(run.info.run_id, params=batch)
    _fill(client, run.info.run_id, trial, tags, after=0)


def _fill(client: Any, run_id: str, trial: Trial, tags: dict[str, str], after: int) -> None:
    """Add the rounds after round `after`, the tags and the status."""
    from mlflow.entities import Metric, RunTag

    metrics = [
        Metric(name, value, round(1000 * measured.at), measured.round)
        for measured in trial.rounds[after:]
        for name, value in measured.values.items()
    ]
    for batch in _batches(metrics, METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=batch)
    written = {**tags, ROUNDS_TAG: str(len(trial.rounds))}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in written.items()])
    status, ended = STATUS[TrialState(trial.result["state"])], trial.ended
    if status in ("FINISHED", "FAILED", "KILLED"):
        client.set_terminated(run_id, status, round(1000 * (ended or trial.began)))
    else:
        client.update_run(run_id, status)


def _tags(trial: Trial) -> dict[str, str]:
    tags = {"trial_id": trial.trial_id, **{name: trial.result[name] for name in TAG_COLUMNS}}
    return {
        name: str(value)[:MOST_TAG_CHARACTERS] for name, value in tags.items() if value is not None
    }


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))

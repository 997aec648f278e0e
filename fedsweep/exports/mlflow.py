"""A run a trial, an experiment a sweep, in an MLflow tracking store.

A run is found again by its tag `trial_id`. What has not changed since is left alone; rounds that
came since are added; a run that was not written to its end, or whose rounds were trained anew, is
deleted and written again.
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
from fedsweep.exports import Progress, require
from fedsweep.exports.trials import Trial, read, sweeps_of
from fedsweep.files import make_folder
from fedsweep.states import TrialState
from fedsweep.store.targets import refuse_own

METRICS = 1000
"""In one request, by MLflow's own limit."""
PARAMS = 100
"""The same."""
LONGEST = 5000
"""Characters of a tag, by MLflow's own limit."""
ROUNDS = "rounds_written"
"""The tag that a run gets when all of it is written: the number of its rounds."""
TOLD = ("sweep", "cell_id", "state", "failure", "error", "numerics_id", "device")
"""The columns of `results` that become tags."""
STATUS = {
    TrialState.QUEUED: "SCHEDULED",
    TrialState.RUNNING: "RUNNING",
    TrialState.FINISHED: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.CANCELLED: "KILLED",
}


def export(engine: Engine, output: str, sweep: str | None, progress: Progress) -> Counter[str]:
    """Write every trial to a tracking store: a URI, or a folder for an `mlflow.db` of its own.

    Returns how many runs were written, added to, and left as they were.

    Raises:
        PackageMissing: mlflow-skinny is not installed.
        NotFound: there is no such sweep.
        RequestError: the tracking store cannot be used.

    """
    require("mlflow", "trackers", "mlflow")
    uri = tracking_uri(output)
    refuse_own(engine, uri, "--output")
    sweeps = sweeps_of(engine, sweep)
    did: Counter[str] = Counter()
    with _quiet(), _translated(output):
        client = _client(uri)
        for name, ids in sweeps.items():
            experiment = _experiment(client, name)
            known = _runs(client, experiment)
            for done, trial in enumerate(read(engine, ids), start=1):
                did[_put(client, experiment, known.get(trial.trial_id), trial)] += 1
                progress(name, done, len(ids))
    return did


def tracking_uri(output: str) -> str:
    """A URI as it is; for a folder, that of a SQLite file in it (MLflow's own default)."""
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
    """MLflow tells neither its makers nor stderr what it does."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations
        import mlflow.tracking  # noqa: F401  # it sets its loggers' levels

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
    """MLflow lets its drivers' errors through."""
    try:
        yield
    except FedsweepError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        for secret in (output, *_secrets(output)):
            said = said.replace(secret, "…")
        said = hide_secrets(said)  # before it is cut: half a secret looks like none
        said = said if len(said) <= 200 else said[:199] + "…"
        raise RequestError(f"--output {shown(output)} cannot be used: {said}") from error


def _secrets(output: str) -> list[str]:
    """The user, password and query of a URI, the longest first."""
    place, _, query = output.partition("://")[2].partition("?")
    pair = place.rpartition("@")[0]
    found = {query, *query.split("&"), pair, pair.partition(":")[2]} - {""}
    return sorted(found, key=len, reverse=True)


def shown(output: str) -> str:
    """A URI without its user, password and query."""
    head, sign, rest = output.partition("://")
    return hide_secrets(f"{head}{sign}{rest.partition('?')[0].rpartition('@')[2]}")


def _client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _experiment(client: Any, name: str) -> str:
    """The id of a sweep's experiment, made where it is not there."""
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found is not None else client.create_experiment(name))


def _runs(client: Any, experiment: str) -> dict[str, Any]:
    """The runs of an experiment that are trials, by their ids."""
    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        found |= {r.data.tags["trial_id"]: r for r in page if "trial_id" in r.data.tags}
        token = page.token
        if not token:
            return found


def _put(client: Any, experiment: str, run: Any, trial: Trial) -> str:
    """Bring a trial's run up to date; returns what that took."""
    tags = _tags(trial)
    if run is None:
        _begin(client, experiment, trial, tags)
        return "written"
    same = tags.items() <= run.data.tags.items()
    if same and run.data.tags.get(ROUNDS) == str(len(trial.rounds)):
        return "kept"
    if not _goes_on(run.data.tags, tags, trial):
        client.delete_run(run.info.run_id)
        _begin(client, experiment, trial, tags)
        return "written"
    _fill(client, run.info.run_id, trial, tags, after=int(run.data.tags[ROUNDS]))
    return "added to"


def _goes_on(before: Mapping[str, str], now: Mapping[str, str], trial: Trial) -> bool:
    """Whether what was written is still true, as far as it goes."""
    written = int(before.get(ROUNDS, -1))
    unchanged = written <= 0 or before.get("numerics_id") == now.get("numerics_id")
    outdated = set(before) & set(TOLD) - set(now)  # a failure that was tried again
    return 0 <= written <= len(trial.rounds) and unchanged and not outdated


def _begin(client: Any, experiment: str, trial: Trial, tags: dict[str, str]) -> None:
    from mlflow.entities import Param

    start = round(1000 * trial.began)
    run = client.create_run(experiment, start_time=start, tags=tags, run_name=trial.name)
    params = [Param(name, str(value)) for name, value in trial.config.items()]
    for some in _batches(params, PARAMS):
        client.log_batch(run.info.run_id, params=some)
    _fill(client, run.info.run_id, trial, tags, after=0)


def _fill(client: Any, run_id: str, trial: Trial, tags: dict[str, str], after: int) -> None:
    """Add the rounds after the first so many, and the standing."""
    from mlflow.entities import Metric, RunTag

    metrics = [
        Metric(name, value, round(1000 * measured.at), measured.round)
        for measured in trial.rounds[after:]
        for name, value in measured.values.items()
    ]
    for some in _batches(metrics, METRICS):
        client.log_batch(run_id, metrics=some)
    written = {**tags, ROUNDS: str(len(trial.rounds))}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in written.items()])
    status, ended = STATUS[TrialState(trial.result["state"])], trial.ended
    if status in ("FINISHED", "FAILED", "KILLED"):
        client.set_terminated(run_id, status, round(1000 * (ended or trial.began)))
    else:
        client.update_run(run_id, status)


def _tags(trial: Trial) -> dict[str, str]:
    found = {"trial_id": trial.trial_id, **{name: trial.result[name] for name in TOLD}}
    return {name: str(value)[:LONGEST] for name, value in found.items() if value is not None}


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))

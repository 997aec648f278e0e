"""Export the final weights of a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

from fedsweep.errors import Refused, RequestError
from fedsweep.filenames import safe_name
from fedsweep.files import write_whole
from fedsweep.states import FailureKind, Outcome, TrialState
from fedsweep.store import artifacts, file_places, spare_files, targets, trial_rows
from fedsweep.store.artifacts import Folder
from fedsweep.store.file_index import Weights
from fedsweep.store.transactions import reading


def weights(engine: Engine, prefix: str) -> tuple[str, bytes]:
    """Return a trial's id and the content of its safetensors file.

    Raises:
        NotFound: There is no such trial.
        Refused: The trial has no final weights.
        RequestError: The file is missing, damaged or out of reach.

    """
    with reading(engine) as connection:
        key, trial_id = trial_rows.find_trial(connection, prefix)
        kept = spare_files.kept_weights(connection, key)
        if kept is None:
            raise Refused(_reason_without(trial_rows.trial_result(connection, trial_id)))
        attempts = trial_rows.trial_attempts(connection, key)
        home = file_places.home(connection, key)
    folder = artifacts.folder_of(engine.url, home)
    content = folder.read(kept)
    if content is None:
        hosts = [a["host"] for a in attempts if a["outcome"] == Outcome.FINISHED]
        host = hosts[0] if hosts else "another machine"
        raise RequestError(
            f"the weights of trial {trial_id} are {_fault(folder, kept)} in {folder}/{kept.name}: "
            f"they were written on {host}; export them there, or restore that file from a backup"
        )
    return trial_id, content


def weights_file(engine: Engine, trial_id: str, output: Path | None) -> Path:
    """Return the file to write a trial's weights to: by default TRIAL.safetensors in this folder.

    Raises:
        RequestError: The file is a folder, or belongs to a fedsweep database.

    """
    target = output or Path(f"{safe_name(trial_id)}.safetensors")
    targets.refuse_own(engine, target, "--output")
    if target.is_dir():
        raise RequestError(f"{target} is a folder: name a file in it with --output")
    return target


def write_weights(target: Path, content: bytes, *, overwrite: bool) -> None:
    """Write a file of weights whole or not at all.

    Raises:
        RequestError: The file exists and `overwrite` is off, or it cannot be written.

    """
    try:
        write_whole(target, content, overwrite=overwrite)
    except FileExistsError as error:
        raise RequestError(
            f"{target} is already there: replace it with --force, or name another with --output"
        ) from error
    except OSError as error:
        raise RequestError(
            f"{target} cannot be written ({error.strerror}): name another file with --output"
        ) from error


def _fault(folder: Folder, kept: Weights) -> str:
    """Return the reason why a file cannot be read."""
    try:
        return "missing" if folder.size(kept.name) is None else "damaged"
    except OSError as error:
        return f"out of reach ({error.strerror or error})"


def _reason_without(result: dict[str, Any]) -> str:
    """Return why a trial has no weights, and the remedy."""
    trial = f"trial {result['trial_id']}"
    if not result["keep_weights"]:
        return (
            f"{trial} was planned without keep_weights: plan it with keep_weights = true in "
            "another database and run it there"
        )
    if result["failure"] == FailureKind.DIVERGED:
        return f"{trial} diverged: it has no final weights"
    if result["state"] in (TrialState.FAILED, TrialState.CANCELLED):
        return f"{trial} is {result['state']}: run it to its end first (fedsweep trial retry)"
    return f"{trial} is {result['state']}: wait until it has finished (fedsweep work)"

"""`fedsweep export`: what a trial leaves, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsweep.cli.arguments import Db, open_store
from fedsweep.cli.console import size
from fedsweep.cli.trial import Trial
from fedsweep.errors import Refused, RequestError
from fedsweep.states import FailureKind, Outcome, TrialState

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from fedsweep.store.artifacts import Folder
    from fedsweep.store.writes import Weights

app = typer.Typer(help="Take out what a trial leaves.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def export() -> None:
    """Take out what a trial leaves."""


@app.command()
def weights(
    trial: Trial,
    db: Db = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to; else TRIAL.safetensors in this folder.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a finished trial's final weights to a safetensors file.

    For trials that were planned with keep_weights = true.
    """
    from fedsweep.store import artifacts

    trial_id, content = _content(open_store(db), trial)
    target = output or Path(f"{trial_id}.safetensors")
    if target.is_dir():
        raise RequestError(f"{target} is a folder: name a file in it with --output")
    try:
        artifacts.copy_out(content, target, overwrite=force)
    except FileExistsError as error:
        raise RequestError(
            f"{target} is already there: replace it with --force, or name another with --output"
        ) from error
    except OSError as error:
        raise RequestError(
            f"{target} cannot be written ({error.strerror}): name another file with --output"
        ) from error
    print(f"{target.absolute()} ({size(len(content))})")


def _content(engine: Engine, prefix: str) -> tuple[str, bytes]:
    """A trial's id and its weights.

    Raises:
        RequestError: it has none, or they are not what was written.

    """
    from fedsweep.store import artifacts, reads
    from fedsweep.store.engine import reading

    with reading(engine) as connection:
        key, trial_id = reads.find_trial(connection, prefix)
        kept = reads.kept_weights(connection, key)
        if kept is None:
            raise Refused(_without(reads.trial_result(connection, trial_id)))
        attempts = reads.trial_attempts(connection, key)
        home = reads.home(connection, key)
    folder = artifacts.folder_of(engine.url, home)
    content = folder.read(kept)
    if content is None:
        host = next(a["host"] for a in attempts if a["outcome"] == Outcome.FINISHED)
        raise RequestError(
            f"the weights of trial {trial_id} are {_fault(folder, kept)} in {folder}/{kept.name}: "
            f"they were written on {host}; export them there, or restore that file from a backup"
        )
    return trial_id, content


def _fault(folder: Folder, kept: Weights) -> str:
    """What is wrong with a file that could not be read."""
    try:
        return "missing" if folder.size(kept.name) is None else "damaged"
    except OSError as error:
        return f"out of reach ({error.strerror or error})"


def _without(result: dict[str, Any]) -> str:
    """Why a trial has no weights, and what to do."""
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

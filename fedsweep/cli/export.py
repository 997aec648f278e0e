"""`fedsweep export`: what a trial leaves, and what sweeps come to, as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsweep.cli.arguments import Db, Sweep, read_store
from fedsweep.cli.console import console, counted, size
from fedsweep.cli.trial import Trial
from fedsweep.errors import Refused, RequestError
from fedsweep.states import FailureKind, Outcome, TrialState

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from fedsweep.store.artifacts import Folder
    from fedsweep.store.file_index import Weights

app = typer.Typer(
    help="Take the results elsewhere: Parquet, TensorBoard, MLflow, final weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Target = Annotated[
    Path, typer.Option("--output", metavar="FOLDER", help="Where to.", show_default=False)
]


@app.command()
def parquet(
    output: Target,
    db: Db = None,
    sweep: Sweep = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that has other files, too.")
    ] = False,
) -> None:
    """Write each view to a Parquet file: results, curves, clients, cells, members, ledger.

    Files of an earlier export are replaced.
    """
    from fedsweep.exports import parquet

    with _progress("rows") as progress:
        written = parquet.export(read_store(db), output, sweep, progress, force=force)
    for one in written:
        print(f"{one.file}: {counted(one.rows, 'row')} ({size(one.bytes)})")


@app.command()
def tensorboard(output: Target, db: Db = None, sweep: Sweep = None) -> None:
    """Write each trial to an event file for TensorBoard: its rounds, and its hyperparameters.

    Written again, a file is replaced: no round is there twice.
    """
    from fedsweep.exports import tensorboard

    with _progress("trials") as progress:
        written = tensorboard.export(read_store(db), output, sweep, progress)
    print(f"{output}: {counted(written.trials, 'trial')}, {counted(written.rounds, 'round')}")
    if written.without:
        print(f"{counted(written.without, 'trial')} without a round left out")
    print(f"look at them: tensorboard --logdir {output}")


@app.command()
def mlflow(
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="URI|FOLDER",
            help="The tracking store; in a folder, a file mlflow.db of its own.",
            show_default=False,
        ),
    ],
    db: Db = None,
    sweep: Sweep = None,
) -> None:
    """Write an experiment for each sweep, and a run for each trial, to an MLflow tracking store.

    Written again, runs are brought up to date: they are found by their tag trial_id.
    """
    from fedsweep.exports import mlflow

    with _progress("trials") as progress:
        did = mlflow.export(read_store(db), output, sweep, progress)
    counts = ", ".join(f"{did[what]:,} {what}" for what in ("written", "added to", "kept"))
    print(f"{mlflow.shown_uri(output)}: {counted(did.total(), 'run')} ({counts})")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """A line for each part on a terminal, nothing elsewhere."""
    if not console().is_terminal:
        yield lambda _part, _done, _total: None
        return
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),  # the name of a sweep
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f}", markup=False),
        TextColumn(what, markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(part: str, done: int, total: int | None) -> None:
            if part not in tasks:
                tasks[part] = bars.add_task(part, total=total)
            bars.update(tasks[part], completed=done)

        yield show


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
    from fedsweep.filenames import safe_name
    from fedsweep.files import stdout_kept_for, write_whole
    from fedsweep.store import targets

    engine = read_store(db)
    trial_id, content = _content(engine, trial)
    target = output or Path(f"{safe_name(trial_id)}.safetensors")
    targets.refuse_own(engine, target, "--output")
    if target.is_dir():
        raise RequestError(f"{target} is a folder: name a file in it with --output")
    try:
        with stdout_kept_for(target):
            write_whole(target, content, overwrite=force)
            print(f"{target.absolute()} ({size(len(content))})")
    except FileExistsError as error:
        raise RequestError(
            f"{target} is already there: replace it with --force, or name another with --output"
        ) from error
    except OSError as error:
        raise RequestError(
            f"{target} cannot be written ({error.strerror}): name another file with --output"
        ) from error


def _content(engine: Engine, prefix: str) -> tuple[str, bytes]:
    """A trial's id and its weights.

    Raises:
        RequestError: it has none, or they are not what was written.

    """
    from fedsweep.store import artifacts, file_places, spare_files, trial_rows
    from fedsweep.store.transactions import reading

    with reading(engine) as connection:
        key, trial_id = trial_rows.find_trial(connection, prefix)
        kept = spare_files.kept_weights(connection, key)
        if kept is None:
            raise Refused(_without(trial_rows.trial_result(connection, trial_id)))
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

"""`fedsweep export`: write results and final weights to files of other tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedsweep.cli.arguments import Db, Sweep, read_store
from fedsweep.cli.console import console, counted, size
from fedsweep.cli.trial import Trial
from fedsweep.files import stdout_kept_for

app = typer.Typer(
    help="Export results to Parquet, TensorBoard or MLflow, and final weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Target = Annotated[
    Path,
    typer.Option("--output", metavar="FOLDER", help="Folder to write to.", show_default=False),
]


@app.command(epilog="Example: fedsweep export parquet --output results")
def parquet(
    output: Target,
    db: Db = None,
    sweep: Sweep = None,
    force: Annotated[
        bool, typer.Option("--force", help="Allow a folder that has other files.")
    ] = False,
) -> None:
    """Write each view to a Parquet file.

    The views are results, curves, clients, cells, members and ledger. Files of an earlier export
    are replaced.
    """
    from fedsweep.exports import parquet

    with _progress("rows") as progress:
        written = parquet.export(read_store(db), output, sweep, progress, force=force)
    for one in written:
        print(f"{one.file}: {counted(one.rows, 'row')} ({size(one.bytes)})")


@app.command(epilog="Example: fedsweep export tensorboard --output runs")
def tensorboard(output: Target, db: Db = None, sweep: Sweep = None) -> None:
    """Write the rounds and hyperparameters of each trial to an event file for TensorBoard.

    A later export replaces the file, so that no round is in it twice.
    """
    from fedsweep.exports import tensorboard

    with _progress("trials") as progress:
        written = tensorboard.export(read_store(db), output, sweep, progress)
    print(f"{output}: {counted(written.trials, 'trial')}, {counted(written.rounds, 'round')}")
    if written.without:
        print(f"{counted(written.without, 'trial')} without a round left out")
    print(f"look at them: tensorboard --logdir {output}")


@app.command(epilog="Example: fedsweep export mlflow --output mlruns")
def mlflow(
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="URI|FOLDER",
            help="URI of the tracking store, or a folder for a new file mlflow.db.",
            show_default=False,
        ),
    ],
    db: Db = None,
    sweep: Sweep = None,
) -> None:
    """Write an experiment per sweep and a run per trial to an MLflow tracking store.

    A later export updates the runs, which it finds by their tag trial_id.
    """
    from fedsweep.exports import mlflow

    with _progress("trials") as progress:
        runs = mlflow.export(read_store(db), output, sweep, progress)
    counts = ", ".join(f"{runs[change]:,} {change}" for change in ("written", "added to", "kept"))
    print(f"{mlflow.shown_uri(output)}: {counted(runs.total(), 'run')} ({counts})")


@contextmanager
def _progress(unit: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show a bar for each part on a terminal, and nothing otherwise."""
    if not console().is_terminal:
        yield lambda _part, _done, _total: None
        return
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),  # the name of a sweep
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f}", markup=False),
        TextColumn(unit, markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(part: str, done: int, total: int | None) -> None:
            if part not in tasks:
                tasks[part] = bars.add_task(part, total=total)
            bars.update(tasks[part], completed=done)

        yield show


@app.command(epilog="Example: fedsweep export weights 3f2a --output final.safetensors")
def weights(
    trial: Trial,
    db: Db = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to write. Default: TRIAL.safetensors in this folder.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a finished trial's final weights to a safetensors file.

    For trials that were planned with keep_weights = true.
    """
    from fedsweep.actions import export

    engine = read_store(db)
    trial_id, content = export.weights(engine, trial)
    target = export.weights_file(engine, trial_id, output)
    with stdout_kept_for(target):
        export.write_weights(target, content, overwrite=force)
        print(f"{target.absolute()} ({size(len(content))})")

"""The tree of commands. Nothing heavy is imported here: `--help` must be quick."""

from __future__ import annotations

from typing import Annotated

import typer

import fedsweep
from fedsweep.cli import (
    db,
    export,
    plan,
    report,
    search,
    serve,
    sql,
    status,
    sweep,
    trial,
    verify,
    work,
)

app = typer.Typer(
    help="Plan, run and read sweeps of federated-learning trials.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a third of the time of --help
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("plan")(plan.plan)
app.command("work")(work.work)
app.command("report")(report.report)
app.command("status")(status.status)
app.command("serve")(serve.serve)
app.add_typer(trial.app, name="trial")
app.add_typer(sweep.app, name="sweep")
app.add_typer(search.app, name="search")
app.command("sql")(sql.sql)
app.command("verify")(verify.verify)
app.add_typer(export.app, name="export")
app.add_typer(db.app, name="db")


def _version(asked: bool) -> None:
    if asked:
        print(f"fedsweep {fedsweep.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it and stop.")
    ] = False,
) -> None:
    """Plan, run and read sweeps of federated-learning trials."""

"""The tree of commands. It imports nothing heavy, so that `--help` is fast."""

from __future__ import annotations

from typing import Annotated

import typer

import fedsweep
from fedsweep.cli import (
    db,
    export,
    launch,
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
app.command("plan", epilog="Example: fedsweep plan study.toml --db sqlite:///study.db")(plan.plan)
app.command(
    "work", epilog="Example: fedsweep work --db sqlite:///study.db --slots auto --until-empty"
)(work.work)
app.command(
    "report", epilog="Example: fedsweep report --sweep study --format markdown --output study.md"
)(report.report)
app.command("status", epilog="Example: fedsweep status --watch")(status.status)
app.command("serve", epilog="Example: fedsweep serve --port 8080")(serve.serve)
app.add_typer(launch.app, name="launch")
app.add_typer(trial.app, name="trial")
app.add_typer(sweep.app, name="sweep")
app.add_typer(search.app, name="search")
app.command("sql", epilog='Example: fedsweep sql "SELECT * FROM cells" --format csv')(sql.sql)
app.command("verify", epilog="Example: fedsweep verify 3f2a --rounds 3")(verify.verify)
app.add_typer(export.app, name="export")
app.add_typer(db.app, name="db")


def _version(requested: bool) -> None:
    if requested:
        print(f"fedsweep {fedsweep.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Plan, run and read sweeps of federated-learning trials."""

"""`fedsweep sweep`: look at sweeps, cancel them."""

from __future__ import annotations

from typing import Annotated

import typer

from fedsweep.cli import status
from fedsweep.cli.arguments import Db, open_store
from fedsweep.cli.console import counted

app = typer.Typer(help="Look at sweeps, cancel them.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(db: Db = None) -> None:
    """List the sweeps and where they stand."""
    status.status(db=db)


@app.command()
def cancel(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The sweep.")], db: Db = None
) -> None:
    """Cancel a sweep's trials.

    Those that wait or run, save what another sweep has too.
    """
    from fedsweep import queue
    from fedsweep.store import reads
    from fedsweep.store.engine import transaction

    with transaction(open_store(db)) as connection:
        reads.require_sweep(connection, name)
        mine = reads.sweep_trials(connection, name)
        only = reads.held_alone(connection, name)
        count = queue.cancel(connection, only)
    print(f"{name}: {counted(count, 'trial')} cancelled")
    if len(mine) > len(only):
        print(f"  {counted(len(mine) - len(only), 'trial')} of other sweeps too: left alone")

"""`fedsweep sweep`: look at sweeps, hold them, cancel them."""

from __future__ import annotations

from typing import Annotated

import typer

from fedsweep.cli import status
from fedsweep.cli.arguments import MOST_STORED, Db, open_store
from fedsweep.cli.console import counted
from fedsweep.errors import Refused, RequestError
from fedsweep.states import Hold

app = typer.Typer(
    help="Look at sweeps, hold them, cancel them.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The sweep.")]


@app.command("list")
def list_(db: Db = None) -> None:
    """List the sweeps and where they stand."""
    status.status(db=db)


@app.command()
def pause(name: Name, db: Db = None) -> None:
    """Let a sweep wait.

    Its running trials are saved after the round and given back, all within a lease. What another
    sweep has too goes on.
    """
    _hold(name, Hold.PAUSE, db)
    print(f"{name}: paused; go on with fedsweep sweep resume")


@app.command()
def drain(name: Name, db: Db = None) -> None:
    """Begin none of a sweep's trials any more; those that run go on to their end."""
    _hold(name, Hold.DRAIN, db)
    print(f"{name}: drained; go on with fedsweep sweep resume")


@app.command()
def resume(name: Name, db: Db = None) -> None:
    """Let a sweep that was paused or drained go on.

    One that has used up its budget goes on when that is raised.
    """
    _hold(name, None, db)
    print(f"{name}: goes on")


@app.command()
def cancel(name: Name, db: Db = None) -> None:
    """Cancel a sweep's trials.

    Those that wait or run, save what another live sweep has too. Planning it again takes it back.
    """
    from fedsweep import queue
    from fedsweep.store import sweep_rows
    from fedsweep.store.transactions import transaction

    with transaction(open_store(db)) as connection:
        sweep_rows.require_sweep(connection, name)
        queue.hold_sweep(connection, name, Hold.CANCEL)  # first: who cancels takes turns
        mine = sweep_rows.sweep_trials(connection, name)
        only = sweep_rows.held_alone(connection, name)
        count = queue.cancel(connection, only)
    print(f"{name}: {counted(count, 'trial')} cancelled")
    if len(mine) > len(only):
        print(f"  {counted(len(mine) - len(only), 'trial')} of other sweeps too: left alone")


@app.command()
def priority(
    name: Name,
    number: Annotated[
        int, typer.Argument(metavar="N", min=-1000, max=1000, help="More runs first.")
    ],
    db: Db = None,
) -> None:
    """Let a sweep's trials run before those of less priority."""
    from fedsweep import queue
    from fedsweep.store import sweep_rows
    from fedsweep.store.transactions import transaction

    with transaction(open_store(db)) as connection:
        sweep_rows.require_sweep(connection, name)
        count = queue.prioritize(connection, sweep_rows.sweep_trials(connection, name), number)
    print(f"{name}: {counted(count, 'trial')} at priority {number}")


@app.command()
def budget(
    name: Name,
    db: Db = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_STORED, help="Rounds to train in all.", show_default=False),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0.0, help="Hours of slots to train in all.", show_default=False),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="No limit any more.")] = False,
) -> None:
    """Limit what a sweep may train; at the limit its running trials are saved and given back."""
    from fedsweep import queue
    from fedsweep.store import sweep_rows
    from fedsweep.store.transactions import transaction

    if none == (rounds is not None or hours is not None):
        raise RequestError("say what the budget is: --rounds, --hours, or --none")
    with transaction(open_store(db)) as connection:
        sweep_rows.require_sweep(connection, name)
        queue.budget(connection, name, rounds=rounds, hours=hours)
    limits = [f"{rounds:,} rounds"] if rounds is not None else []
    limits += [f"{hours:g} hours"] if hours is not None else []
    print(f"{name}: {' and '.join(limits) or 'no limit'}")


def _hold(name: str, why: Hold | None, db: str | None) -> None:
    from fedsweep import queue
    from fedsweep.store import sweep_rows
    from fedsweep.store.transactions import transaction

    with transaction(open_store(db)) as connection:
        sweep_rows.require_free(connection, name)
        queue.hold_sweep(connection, name, why)
        if why is None and name in queue.overspent(connection):
            raise Refused(
                f"{name} has used up its budget: raise it with `fedsweep sweep budget {name}`"
            )

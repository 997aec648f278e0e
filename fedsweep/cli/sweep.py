"""`fedsweep sweep`: list, pause, drain, resume, cancel, prioritize and limit sweeps."""

from __future__ import annotations

from typing import Annotated

import typer

from fedsweep.cli import status
from fedsweep.cli.arguments import MOST_STORED, Db, open_store
from fedsweep.cli.console import counted
from fedsweep.errors import RequestError
from fedsweep.states import Hold

app = typer.Typer(
    help="List, pause, limit and cancel sweeps.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The sweep.")]


@app.command("list", epilog="Example: fedsweep sweep list --db sqlite:///study.db")
def list_(db: Db = None) -> None:
    """List the sweeps with their progress."""
    status.status(db=db)


@app.command(epilog="Example: fedsweep sweep pause study")
def pause(name: Name, db: Db = None) -> None:
    """Pause a sweep.

    Its running trials finish the round, are saved and given back, all within a lease. Trials that
    also belong to another sweep continue.
    """
    _hold(name, Hold.PAUSE, db)
    print(f"{name}: paused (to resume: fedsweep sweep resume {name})")


@app.command(epilog="Example: fedsweep sweep drain study")
def drain(name: Name, db: Db = None) -> None:
    """Start no more trials of a sweep; running trials continue to their end."""
    _hold(name, Hold.DRAIN, db)
    print(f"{name}: drained (to resume: fedsweep sweep resume {name})")


@app.command(epilog="Example: fedsweep sweep resume study")
def resume(name: Name, db: Db = None) -> None:
    """Resume a paused or drained sweep.

    A sweep whose budget is used up resumes when its budget is raised.
    """
    _hold(name, None, db)
    print(f"{name}: resumed")


@app.command(epilog="Example: fedsweep sweep cancel study")
def cancel(name: Name, db: Db = None) -> None:
    """Cancel a sweep's queued and running trials.

    Trials that also belong to another live sweep continue. Plan the sweep again to undo this.
    """
    from fedsweep.actions import sweep as sweeps

    trials = sweeps.cancel(open_store(db), name)
    print(f"{name}: {counted(trials.cancelled, 'trial')} cancelled")
    if trials.kept:
        print(f"  {counted(trials.kept, 'trial')} of other sweeps too: left alone")


@app.command(epilog="Example: fedsweep sweep priority study 10")
def priority(
    name: Name,
    number: Annotated[
        int,
        typer.Argument(
            metavar="N", min=-1000, max=1000, help="The new priority; the highest runs first."
        ),
    ],
    db: Db = None,
) -> None:
    """Set the priority of a sweep's trials."""
    from fedsweep.actions import sweep as sweeps

    count = sweeps.prioritize(open_store(db), name, number)
    print(f"{name}: {counted(count, 'trial')} at priority {number}")


@app.command(epilog="Example: fedsweep sweep budget study --hours 12")
def budget(
    name: Name,
    db: Db = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_STORED, help="Rounds to train in total.", show_default=False),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0.0, help="Slot hours to train in total.", show_default=False),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Remove the limit.")] = False,
) -> None:
    """Limit the training of a sweep; at the limit, running trials are saved and given back."""
    from fedsweep.actions import sweep as sweeps

    if none == (rounds is not None or hours is not None):
        raise RequestError("give either a budget (--rounds, --hours) or --none")
    sweeps.limit(open_store(db), name, rounds=rounds, hours=hours)
    limits = [f"{rounds:,} rounds"] if rounds is not None else []
    limits += [f"{hours:g} hours"] if hours is not None else []
    print(f"{name}: {' and '.join(limits) or 'no limit'}")


def _hold(name: str, reason: Hold | None, db: str | None) -> None:
    from fedsweep.actions import sweep as sweeps

    sweeps.hold(open_store(db), name, reason)

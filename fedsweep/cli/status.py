"""`fedsweep status`: where every sweep stands."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Db, Sweep, open_store
from fedsweep.cli.console import console, counted, time_left

if TYPE_CHECKING:
    from rich.table import Table
    from sqlalchemy.engine import Engine

    from fedsweep.store.reads import Progress

WATCH_SECONDS = 2.0


def status(
    db: Db = None,
    sweep: Sweep = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list of sweeps.")] = False,
) -> None:
    """Say where each sweep stands.

    Trials by state, rounds, and the time left: from measured rounds, with the slots at work now.
    """
    engine = open_store(db)
    if as_json:
        print(json.dumps([_record(p) for p in _progress(engine, sweep)], indent=2))
        return
    if not watch:
        console().print(_table(_progress(engine, sweep)))
        return
    from rich.live import Live

    with Live(console=console(), auto_refresh=False) as live:
        try:
            while True:
                live.update(_table(_progress(engine, sweep)), refresh=True)
                time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            return


def _progress(engine: Engine, sweep: str | None) -> list[Progress]:
    from fedsweep.store import reads
    from fedsweep.store.engine import reading

    with reading(engine) as connection:
        if sweep is not None:
            reads.require_sweep(connection, sweep)
        return reads.progress(connection, sweep)


def _record(progress: Progress) -> dict[str, object]:
    return {**asdict(progress), "trials": progress.trials, "done": progress.done}


def _table(found: list[Progress]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    states = ("queued", "running", "finished", "failed", "cancelled")
    table.add_column("sweep")
    for name in ("done", *states, "rounds", "time left"):
        table.add_column(name, justify="right")
    for p in found:
        held = {"pause": "paused", "drain": "drained", "budget": "budget used up"}
        name = f"{p.sweep} ({held.get(p.held, 'cancelled')})" if p.held else p.sweep
        name += f" (searching {counted(p.searching, 'arm')})" if p.searching else ""
        counts = [str(getattr(p, state) or "–") for state in states]
        share = p.rounds_done / p.rounds_total if p.rounds_total else 1.0
        table.add_row(
            name,
            f"{p.done}/{p.trials}",
            *counts,
            f"{p.rounds_done:,}/{p.rounds_total:,} ({share:.0%})",
            time_left(p),
        )
    return table

"""`fedsweep status`: the progress of every sweep."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Db, Sweep, read_store
from fedsweep.cli.console import console, counted, duration, keep_showing, size, time_left
from fedsweep.errors import visible
from fedsweep.words import HELD

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from fedsweep.actions.status import Glance
    from fedsweep.reports.fit import Grid
    from fedsweep.store.progress import SweepProgress
    from fedsweep.store.rows import Row

SHOWN = 20
"""Running trials that are listed one by one. More would not fit on a screen."""


def status(
    db: Db = None,
    sweep: Sweep = None,
    watch: Annotated[bool, typer.Option("--watch", help="Update the output until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of sweeps.")] = False,
) -> None:
    """Print the progress of each sweep.

    This is the number of trials by state, the rounds, and the time left. The time left is computed
    from measured rounds and the slots that run now. --watch also lists the running trials.
    """
    from fedsweep.actions import status as progress

    engine = read_store(db)
    if as_json:
        records = [_record(one) for one in progress.progress_of(engine, sweep)]
        print(json.dumps(records, indent=2))
        return
    if watch:
        keep_showing(lambda: _screen(progress.glance(engine, sweep)))
        return
    console().print(_grid(progress.progress_of(engine, sweep)).fitted(console().width))
    for line in _stopped(progress.recent_stops(engine)):
        console().print(line)


def _record(progress: SweepProgress) -> dict[str, object]:
    return {**asdict(progress), "trials": progress.trials, "done": progress.done}


def _grid(sweeps: Sequence[SweepProgress]) -> Grid:
    from fedsweep.reports.fit import Column, Grid, folding

    states = ("queued", "running", "finished", "failed", "cancelled")
    rows = []
    for p in sweeps:
        name = f"{p.sweep} ({HELD[p.held]})" if p.held else p.sweep
        name += f" (searching {counted(p.searching, 'arm')})" if p.searching else ""
        counts = [str(getattr(p, state) or "–") for state in states]
        fraction = p.rounds_done / p.rounds_total if p.rounds_total else 1.0
        done = f"{p.rounds_done:,}/{p.rounds_total:,} ({fraction:.0%})"
        rows.append([name, f"{p.done}/{p.trials}", *counts, done, time_left(p)])
    numbers = [Column(name) for name in ("done", *states, "rounds", "time left")]
    return Grid([Column("sweep", left=True, least=folding), *numbers], rows, boxed=False)


def _screen(glance: Glance) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    done, total = (
        sum(getattr(p, f"rounds_{n}") for p in glance.progress) for n in ("done", "total")
    )
    lines: list[RenderableType] = [ProgressBar(total=max(total, 1), completed=done, width=60)]
    lines.append(_grid(glance.progress).fitted(console().width))
    lines.append(Text(_queue(glance.queue), style="dim"))
    if glance.running:
        lines += [Text(), _at_work(glance.running, glance.varying)]
        if more := len(glance.running) - SHOWN:
            lines += [Text(f"and {more} more", style="dim")] if more > 0 else []
    if glance.failures:
        trials = [f"{n:,} {kind}" for kind, (n, _) in glance.failures.items() if n]
        attempts = counted(sum(n for _, n in glance.failures.values()), "attempt")
        message = f"failed: {', '.join(trials) or 'no trial'}; {attempts} failed"
        lines += [Text(), Text(message, style="red")]
    return Group(*lines, *_stopped(glance.stops))


def _stopped(stops: Sequence[Row]) -> list[Text]:
    """Return a line for each worker that a machine stopped within the last day."""
    from rich.text import Text

    lines = [Text()] if stops else []
    for row in stops:
        action = "passes over trials" if row["lacks"] else "stopped"
        ago = f"{duration(max(0.0, time.time() - row['at']))} ago"
        times = f", {row['times']} times" if row["times"] > 1 else ""
        line = visible(f"{row['host']} ({row['device']}) {action} {ago}{times}: {row['reason']}")
        lines.append(Text(line, style="red"))
    return lines


def _queue(queue: Mapping[str, int]) -> str:
    """Return the numbers of queued trials by the reason why they are not claimed yet."""
    names = {"next": "may be claimed", "waiting": "wait for a trunk", "backing off": "back off"}
    reasons = [f"{n:,} {(names | HELD).get(reason, reason)}" for reason, n in queue.items() if n]
    return f"queued: {', '.join(reasons)}" if reasons else "nothing is queued"


def _at_work(running: Sequence[Row], varying: Sequence[str]) -> RenderableType:
    from fedsweep.reports.fit import Column, Grid, eliding, folding
    from fedsweep.reports.labels import describe

    columns = [
        Column("host", left=True, least=folding, leave_out=4),
        Column("device", left=True, least=folding, leave_out=3),
        Column("trial", left=True),
        Column("what", left=True, least=eliding, elides=True, leave_out=1),
        Column("round"),
        Column("memory", leave_out=2),
        Column("at work", leave_out=6),
        Column("lease", leave_out=5),
    ]
    now = time.time()
    rows = [
        [
            row["host"],
            row["device"],
            row["trial_id"][:8],
            describe(row, varying),
            f"{row['final_round'] or 0}/{row['rounds']}",
            size(row["memory"]) if row["memory"] else "–",
            duration(max(0.0, now - row["started_at"])),
            "over" if row["lease_left"] < 0 else duration(row["lease_left"]),
        ]
        for row in running[:SHOWN]
    ]
    return Grid(columns, rows, boxed=False, keys=3).shortened(console().width)

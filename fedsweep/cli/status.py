"""`fedsweep status`: where every sweep stands."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Db, Sweep, read_store
from fedsweep.cli.console import console, counted, duration, keep_showing, size, time_left
from fedsweep.errors import visible
from fedsweep.words import HELD

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text
    from sqlalchemy.engine import Engine

    from fedsweep.report.fit import Grid
    from fedsweep.store.progress import SweepProgress
    from fedsweep.store.rows import Row

SHOWN = 20
"""Trials at work that are told one by one."""


@dataclass(frozen=True)
class Glance:
    """What `--watch` shows."""

    progress: list[SweepProgress]
    running: list[Row]
    queue: dict[str, int]
    failures: dict[str, tuple[int, int]]
    stops: list[Row]


def status(
    db: Db = None,
    sweep: Sweep = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list of sweeps.")] = False,
) -> None:
    """Say where each sweep stands.

    Trials by state, rounds, and the time left: from measured rounds, with the slots at work now.
    --watch shows who is at work, too.
    """
    engine = read_store(db)
    if as_json:
        print(json.dumps([_record(p) for p in _progress(engine, sweep)], indent=2))
        return
    if not watch:
        console().print(_grid(_progress(engine, sweep)).fitted(console().width))
        for line in _stopped(_stops(engine)):
            console().print(line)
        return
    keep_showing(lambda: _glance(_look(engine, sweep)))


def _progress(engine: Engine, sweep: str | None) -> list[SweepProgress]:
    from fedsweep.store import sweep_rows
    from fedsweep.store.progress import sweep_progress
    from fedsweep.store.transactions import reading

    with reading(engine) as connection:
        if sweep is not None:
            sweep_rows.require_sweep(connection, sweep)
        return sweep_progress(connection, sweep)


def _stops(engine: Engine) -> list[Row]:
    from fedsweep.store import stops
    from fedsweep.store.transactions import reading

    with reading(engine) as connection:
        return stops.recent(connection)


def _look(engine: Engine, sweep: str | None) -> Glance:
    from fedsweep.store import live, stops
    from fedsweep.store.transactions import reading

    progress = _progress(engine, sweep)
    with reading(engine) as connection:
        return Glance(
            progress,
            live.running(connection),
            live.queue(connection),
            live.failure_counts(connection),
            stops.recent(connection),
        )


def _record(progress: SweepProgress) -> dict[str, object]:
    return {**asdict(progress), "trials": progress.trials, "done": progress.done}


def _grid(found: list[SweepProgress]) -> Grid:
    from fedsweep.report.fit import Column, Grid, folding

    states = ("queued", "running", "finished", "failed", "cancelled")
    rows = []
    for p in found:
        name = f"{p.sweep} ({HELD[p.held]})" if p.held else p.sweep
        name += f" (searching {counted(p.searching, 'arm')})" if p.searching else ""
        counts = [str(getattr(p, state) or "–") for state in states]
        share = p.rounds_done / p.rounds_total if p.rounds_total else 1.0
        done = f"{p.rounds_done:,}/{p.rounds_total:,} ({share:.0%})"
        rows.append([name, f"{p.done}/{p.trials}", *counts, done, time_left(p)])
    numbers = [Column(name) for name in ("done", *states, "rounds", "time left")]
    return Grid([Column("sweep", left=True, least=folding), *numbers], rows, boxed=False)


def _glance(found: Glance) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    done, total = (
        sum(getattr(p, f"rounds_{n}") for p in found.progress) for n in ("done", "total")
    )
    lines: list[RenderableType] = [ProgressBar(total=max(total, 1), completed=done, width=60)]
    lines.append(_grid(found.progress).fitted(console().width))
    lines.append(Text(_waiting(found.queue), style="dim"))
    if found.running:
        lines += [Text(), _at_work(found.running)]
        if more := len(found.running) - SHOWN:
            lines += [Text(f"and {more} more", style="dim")] if more > 0 else []
    if found.failures:
        told = [f"{n:,} {kind}" for kind, (n, _) in found.failures.items() if n]
        tried = sum(n for _, n in found.failures.values())
        said = f"failed: {', '.join(told) or 'no trial'}; {counted(tried, 'attempt')} failed"
        lines += [Text(), Text(said, style="red")]
    return Group(*lines, *_stopped(found.stops))


def _stopped(found: list[Row]) -> list[Text]:
    """Return a line for each worker that a machine stopped within the last day."""
    from rich.text import Text

    lines = [Text()] if found else []
    for row in found:
        what = "passes over trials" if row["lacks"] else "stopped"
        ago = f"{duration(max(0.0, time.time() - row['at']))} ago"
        times = f", {row['times']} times" if row["times"] > 1 else ""
        told = visible(f"{row['host']} ({row['device']}) {what} {ago}{times}: {row['reason']}")
        lines.append(Text(told, style="red"))
    return lines


def _waiting(queue: dict[str, int]) -> str:
    """Why queued trials are not claimed, counted."""
    told = {"next": "may be claimed", "waiting": "wait for a trunk", "backing off": "back off"}
    said = [f"{n:,} {(told | HELD).get(why, why)}" for why, n in queue.items() if n]
    return f"queued: {', '.join(said)}" if said else "nothing is queued"


def _at_work(running: list[Row]) -> RenderableType:
    from fedsweep.report.fit import Column, Grid, eliding, folding
    from fedsweep.report.labels import describe

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
            describe(row),
            f"{row['final_round'] or 0}/{row['rounds']}",
            size(row["memory"]) if row["memory"] else "–",
            duration(max(0.0, now - row["started_at"])),
            "over" if row["lease_left"] < 0 else duration(row["lease_left"]),
        ]
        for row in running[:SHOWN]
    ]
    return Grid(columns, rows, boxed=False, keys=3).shortened(console().width)

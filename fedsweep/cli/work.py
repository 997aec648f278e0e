"""`fedsweep work`: claim and run trials."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Data, Db, Sweep, as_given, data_folder, setting, url
from fedsweep.cli.console import console, counted, duration
from fedsweep.errors import DeviceError, MachineError, visible

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fedsweep.store.progress import SweepProgress
    from fedsweep.worker import Slot, Snapshot

BAR = 30
"""Columns of a sweep's bar."""


def work(
    db: Db = None,
    sweep: Sweep = None,
    data: Data = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|cuda:N", help="Where to train.")
    ] = "auto",
    slots: Annotated[
        int | None,
        typer.Option(min=1, help="Trials at a time; else one for each device.", show_default=False),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Torch's threads of a slot.")] = 1,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="Stop when no trial is left to run, anywhere.")
    ] = False,
    max_trials: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many trials.", show_default=False)
    ] = None,
    max_hours: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Stop after so many hours, saving what runs.", show_default=False
        ),
    ] = None,
    max_attempts: Annotated[
        int, typer.Option(min=1, help="Failures after which a trial stays failed.")
    ] = 3,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 where a trial in scope has failed.")
    ] = False,
    lease: Annotated[
        float,
        typer.Option(
            min=1.0, max=21600.0, help="Seconds after which a silent worker's trial is free."
        ),
    ] = 15.0,
    grace: Annotated[
        float, typer.Option(min=0.0, help="Seconds to finish the round when asked to stop.")
    ] = 20.0,
    artifacts: Annotated[
        list[str] | None,
        typer.Option(
            "--artifacts",
            metavar="URL",
            help="Approve a folder or URL that the database names for its files; repeatable. "
            "Else $FEDSWEEP_ARTIFACTS, and what you approved before (fedsweep db trust).",
            show_default=False,
        ),
    ] = None,
    notify: Annotated[
        list[str] | None,
        typer.Option(
            "--notify",
            metavar="URL",
            help="A webhook to tell of a sweep's end, of many failures, of a stall; repeatable. "
            "Else $FEDSWEEP_NOTIFY, several with spaces between.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Claim trials and train them, until stopped. Start it on as many machines as you like.

    Ctrl-C or SIGTERM finishes the round, saves it and gives the trials back; a second one drops
    the round. A terminal that hangs up does the same; with nohup or in tmux, work goes on.
    Output that cannot be written ends nothing.
    """
    from fedsweep import machine, output, worker
    from fedsweep.execution.device import devices
    from fedsweep.notify import webhook

    output.in_background()
    if warning := machine.settle_home():
        print(f"fedsweep: {warning}", file=sys.stderr)
    hooks = tuple(notify or (setting("FEDSWEEP_NOTIFY") or "").split())
    for hook in hooks:
        webhook.checked(hook)
    store = url(db)
    try:
        found = devices(device)
    except (DeviceError, MachineError) as error:
        worker.note_stop(store, device, str(error))
        raise
    options = worker.Options(
        url=store,
        devices=tuple(found),
        slots=slots or len(found),
        threads=threads,
        sweep=sweep,
        until_empty=until_empty,
        max_trials=max_trials,
        max_hours=max_hours,
        max_attempts=max_attempts,
        data=data_folder(data),
        lease=lease,
        grace=grace,
        artifacts=_approved(artifacts),
        notify=hooks,
    )
    with _screen() as show:
        tally = worker.work(options, show)
    done = [f"{counted(tally.finished, 'trial')} finished", f"{tally.failed} failed"]
    done += [f"{tally.released} given back"] if tally.released else []
    done += [f"{tally.lost} lost"] if tally.lost else []
    print(("stopped: " if tally.stopped else "") + ", ".join(done))
    if tally.broken:
        print(f"fedsweep: {as_given(tally.broken)}", file=sys.stderr)
        raise typer.Exit(1)
    if failed := tally.failed_in_scope:
        print(f"{counted(failed, 'trial')} in scope failed: fedsweep trial list --state failed")
        if strict:
            raise typer.Exit(1)


def _approved(artifacts: list[str] | None) -> tuple[str, ...]:
    """The places of --artifacts, and that of the variable, as the database spells them."""
    from fedsweep.errors import RequestError
    from fedsweep.store import places, trust

    named = [places.parse(place) for place in artifacts or ()]
    if text := setting(trust.VARIABLE):
        try:
            named.append(places.parse(text))
        except RequestError as error:
            raise RequestError(str(error).replace("--artifacts", trust.VARIABLE)) from error
    return tuple(named)


@contextmanager
def _screen() -> Iterator[Callable[[Snapshot], None]]:
    """A live view on a terminal, plain lines elsewhere."""
    if not console().is_terminal:
        yield _plain
        return
    from rich.live import Live
    from rich.text import Text

    with Live(console=console(), auto_refresh=False, transient=True) as live:
        drawn = 0.0

        def show(view: Snapshot) -> None:
            nonlocal drawn
            if view.ended is not None:
                live.console.print(Text(_ended(view)))
            if view.ended is not None or time.monotonic() - drawn >= 0.25:
                live.update(_frame(view), refresh=True)
                drawn = time.monotonic()

        yield show


def _plain(view: Snapshot) -> None:
    if view.ended is not None:
        print(_ended(view), flush=True)


def _ended(view: Snapshot) -> str:
    ended = view.ended
    assert ended is not None
    outcome = str(ended.outcome) if ended.outcome else "lost"
    result = ""
    if ended.last is not None:
        at = f" at round {ended.last.round}" if outcome != "finished" else ""
        if ended.last.test_accuracy is not None:
            result = f" {ended.last.test_accuracy:.2%}{at}"
        else:
            result = at
    what = _what(ended.claim.config)
    done, total = sum(p.done for p in view.progress), sum(p.trials for p in view.progress)
    left = f"  [{done}/{total}, {duration(_seconds_left(view, view.progress))} left]"
    end = f"{outcome}{result} in {duration(ended.seconds)}"
    if ended.again is not None:
        end = f"{outcome}{result}, again in {duration(ended.again)}"
    end += f" ({ended.error})" if ended.error else ""
    return visible(f"{ended.claim.trial_id[:8]} {what}: {end}{left if view.progress else ''}")


def _seconds_left(view: Snapshot, progress: list[SweepProgress]) -> float | None:
    """Of these sweeps, with our open slots and whatever else is running now."""
    each = [p.seconds_left if p.queued + p.running else 0.0 for p in progress]
    if any(seconds is None for seconds in each):
        return None
    ours = sum(not slot.closed for slot in view.slots)
    slots = max(1, ours, sum(p.running for p in view.progress))
    return sum(seconds or 0.0 for seconds in each) / slots


def _what(config: object) -> str:
    from fedsweep.report.labels import describe

    assert isinstance(config, dict)
    return describe(config)


def _frame(view: Snapshot) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from fedsweep.report.fit import Column, Grid, eliding

    columns = [
        Column("slot"),
        Column("device", left=True, leave_out=3),
        Column("trial", left=True, leave_out=4),
        Column("what", left=True, least=eliding, elides=True, leave_out=1),
        Column("round"),
        Column("accuracy"),
        Column("rounds/s", leave_out=2),
    ]
    slots = Grid(columns, [_slot_row(slot) for slot in view.slots], boxed=False)
    lines: list[RenderableType] = [slots.shortened(console().width)]
    lines += [_standing(view, p) for p in view.progress if p.trials]
    if view.tally.stopped:
        lines.append(Text("stopping: finishing the round (Ctrl-C again drops it)", style="yellow"))
    return Group(*lines)


def _standing(view: Snapshot, progress: SweepProgress) -> RenderableType:
    """Return a line for a sweep; without its bar if that does not fit."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    texts = [
        f"{progress.done}/{progress.trials} trials",
        f"{progress.failed} failed" if progress.failed else "",
        f"searching {counted(progress.searching, 'arm')}" if progress.searching else "",
        f"{duration(_seconds_left(view, [progress]))} left",
    ]
    texts = [text for text in texts if text]
    between = 2 * (len(texts) + 1)
    if len(progress.sweep) + BAR + sum(map(len, texts)) + between > console().width:
        return Text(f"{progress.sweep}: {', '.join(texts)}")
    bar = Table.grid(padding=(0, 2, 0, 0))
    done, total = progress.rounds_done, max(progress.rounds_total, 1)
    bar.add_row(
        Text(progress.sweep),
        ProgressBar(total=total, completed=done, width=BAR),
        *map(Text, texts),
    )
    return bar


def _slot_row(slot: Slot) -> list[str]:
    head = [str(slot.number), slot.device]
    if slot.claim is None:
        return [*head, "–", "waiting", "", "", ""]
    config, last = slot.claim.config, slot.last
    accuracy = last.test_accuracy if last else None
    rate = slot.rate()
    return [
        *head,
        slot.claim.trial_id[:8],
        _what(config),
        f"{last.round if last else slot.claim.final_round}/{config['rounds']}",
        f"{accuracy:.2%}" if accuracy is not None else "–",
        f"{rate:.3g}" if rate else "–",
    ]

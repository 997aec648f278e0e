"""`fedsweep work`: claim and train trials."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Data, Db, Sweep, as_given, url
from fedsweep.cli.console import console, counted, duration
from fedsweep.settings import NOTIFY, data_folder, setting

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fedsweep.store.progress import SweepProgress
    from fedsweep.worker import Slot, WorkStatus

BAR = 30
"""Terminal columns of a sweep's progress bar."""


def work(
    db: Db = None,
    sweep: Sweep = None,
    data: Data = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|cuda:N", help="Device to train on.")
    ] = "auto",
    slots: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Trials to train at the same time. auto is one on a CPU, and on each GPU as many "
            "as raise its throughput.",
        ),
    ] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch per slot.")] = 1,
    engine: Annotated[
        str,
        typer.Option(
            metavar="auto|seq|stack",
            help="Engine: seq trains client after client; stack, on GPUs, all clients at the same "
            "time. auto chooses for each trial.",
        ),
    ] = "auto",
    until_empty: Annotated[
        bool,
        typer.Option(
            "--until-empty", help="Stop when no trial is queued or running, on any machine."
        ),
    ] = False,
    max_trials: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stop after this number of trials. Default: no limit.", show_default=False
        ),
    ] = None,
    max_hours: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Stop after this number of hours, and save the running trials. Default: no limit.",
            show_default=False,
        ),
    ] = None,
    max_attempts: Annotated[
        int, typer.Option(min=1, help="Failures after which a trial is not retried.")
    ] = 3,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 if a trial in scope has failed.")
    ] = False,
    lease: Annotated[
        float,
        typer.Option(
            min=1.0,
            max=21600.0,
            help="Seconds after which another worker may claim a silent worker's trial.",
        ),
    ] = 15.0,
    grace: Annotated[
        float, typer.Option(min=0.0, help="Seconds to finish the round after a stop signal.")
    ] = 20.0,
    artifacts: Annotated[
        list[str] | None,
        typer.Option(
            "--artifacts",
            metavar="URL",
            help="Approve a folder or URL that the database names for its files; repeatable. "
            "$FEDSWEEP_ARTIFACTS and earlier approvals (fedsweep db trust) count too.",
            show_default=False,
        ),
    ] = None,
    notify: Annotated[
        list[str] | None,
        typer.Option(
            "--notify",
            metavar="URL",
            help="Webhook to notify of a sweep's end, of many failures and of a stall; repeatable. "
            "Default: $FEDSWEEP_NOTIFY, which separates several by spaces.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Claim trials and train them until stopped. Start it on as many machines as you like.

    Ctrl-C or SIGTERM finishes the round, saves it and gives the trials back. A second one drops
    the round. A closed terminal does the same; with nohup or in tmux, the worker continues. It also
    continues if its output cannot be written.
    """
    from fedsweep import machine, output, worker
    from fedsweep.actions import work as actions
    from fedsweep.store.trust import VARIABLE

    output.in_background()
    if warning := machine.settle_home():
        print(f"fedsweep: {warning}", file=sys.stderr)
    options = actions.options(
        url(db),
        device,
        slots=slots,
        threads=threads,
        engine=engine,
        sweep=sweep,
        until_empty=until_empty,
        max_trials=max_trials,
        max_hours=max_hours,
        max_attempts=max_attempts,
        data=data_folder(data),
        lease=lease,
        grace=grace,
        artifacts=artifacts or (),
        artifacts_variable=setting(VARIABLE),
        notify=notify or (setting(NOTIFY) or "").split(),
    )
    with _screen() as show:
        tally = worker.work(options, show)
    print(actions.summary(tally))
    if tally.broken:
        print(f"fedsweep: {as_given(tally.broken)}", file=sys.stderr)
        raise typer.Exit(1)
    if failed := tally.failed_in_scope:
        print(f"{counted(failed, 'trial')} in scope failed: fedsweep trial list --state failed")
        if strict:
            raise typer.Exit(1)


@contextmanager
def _screen() -> Iterator[Callable[[WorkStatus], None]]:
    """Show a live view on a terminal, and a line for each ended trial otherwise."""
    if not console().is_terminal:
        yield _plain
        return
    from rich.live import Live
    from rich.text import Text

    from fedsweep.actions.work import ended_line

    with Live(console=console(), auto_refresh=False, transient=True) as live:
        drawn = 0.0

        def show(view: WorkStatus) -> None:
            nonlocal drawn
            if view.ended is not None:
                live.console.print(Text(ended_line(view)))
            if view.ended is not None or time.monotonic() - drawn >= 0.25:
                live.update(_frame(view), refresh=True)
                drawn = time.monotonic()

        yield show


def _plain(view: WorkStatus) -> None:
    from fedsweep.actions.work import ended_line

    if view.ended is not None:
        print(ended_line(view), flush=True)


def _frame(view: WorkStatus) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from fedsweep.reports.fit import Column, Grid, eliding

    columns = [
        Column("slot"),
        Column("device", left=True, leave_out=3),
        Column("trial", left=True, leave_out=4),
        Column("what", left=True, least=eliding, elides=True, leave_out=1),
        Column("round"),
        Column("accuracy"),
        Column("rounds/s", leave_out=2),
    ]
    slots = Grid(columns, [_slot_row(slot, view.varying) for slot in view.slots], boxed=False)
    lines: list[RenderableType] = [slots.shortened(console().width)]
    lines += [_standing(view, p) for p in view.progress if p.trials]
    if view.tally.stopped:
        lines.append(Text("stopping: finishing the round (Ctrl-C again drops it)", style="yellow"))
    return Group(*lines)


def _standing(view: WorkStatus, progress: SweepProgress) -> RenderableType:
    """Return a sweep's line; the progress bar is left out if it does not fit."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from fedsweep.actions.work import seconds_left

    texts = [
        f"{progress.done}/{progress.trials} trials",
        f"{progress.failed} failed" if progress.failed else "",
        f"searching {counted(progress.searching, 'arm')}" if progress.searching else "",
        f"{duration(seconds_left(view, [progress]))} left",
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


def _slot_row(slot: Slot, varying: Sequence[str]) -> list[str]:
    from fedsweep.actions.work import description

    head = [str(slot.number), slot.device]
    if slot.claim is None:
        return [*head, "–", "waiting", "", "", ""]
    config, last = slot.claim.config, slot.last
    accuracy = last.test_accuracy if last else None
    rate = slot.rate()
    return [
        *head,
        slot.claim.trial_id[:8],
        description(config, varying),
        f"{last.round if last else slot.claim.final_round}/{config['rounds']}",
        f"{accuracy:.2%}" if accuracy is not None else "–",
        f"{rate:.3g}" if rate else "–",
    ]

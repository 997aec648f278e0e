"""`fedsweep verify`: train a trial again, and compare its rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from fedsweep import output
from fedsweep.cli.arguments import Data, Db, read_store
from fedsweep.cli.console import console, counted, duration
from fedsweep.cli.trial import Trial
from fedsweep.settings import data_folder

PLAIN_SECONDS = 10.0
"""Seconds between two lines of progress without a terminal, so that a log stays short."""

Advance = Callable[[int, float], None]
"""Called with the number of finished rounds, and with the seconds that the other rounds take."""


def verify(
    trial: Trial,
    db: Db = None,
    data: Data = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|cuda|cuda:N",
            help="Device to train on. Default: the trial's kind of device.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads of torch. Default: as many as the trial had.", show_default=False
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Largest difference of two numbers; with it, other numerics are compared too. "
            "Default: none, all bits are equal.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Compare only the first N rounds. Default: all.", show_default=False
        ),
    ] = None,
) -> None:
    """Train a trial again from scratch and compare each stored round, bit by bit.

    Nothing is written. The exit code is 0 if all rounds are equal, and 1 if a round differs. It is
    2 if the trial cannot be compared on this machine.
    """
    from fedsweep.actions import verify

    comparison = verify.prepare(
        read_store(db),
        trial,
        device=device,
        threads=threads,
        data=data_folder(data),
        rounds=rounds,
        tolerance=tolerance,
    )
    if comparison.difference:
        print(f"not bit by bit: {comparison.difference}; compared within {tolerance:g}")
    record, place, count = comparison.record, comparison.place, comparison.rounds
    processor = comparison.numerics["processor"]
    device_and_threads = f"{place.device} ({processor}), {counted(place.threads, 'thread')}"
    print(
        f"trial {record.trial_id}: {counted(count, 'round')} again on {device_and_threads}; "
        f"they took {duration(comparison.seconds)}"
    )
    began = time.monotonic()
    with _screen(count) as advance:
        verdict = verify.compare(comparison, tolerance, advance)
    end = f"in {duration(time.monotonic() - began)}"
    if not verdict.equal:
        print(f"differs: {verdict.difference}, {end}")
        raise typer.Exit(1)
    near = (
        f"within {tolerance:g} (farthest: {verdict.difference})"
        if verdict.difference
        else "bit for bit"
    )
    again = f"; it diverges again: {record.error}" if comparison.diverges else ""
    print(f"equal: {counted(count, 'round')}, {near}, {end}{again}")


@contextmanager
def _screen(count: int) -> Iterator[Advance]:
    """Show a bar on a terminal, and plain lines otherwise."""
    if not console().is_terminal:
        yield _plain(count)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("round", markup=False),
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task("", total=count)
        yield lambda done, seconds: bar.update(
            task, completed=done, description=f"{duration(seconds)} left"
        )


def _plain(count: int) -> Advance:
    last = time.monotonic()

    def advance(done: int, seconds: float) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_SECONDS and done < count:
            last = time.monotonic()
            print(f"round {done}/{count}, {duration(seconds)} left")
            output.check()

    return advance

"""`fedsweep verify`: train a trial again, and compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep import output
from fedsweep.cli.arguments import Data, Db, data_folder, read_store
from fedsweep.cli.console import console, counted, duration
from fedsweep.cli.trial import Trial
from fedsweep.errors import RequestError

if TYPE_CHECKING:
    from fedsweep.store.trial_record import Record
    from fedsweep.verification import Field, Otherwise, Step

PLAIN_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""

Advance = Callable[[int, str], None]
"""Told the rounds done, and how long the rest takes."""


def verify(
    trial: Trial,
    db: Db = None,
    data: Data = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|cuda|cuda:N", help="Else of the trial's own kind.", show_default=False
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Torch's; else as many as it had.", show_default=False),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Let numbers lie so far apart, and compare under other numerics too.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many.", show_default=False)
    ] = None,
) -> None:
    """Train a trial again from scratch and compare each stored round, bit by bit.

    Nothing is written. Exit 0: equal; 1: it differs, and where; 2: not comparable here.
    """
    from fedsweep import verification
    from fedsweep.execution import training
    from fedsweep.execution.device import devices
    from fedsweep.execution.place import Place
    from fedsweep.store import trial_record, trial_rows
    from fedsweep.store.transactions import reading

    with reading(read_store(db)) as connection:
        record = trial_record.trial_record(connection, trial_rows.find_trial(connection, trial)[0])
    config = verification.configured(record)
    place = Place(
        device=devices(device)[0] if device else verification.same_kind_of_device(record),
        threads=threads or verification.threads_of(record),
        data=data_folder(data),
    )
    here = training.numerics_of(config, place)
    if others := verification.other_numerics(record, here):
        _say_others(record, others, tolerance)
    count = verification.asked_rounds(record, rounds)
    took = duration(sum(row["seconds"] for row in record.rounds[:count]))
    where = f"{place.device} ({here['processor']}), {counted(place.threads, 'thread')}"
    print(f"trial {record.trial_id}: {counted(count, 'round')} again on {where}; they took {took}")
    began = time.monotonic()
    with _screen(count) as advance:
        steps = verification.compare(record, config, place, count)
        verdict = verification.judge(_told(steps, record, count, advance), tolerance)
    end = f"in {duration(time.monotonic() - began)}"
    if not verdict.equal:
        print(f"differs: {verdict.difference}, {end}")
        raise typer.Exit(1)
    near = "bit for bit"
    if verdict.difference:
        near = f"within {tolerance:g} (farthest: {verdict.difference})"
    again = f"; it diverges again: {record.error}" if verification.to_diverge(record, count) else ""
    print(f"equal: {counted(count, 'round')}, {near}, {end}{again}")


def _say_others(record: Record, others: list[Field], tolerance: float | None) -> None:
    """Refuse to compare under other numerics, or say that it is done."""
    parts = [f"{f.name} is {f.current or 'none'} here and was {f.stored or 'none'}" for f in others]
    said = "; ".join(parts)
    if tolerance is None:
        raise RequestError(
            f"trial {record.trial_id} cannot be compared here bit by bit: {said}: verify it where "
            "they agree, or compare all the same with --tolerance 1e-6"
        )
    print(f"not bit by bit: {said}; compared within {tolerance:g}")


def _told(
    steps: Iterable[Step | Otherwise], record: Record, count: int, advance: Advance
) -> Iterator[Step | Otherwise]:
    """The steps, as they come, and progress. What is left takes in proportion to what it took."""
    from fedsweep.verification import Step

    before = {row["round"]: row["seconds"] for row in record.rounds[:count]}
    took = again = 0.0
    whole = sum(before.values())
    for step in steps:
        if isinstance(step, Step):
            took += before.get(step.round.round, 0.0)
            again += step.round.seconds
            slower = again / took if took > 0 else 1.0
            advance(step.round.round, f"{duration((whole - took) * slower)} left")
        yield step


@contextmanager
def _screen(count: int) -> Iterator[Advance]:
    """A bar on a terminal, plain lines elsewhere."""
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
        yield lambda done, left: bar.update(task, completed=done, description=left)


def _plain(count: int) -> Advance:
    last = time.monotonic()

    def advance(done: int, left: str) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_SECONDS and done < count:
            last = time.monotonic()
            print(f"round {done}/{count}, {left}")
            output.check()

    return advance

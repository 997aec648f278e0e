"""`fedsweep plan`: turn a TOML file into trials."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Data, Db, open_store, read_existing_store, url
from fedsweep.cli.console import counted, duration, size
from fedsweep.errors import RequestError
from fedsweep.files import stdout_kept_for
from fedsweep.settings import data_folder

if TYPE_CHECKING:
    from fedsweep.actions.explain import KeyFacts
    from fedsweep.actions.plan import Added, PlanForecast, PlanRead
    from fedsweep.execution.data_facts import DataFacts
    from fedsweep.plans import SweepSpec
    from fedsweep.store.planning import Planned

CONFIRMED_ABOVE = 10_000_000
"""Points of a plan above which the user confirms it: they take about 20 minutes and 4 GB of memory.
"""
ANNOUNCED_ABOVE = 1_000_000
"""Points of a plan above which its size is printed first. A dry run stops there."""
TRIAL_BYTES = 1000
"""Approximate bytes of a queued trial in the database."""


def plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plan, a TOML file.")],
    db: Db = None,
    data: Data = None,
    dry_run: Annotated[bool, typer.Option(help="Print the plan's cost and write nothing.")] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help=f"Plan more than {CONFIRMED_ABOVE:,} points without asking."),
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Fix a key for all trials; repeatable."),
    ] = None,
    priority: Annotated[
        int,
        typer.Option(min=-1000, max=1000, help="Priority of new trials; the highest runs first."),
    ] = 0,
    share: Annotated[
        bool,
        typer.Option(
            " /--no-share",
            help="Train every trial from round 1. By default, trials that differ only in T* share "
            "the BN rounds before the freeze.",
            show_default=False,
        ),
    ] = True,
    artifacts: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Folder or bucket URL for the sweep's snapshots and weights. Default: next to a "
            "SQLite file, otherwise on each machine.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Print each key with its value, and who has chosen it."),
    ] = False,
    show_partition: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Also draw each client's samples by class, as a .png, .svg or .pdf.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Turn a plan file into trials in the database.

    Trials that the database already has are kept as they are.
    """
    from fedsweep.actions import plan as plans

    read = plans.read(
        file,
        set_ or (),
        _Permit(file, yes=yes, dry_run=dry_run),
        url=url(db),
        data=data_folder(data),
        share=share,
        artifacts=artifacts,
        figure=show_partition,
    )
    with stdout_kept_for(show_partition):
        # The figure is drawn first and put in its place last, because the plan may be refused.
        with _partition_figure(read.sweep, data_folder(data), show_partition):
            if dry_run:
                _print_forecast(read.sweep, plans.forecast(read_existing_store(db), read.sweep))
            else:
                engine = open_store(db, create=True)
                added = plans.add(engine, read.sweep, priority=priority, artifacts=read.artifacts)
                _print_added(read.sweep, added, read.artifacts)
        for note in read.notes:
            print(f"  {note}")
        _print_decisions(read, every_key=explain)
        if read.is_data_unseen:
            print(
                "note: the data are not on this machine, so their content is not part of the "
                "trials' identity: give --data or FEDSWEEP_DATA to pin it. With the data, the same "
                "plan makes other trials"
            )


@dataclass(frozen=True)
class _Permit:
    """Decides if a plan with so many points is made."""

    file: Path
    yes: bool
    dry_run: bool

    def __call__(self, points: int) -> None:
        """Print the size of a large plan; ask, refuse or end if it is too large."""
        if points <= ANNOUNCED_ABOVE:
            return
        makes = f"{self.file} makes {points:,} points, before duplicates are merged"
        if self.dry_run:
            print(f"{makes} (counted only: nothing is written)")
            raise typer.Exit
        asks = points > CONFIRMED_ABOVE and not self.yes
        if asks and (sys.stdin is None or not sys.stdin.isatty()):
            raise RequestError(
                f"{makes}, more than {CONFIRMED_ABOVE:,}: make its grid smaller, or confirm with "
                "--yes"
            )
        print(f"{makes}: about {size(points * TRIAL_BYTES)} of database", file=sys.stderr)
        if asks and not typer.confirm("Make them?", err=True):
            raise RequestError("nothing is planned: make the grid smaller")


@contextmanager
def _partition_figure(sweep: SweepSpec, data: Path | None, path: Path | None) -> Iterator[None]:
    """Draw the figure if --show-partition is given, and print its name at the end."""
    if path is None:
        yield
        return
    from fedsweep.actions import plan as plans

    with plans.partition_figure(sweep, data, path) as figure:
        yield
    print(f"{path.absolute()}: {counted(figure.drawn, 'partition')}")
    if figure.left_out:
        print(f"  {counted(figure.left_out, 'partition')} more left out: narrow the sweep by --set")


def _print_added(sweep: SweepSpec, added: Added, artifacts: str | None) -> None:
    from fedsweep.plans import OUTSIDE_IDENTITY
    from fedsweep.store.trust import VARIABLE

    planned = added.planned
    if added.unapproved is not None:
        print(
            f"note: your approval of {artifacts} cannot be stored ({added.unapproved}): start "
            f"workers with --artifacts, or set {VARIABLE}",
            file=sys.stderr,
        )
    print(f"{sweep.name}: {counted(planned.new, 'new trial')}, {planned.kept:,} kept")
    if sweep.arms:
        kept = len(sweep.arms) - added.arms
        print(f"  {counted(added.arms, 'arm')} to search, {kept:,} as before")
    if planned.cancelled:
        print(f"  {counted(len(planned.cancelled), 'cancelled trial')} queued again")
    if planned.earlier is not None:
        _print_changes(sweep, planned)
    if planned.dropped:
        verb = "stays" if planned.dropped == 1 else "stay"
        print(
            f"  {counted(planned.dropped, 'trial')} of earlier plans {verb} in the sweep and its "
            "report: plan under another name to keep them apart"
        )
    if planned.otherwise:
        keys = ", ".join(sorted(OUTSIDE_IDENTITY))
        print(
            f"  {counted(planned.otherwise, 'kept trial')} began as planned before and keep their "
            f"old {keys}: plan into another database to change them"
        )


def _print_changes(sweep: SweepSpec, planned: Planned) -> None:
    import difflib

    print(f"  the plan of {sweep.name} has changed; both texts are kept:")
    before, after = (text.splitlines() for text in (planned.earlier or "", sweep.text))
    for line in difflib.unified_diff(before, after, "earlier", "now", n=0, lineterm=""):
        print(f"    {line}")


def _print_decisions(read: PlanRead, *, every_key: bool) -> None:
    """Print the data and the clients, and the defaults that change numbers, or every key."""
    for data in read.data:
        for line in _data_lines(data):
            print(f"  {line}")
    if ignored := [key.name for key in read.keys if key.given and not key.values]:
        print(f"  ignored keys, which have no effect in this plan: {', '.join(ignored)}")
    if every_key:
        _print_keys(read.keys)
    elif silent := [key for key in read.keys if key.silent]:
        from fedsweep.cli.console import console

        defaults = ", ".join(f"{key.name} = {_values(key)}" for key in silent)
        text = f"defaults that change the numbers (all keys: --explain): {defaults}"
        print(
            textwrap.fill(
                text,
                console().width,
                initial_indent="  ",
                subsequent_indent="    ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        )


def _data_lines(data: DataFacts) -> Iterator[str]:
    images = f"{data.training:,} training"
    images += f" and {data.test:,} test images" if data.test else " images"
    classes = f", {data.classes:,} classes" if data.classes else ""
    always, never = all(data.augmented), not any(data.augmented)
    cropped = "cropped and flipped at random" + ("" if always else " in some trials")
    yield f"{data.name}: {images}{classes}, {'not augmented' if never else cropped}"
    for clients in data.clients:
        if clients.count == 1:
            one = "" if clients.how == "centralized" else "1 client with "
            yield f"  {clients.how}: {one}all {clients.most:,} training samples"
            continue
        samples = f"{clients.least:,} to {clients.most:,} samples, median {clients.median:,.0f}"
        if clients.least == clients.most:
            samples = f"{clients.most:,} samples each"
        yield f"  {clients.how}: {counted(clients.count, 'client')} with {samples}"
    if data.left_out:
        yield f"  and {counted(data.left_out, 'further partition')}"


def _print_keys(keys: Sequence[KeyFacts]) -> None:
    """Print a table of the keys that have a meaning in this plan, and name the others."""
    from fedsweep.cli.console import console
    from fedsweep.reports.fit import Column, Grid, folding

    used = [key for key in keys if key.values]
    rows = [[key.name, _values(key), key.chosen, _effect(key)] for key in used]
    columns = [
        Column("key", left=True),
        Column("value", left=True, least=folding),
        Column("chosen", left=True),
        Column("changes", left=True, least=folding),
    ]
    console().print(Grid(columns, rows).fitted(console().width))
    unused = [key.name for key in keys if not key.values and not key.given]
    if unused:
        print(f"  without a meaning in this plan: {', '.join(unused)}")


def _effect(key: KeyFacts) -> str:
    return "numbers" if key.changes_numbers else "no numbers"


def _values(key: KeyFacts) -> str:
    from fedsweep.actions.explain import MOST_VALUES

    listed = ", ".join(key.values[:MOST_VALUES])
    more = len(key.values) - MOST_VALUES
    return f"{listed}, and {more:,} more" if more > 0 else listed


def _print_forecast(sweep: SweepSpec, forecast: PlanForecast) -> None:
    print(
        f"{sweep.name}: {counted(forecast.new, 'new trial')}, {forecast.kept:,} kept "
        "(nothing is written)"
    )
    shared = f", and {forecast.saved:,} that trials share" if forecast.saved else ""
    print(f"  rounds   {forecast.rounds:,}{shared}")
    print(f"  hours    {_hours(forecast)}")
    weights = f" {size(forecast.weight_bytes)} of final weights," if forecast.weight_bytes else ""
    print(
        f"  disk     {size(forecast.row_bytes)} of rows,{weights} and "
        f"{size(forecast.snapshot_bytes)} for each running trial"
    )
    if forecast.unsized:
        print(f"           without models of unknown size: {', '.join(forecast.unsized)}")
    if search := forecast.search:
        print(
            f"  search   {counted(search.arms, 'arm')}: {search.rounds:,} rounds at most, trunks "
            f"included, of {search.grid_rounds:,} that whole grids would take"
        )
        most = size(search.trunk_bytes)
        print(f"           {most} of snapshots at most for each trunk that is searched")
    if forecast.forks:
        most = size(forecast.forks * forecast.snapshot_bytes)
        print(f"           {most} at most for each trunk that trials share, while they do")


def _hours(forecast: PlanForecast) -> str:
    if not forecast.new:
        return "nothing to train"
    if forecast.seconds is None:
        return "not measured yet: unknown until the first rounds of such trials"
    part = f", without {forecast.unmeasured} unmeasured" if forecast.unmeasured else ""
    return f"{forecast.seconds / 3600:.2f} of one slot ({duration(forecast.seconds)}){part}"

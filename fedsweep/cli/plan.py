"""`fedsweep plan`: a TOML file into trials."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Data, Db, data_folder, open_store, read_store, url
from fedsweep.cli.console import counted, duration, size
from fedsweep.files import stdout_kept_for

if TYPE_CHECKING:
    from fedsweep.plan import SweepSpec
    from fedsweep.store.planning import Planned

ASKED_ABOVE = 10_000_000
"""Points of a plan above which a person is asked: they take about 20 minutes and 4 GB of memory."""
TOLD_ABOVE = 1_000_000
"""Points of a plan above which it says what it is about to make. A dry run counts no further."""

FIGURE_KINDS = (".png", ".svg", ".pdf")

TRIAL_BYTES = 1000
"""Bytes that a queued trial takes in the database, about."""
ROW_BYTES = 150
"""What a stored round takes in the database, about."""
CLIENT_BYTES = 40
"""What a client's row of a round takes."""


def plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plan, a TOML file.")],
    db: Db = None,
    data: Data = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be planned.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help=f"Make more than {ASKED_ABOVE:,} points without asking.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Fix a key for all trials; repeatable."),
    ] = None,
    priority: Annotated[
        int, typer.Option(min=-1000, max=1000, help="New trials with more of it run first.")
    ] = 0,
    share: Annotated[
        bool,
        typer.Option(
            " /--no-share",
            help="Let new trials share nothing: else BN's rounds of trials that differ in T* alone "
            "are trained once.",
        ),
    ] = True,
    artifacts: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where the sweep's snapshots and weights are to lie: a folder, or the URL of a "
            "bucket; else next to a SQLite file, or on each machine.",
            show_default=False,
        ),
    ] = None,
    show_partition: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Also draw which client holds what: a .png, .svg or .pdf.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Turn a plan file into trials in the database. What is there already is kept as it is."""
    from fedsweep import plan
    from fedsweep.execution.data import look_at_data

    sweep = plan.read_plan(file, set_ or (), _Permit(file, yes=yes, dry_run=dry_run))
    files_at = _checked(artifacts)
    if show_partition is not None:
        _check_picture(show_partition, db)
    found: list[str] = []
    sweep, unseen = look_at_data(sweep, data_folder(data), file, found.append)
    sweep = sweep if share else sweep.alone()
    with stdout_kept_for(show_partition):
        # Drawn before anything is planned, and put in its place after it: either may be refused.
        with _drawn(sweep, data_folder(data), show_partition):
            if dry_run:
                _foretell(sweep, db)
            else:
                _plan(sweep, db, priority, files_at)
        for line in found:
            print(f"  {line}")
        if unseen:
            print(
                "note: the data are not at hand, so their content is no part of the trials' "
                "identity: give --data or FEDSWEEP_DATA to pin it"
            )


@dataclass(frozen=True)
class _Permit:
    """Decides whether a plan of so many points is made."""

    file: Path
    yes: bool
    dry_run: bool

    def __call__(self, points: int) -> None:
        """Say what would be made; ask, refuse or end if that is too much."""
        from fedsweep.errors import RequestError

        if points <= TOLD_ABOVE:
            return
        makes = f"{self.file} makes {points:,} points, before duplicates are merged"
        if self.dry_run:
            print(f"{makes} (counted only: nothing is written)")
            raise typer.Exit
        asks = points > ASKED_ABOVE and not self.yes
        if asks and (sys.stdin is None or not sys.stdin.isatty()):
            raise RequestError(
                f"{makes}, more than {ASKED_ABOVE:,}: make its grid smaller, or confirm with --yes"
            )
        print(f"{makes}: about {size(points * TRIAL_BYTES)} of database", file=sys.stderr)
        if asks and not typer.confirm("Make them?", err=True):
            raise RequestError("nothing is planned: make the grid smaller")


def _checked(artifacts: str | None) -> str | None:
    """--artifacts as it is stored."""
    if artifacts is None:
        return None
    from fedsweep.store.artifacts import parse

    return parse(artifacts)


def _check_picture(path: Path, db: str | None) -> None:
    from fedsweep.errors import RequestError
    from fedsweep.store.dialects import sqlite_file
    from fedsweep.store.engine import parse_url
    from fedsweep.store.targets import is_file_of

    if path.suffix.lower() not in FIGURE_KINDS:
        raise RequestError(
            f"--show-partition {path} is none of {', '.join(FIGURE_KINDS)}: end its name in one"
        )
    store = sqlite_file(parse_url(url(db)))
    if store is not None and is_file_of(store, path):
        raise RequestError("--show-partition is fedsweep's own database: name another file")


@contextmanager
def _drawn(sweep: SweepSpec, data: Path | None, path: Path | None) -> Iterator[None]:
    """Draw the figure, if one is asked for; it is put in its place at the end."""
    if path is None:
        yield
        return
    from fedsweep.execution.data import holdings
    from fedsweep.report import partition_figure

    distinct = partition_figure.distinct(sweep)
    shown = holdings(distinct[: partition_figure.MOST_PANELS], data)
    with partition_figure.drawn(shown, path):
        yield
    print(f"{path.absolute()}: {counted(len(shown), 'partition')}")
    if left := len(distinct) - len(shown):
        print(f"  {counted(left, 'partition')} more left out: narrow the sweep by --set")


def _plan(sweep: SweepSpec, db: str | None, priority: int, files_at: str | None) -> None:
    from fedsweep import queue
    from fedsweep.plan import OUTSIDE_IDENTITY
    from fedsweep.store import arms, file_index, planning, sweep_rows
    from fedsweep.store.identity import store_name
    from fedsweep.store.transactions import transaction

    engine = open_store(db, create=True)
    with transaction(engine) as connection:
        planned = planning.add_sweep(connection, sweep, priority)
        searched = arms.add_arms(connection, sweep, priority)
        if planned.cancelled:
            queue.retry(connection, sweep_rows.trial_keys(connection, planned.cancelled))
        queue.planned(connection, sweep.name, sweep.budget)
        if files_at is not None:
            file_index.put_files(connection, sweep.name, files_at)
        store = store_name(connection)
    if files_at is not None:
        _approve(store, files_at)
    print(f"{sweep.name}: {counted(planned.new, 'new trial')}, {planned.kept:,} kept")
    if sweep.arms:
        kept = len(sweep.arms) - searched
        print(f"  {counted(searched, 'arm')} to search, {kept:,} as before")
    if planned.cancelled:
        print(f"  {counted(len(planned.cancelled), 'cancelled trial')} queued again")
    if planned.earlier is not None:
        _show_difference(sweep, planned)
    if planned.otherwise:
        what = ", ".join(sorted(OUTSIDE_IDENTITY))
        print(
            f"  {counted(planned.otherwise, 'kept trial')} began as planned before, and what they "
            f"measure and keep ({what}) stays: plan into another database to have it otherwise"
        )


def _approve(store: str, place: str) -> None:
    """Note that this user has named the place: workers of this user may use it."""
    from fedsweep.store import trust

    try:
        trust.approve(store, place)
    except OSError as error:
        print(
            f"note: that you named {place} cannot be noted here ({error}): start workers with "
            f"--artifacts, or set {trust.VARIABLE}",
            file=sys.stderr,
        )


def _show_difference(sweep: SweepSpec, planned: Planned) -> None:
    import difflib

    print(f"  the plan of {sweep.name} has changed; both texts are kept:")
    before, after = (text.splitlines() for text in (planned.earlier or "", sweep.text))
    for line in difflib.unified_diff(before, after, "earlier", "now", n=0, lineterm=""):
        print(f"    {line}")
    if planned.dropped:
        print(f"  {counted(planned.dropped, 'trial')} of the earlier plan stay in the sweep")


def _foretell(sweep: SweepSpec, db: str | None) -> None:
    from fedsweep.execution import sizes
    from fedsweep.plan import Trials, most_forks, own_rounds
    from fedsweep.store import progress, sweep_rows
    from fedsweep.store.dialects import sqlite_file
    from fedsweep.store.engine import parse_url
    from fedsweep.store.transactions import reading

    wanted = Trials.of(sweep.trials)
    there: set[str] = set()
    cost: dict[tuple[object, ...], float] = {}
    store = sqlite_file(parse_url(url(db)))
    if store is None or store.exists():
        with reading(read_store(db)) as connection:
            there = sweep_rows.present(connection, wanted.ids)
            cost = progress.seconds_a_round(connection)
    new = wanted.without(there)
    own = own_rounds(new)
    rounds, saved = sum(own), sum(config.rounds for config in new.configs) - sum(own)
    prices = [cost.get(progress.cost_key(config)) for config in new.configs]
    known = [price * n for price, n in zip(prices, own, strict=True) if price is not None]
    print(
        f"{sweep.name}: {counted(len(new), 'new trial')}, {len(there):,} kept (nothing is written)"
    )
    also = f", and {saved:,} that trials share" if saved else ""
    print(f"  rounds   {rounds:,}{also}")
    if not new:
        time = "nothing to train"
    elif not known:
        time = "not measured yet: unknown until the first rounds of such trials"
    else:
        part = "" if len(known) == len(new) else f", without {len(new) - len(known)} unmeasured"
        time = f"{sum(known) / 3600:.2f} of one slot ({duration(sum(known))}){part}"
    print(f"  hours    {time}")
    rows = sum(
        c.rounds * (ROW_BYTES + CLIENT_BYTES * c.client_accuracy * (c.clients or 1))
        for c in new.configs
    )
    kept = sizes.weights_bytes(new.configs)
    weights = f" {size(kept)} of final weights," if kept else ""
    largest = sizes.snapshot_bytes(new.configs)
    print(f"  disk     {size(rows)} of rows,{weights} and {size(largest)} for each running trial")
    if sweep.arms:
        _foretell_searches(sweep)
    if forks := most_forks(new):
        most = size(forks * largest)
        print(f"           {most} at most for each trunk that trials share, while they do")


def _foretell_searches(sweep: SweepSpec) -> None:
    """What searches may take beyond the trials that the plan names."""
    from fedsweep.execution import sizes

    rounds = 0
    for arm in sweep.arms:
        points = min(arm.search.probes_per_arm, len(arm.points))
        each = points * arm.config.rounds
        most = each if arm.rounds_per_seed is None else min(each, arm.rounds_per_seed)
        rounds += most * len(arm.seeds)
    grid = sum(len(arm.points) * arm.config.rounds * len(arm.seeds) for arm in sweep.arms)
    print(
        f"  search   {counted(len(sweep.arms), 'arm')}: {rounds:,} rounds at most, trunks "
        f"included, of {grid:,} that whole grids would take"
    )
    forks = max(len(arm.points) for arm in sweep.arms)
    most_bytes = size(forks * sizes.snapshot_bytes([arm.config for arm in sweep.arms]))
    print(f"           {most_bytes} of snapshots at most for each trunk that is searched")

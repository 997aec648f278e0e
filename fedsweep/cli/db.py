"""`fedsweep db`: upgrade, check, copy, merge and clean databases."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Db, open_store, read_store, url
from fedsweep.cli.console import console, counted, size
from fedsweep.errors import RequestError, hide_secrets, visible

if TYPE_CHECKING:
    from fedsweep.store.artifacts import FilePlace

app = typer.Typer(
    help="Upgrade, check, copy and merge databases.", no_args_is_help=True, rich_markup_mode=None
)


@app.command(epilog="Example: fedsweep db upgrade --db sqlite:///study.db")
def upgrade(db: Db = None) -> None:
    """Migrate an older database to this version's schema, in one transaction."""
    from fedsweep.actions import db as databases

    before, after = databases.upgrade(url(db))
    print(
        f"schema {after}: "
        + ("already there" if before == after else f"upgraded from {before or 'none'}")
    )


@app.command(epilog="Example: fedsweep db check --files")
def check(
    db: Db = None,
    files: Annotated[
        bool,
        typer.Option("--files", help="Also compare each kept file with its checksum."),
    ] = False,
) -> None:
    """Check that the database is sound, and print its schema's revision.

    The database's own check runs first; on Postgres it needs the extension amcheck. Each finished
    trial must have one finishing attempt, and each round once. Exit code 1 if there is a fault.
    """
    from fedsweep.actions import db as databases

    checked = databases.check(read_store(db), files=files)
    for fault in checked.faults:
        print(visible(fault))
    for host, count in sorted(checked.elsewhere.items()):
        print(f"{counted(count, 'file')} may lie on {visible(host)}: run it there too")
    if checked.faults:
        raise typer.Exit(1)
    written = checked.sound_files
    also = "" if written is None else f", {counted(written, 'file')} as written"
    print(f"sound, schema {checked.revision}{also}")


@app.command(epilog="Example: fedsweep db trust s3://bucket/study")
def trust(
    place: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PLACE]...", help="Folders or URLs to approve. Default: ask for each one."
        ),
    ] = None,
    db: Db = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve all places without asking.")] = False,
) -> None:
    """Approve the folders and URLs that the database names for its files.

    Your commands then read, write and delete files there. A database may come from anybody.
    Files next to the database or in your data folder need no approval. A place that you named
    with `plan --artifacts` needs none either.
    """
    from fedsweep.actions import db as databases

    places = databases.file_places_of(read_store(db), place or ())
    for reason in places.never_used:
        print(visible(f"{reason}: it is never used"))
    if not places.refused and not places.to_approve:
        print("nothing to approve: the files lie next to the database, or in your data folder")
    for one in places.to_approve:
        _approve(one, confirmed=bool(place) or yes)


def _approve(place: FilePlace, *, confirmed: bool) -> None:
    """Approve a place, and ask first unless the user has named it or used --yes."""
    from fedsweep.actions import db as databases

    of_sweeps = f" (sweep {', '.join(place.sweeps)})" if place.sweeps else ""
    shown = visible(f"{place.place}{of_sweeps}")
    if not confirmed:
        if databases.is_approved(place):
            print(f"{shown}: approved before")
            return
        _ask(shown)
    databases.approve(place)
    print(f"{shown}: approved")


def _ask(shown: str) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise RequestError(
            f"commands would write and delete files in {shown}: to allow it, name the place "
            "(fedsweep db trust PLACE), or confirm with --yes"
        )
    if not typer.confirm(f"Read, write and delete this database's files in {shown}?", err=True):
        raise RequestError("nothing is approved")


Source = Annotated[
    str, typer.Argument(metavar="FROM", help="URL of the database to read; it is not changed.")
]


@app.command(epilog="Example: fedsweep db copy sqlite:///study.db postgresql://host/study")
def copy(
    source: Source,
    target: Annotated[
        str,
        typer.Argument(metavar="TO", help="URL of an empty database, or of a new SQLite file."),
    ],
) -> None:
    """Copy a whole database, SQLite or Postgres, into an empty one.

    Workers of FROM may continue: the copy is a snapshot of one moment. Running trials are queued in
    the copy. Kept weights are copied; snapshots are not. All written rows are read back and
    compared.
    """
    from fedsweep.actions import db as databases

    copied = databases.copy(source, target)
    _print_tables([(table.name, table.rows) for table in copied.tables])
    _print_lost(copied.lost)


@app.command(epilog="Example: fedsweep db merge sqlite:///other.db sqlite:///study.db")
def merge(
    source: Source,
    target: Annotated[
        str, typer.Argument(metavar="INTO", help="URL of the database to add it to.")
    ],
) -> None:
    """Add a database's sweeps, trials and measurements to another one.

    A trial of both databases continues from the one that has more rounds. Rounds that both have
    must be equal, bit for bit; otherwise nothing is merged. Merging twice adds nothing.
    """
    from fedsweep.actions import db as databases

    merged = databases.merge(source, target)
    print(
        f"{counted(merged.added, 'trial')} added, {merged.taken_over:,} taken over, "
        f"{merged.kept:,} kept; {counted(merged.rounds, 'round')} added"
    )
    _print_lost(merged.lost)


def _print_tables(rows: list[tuple[str, int]]) -> None:
    from fedsweep.reports.fit import Column, Grid

    columns = [Column("table", left=True), Column("rows"), Column("sum", left=True)]
    shown = [[name, f"{count:,}", "agrees"] for name, count in rows]
    console().print(Grid(columns, shown).fitted(console().width))


def _print_lost(files: tuple[str, ...]) -> None:
    for file in files:
        print(f"  weights missing or damaged, left out: {visible(file)}")


MOST_NAMED = 5
"""Files that `gc` names one by one. More of them usually have one cause: the storage is down."""


@app.command(epilog="Example: fedsweep db gc --dry-run")
def gc(
    db: Db = None,
    dry_run: Annotated[bool, typer.Option(help="Print the files and delete nothing.")] = False,
) -> None:
    """Delete the files that no trial has needed for an hour.

    These are replaced snapshots, snapshots of trials that will not resume, and files of killed
    attempts. Only files that the database names, and that fedsweep named for it, are deleted.
    Workers may continue at the same time.
    """
    from fedsweep.store import garbage_collection

    engine = read_store(db) if dry_run else open_store(db)
    collected = garbage_collection.collect(engine, dry_run=dry_run)
    would = "would be deleted (nothing is)" if dry_run else "deleted"
    print(f"{counted(collected.files, 'file')} {would}, {size(collected.bytes)}")
    for name in collected.named:
        print(f"  {visible(name)}")
    for host, count in sorted(collected.elsewhere.items()):
        print(f"  {counted(count, 'file')} may lie on {visible(host)}: run it there too")
    for why, count in sorted(collected.unapproved.items()):
        print(f"  {counted(count, 'file')} left alone: {visible(why)}")
    for name in collected.outside[:MOST_NAMED]:
        print(f"  {visible(name[:200])} is not a file of this database, and is left alone")
    if (more := len(collected.outside) - MOST_NAMED) > 0:
        print(f"  and {counted(more, 'name')} more of that kind")
    for name, why in list(collected.failed.items())[:MOST_NAMED]:
        print(f"  {visible(name)} could not be deleted: {visible(hide_secrets(why))}")
    if (more := len(collected.failed) - MOST_NAMED) > 0:
        print(f"  and {counted(more, 'file')} more")
    if collected.failed:
        raise typer.Exit(1)

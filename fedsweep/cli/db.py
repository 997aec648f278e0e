"""`fedsweep db`: the database's schema."""

from __future__ import annotations

from typing import Annotated

import typer

from fedsweep.cli.arguments import Db, open_store, opened, read_store, url
from fedsweep.cli.console import console, counted, size
from fedsweep.errors import hide_secrets, visible

app = typer.Typer(help="The database's schema.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def upgrade(db: Db = None) -> None:
    """Bring an older database to this version's schema, in one transaction."""
    from fedsweep.store import schema
    from fedsweep.store.engine import make_engine

    engine = make_engine(url(db))
    opened.callback(engine.dispose)
    before, after = schema.migrate(engine)
    print(
        f"schema {after}: "
        + ("already there" if before == after else f"upgraded from {before or 'none'}")
    )


@app.command()
def check(
    db: Db = None,
    files: Annotated[
        bool,
        typer.Option("--files", help="Also read all kept weights and snapshots, by their sums."),
    ] = False,
) -> None:
    """Say whether the database is sound, and its schema's revision.

    By the database's own check (on Postgres by its extension amcheck, if installed) and by what
    must hold: every finished trial by one attempt, with every round once. Exit 1 where it is not.
    """
    from fedsweep.store import schema
    from fedsweep.transfer import integrity

    engine = read_store(db)
    found = integrity.faults(engine)
    checked = integrity.check_files(engine) if files else None
    for fault in [*found, *(checked.faults if checked else ())]:
        print(visible(fault))
    for host, count in sorted(checked.elsewhere.items()) if checked else ():
        print(f"{counted(count, 'file')} may lie on {visible(host)}: run it there too")
    if found or (checked and checked.faults):
        raise typer.Exit(1)
    also = f", {counted(checked.sound, 'file')} as written" if checked else ""
    print(f"sound, schema {schema.head()}{also}")


@app.command()
def trust(
    place: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PLACE]...", help="Folders or URLs; else all, one by one."),
    ] = None,
    db: Db = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve all without asking.")] = False,
) -> None:
    """Let this user's commands use the folders and URLs that the database names for its files.

    A database may come from anybody. Where it lies next to its files, or they lie in your data
    folder, nothing has to be approved; nor what you name in `plan --artifacts` yourself.
    """
    from fedsweep.errors import RequestError
    from fedsweep.store import artifacts, file_places, trust
    from fedsweep.store.places import spelled
    from fedsweep.store.transactions import reading

    engine = read_store(db)
    with reading(engine) as connection:
        found = file_places.places(connection)
    asked = artifacts.places_to_approve(engine.url, found)
    named = {spelled(one) for one in place or ()}
    if unknown := sorted(named - {one.place for one in asked}):
        raise RequestError(
            f"this database names no place {unknown[0]} for its files: run `fedsweep db trust` "
            "without a place to see those that it names"
        )
    wanted = [one for one in asked if one.place in named or not named]
    refusals = [artifacts.folder_of(engine.url, home).refusal for home in found]
    for why in (one for one in refusals if isinstance(one, artifacts.Outside)):
        print(visible(f"{why}: it is never used"))
    if not any(refusals) and not wanted:
        print("nothing to approve: the files lie next to the database, or in your data folder")
    for one in wanted:
        of_sweeps = f" (sweep {', '.join(one.sweeps)})" if one.sweeps else ""
        shown = visible(f"{one.place}{of_sweeps}")
        if trust.is_approved(one.store, one.place) and not named and not yes:
            print(f"{shown}: approved before")
            continue
        if not (named or yes):
            _ask(shown)
        try:
            trust.approve(one.store, one.place)
        except OSError as error:
            raise RequestError(
                f"the approval cannot be stored ({error}): set {trust.VARIABLE}={one.place}"
            ) from error
        print(f"{shown}: approved")


def _ask(shown: str) -> None:
    import sys

    from fedsweep.errors import RequestError

    if sys.stdin is None or not sys.stdin.isatty():
        raise RequestError(
            f"files are to be written to and deleted from {shown}: if that is right, name it "
            "(fedsweep db trust PLACE), or say --yes"
        )
    if not typer.confirm(f"Read, write and delete this database's files in {shown}?", err=True):
        raise RequestError("nothing is approved")


Source = Annotated[
    str, typer.Argument(metavar="FROM", help="The database to read; nothing is changed in it.")
]


@app.command()
def copy(
    source: Source,
    target: Annotated[
        str, typer.Argument(metavar="TO", help="An empty database, or a SQLite file to make.")
    ],
) -> None:
    """Copy a whole database, SQLite or Postgres, into an empty one.

    Workers may go on in FROM: the copy is what FROM was at one moment. What runs there is queued
    in the copy. Snapshots stay behind; kept weights come along. All that was written is read back
    and compared.
    """
    from fedsweep.transfer import stores
    from fedsweep.transfer.copy import copy_store

    with stores.both(source, target, names=("FROM", "TO"), create=True) as (there, to):
        copied = copy_store(there, to)
    _print_tables([(table.name, table.rows) for table in copied.tables])
    _print_lost(copied.lost)


@app.command()
def merge(
    source: Source,
    target: Annotated[str, typer.Argument(metavar="INTO", help="The database to add it to.")],
) -> None:
    """Add a database's sweeps, trials and measurements to another one.

    A trial of both goes on from whichever got further. Rounds that both have must be equal, bit
    for bit: where they are not, nothing is merged. Merging again adds nothing.
    """
    from fedsweep import queue
    from fedsweep.store.clock import read_clock
    from fedsweep.store.transactions import transaction
    from fedsweep.transfer import stores
    from fedsweep.transfer.merge import merge_stores

    with (
        stores.both(source, target, names=("FROM", "INTO")) as (there, into),
        transaction(into) as connection,
    ):
        while queue.rescue(connection, read_clock(connection), served=0.0):
            pass
        merged = merge_stores(there, connection)
        for name in merged.sweeps:
            queue.update_sweep_holds(connection, name)
        queue.spend(connection)
    print(
        f"{counted(merged.added, 'trial')} added, {merged.taken_over:,} taken over, "
        f"{merged.kept:,} kept; {counted(merged.rounds, 'round')} added"
    )
    _print_lost(merged.lost)


def _print_tables(rows: list[tuple[str, int]]) -> None:
    from fedsweep.report.fit import Column, Grid

    columns = [Column("table", left=True), Column("rows"), Column("sum", left=True)]
    shown = [[name, f"{count:,}", "agrees"] for name, count in rows]
    console().print(Grid(columns, shown).fitted(console().width))


def _print_lost(files: tuple[str, ...]) -> None:
    for file in files:
        print(f"  weights missing or damaged, left out: {visible(file)}")


MOST_NAMED = 5
"""Files that could not be deleted: it is mostly the storage that does not answer."""


@app.command()
def gc(
    db: Db = None,
    dry_run: Annotated[bool, typer.Option(help="Only name what would be deleted.")] = False,
) -> None:
    """Delete the files that no trial has needed for an hour.

    Snapshots that were replaced, of trials that will not go on, and what attempts left that were
    killed; never anything that the database does not name, and only files that fedsweep named for
    this database. Workers may go on meanwhile.
    """
    from fedsweep.store import garbage_collection

    engine = read_store(db) if dry_run else open_store(db)
    found = garbage_collection.collect(engine, dry_run=dry_run)
    would = "would be deleted (nothing is)" if dry_run else "deleted"
    print(f"{counted(found.files, 'file')} {would}, {size(found.bytes)}")
    for name in found.named:
        print(f"  {visible(name)}")
    for host, count in sorted(found.elsewhere.items()):
        print(f"  {counted(count, 'file')} may lie on {visible(host)}: run it there too")
    for why, count in sorted(found.unapproved.items()):
        print(f"  {counted(count, 'file')} left alone: {visible(why)}")
    for name in found.outside[:MOST_NAMED]:
        print(f"  {visible(name[:200])} is not a file of this database, and is left alone")
    if (more := len(found.outside) - MOST_NAMED) > 0:
        print(f"  and {counted(more, 'name')} more of that kind")
    for name, why in list(found.failed.items())[:MOST_NAMED]:
        print(f"  {visible(name)} could not be deleted: {visible(hide_secrets(why))}")
    if (more := len(found.failed) - MOST_NAMED) > 0:
        print(f"  and {counted(more, 'file')} more")
    if found.failed:
        raise typer.Exit(1)

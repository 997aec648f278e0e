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
def check(db: Db = None) -> None:
    """Say whether the database is sound, and its schema's revision.

    By the database's own check (on Postgres by its extension amcheck, if installed) and by what
    must hold: every finished trial by one attempt, with every round once. Exit 1 where it is not.
    """
    from fedsweep.store import schema, soundness

    engine = read_store(db)
    found = soundness.faults(engine)
    for fault in found:
        print(visible(fault))
    if found:
        raise typer.Exit(1)
    print(f"sound, schema {schema.head()}")


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
    from fedsweep.store import copying

    with copying.both(source, target, names=("FROM", "TO"), create=True) as (there, to):
        copied = copying.copy(there, to)
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
    from fedsweep.store import copying
    from fedsweep.store.engine import read_clock, transaction

    with (
        copying.both(source, target, names=("FROM", "INTO")) as (there, into),
        transaction(into) as connection,
    ):
        while queue.rescue(connection, read_clock(connection), served=0.0):
            pass
        merged = copying.merge(there, connection)
        for name in merged.sweeps:
            queue.settle_sweep(connection, name)
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
    dry_run: Annotated[bool, typer.Option(help="Only say what would be deleted.")] = False,
) -> None:
    """Delete the files that no trial has needed for an hour.

    Snapshots that were replaced, of trials that will not go on, and what attempts left that were
    killed; never anything that the database does not name. Workers may go on meanwhile.
    """
    from fedsweep.store import garbage

    engine = read_store(db) if dry_run else open_store(db)
    found = garbage.collect(engine, dry_run=dry_run)
    would = "would be deleted (nothing is)" if dry_run else "deleted"
    print(f"{counted(found.files, 'file')} {would}, {size(found.bytes)}")
    for host, count in sorted(found.elsewhere.items()):
        print(f"  {counted(count, 'file')} may lie on {visible(host)}: run it there too")
    for name in found.outside:
        print(f"  {visible(name)} leads out of its folder, and is left alone")
    for name, why in list(found.failed.items())[:MOST_NAMED]:
        print(f"  {visible(name)} could not be deleted: {visible(hide_secrets(why))}")
    if (more := len(found.failed) - MOST_NAMED) > 0:
        print(f"  and {counted(more, 'file')} more")
    if found.failed:
        raise typer.Exit(1)

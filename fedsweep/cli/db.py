"""`fedsweep db`: the database's schema."""

from __future__ import annotations

import typer

from fedsweep.cli.arguments import Db, open_store, url

app = typer.Typer(help="The database's schema.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def upgrade(db: Db = None) -> None:
    """Bring an older database to this version's schema, in one transaction."""
    from fedsweep.store import schema
    from fedsweep.store.engine import make_engine

    before, after = schema.migrate(make_engine(url(db)))
    print(
        f"schema {after}: "
        + ("already there" if before == after else f"upgraded from {before or 'none'}")
    )


@app.command()
def check(db: Db = None) -> None:
    """Say whether the database can be used, and its schema's revision."""
    from fedsweep.store import schema
    from fedsweep.store.engine import reading

    with reading(open_store(db)) as connection:
        print(f"sound, schema {schema.current(connection)}")

"""`fedsweep sql`: run SQL statements and recipes that only read."""

from __future__ import annotations

import csv
import io
import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep import output
from fedsweep.cli.arguments import Db, read_store
from fedsweep.cli.console import console
from fedsweep.errors import RequestError, visible
from fedsweep.settings import BYTE_ORDER_MARK

if TYPE_CHECKING:
    from fedsweep.store.sql.ask import Answer


class Format(StrEnum):
    """The formats of printed rows."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def sql(
    statement: Annotated[
        str | None,
        typer.Argument(
            metavar="[SELECT]", help="One statement that only reads.", show_default=False
        ),
    ] = None,
    db: Db = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="NAME", help="Run a recipe by its name.", show_default=False
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep",
            metavar="NAME",
            help="Value of the parameter :sweep. Default: NULL.",
            show_default=False,
        ),
    ] = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the recipes.")] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print the recipe and do not run it.")
    ] = False,
    format: Annotated[Format, typer.Option(help="Format of the rows.")] = Format.TABLE,
    limit: Annotated[int, typer.Option(min=1, max=10**7, help="Maximum number of rows.")] = 10_000,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600.0, help="Maximum seconds.")] = 30.0,
) -> None:
    """Run a SQL statement or a recipe that only reads, and print its rows.

    The views are results, curves, clients, cells, members and ledger.
    """
    if recipes:
        _print_recipes()
        return
    from fedsweep.actions import sql as statements

    select = None if statement is None else statement.removeprefix(BYTE_ORDER_MARK)
    text = statements.statement(select, recipe)
    if show:
        print(text.rstrip())
        return
    statements.require_parameter(text, sweep)
    answer = statements.answer(read_store(db), text, sweep, limit=limit, seconds=timeout)
    _PRINT[format](answer)
    if answer.cut:
        print(f"only the first {limit:,} rows: raise --limit", file=sys.stderr)


def _print_recipes() -> None:
    from rich.table import Table
    from rich.text import Text

    from fedsweep.store.sql.recipes import recipes

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for recipe in recipes():
        table.add_row(Text(recipe.name), Text(recipe.about))
    console().print(table)


def _print_table(answer: Answer) -> None:
    """Print a table; if it does not fit the width, print a block of lines for each row."""
    from fedsweep.reports.fit import Column, Grid

    columns = []
    for i, name in enumerate(answer.columns):
        numbers = all(isinstance(row[i], (int, float, type(None))) for row in answer.rows)
        columns.append(Column(name, left=not numbers))
    grid = Grid(columns, [[_text(value) for value in row] for row in answer.rows])
    if grid.fits(console().width):
        console().print(grid.table(console().width))
    else:
        _print_blocks(answer)


def _text(value: object) -> str:
    """Return a value as text, with six digits; --format csv and json have all digits."""
    if isinstance(value, float) and 1e-4 <= abs(value) < 1e5:
        return f"{value:.6g}"
    return "" if value is None else visible(str(value))


def _print_blocks(answer: Answer) -> None:
    from fedsweep.reports.fit import pair_lines

    for number, row in enumerate(answer.rows, start=1):
        print(f"row {number}")
        pairs = [(n, _text(value)) for n, value in zip(answer.columns, row, strict=True)]
        console().print(*pair_lines(pairs, console().width), sep="\n")


def _print_csv(answer: Answer) -> None:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows(answer.rows)
    output.write_utf8(lines.getvalue())


def _print_json(answer: Answer) -> None:
    twice = {name for name in answer.columns if answer.columns.count(name) > 1}
    if twice:
        raise RequestError(f"two columns are named {min(twice)}: rename one with AS")
    print(
        json.dumps([dict(zip(answer.columns, row, strict=True)) for row in answer.rows], indent=2)
    )


_PRINT = {Format.TABLE: _print_table, Format.CSV: _print_csv, Format.JSON: _print_json}

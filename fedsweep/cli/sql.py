"""`fedsweep sql`: ask the database anything, change nothing."""

from __future__ import annotations

import csv
import io
import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep import output
from fedsweep.cli.arguments import BYTE_ORDER_MARK, Db, read_store
from fedsweep.cli.console import console
from fedsweep.errors import RequestError, visible

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from fedsweep.store.sql.ask import Answer


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def sql(
    statement: Annotated[
        str | None,
        typer.Argument(metavar="[SELECT]", help="One reading statement.", show_default=False),
    ] = None,
    db: Db = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="NAME", help="A named question.", show_default=False),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep", metavar="NAME", help="What :sweep stands for; else NULL.", show_default=False
        ),
    ] = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the recipes.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe, do not run it.")] = False,
    format: Annotated[Format, typer.Option(help="How to print the rows.")] = Format.TABLE,
    limit: Annotated[int, typer.Option(min=1, max=10**7, help="Rows at most.")] = 10_000,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600.0, help="Seconds at most.")] = 30.0,
) -> None:
    """Ask the database in SQL, reading only: a statement, or a recipe.

    The views are results, curves, clients, cells, members and ledger.
    """
    if recipes:
        _print_recipes()
        return
    text = _text_of(statement, recipe)
    if show:
        print(text.rstrip())
        return
    from fedsweep.store.sql import ask, limits

    if sweep is not None and not limits.names(text, "sweep"):
        raise RequestError("--sweep says what :sweep stands for, and the statement has none")
    engine = read_store(db)
    _require(engine, sweep)
    answer = ask.ask(engine, text, {"sweep": sweep}, limit=limit, seconds=timeout)
    _PRINT[format](answer)
    if answer.cut:
        print(f"only the first {limit:,} rows: raise --limit", file=sys.stderr)


def _text_of(statement: str | None, recipe: str | None) -> str:
    """What is to be run: a statement, or a recipe's."""
    if (statement is None) == (recipe is None):
        raise RequestError(
            "give a SELECT or a --recipe, and not both: `fedsweep sql --recipes` lists them"
        )
    if statement is not None:
        return statement.removeprefix(BYTE_ORDER_MARK)
    from fedsweep.store.sql import recipes

    assert recipe is not None
    return recipes.recipe(recipe).text


def _require(engine: Engine, sweep: str | None) -> None:
    """Refuse a sweep that is not there: its answer would be empty."""
    if sweep is None:
        return
    from fedsweep.store import sweep_rows
    from fedsweep.store.transactions import reading

    with reading(engine) as connection:
        sweep_rows.require_sweep(connection, sweep)


def _print_recipes() -> None:
    from rich.table import Table
    from rich.text import Text

    from fedsweep.store.sql.recipes import recipes

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for found in recipes():
        table.add_row(Text(found.name), Text(found.about))
    console().print(table)


def _print_table(answer: Answer) -> None:
    """A table; if it does not fit the width, a block of lines for each row."""
    from fedsweep.report.fit import Column, Grid

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
    """A value in a table; six digits are enough there, --format csv and json have all."""
    if isinstance(value, float) and 1e-4 <= abs(value) < 1e5:
        return f"{value:.6g}"
    return "" if value is None else visible(str(value))


def _print_blocks(answer: Answer) -> None:
    from fedsweep.report.fit import pair_lines

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

"""`fedsweep sql`: ask the database anything, change nothing."""

from __future__ import annotations

import csv
import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Db, open_store
from fedsweep.cli.console import console

if TYPE_CHECKING:
    from fedsweep.store.reader import Answer


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def sql(
    statement: Annotated[str, typer.Argument(metavar="SELECT", help="One reading statement.")],
    db: Db = None,
    format: Annotated[Format, typer.Option(help="How to print the rows.")] = Format.TABLE,
    limit: Annotated[int, typer.Option(min=1, help="Rows at most.")] = 10_000,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds at most.")] = 30.0,
) -> None:
    """Ask the views results, curves, cells, members and ledger; reading only."""
    from fedsweep.store import reader

    answer = reader.ask(open_store(db), statement, limit=limit, seconds=timeout)
    _PRINT[format](answer)
    if answer.cut:
        print(f"only the first {limit:,} rows: raise --limit", file=sys.stderr)


def _print_table(answer: Answer) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for i, name in enumerate(answer.columns):
        numbers = all(isinstance(row[i], (int, float, type(None))) for row in answer.rows)
        table.add_column(Text(name), justify="right" if numbers else "left", overflow="fold")
    for row in answer.rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    console().print(table)


def _print_csv(answer: Answer) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows(answer.rows)


def _print_json(answer: Answer) -> None:
    print(
        json.dumps([dict(zip(answer.columns, row, strict=True)) for row in answer.rows], indent=2)
    )


_PRINT = {Format.TABLE: _print_table, Format.CSV: _print_csv, Format.JSON: _print_json}

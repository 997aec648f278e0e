"""`fedsweep report`: the answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Db, Sweep, open_store
from fedsweep.cli.console import console
from fedsweep.errors import NotFound, RequestError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text
    from sqlalchemy.engine import Connection

    from fedsweep.report.findings import Finding
    from fedsweep.report.summary import Row, Summary


class Format(StrEnum):
    """How a report is written."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"
    HTML = "html"


def report(
    db: Db = None,
    sweep: Sweep = None,
    format: Annotated[Format, typer.Option(help="How to say it.")] = Format.TABLE,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Write it there, not to the terminal.", show_default=False
        ),
    ] = None,
) -> None:
    """Say which normaliser does best where.

    A table for each sweep: mean and sample standard deviation over seeds; and the best T* of what
    it searches.
    """
    from fedsweep.report import searched, tables
    from fedsweep.report.summary import summarize
    from fedsweep.store import reads
    from fedsweep.store.engine import reading

    with reading(open_store(db)) as connection:
        names = [reads.require_sweep(connection, sweep)] if sweep else reads.sweep_names(connection)
        if not names:
            raise NotFound("nothing is planned yet: fedsweep plan FILE")
        rows = {name: reads.results(connection, name) for name in names}
        found = {name: searched.findings(connection, name, rows[name]) for name in names}
        if format is Format.HTML:
            _write(_page(connection, rows, found), output)
            return
    summaries = [summarize(name, rows[name]) for name in names]
    if format is Format.TABLE and output is None:
        for summary in summaries:
            shown: list[Table | Text] = [*tables.terminal(summary, console().width)]
            if findings := found[summary.sweep]:
                shown += tables.search_terminal(findings, console().width)
            console().print(*shown, sep="\n")
        return
    written = {
        Format.TABLE: lambda: "\n".join(_text(s, found[s.sweep]) for s in summaries),
        Format.MARKDOWN: lambda: "\n".join(_markdown(s, found[s.sweep]) for s in summaries),
        Format.CSV: lambda: tables.as_csv(summaries),
        Format.JSON: lambda: tables.as_json(summaries),
    }
    _write(written[format](), output)


def _text(summary: Summary, findings: Sequence[Finding]) -> str:
    import io

    from rich.console import Console

    from fedsweep.report import tables

    out = io.StringIO()
    shown: list[Table | Text] = [*tables.terminal(summary)]
    if findings:
        shown += tables.search_terminal(findings)
    Console(file=out, width=tables.WIDE).print(*shown, sep="\n")
    return out.getvalue()


def _markdown(summary: Summary, findings: Sequence[Finding]) -> str:
    from fedsweep.report import tables

    more = "\n" + tables.search_markdown(findings) if findings else ""
    return tables.markdown(summary) + more


def _page(
    connection: Connection,
    rows: Mapping[str, Sequence[Row]],
    searched: Mapping[str, Sequence[Finding]],
) -> str:
    from fedsweep.report import page
    from fedsweep.store import reads

    sections = [
        page.section(
            name,
            found,
            reads.curves(connection, name),
            reads.plan_texts(connection, name)[-1],
            searched[name],
        )
        for name, found in rows.items()
    ]
    return page.render(sections, time.strftime("%Y-%m-%d %H:%M"))


def _write(text: str, output: Path | None) -> None:
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{output} cannot be written: {error.strerror}") from error
    print(output.absolute())

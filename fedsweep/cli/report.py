"""`fedsweep report`: print or write tables of results."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsweep.cli.arguments import Db, Sweep, read_store
from fedsweep.cli.console import console, plain_console
from fedsweep.errors import RequestError
from fedsweep.files import stdout_kept_for
from fedsweep.output import write_utf8

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fedsweep.actions.report import Report, SweepReport


class Format(StrEnum):
    """The formats of a report."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"
    LATEX = "latex"
    HTML = "html"
    PARQUET = "parquet"
    XLSX = "xlsx"


FILES = (Format.PARQUET, Format.XLSX)
"""Formats that are not text, and need --output."""


class Spread(StrEnum):
    """The measures of spread that follow a mean."""

    STD = "std"
    INTERVAL = "interval"


def report(
    db: Db = None,
    sweep: Sweep = None,
    format: Annotated[Format, typer.Option(help="Format of the report.")] = Format.TABLE,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Write the report to this file. Default: the terminal.",
            show_default=False,
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="Use only trials that meet this condition, such as alpha=0.1,0.5 or "
            "local_steps>=20; repeatable, all must hold. Default: all trials.",
            show_default=False,
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="FIELDS",
            help="Make a row for each value of these fields, and pool the other fields. "
            "Default: the main fields and all others that differ.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="MEASURE",
            help="Final measure: test_accuracy, validation_accuracy, test_loss, … "
            "Default: test_accuracy, and the optional measures that some trial took.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NORMALIZER",
            help="Add the differences to this normalizer, paired by seed: bn, or fixbn:12. "
            "Default: none.",
            show_default=False,
        ),
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="FIELDS",
            help="In each cell, choose the value of these fields, such as lr, that validates "
            "best, and report its test result. Default: none.",
            show_default=False,
        ),
    ] = None,
    spread: Annotated[Spread, typer.Option(help="Spread to print after a mean.")] = Spread.STD,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Also write each figure to this folder, as PDF, SVG and PNG, and its data as CSV. "
            "Default: no figures.",
            show_default=False,
        ),
    ] = None,
    figure_width: Annotated[
        str,
        typer.Option(
            metavar="WIDTH",
            help="Width of the figures: column (3.25 inches, as in ICML), page (6.75), a number of "
            "inches (NeurIPS has 5.5), or auto: column for one panel, page for more.",
        ),
    ] = "auto",
) -> None:
    """Compare the normalizers of each sweep.

    A table has the mean and the sample standard deviation over seeds. The best value of each row
    is bold. If the sweep searches T*, a table of the best T* follows.
    """
    from fedsweep.actions import report as reports

    if format in FILES and output is None:
        raise RequestError(f"--format {format} needs a file: name it with --output")
    interval = spread is Spread.INTERVAL
    draws = figures is not None or format is Format.HTML
    question = replace(
        reports.question(
            *(where or (), group_by, metric, baseline, tune),
            interval=interval,
            figure_width=figure_width,
        ),
        figures=draws,
        keeps_rows=draws or format is Format.XLSX,
        every_column=format is Format.XLSX,
    )
    engine = read_store(db)
    reports.refuse_targets(engine, output, figures)
    results = reports.gather(engine, sweep, question)
    for reason in results.left_out:
        print(f"left out: {reason}", file=sys.stderr)
    with stdout_kept_for(output):
        _write(results, format, output)
        if figures is not None:
            # A program that reads the report from stdout does not expect file names in it.
            is_data = output is None and format is not Format.TABLE
            for file in reports.write_figures(results, figures):
                print(file.absolute(), file=sys.stderr if is_data else sys.stdout)


def _write(report: Report, format: Format, output: Path | None) -> None:
    """Write the report to a file, or to standard output."""
    from fedsweep.actions import report as reports

    if output is None and format is Format.TABLE:
        is_plain = not console().is_terminal
        for one in report.sweeps:
            console().print(*_tables(one, console().width, plain=is_plain), sep="\n")
    elif output is not None and format in FILES:
        reports.save(partial(reports.FILES[format], report), output)
        print(output.absolute())
    else:
        text = _text(report) if format is Format.TABLE else reports.TEXTS[format](report)
        if output is None:
            write_utf8(text)
            return
        reports.save(lambda file: file.write(text.encode()), output)
        print(output.absolute())


def _tables(one: SweepReport, width: int, *, plain: bool) -> list[RenderableType]:
    from fedsweep.reports import search_tables, tables

    view = replace(one.view, plain=plain)
    parts: list[RenderableType] = [*tables.terminal(one.summary, width, view)]
    return parts + (search_tables.terminal(one.findings, width) if one.findings else [])


def _text(report: Report) -> str:
    """Return the terminal's tables as plain text."""
    import io

    from fedsweep.reports.tables import WIDE

    out = io.StringIO()
    for one in report.sweeps:
        plain_console(file=out, width=WIDE).print(*_tables(one, WIDE, plain=True), sep="\n")
    return out.getvalue()

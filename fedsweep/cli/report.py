"""`fedsweep report`: the answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TextIO

import typer

from fedsweep import machine
from fedsweep.cli.arguments import Db, Sweep, read_store
from fedsweep.cli.console import console, plain_console
from fedsweep.errors import NotFound, RequestError
from fedsweep.filenames import safe_name
from fedsweep.files import stdout_kept_for, written
from fedsweep.output import write_utf8

if TYPE_CHECKING:
    from rich.console import RenderableType
    from sqlalchemy.engine import Connection

    from fedsweep.report.figures import CaptionedFigure
    from fedsweep.report.grouping import Summary
    from fedsweep.report.labels import Row
    from fedsweep.report.search_results import SearchResult
    from fedsweep.report.selection import Condition
    from fedsweep.report.tables import ReportOptions


LONGEST_STEM = 120
"""Bytes of a sweep's name in the name of a figure's file."""


class Format(StrEnum):
    """How a report is written."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"
    LATEX = "latex"
    HTML = "html"
    PARQUET = "parquet"
    XLSX = "xlsx"


class Spread(StrEnum):
    """What stands beside a mean."""

    STD = "std"
    INTERVAL = "interval"


@dataclass(frozen=True)
class _Told:
    """One sweep, as it is asked about."""

    summary: Summary
    view: ReportOptions
    rows: Sequence[Row]
    findings: Sequence[SearchResult]


@dataclass(frozen=True)
class _Asked:
    """What the options say, checked."""

    conditions: Sequence[Condition]
    group_by: Sequence[str] | None
    tuned: Sequence[str]
    measure: str | None
    baseline: str | None
    interval: bool
    keeps_rows: bool = True
    """True if trials are drawn or written, not only their summary."""
    every_column: bool = True
    """True if trials are written with all that is known of them."""


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
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="Only these trials: alpha=0.1,0.5 or local_steps>=20; repeated, all must hold.",
            show_default=False,
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="FIELDS", help="Rows by these fields; the rest is pooled.", show_default=False
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="MEASURE",
            help="test_accuracy, validation_accuracy, test_loss, …",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NORMALIZER",
            help="Say how far each is from it, seed by seed: bn, or fixbn:12.",
            show_default=False,
        ),
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="FIELDS",
            help="In each cell the value of lr, say, that validates best; its test is told.",
            show_default=False,
        ),
    ] = None,
    spread: Annotated[Spread, typer.Option(help="What stands beside a mean.")] = Spread.STD,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write each figure there too, as PDF, SVG and PNG.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say which normalizer does best where.

    A table for each sweep: mean and sample standard deviation over seeds, the best of each row in
    bold; and the best T* of what it searches.
    """
    from fedsweep.store import sweep_rows
    from fedsweep.store.targets import refuse_own
    from fedsweep.store.transactions import reading

    if format in _TO_FILE and output is None:
        raise RequestError(f"--format {format} needs a file: name it with --output")
    drawn = figures is not None or format is Format.HTML
    asked = replace(
        _asked(where, group_by, metric, baseline, tune, interval=spread is Spread.INTERVAL),
        keeps_rows=drawn or format is Format.XLSX,
        every_column=format is Format.XLSX,
    )
    engine = read_store(db)
    for target, option in ((output, "--output"), (figures, "--figures")):
        if target is not None:
            refuse_own(engine, target, option)
    with reading(engine) as connection:
        names = sweep_rows.named_or_all(connection, sweep)
        if not names:
            raise NotFound("nothing is planned yet: fedsweep plan FILE")
        told = _each(connection, names, asked)
        names = [one.summary.sweep for one in told]
        shown = [_figures(connection, one, asked) if drawn else [] for one in told]
        plans = [sweep_rows.plan_texts(connection, name)[-1] for name in names]
    with stdout_kept_for(output):
        if format is Format.TABLE and output is None:
            for one in told:
                console().print(
                    *_tables(one, console().width, plain=not console().is_terminal), sep="\n"
                )
        elif format is Format.HTML:
            _write(_page(told, shown, plans), output)
        elif format in _TO_FILE and output is not None:
            _write_file(partial(_TO_FILE[format], told), output)
        else:
            _write(_TEXTS[format](told), output)
        if figures is not None:
            # A program that reads the report from stdout must not meet names of files in it.
            stdout_is_data = output is None and format is not Format.TABLE
            _write_figures(names, shown, figures, sys.stderr if stdout_is_data else sys.stdout)


def _asked(
    where: Sequence[str] | None,
    group_by: str | None,
    metric: str | None,
    baseline: str | None,
    tune: str | None,
    *,
    interval: bool,
) -> _Asked:
    from difflib import get_close_matches

    from fedsweep.fields import ARM_FIELDS
    from fedsweep.measures import COMPARABLE
    from fedsweep.report.selection import parse_condition, require_field

    rows = group_by.split(",") if group_by else None
    for name in rows or ():
        require_field(name.strip(), "--group-by")
        if name.strip() in ("normalizer", "seed", *ARM_FIELDS):
            raise RequestError(f"--group-by: {name.strip()} makes no rows: it tells columns apart")
    tuned = [require_field(name.strip(), "--tune") for name in (tune.split(",") if tune else ())]
    if "seed" in tuned or "normalizer" in tuned:
        raise RequestError("--tune chooses hyperparameters, lr for one: not the seed or normalizer")
    if metric is not None and metric not in COMPARABLE:
        near = get_close_matches(metric, COMPARABLE, 1, 0.4)
        more = f": did you mean {near[0]}?" if near else f": there are {', '.join(COMPARABLE)}"
        raise RequestError(f"--metric: there is no final measure {metric!r}{more}")
    return _Asked(
        conditions=[parse_condition(text) for text in where or ()],
        group_by=[name.strip() for name in rows] if rows else None,
        tuned=tuned,
        measure=metric,
        baseline=baseline,
        interval=interval,
    )


def _each(connection: Connection, names: Sequence[str], asked: _Asked) -> list[_Told]:
    """The sweeps that can be told as it was asked; of several, the others are named."""
    told: list[_Told] = []
    left: list[RequestError] = []
    for name in names:
        try:
            told.append(_told(connection, name, asked))
        except RequestError as error:
            left.append(error)
    if not told:
        raise left[0]
    for why in left:
        print(f"left out: {why}", file=sys.stderr)
    return told


def _told(connection: Connection, name: str, asked: _Asked) -> _Told:
    from fedsweep.report import search_results
    from fedsweep.report.differences import find_column
    from fedsweep.report.grouping import COLUMNS, summarize
    from fedsweep.report.selection import no_match_message, select, tune
    from fedsweep.report.tables import ReportOptions
    from fedsweep.store import trial_rows

    every = trial_rows.results(connection, name, None if asked.every_column else COLUMNS)
    rows = select(every, asked.conditions)
    if every and not rows:
        raise NotFound(no_match_message(name, every, asked.conditions))
    if asked.tuned:
        rows = tune(rows, asked.tuned)
    summary = summarize(name, rows, group_by=asked.group_by, tuned=asked.tuned)
    measured = summary.measured()
    if asked.measure and measured and asked.measure not in measured:
        raise RequestError(
            f"--metric {asked.measure}: no trial of sweep {name} has it: there are "
            f"{', '.join(measured)}"
        )
    view = ReportOptions(
        measure=asked.measure,
        interval=asked.interval,
        baseline=find_column(summary, asked.baseline) if asked.baseline else None,
        conditions=asked.conditions,
    )
    findings = search_results.read_search_results(connection, name, every)
    return _Told(summary, view, rows if asked.keeps_rows else (), findings)


def _figures(connection: Connection, told: _Told, asked: _Asked) -> list[CaptionedFigure]:
    from fedsweep.report.figures import captioned_figures
    from fedsweep.store import trial_rows

    curves = trial_rows.curves(connection, told.summary.sweep)
    return captioned_figures(told.summary, told.rows, curves, told.findings, asked.conditions)


def _tables(told: _Told, width: int, *, plain: bool) -> list[RenderableType]:
    from fedsweep.report import search_tables, tables

    view = replace(told.view, plain=plain)
    shown: list[RenderableType] = [*tables.terminal(told.summary, width, view)]
    return shown + (search_tables.terminal(told.findings, width) if told.findings else [])


def _text(told: Sequence[_Told]) -> str:
    import io

    from fedsweep.report.tables import WIDE

    out = io.StringIO()
    for one in told:
        plain_console(file=out, width=WIDE).print(*_tables(one, WIDE, plain=True), sep="\n")
    return out.getvalue()


def _markdown(told: Sequence[_Told]) -> str:
    from fedsweep.report import search_tables, tables

    said = [tables.markdown(one.summary, one.view) for one in told]
    more = [search_tables.markdown(one.findings) if one.findings else "" for one in told]
    return "\n".join(text for pair in zip(said, more, strict=True) for text in pair if text)


def _latex(told: Sequence[_Told]) -> str:
    from fedsweep.report import latex

    return latex.document([(one.summary, one.view) for one in told])


def _records(told: Sequence[_Told]) -> list[dict[str, Any]]:
    from fedsweep.report.records import records

    return [record for one in told for record in records(one.summary, one.view)]


def _csv(told: Sequence[_Told]) -> str:
    from fedsweep.report.records import as_csv

    return as_csv(_records(told))


def _json(told: Sequence[_Told]) -> str:
    from fedsweep.report.records import as_json

    return as_json(_records(told))


_TEXTS: dict[Format, Callable[[Sequence[_Told]], str]] = {
    Format.TABLE: _text,
    Format.MARKDOWN: _markdown,
    Format.CSV: _csv,
    Format.JSON: _json,
    Format.LATEX: _latex,
}


def _parquet(told: Sequence[_Told], file: IO[bytes]) -> None:
    from fedsweep.report.records import write_parquet

    write_parquet(_records(told), file)


def _workbook(told: Sequence[_Told], file: IO[bytes]) -> None:
    from fedsweep.report.records import write_workbook

    machine.settle_temporary()  # openpyxl writes each sheet to a temporary file
    trials = {row["trial_id"]: dict(row) for one in told for row in one.rows}
    write_workbook(_records(told), list(trials.values()), file)


_TO_FILE: dict[Format, Callable[[Sequence[_Told], IO[bytes]], None]] = {
    Format.PARQUET: _parquet,
    Format.XLSX: _workbook,
}


def _page(
    told: Sequence[_Told], shown: Sequence[Sequence[CaptionedFigure]], plans: Sequence[str]
) -> str:
    from fedsweep.report import page

    sections = [
        page.Section(one.summary, one.view, figures, plan, one.findings)
        for one, figures, plan in zip(told, shown, plans, strict=True)
    ]
    return page.render(sections, time.strftime("%Y-%m-%d %H:%M"))


def _write(text: str, output: Path | None) -> None:
    if output is None:
        write_utf8(text)
        return
    _write_file(lambda file: file.write(text.encode()), output)


def _write_file(write: Callable[[IO[bytes]], object], output: Path) -> None:
    try:
        with written(output) as file:
            write(file)
    except IsADirectoryError as error:
        raise RequestError(f"{output} cannot be written: it is a folder") from error
    except OSError as error:
        raise RequestError(f"{output} cannot be written: {error.strerror or error}") from error
    print(output.absolute())


def _write_figures(
    names: Sequence[str], shown: Sequence[Sequence[CaptionedFigure]], folder: Path, out: TextIO
) -> None:
    from fedsweep.report.figures import slug, write

    stems: list[str] = []
    for name, figures in zip(names, shown, strict=True):
        stem = safe_name(slug(name) or "sweep", LONGEST_STEM)
        stems.append(stem)
        again = stems.count(stem)  # exp_1 and exp-1 are files of two names
        for file in write(stem if again == 1 else f"{stem}-{again}", figures, folder):
            print(file.absolute(), file=out)

"""Read the results of sweeps for a report, and write the report in each format."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sqlalchemy.engine import Connection, Engine

from fedsweep import machine
from fedsweep.errors import NotFound, RequestError
from fedsweep.fields import ARM_FIELDS
from fedsweep.filenames import safe_name
from fedsweep.files import written
from fedsweep.measures import COMPARABLE
from fedsweep.reports import paper, search_results
from fedsweep.reports.differences import find_column
from fedsweep.reports.grouping import COLUMNS, Summary, summarize
from fedsweep.reports.labels import Row
from fedsweep.reports.selection import (
    Condition,
    no_match_message,
    parse_condition,
    require_field,
    select,
    tune,
)
from fedsweep.reports.tables import ReportOptions
from fedsweep.store import sweep_rows, trial_rows
from fedsweep.store.targets import refuse_own
from fedsweep.store.transactions import reading

if TYPE_CHECKING:
    from fedsweep.reports.figures import CaptionedFigure
    from fedsweep.reports.search_results import SearchResult

LONGEST_STEM = 120
"""Bytes of a sweep's name in the name of a figure's file. File systems take 255 with the rest."""


@dataclass(frozen=True)
class Question:
    """The checked options of a report."""

    conditions: Sequence[Condition] = ()
    group_by: Sequence[str] | None = None
    """The fields of the rows; None for the fields that differ."""
    tuned: Sequence[str] = ()
    """The hyperparameters that validation chooses."""
    measure: str | None = None
    baseline: str | None = None
    interval: bool = False
    """True to print intervals instead of standard deviations."""
    figures: bool = False
    """True if figures are drawn."""
    figure_width: float | None = None
    """The width of figures in inches; None lets each figure choose."""
    keeps_rows: bool = True
    """True if trials are drawn or written, not only their summary."""
    every_column: bool = True
    """True if trials are written with all their columns."""


@dataclass(frozen=True)
class SweepReport:
    """The results of one sweep."""

    summary: Summary
    view: ReportOptions
    rows: Sequence[Row]
    findings: Sequence[SearchResult]
    plan: str = ""
    """The text of the last plan file."""
    figures: Sequence[CaptionedFigure] = ()


@dataclass(frozen=True)
class Report:
    """The results of the sweeps that a report covers."""

    sweeps: Sequence[SweepReport]
    left_out: Sequence[RequestError]
    """The reasons why the other sweeps cannot answer the question."""


def question(
    where: Sequence[str] = (),
    group_by: str | None = None,
    metric: str | None = None,
    baseline: str | None = None,
    tune: str | None = None,
    *,
    interval: bool = False,
    figure_width: str = "auto",
) -> Question:
    """Return the question that the texts of the options ask.

    Raises:
        RequestError: A field, a condition, a measure or a width does not exist, or cannot be used
            here.

    """
    rows = [name.strip() for name in group_by.split(",")] if group_by else None
    for name in rows or ():
        require_field(name, "--group-by")
        if name in ("normalizer", "seed", *ARM_FIELDS):
            raise RequestError(f"--group-by: {name} makes no rows: it tells columns apart")
    tuned = [require_field(name.strip(), "--tune") for name in (tune.split(",") if tune else ())]
    if "seed" in tuned or "normalizer" in tuned:
        raise RequestError("--tune chooses hyperparameters, lr for one: not the seed or normalizer")
    if "freeze_rule" in tuned and "freeze_round" not in tuned:
        raise RequestError("--tune freeze_rule also chooses T*: write freeze_rule,freeze_round")
    if metric is not None and metric not in COMPARABLE:
        near = get_close_matches(metric, COMPARABLE, 1, 0.4)
        more = f": did you mean {near[0]}?" if near else f": there are {', '.join(COMPARABLE)}"
        raise RequestError(f"--metric: there is no final measure {metric!r}{more}")
    return Question(
        conditions=[parse_condition(text) for text in where],
        group_by=rows,
        tuned=tuned,
        measure=metric,
        baseline=baseline,
        interval=interval,
        figure_width=paper.figure_width(figure_width),
    )


def gather(engine: Engine, sweep: str | None, question: Question) -> Report:
    """Read the results of a sweep, or of all sweeps (None), as of one moment.

    Raises:
        NotFound: There is no such sweep, nothing is planned, or no trial meets the conditions.
        RequestError: No sweep can answer the question.

    """
    with reading(engine) as connection:
        names = sweep_rows.named_or_all(connection, sweep)
        if not names:
            raise NotFound("nothing is planned yet: fedsweep plan FILE")
        sweeps: list[SweepReport] = []
        left_out: list[RequestError] = []
        for name in names:
            try:
                sweeps.append(_sweep_report(connection, name, question))
            except RequestError as error:
                left_out.append(error)
        if not sweeps:
            raise left_out[0]
        return Report([_complete(connection, one, question) for one in sweeps], left_out)


def _sweep_report(connection: Connection, name: str, question: Question) -> SweepReport:
    every = trial_rows.results(connection, name, None if question.every_column else COLUMNS)
    rows = select(every, question.conditions)
    if every and not rows:
        raise NotFound(no_match_message(name, every, question.conditions))
    if question.tuned:
        rows = tune(rows, question.tuned)
    summary = summarize(name, rows, group_by=question.group_by, tuned=question.tuned)
    measured = summary.measured()
    if question.measure and measured and question.measure not in measured:
        raise RequestError(
            f"--metric {question.measure}: no trial of sweep {name} has it: there are "
            f"{', '.join(measured)}"
        )
    view = ReportOptions(
        measure=question.measure,
        interval=question.interval,
        baseline=find_column(summary, question.baseline) if question.baseline else None,
        conditions=question.conditions,
    )
    findings = search_results.read_search_results(connection, name, every)
    return SweepReport(summary, view, rows if question.keeps_rows else (), findings)


def _complete(connection: Connection, one: SweepReport, question: Question) -> SweepReport:
    """Add the plan, and the figures if they are drawn."""
    name = one.summary.sweep
    plan = sweep_rows.plan_texts(connection, name)[-1]
    if not question.figures:
        return replace(one, plan=plan)
    from fedsweep.reports.figures import captioned_figures

    curves = trial_rows.curves(connection, name)
    figures = captioned_figures(
        one.summary,
        one.rows,
        curves,
        one.findings,
        question.conditions,
        question.figure_width,
    )
    return replace(one, plan=plan, figures=figures)


def refuse_targets(engine: Engine, output: Path | None, figures: Path | None) -> None:
    """Refuse to write a report over a database or its files.

    Raises:
        RequestError: One of the paths belongs to a fedsweep database. Nothing is written.

    """
    for target, option in ((output, "--output"), (figures, "--figures")):
        if target is not None:
            refuse_own(engine, target, option)


def markdown(report: Report) -> str:
    """Return tables in Markdown."""
    from fedsweep.reports import search_tables, tables

    texts: list[str] = []
    for one in report.sweeps:
        texts.append(tables.markdown(one.summary, one.view))
        if one.findings:
            texts.append(search_tables.markdown(one.findings))
    return "\n".join(text for text in texts if text)


def latex(report: Report) -> str:
    """Return a LaTeX document."""
    from fedsweep.reports import latex

    return latex.document([(one.summary, one.view) for one in report.sweeps])


def records(report: Report) -> list[dict[str, Any]]:
    """Return a record for each cell of each table."""
    from fedsweep.reports.records import records

    return [record for one in report.sweeps for record in records(one.summary, one.view)]


def csv(report: Report) -> str:
    """Return the records as CSV."""
    from fedsweep.reports.records import as_csv

    return as_csv(records(report))


def json(report: Report) -> str:
    """Return the records as JSON."""
    from fedsweep.reports.records import as_json

    return as_json(records(report))


def html(report: Report) -> str:
    """Return one page with the tables and figures of all sweeps."""
    from fedsweep.reports import page

    sections = [
        page.Section(one.summary, one.view, one.figures, one.plan, one.findings)
        for one in report.sweeps
    ]
    return page.render(sections, time.strftime("%Y-%m-%d %H:%M"))


def write_parquet(report: Report, file: IO[bytes]) -> None:
    """Write the records as Parquet."""
    from fedsweep.reports.records import write_parquet

    write_parquet(records(report), file)


def write_workbook(report: Report, file: IO[bytes]) -> None:
    """Write the records and the trials as sheets of an xlsx workbook."""
    from fedsweep.reports.records import write_workbook

    machine.settle_temporary()  # openpyxl writes each sheet to a temporary file
    trials = {row["trial_id"]: dict(row) for one in report.sweeps for row in one.rows}
    write_workbook(records(report), list(trials.values()), file)


TEXTS: Mapping[str, Callable[[Report], str]] = {
    "markdown": markdown,
    "csv": csv,
    "json": json,
    "latex": latex,
    "html": html,
}
"""The function that returns a report as text, by format. The terminal's tables are not among them,
because they depend on its width.
"""
FILES: Mapping[str, Callable[[Report, IO[bytes]], None]] = {
    "parquet": write_parquet,
    "xlsx": write_workbook,
}
"""The function that writes a report to a file, by format, for formats that are not text."""


def save(write: Callable[[IO[bytes]], object], output: Path) -> None:
    """Write a file whole or not at all.

    Raises:
        RequestError: The file cannot be written.

    """
    try:
        with written(output) as file:
            write(file)
    except IsADirectoryError as error:
        raise RequestError(f"{output} cannot be written: it is a folder") from error
    except OSError as error:
        raise RequestError(f"{output} cannot be written: {error.strerror or error}") from error


def write_figures(report: Report, folder: Path) -> Iterator[Path]:
    """Write each figure as PDF, SVG and PNG, and its data as CSV; yield each file.

    Raises:
        RequestError: A file cannot be written.

    """
    from fedsweep.reports.figures import slug, write

    stems: list[str] = []
    for one in report.sweeps:
        stem = safe_name(slug(one.summary.sweep) or "sweep", LONGEST_STEM)
        stems.append(stem)
        count = stems.count(stem)  # exp_1 and exp-1 have the same slug
        yield from write(stem if count == 1 else f"{stem}-{count}", one.figures, folder)

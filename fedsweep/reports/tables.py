"""Tables of a summary, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.console import RenderableType
from rich.text import Text

from fedsweep.errors import visible
from fedsweep.fields import label
from fedsweep.measures import MEASURES
from fedsweep.reports import queries
from fedsweep.reports.differences import (
    CellDifference,
    Mark,
    differences_to_baseline,
    differences_to_centralized,
    incomplete_cell_is_better,
    marks,
    without_baseline,
)
from fedsweep.reports.fit import Column, Grid
from fedsweep.reports.grouping import Cell, Spread, Summary, column_text
from fedsweep.reports.labels import ColumnKey, RowKey, field_text
from fedsweep.reports.selection import Condition
from fedsweep.words import counted

WIDE = 160
"""Characters in a line of a table that is not printed on a terminal."""

MOST_ERROR_CHARACTERS = 200
"""The most characters of an error in a footnote."""

STYLES = {"best": "bold", "level": "underline", "": ""}
SIGNS = {"best": " *", "level": " ~", "": ""}
"""The signs of the marks in plain text, which has neither bold nor underlined letters."""
MARKED = (
    "{}: the best of its row; {}: not worse than it (paired t-test over seeds, one-sided, "
    "Holm, 5 %)"
)
PARTIAL = (
    "an arm with a missing trial is never marked as the best, because its mean may be too good"
)


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report: its measures, its baseline and its form."""

    measure: str | None = None
    """The final measure to report. By default, the test accuracy and all optional measures."""
    interval: bool = False
    """True to show the 95 % interval of each mean instead of its standard deviation."""
    baseline: ColumnKey | None = None
    """The column to which the others are compared, if any."""
    conditions: Sequence[Condition] = field(default_factory=tuple)
    """The conditions that selected the trials. The queries in footnotes repeat them."""
    plain: bool = False
    """True if the output has neither bold nor underlined letters."""

    @property
    def first(self) -> str:
        """The measure of the first table."""
        return self.measure or "test_accuracy"

    def measures(self, summary: Summary) -> list[str]:
        """Return the measures to report. Each has a table of its own."""
        return [self.measure] if self.measure else ["test_accuracy", *summary.taken()]


@dataclass(frozen=True)
class Entry:
    """The text of a cell, and its mark."""

    text: str
    mark: Mark = ""


def measure_label(measure: str) -> str:
    """Return the measure in words."""
    return MEASURES[measure].label


def title(measure: str = "test_accuracy", options: ReportOptions | None = None) -> str:
    """Return the title of a table: its measure, and what follows each mean."""
    spread = "95 % interval" if options is not None and options.interval else "sample std"
    text = f"{MEASURES[measure].heading}, mean ± {spread} over seeds"
    return text.replace("± 95", "and 95")


def number(measure: str, value: float) -> str:
    """Format a value: "97.25" for a fraction in percent, "0.1234" for a loss."""
    shown = MEASURES[measure]
    return f"{shown.scale * value:.{shown.decimals}f}"


def spread_text(measure: str, spread: Spread, *, interval: bool = False) -> str:
    """Return text such as "97.25 ± 0.50". It is empty if no trial has finished."""
    if spread.mean is None:
        return ""
    mean = number(measure, spread.mean)
    if interval and spread.low is not None and spread.high is not None:
        return f"{mean} [{number(measure, spread.low)}, {number(measure, spread.high)}]"
    if not interval and spread.std is not None:
        return f"{mean} ± {number(measure, spread.std)}"
    return mean


def cell_text(summary: Summary, cell: Cell, measure: str, *, interval: bool = False) -> str:
    """Return the text of a cell: the measure, then notes in parentheses.

    The notes name tuned values, an unusual number of seeds, and failed or unfinished trials. A
    tuned setting of another normalizer has no value here, and is not named.
    """
    notes = [
        f"{label(n)}={field_text(n, cell.fields[n])}" if n in cell.fields else f"several {label(n)}"
        for n in summary.tuned
        if cell.n and cell.fields.get(n, "several") is not None
    ]
    if cell.n and cell.n != summary.usual_n:
        notes.append(f"n={cell.n}")
    notes += [f"{count} {kind}" for kind, count in sorted(cell.failures.items())]
    if cell.unfinished:
        notes.append(f"{cell.unfinished} unfinished")
    value = spread_text(measure, cell.measure(measure), interval=interval)
    return f"{value} ({', '.join(notes)})".strip() if notes else value


def key_texts(summary: Summary, key: RowKey) -> list[str]:
    """Return the values that name a row, one for each axis."""
    return [field_text(name, value) for name, value in zip(summary.axes, key, strict=True)]


def rows(
    summary: Summary, measure: str = "test_accuracy", options: ReportOptions | None = None
) -> list[tuple[RowKey, list[Entry]]]:
    """Return the rows of a table: the key of each row, and an entry for each column."""
    options = options or ReportOptions()
    table = []
    for key, cells in summary.cells.items():
        row_marks = marks(cells, measure)
        entries = [
            _entry(summary, cells.get(column), measure, options, row_marks.of(column))
            for column in summary.columns
        ]
        table.append((key, entries))
    return table


def _entry(
    summary: Summary, cell: Cell | None, measure: str, options: ReportOptions, mark: Mark
) -> Entry:
    if cell is None:
        return Entry("")
    if measure == options.first:
        text = cell_text(summary, cell, measure, interval=options.interval)
    else:
        text = spread_text(measure, cell.measure(measure), interval=options.interval)
    return Entry(text + (SIGNS[mark] if options.plain else ""), mark)


def headings(summary: Summary) -> list[str]:
    """Return the headings of a table: the axes, then the normalizers with their T*."""
    return [*map(label, summary.axes), *(column_text(summary, c) for c in summary.columns)]


def footnotes(summary: Summary, options: ReportOptions | None = None) -> list[str]:
    """Return notes on how to read the table and on missing trials, then its query."""
    options = options or ReportOptions()
    notes = [f"n = {summary.usual_n} seeds unless given"] if summary.usual_n else []
    if summary.pooled:
        pooled = " and ".join(label(name) for name in ("seed", *summary.pooled))
        notes = [f"n = {summary.usual_n} trials unless given, over {pooled}"]
    notes += rounds_note(summary) + _missing(summary)
    notes += tuned_note(summary)
    if any(entry.mark for _, entries in rows(summary, options.first, options) for entry in entries):
        notes.append(MARKED.format(*(("*", "~") if options.plain else ("bold", "underlined"))))
    if options.baseline is not None:
        name = column_text(summary, options.baseline)
        if count := without_baseline(summary, options.first, options.baseline):
            cells = counted(count, "cell")
            notes.append(
                f"not compared with {name}: {cells} without a trial of {name} to pair with"
            )
    if any(incomplete_cell_is_better(row, options.first) for row in summary.cells.values()):
        notes.append(PARTIAL)
    return [*notes, query_note(summary, options.first, options)]


def tuned_note(summary: Summary) -> list[str]:
    """Return the tuned fields of the table, if there are any."""
    chosen = ", ".join(label(name) for name in summary.tuned)
    return [f"{chosen}: chosen in each cell by the mean validation accuracy"] if chosen else []


def rounds_note(summary: Summary) -> list[str]:
    """Return the rounds for each E of the table, if E decides them."""
    if not summary.rounds_by_steps:
        return []
    each = sorted(summary.rounds_by_steps.items())
    texts = [f"{rounds:,} at E = {steps}" for steps, rounds in each]
    return [f"rounds: {', '.join(texts)}"] if "rounds" not in summary.axes else []


def query_note(summary: Summary, measure: str, options: ReportOptions) -> str:
    """Return the query that gives the numbers of a table."""
    return f"query: {queries.table_query(summary, measure, options.conditions)}"


def difference_note(summary: Summary, options: ReportOptions) -> str:
    """Return the query that gives the values from which the differences are computed."""
    return f"query: {queries.values_query(summary, options.first, options.conditions)}"


def _missing(summary: Summary) -> list[str]:
    """Count the unfinished and failed trials, and name the first failed ones."""
    waiting = [
        f"{summary.states[s]} {s}"
        for s in ("queued", "running", "cancelled")
        if summary.states.get(s)
    ]
    notes = [f"unfinished: {', '.join(waiting)}"] if waiting else []
    if summary.failures:
        notes.append(f"failed: {len(summary.failures)}")
        shown = summary.failures[:10]
        notes += [f"  {f.trial_id[:8]} {f.kind}: {_short(f.error)} ({f.trial})" for f in shown]
        if rest := len(summary.failures) - len(shown):
            notes.append(f"  and {rest} more: fedsweep trial list --state failed")
    return notes


def _short(error: str) -> str:
    """Return the error as one short line without control characters."""
    line = "".join(c if c.isprintable() else " " for c in error)
    return " ".join(line.split())[:MOST_ERROR_CHARACTERS]


def difference_tables(
    summary: Summary, options: ReportOptions
) -> list[tuple[str, list[CellDifference]]]:
    """Return the differences to the chosen baseline, and to centralized training.

    Each list has a title, such as "minus BN". The second is left out if it is empty.
    """
    lists: list[tuple[str, list[CellDifference]]] = []
    if options.baseline is not None:
        name = column_text(summary, options.baseline)
        differences = differences_to_baseline(summary, options.first, options.baseline)
        lists.append((f"minus {name}", differences))
    if differences := differences_to_centralized(summary, options.first):
        lists.append(("minus its centralized twin", differences))
    return lists


def difference_title(measure: str, what: str) -> str:
    """Return the title of a table of differences."""
    shown = MEASURES[measure]
    unit = ", points" if shown.unit == "fraction" else shown.sign and f", {shown.sign}"
    return (
        f"{shown.label} {what}{unit}: mean of paired differences over seeds [95 % interval], "
        "p adjusted for all comparisons (t-test, Holm)"
    )


def difference_text(measure: str, cell: CellDifference) -> str:
    """Return text such as "+1.20 [+0.40, +2.00] p=0.03". Fractions are in points."""
    scale, places = MEASURES[measure].scale, MEASURES[measure].decimals
    difference = cell.difference
    mean = f"{scale * difference.mean:+.{places}f}"
    if difference.low is None or difference.high is None or cell.p is None:
        return f"{mean} (n=1)"
    low, high = (f"{scale * end:+.{places}f}" for end in (difference.low, difference.high))
    p = f"p={cell.p:.2g}" if cell.p >= 0.001 else "p<0.001"
    return f"{mean} [{low}, {high}] {p}"


def difference_rows(
    summary: Summary, measure: str, differences: Sequence[CellDifference]
) -> tuple[list[str], list[list[str]]]:
    """Return the headings and lines of a table of differences.

    Each row of the summary is a line, and each column that was compared is a column.
    """
    columns = [c for c in summary.columns if any(c == cell.column for cell in differences)]
    by_key: dict[RowKey, dict[ColumnKey, str]] = {}
    for cell in differences:
        by_key.setdefault(cell.key, {})[cell.column] = difference_text(measure, cell)
    names = [*map(label, summary.axes), *(column_text(summary, c) for c in columns)]
    lines = [
        [*key_texts(summary, key), *(texts.get(c, "") for c in columns)]
        for key, texts in by_key.items()
    ]
    return names, lines


def terminal(
    summary: Summary, width: int = WIDE, options: ReportOptions | None = None
) -> list[RenderableType]:
    """Return the tables of all measures and differences for a terminal of this width."""
    options = options or ReportOptions()
    shown = []
    for measure in options.measures(summary):
        notes = footnotes(summary, options) if measure == options.first else []
        notes = notes or [query_note(summary, measure, options)]
        shown.append(_terminal(summary, measure, width, options, "\n".join(notes)))
    for what, differences in difference_tables(summary, options):
        heading = f"{summary.sweep}: {difference_title(options.first, what)}"
        names, lines = difference_rows(summary, options.first, differences)
        wide = _grid(
            summary,
            heading,
            difference_note(summary, options),
            names,
            [(None, list(map(Entry, line))) for line in lines],
        )
        each = [
            [
                *key_texts(summary, c.key),
                column_text(summary, c.column),
                difference_text(options.first, c),
            ]
            for c in differences
        ]
        long = _grid(
            summary,
            heading,
            wide.caption,
            [*map(label, summary.axes), "normalizer", "difference"],
            [(None, list(map(Entry, line))) for line in each],
        )
        shown.append(_fitted(wide, long, width))
    return shown


def _terminal(
    summary: Summary, measure: str, width: int, options: ReportOptions, caption: str
) -> RenderableType:
    heading = f"{summary.sweep}: {title(measure, options)}"
    lines = [
        (key, [*map(Entry, key_texts(summary, key)), *entries])
        for key, entries in rows(summary, measure, options)
    ]
    names = [*map(label, summary.axes), "normalizer", _word(measure)]
    wide = _grid(summary, heading, caption, headings(summary), lines)
    long = _grid(summary, heading, caption, names, _long(summary, measure, options))
    return _fitted(wide, long, width)


def _fitted(wide: Grid, long: Grid, width: int) -> RenderableType:
    """Return the first table that fits the width, or a block for each row.

    `wide` has a column for each normalizer, `long` a line for each.
    """
    for grid in (wide, long):
        if grid.fits(width):
            return grid.table(width)
    return wide.blocks(width)


def _word(measure: str) -> str:
    """Return the last word of the measure's label, as a heading: accuracy, loss, mIoU."""
    return MEASURES[measure].short_label.split()[-1]


def _grid(
    summary: Summary,
    heading: str,
    caption: str,
    names: Sequence[str],
    lines: Sequence[tuple[RowKey | None, Sequence[Entry]]],
) -> Grid:
    keys = [key for key, _ in lines]
    return Grid(
        columns=[Column(name, least=_number_and_notes) for name in names],
        rows=[[Text(visible(e.text), style=STYLES[e.mark]) for e in line] for _, line in lines],
        title=heading,
        caption=caption,
        keys=len(summary.axes),
        sections=frozenset(
            n
            for n, (key, after) in enumerate(pairwise(keys))
            if key is not None and after is not None and key[:1] != after[:1]
        ),
    )


def _long(
    summary: Summary, measure: str, options: ReportOptions
) -> list[tuple[RowKey, list[Entry]]]:
    """Return a line for each cell that has trials."""
    return [
        (key, [*map(Entry, key_texts(summary, key)), Entry(column_text(summary, column)), entry])
        for key, entries in rows(summary, measure, options)
        for column, entry in zip(summary.columns, entries, strict=True)
        if entry.text
    ]


def _number_and_notes(text: str) -> int:
    """Return the width that a cell needs.

    Its notes may be folded between words. Its numbers may not.
    """
    number, _, note = text.partition("(")
    return max([len(number.strip()), *map(len, f"({note}".split() if note else [])])


def markdown(summary: Summary, options: ReportOptions | None = None) -> str:
    """Return GitHub tables under a heading, with the footnotes as a list."""
    options = options or ReportOptions()
    names, lines = headings(summary), [markdown_heading(summary.sweep)]
    for measure in options.measures(summary):
        caption = title(measure, options)
        lines += ["", f"{caption[0].upper()}{caption[1:]}.", "", markdown_line(names)]
        lines.append(markdown_line(["---:"] * len(names)))
        for key, entries in rows(summary, measure, options):
            lines.append(markdown_line([*key_texts(summary, key), *map(_in_markdown, entries)]))
        if measure != options.first:
            lines += ["", f"- {_code(query_note(summary, measure, options))}"]
    for what, differences in difference_tables(summary, options):
        names, texts = difference_rows(summary, options.first, differences)
        caption = difference_title(options.first, what)
        lines += ["", f"{caption[0].upper()}{caption[1:]}.", "", markdown_line(names)]
        lines += [markdown_line(["---:"] * len(names)), *map(markdown_line, texts)]
        lines += ["", f"- {_code(difference_note(summary, options))}"]
    notes = [note.strip() for note in footnotes(summary, options)]
    lines += ["", *(f"- {_code(note)}" for note in notes)]
    return "\n".join(lines).rstrip() + "\n"


def _in_markdown(entry: Entry) -> str:
    around = {"best": ("**", "**"), "level": ("<u>", "</u>"), "": ("", "")}[entry.mark]
    return entry.text.join(around)


def _code(note: str) -> str:
    what, colon, query = _one_line(note).partition("query: ")
    return f"{what}{colon}`{query}`" if colon and not what else note


def markdown_line(cells: Sequence[str]) -> str:
    """Return a line of a GitHub table."""
    return "| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in cells) + " |"


def markdown_heading(text: str) -> str:
    """Return a heading of one line. HTML tags and line breaks in a sweep's name are escaped."""
    return f"### {_one_line(text).replace('<', '&lt;')}"


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())

"""A summary as a table: for the terminal and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.console import RenderableType
from rich.text import Text

from fedsweep.errors import visible
from fedsweep.fields import label
from fedsweep.measures import MEASURES
from fedsweep.report import queries
from fedsweep.report.differences import Contrast, Mark, against, gaps, marks, outdone_by_partial
from fedsweep.report.fit import Column as FitColumn
from fedsweep.report.fit import Grid
from fedsweep.report.grouping import Cell, Spread, Summary, column_text
from fedsweep.report.labels import Column, Key, field_text
from fedsweep.report.selection import Condition

WIDE = 160
"""Columns of a table that is not printed on a terminal."""

ERROR = 200
"""Characters of an error that a footnote has room for."""

STYLES = {"best": "bold", "level": "underline", "": ""}
SIGNS = {"best": " *", "level": " ~", "": ""}
"""Where there is no type to set them in."""
MARKED = (
    "{}: the best of its row; {}: not worse than it (paired t-test over seeds, one-sided, "
    "Holm, 5 %)"
)
PARTIAL = "an arm that lacks a trial is never marked as the best: its mean may flatter it"


@dataclass(frozen=True)
class View:
    """What is told of a summary, beside what it is."""

    measure: str | None = None
    """The final measure; None: the test accuracy, and tables of what else was taken."""
    interval: bool = False
    """Whether a mean stands with its 95 % interval, instead of its deviation."""
    baseline: Column | None = None
    conditions: Sequence[Condition] = field(default_factory=tuple)
    plain: bool = False
    """Whether there is neither bold nor underlined type."""

    @property
    def first(self) -> str:
        """The measure of the first table."""
        return self.measure or "test_accuracy"

    def measures(self, summary: Summary) -> list[str]:
        """A table for each."""
        return [self.measure] if self.measure else ["test_accuracy", *summary.taken()]


@dataclass(frozen=True)
class Entry:
    """A cell's text, and whether it stands out."""

    text: str
    mark: Mark = ""


def measure_label(measure: str) -> str:
    """Return the measure in words."""
    return MEASURES[measure].label


def title(measure: str = "test_accuracy", view: View | None = None) -> str:
    """What a table's numbers are."""
    spread = "95 % interval" if view is not None and view.interval else "sample std"
    text = f"{MEASURES[measure].heading}, mean ± {spread} over seeds"
    return text.replace("± 95", "and 95")


def number(measure: str, value: float) -> str:
    """97.25 of a share; 0.1234 of a loss."""
    shown = MEASURES[measure]
    return f"{shown.scale * value:.{shown.decimals}f}"


def spread_text(measure: str, spread: Spread, *, interval: bool = False) -> str:
    """97.25 ± 0.50, in percent; nothing where nothing has finished."""
    if spread.mean is None:
        return ""
    mean = number(measure, spread.mean)
    if interval and spread.low is not None and spread.high is not None:
        return f"{mean} [{number(measure, spread.low)}, {number(measure, spread.high)}]"
    if not interval and spread.std is not None:
        return f"{mean} ± {number(measure, spread.std)}"
    return mean


def cell_text(summary: Summary, cell: Cell, measure: str, *, interval: bool = False) -> str:
    """The measure, and whatever keeps it from being the usual mean."""
    notes = [
        f"{label(n)}={field_text(n, cell.fields[n])}" if n in cell.fields else f"several {label(n)}"
        for n in summary.tuned
        if cell.n
    ]
    if cell.n and cell.n != summary.usual_n:
        notes.append(f"n={cell.n}")
    notes += [f"{count} {kind}" for kind, count in sorted(cell.failures.items())]
    if cell.unfinished:
        notes.append(f"{cell.unfinished} unfinished")
    value = spread_text(measure, cell.measure(measure), interval=interval)
    return f"{value} ({', '.join(notes)})".strip() if notes else value


def key_texts(summary: Summary, key: Key) -> list[str]:
    """A row's values of the axes."""
    return [field_text(name, value) for name, value in zip(summary.axes, key, strict=True)]


def rows(
    summary: Summary, measure: str = "test_accuracy", view: View | None = None
) -> list[tuple[Key, list[Entry]]]:
    """The table's rows: the axes' values, then an entry a column."""
    view = view or View()

    table = []
    for key, cells in summary.cells.items():
        found = marks(cells, measure)
        entries = [
            _entry(summary, cells.get(column), measure, view, found.of(column))
            for column in summary.columns
        ]
        table.append((key, entries))
    return table


def _entry(summary: Summary, cell: Cell | None, measure: str, view: View, mark: Mark) -> Entry:
    if cell is None:
        return Entry("")
    if measure == view.first:
        text = cell_text(summary, cell, measure, interval=view.interval)
    else:
        text = spread_text(measure, cell.measure(measure), interval=view.interval)
    return Entry(text + (SIGNS[mark] if view.plain else ""), mark)


def headings(summary: Summary) -> list[str]:
    """The columns' names: the axes, then normalizers, with their T*."""
    return [*map(label, summary.axes), *(column_text(summary, c) for c in summary.columns)]


def footnotes(summary: Summary, view: View | None = None) -> list[str]:
    """How to read the table, what it leaves out, and the query that gives its numbers."""
    view = view or View()
    notes = [f"n = {summary.usual_n} seeds unless given"] if summary.usual_n else []
    if summary.pooled:
        pooled = " and ".join(label(name) for name in ("seed", *summary.pooled))
        notes = [f"n = {summary.usual_n} trials unless given, over {pooled}"]
    notes += _missing(summary)
    if summary.tuned:
        chosen = ", ".join(label(name) for name in summary.tuned)
        notes.append(f"{chosen}: chosen in each cell by the mean validation accuracy")
    if any(entry.mark for _, entries in rows(summary, view.first, view) for entry in entries):
        notes.append(MARKED.format(*(("*", "~") if view.plain else ("bold", "underlined"))))
    if any(outdone_by_partial(cells, view.first) for cells in summary.cells.values()):
        notes.append(PARTIAL)
    return [*notes, query_note(summary, view.first, view)]


def query_note(summary: Summary, measure: str, view: View) -> str:
    """Where a table's numbers come from."""
    return f"query: {queries.of_table(summary, measure, view.conditions)}"


def contrast_note(summary: Summary, view: View) -> str:
    """Where the values come from whose differences are told."""
    return f"query: {queries.values(summary, view.first, view.conditions)}"


def _missing(summary: Summary) -> list[str]:
    """Unfinished and failed trials, counted; failed ones named."""
    waiting = [
        f"{summary.states[s]} {s}"
        for s in ("queued", "running", "cancelled")
        if summary.states.get(s)
    ]
    notes = [f"unfinished: {', '.join(waiting)}"] if waiting else []
    if summary.failures:
        notes.append(f"failed: {len(summary.failures)}")
        shown = summary.failures[:10]
        notes += [f"  {f.trial_id[:8]} {f.kind}: {_short(f.error)} ({f.what})" for f in shown]
        if rest := len(summary.failures) - len(shown):
            notes.append(f"  and {rest} more: fedsweep trial list --state failed")
    return notes


def _short(error: str) -> str:
    """On one line, without what a terminal would obey."""
    line = "".join(c if c.isprintable() else " " for c in error)
    return " ".join(line.split())[:ERROR]


def contrast_tables(summary: Summary, view: View) -> list[tuple[str, list[Contrast]]]:
    """What is held against what: the baseline that was asked for, training on all data at once."""
    found: list[tuple[str, list[Contrast]]] = []
    if view.baseline is not None:
        name = column_text(summary, view.baseline)
        found.append((f"minus {name}", against(summary, view.first, view.baseline)))
    if gap := gaps(summary, view.first):
        found.append(("minus its centralized twin", gap))
    return found


def contrast_title(measure: str, what: str) -> str:
    """What a table of contrasts holds."""
    shown = MEASURES[measure]
    unit = ", points" if shown.unit == "fraction" else shown.sign and f", {shown.sign}"
    return (
        f"{shown.label} {what}{unit}: mean of paired differences over seeds [95 % interval], "
        "p adjusted for all of them (t-test, Holm)"
    )


def contrast_text(measure: str, contrast: Contrast) -> str:
    """+1.20 [+0.40, +2.00] p=0.03, in points."""
    scale, places = MEASURES[measure].scale, MEASURES[measure].decimals
    apart = contrast.found
    said = f"{scale * apart.mean:+.{places}f}"
    if apart.low is None or apart.high is None or contrast.p is None:
        return f"{said} (n=1)"
    p = f"p={contrast.p:.2g}" if contrast.p >= 0.001 else "p<0.001"
    return f"{said} [{scale * apart.low:+.{places}f}, {scale * apart.high:+.{places}f}] {p}"


def contrast_rows(
    summary: Summary, measure: str, contrasts: Sequence[Contrast]
) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: a row of the table a line, a column that was compared a column."""
    columns = [c for c in summary.columns if any(c == found.column for found in contrasts)]
    by_key: dict[Key, dict[Column, str]] = {}
    for found in contrasts:
        by_key.setdefault(found.key, {})[found.column] = contrast_text(measure, found)
    names = [*map(label, summary.axes), *(column_text(summary, c) for c in columns)]
    lines = [
        [*key_texts(summary, key), *(texts.get(c, "") for c in columns)]
        for key, texts in by_key.items()
    ]
    return names, lines


def terminal(summary: Summary, width: int = WIDE, view: View | None = None) -> list[RenderableType]:
    """Return what a terminal shows of each measure and each contrast, in so many columns."""
    view = view or View()
    shown = []
    for measure in view.measures(summary):
        notes = footnotes(summary, view) if measure == view.first else []
        notes = notes or [query_note(summary, measure, view)]
        shown.append(_terminal(summary, measure, width, view, "\n".join(notes)))
    for what, contrasts in contrast_tables(summary, view):
        heading = f"{summary.sweep}: {contrast_title(view.first, what)}"
        names, lines = contrast_rows(summary, view.first, contrasts)
        wide = _grid(
            summary,
            heading,
            contrast_note(summary, view),
            names,
            [(None, list(map(Entry, line))) for line in lines],
        )
        each = [
            [
                *key_texts(summary, c.key),
                column_text(summary, c.column),
                contrast_text(view.first, c),
            ]
            for c in contrasts
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
    summary: Summary, measure: str, width: int, view: View, caption: str
) -> RenderableType:
    heading = f"{summary.sweep}: {title(measure, view)}"
    lines = [
        (key, [*map(Entry, key_texts(summary, key)), *entries])
        for key, entries in rows(summary, measure, view)
    ]
    names = [*map(label, summary.axes), "normalizer", _word(measure)]
    wide = _grid(summary, heading, caption, headings(summary), lines)
    long = _grid(summary, heading, caption, names, _long(summary, measure, view))
    return _fitted(wide, long, width)


def _fitted(wide: Grid, long: Grid, width: int) -> RenderableType:
    """Return a normalizer a column, or a line if they do not fit, or a block for each row."""
    for grid in (wide, long):
        if grid.fits(width):
            return grid.table(width)
    return wide.blocks(width)


def _word(measure: str) -> str:
    """The measure's last word, to head a column: accuracy, loss, mIoU."""
    return MEASURES[measure].short_label.split()[-1]


def _grid(
    summary: Summary,
    heading: str,
    caption: str,
    names: Sequence[str],
    lines: Sequence[tuple[Key | None, Sequence[Entry]]],
) -> Grid:
    keys = [key for key, _ in lines]
    return Grid(
        columns=[FitColumn(name, least=_number_and_notes) for name in names],
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


def _long(summary: Summary, measure: str, view: View) -> list[tuple[Key, list[Entry]]]:
    """A line for each cell that has trials."""
    return [
        (key, [*map(Entry, key_texts(summary, key)), Entry(column_text(summary, column)), entry])
        for key, entries in rows(summary, measure, view)
        for column, entry in zip(summary.columns, entries, strict=True)
        if entry.text
    ]


def _number_and_notes(text: str) -> int:
    """Return what a cell needs: its notes may be folded between words, its numbers may not."""
    number, _, note = text.partition("(")
    return max([len(number.strip()), *map(len, f"({note}".split() if note else [])])


def markdown(summary: Summary, view: View | None = None) -> str:
    """GitHub tables under a heading, with the footnotes as a list."""
    view = view or View()
    names, lines = headings(summary), [markdown_heading(summary.sweep)]
    for measure in view.measures(summary):
        what = title(measure, view)
        lines += ["", f"{what[0].upper()}{what[1:]}.", "", markdown_line(names)]
        lines.append(markdown_line(["---:"] * len(names)))
        for key, entries in rows(summary, measure, view):
            lines.append(markdown_line([*key_texts(summary, key), *map(_in_markdown, entries)]))
        if measure != view.first:
            lines += ["", f"- {_code(query_note(summary, measure, view))}"]
    for what, contrasts in contrast_tables(summary, view):
        names, texts = contrast_rows(summary, view.first, contrasts)
        said = contrast_title(view.first, what)
        lines += ["", f"{said[0].upper()}{said[1:]}.", "", markdown_line(names)]
        lines += [markdown_line(["---:"] * len(names)), *map(markdown_line, texts)]
        lines += ["", f"- {_code(contrast_note(summary, view))}"]
    notes = [note.strip() for note in footnotes(summary, view)]
    lines += ["", *(f"- {_code(note)}" for note in notes)]
    return "\n".join(lines).rstrip() + "\n"


def _in_markdown(entry: Entry) -> str:
    around = {"best": ("**", "**"), "level": ("<u>", "</u>"), "": ("", "")}[entry.mark]
    return entry.text.join(around)


def _code(note: str) -> str:
    what, colon, query = _one_line(note).partition("query: ")
    return f"{what}{colon}`{query}`" if colon and not what else note


def markdown_line(cells: Sequence[str]) -> str:
    """A line of a GitHub table."""
    return "| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in cells) + " |"


def markdown_heading(text: str) -> str:
    """A heading of one line, without tags, whatever a sweep of somebody else is called."""
    return f"### {_one_line(text).replace('<', '&lt;')}"


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())

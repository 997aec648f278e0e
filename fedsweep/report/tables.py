"""A summary as a table: for the terminal, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from rich.table import Table
from rich.text import Text

from fedsweep.report.summary import Cell, Key, Summary, label, value_text

TITLE = "test accuracy, %, mean ± sample std over seeds"


def cell_text(cell: Cell | None, usual_n: int) -> str:
    """97.25 ± 0.50, and whatever keeps it from being the usual mean."""
    if cell is None:
        return ""
    notes = []
    if cell.n and cell.n != usual_n:
        notes.append(f"n={cell.n}")
    notes += [f"{count} {kind}" for kind, count in sorted(cell.failures.items())]
    if cell.unfinished:
        notes.append(f"{cell.unfinished} unfinished")
    value = ""
    if cell.mean is not None:
        value = f"{100 * cell.mean:.2f}" + (
            f" ± {100 * cell.std:.2f}" if cell.std is not None else ""
        )
    return f"{value} ({', '.join(notes)})".strip() if notes else value


def rows(summary: Summary) -> list[tuple[Key, list[str]]]:
    """The table's rows: the axes' values, then a text a normaliser."""
    return [
        (key, [cell_text(columns.get(name), summary.usual_n) for name in summary.normalizers])
        for key, columns in summary.cells.items()
    ]


def headings(summary: Summary) -> list[str]:
    """The columns' names: the axes, then the normalisers."""
    return [*map(label, summary.axes), *(name.upper() for name in summary.normalizers)]


def footnotes(summary: Summary) -> list[str]:
    """What the table leaves out: unfinished and failed trials, counted; failed ones named."""
    notes = [f"n = {summary.usual_n} seeds unless given"] if summary.usual_n else []
    waiting = [
        f"{summary.states[s]} {s}"
        for s in ("queued", "running", "cancelled")
        if summary.states.get(s)
    ]
    if waiting:
        notes.append(f"unfinished: {', '.join(waiting)}")
    if summary.failures:
        notes.append(f"failed: {len(summary.failures)}")
        shown = summary.failures[:10]
        notes += [f"  {f.trial_id[:8]} {f.kind}: {f.error} ({f.what})" for f in shown]
        if rest := len(summary.failures) - len(shown):
            notes.append(f"  and {rest} more: fedsweep trial list --state failed")
    return notes


def terminal(summary: Summary) -> Table:
    """A Rich table that fits the terminal."""
    # As Text: a name or an error may hold what Rich would take for markup.
    table = Table(
        title=Text(f"{summary.sweep}: {TITLE}"), title_justify="left", caption_justify="left"
    )
    for name in summary.axes:
        table.add_column(label(name), justify="right")
    for name in summary.normalizers:
        table.add_column(name.upper(), justify="right", overflow="fold")
    before: Key | None = None
    for key, texts in rows(summary):
        table.add_row(*map(value_text, key), *texts, end_section=False)
        if before is not None and before[:2] != key[:2]:
            table.rows[-2].end_section = True
        before = key
    if notes := footnotes(summary):
        table.caption = Text("\n".join(notes))
    return table


def markdown(summary: Summary) -> str:
    """A GitHub table under a heading, with the footnotes as a list."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    names = headings(summary)
    lines = [f"### {summary.sweep}", "", f"{TITLE[0].upper()}{TITLE[1:]}.", "", line(names)]
    lines.append(line(["---:"] * len(names)))
    lines += [line([*map(value_text, key), *texts]) for key, texts in rows(summary)]
    lines += ["", *(f"- {note.strip()}" for note in footnotes(summary))]
    return "\n".join(lines).rstrip() + "\n"


def records(summary: Summary) -> list[dict[str, Any]]:
    """One record a cell: its configuration and its numbers (accuracies 0..1)."""
    return [
        {
            "sweep": summary.sweep,
            **cell.fields,
            "n": cell.n,
            "n_failed": sum(cell.failures.values()),
            "n_diverged": cell.diverged,
            "n_unfinished": cell.unfinished,
            "mean_test_accuracy": cell.mean,
            "std_test_accuracy": cell.std,
        }
        for columns in summary.cells.values()
        for cell in columns.values()
    ]


def as_json(summaries: list[Summary]) -> str:
    """One list of records, a cell each."""
    return json.dumps([record for s in summaries for record in records(s)], indent=2) + "\n"


def as_csv(summaries: list[Summary]) -> str:
    """A line a cell, under a header."""
    found = [record for summary in summaries for record in records(summary)]
    out = io.StringIO()
    if found:
        writer = csv.DictWriter(out, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    return out.getvalue()

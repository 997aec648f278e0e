"""A summary as a table: for the terminal, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from fedsweep.report.summary import MORE, Cell, Key, Spread, Summary, field_text, label

if TYPE_CHECKING:
    from fedsweep.report.findings import Finding, Gain

WIDE = 160
"""Columns of a table that is not printed on a terminal."""

NAMES = {
    "test_accuracy": "test accuracy",
    "test_miou": "test mIoU",
    "mean_client_accuracy": "mean of the clients' test accuracies",
    "worst_client_accuracy": "worst client's test accuracy",
}


def title(measure: str = "test_accuracy") -> str:
    """What a table's numbers are."""
    return f"{NAMES[measure]}, %, mean ± sample std over seeds"


def spread_text(spread: Spread) -> str:
    """97.25 ± 0.50, in percent; nothing where nothing has finished."""
    if spread.mean is None:
        return ""
    deviation = f" ± {100 * spread.std:.2f}" if spread.std is not None else ""
    return f"{100 * spread.mean:.2f}{deviation}"


def cell_text(cell: Cell | None, usual_n: int) -> str:
    """The accuracy, and whatever keeps it from being the usual mean."""
    if cell is None:
        return ""
    notes = []
    if cell.n and cell.n != usual_n:
        notes.append(f"n={cell.n}")
    notes += [f"{count} {kind}" for kind, count in sorted(cell.failures.items())]
    if cell.unfinished:
        notes.append(f"{cell.unfinished} unfinished")
    value = spread_text(cell.measure("test_accuracy"))
    return f"{value} ({', '.join(notes)})".strip() if notes else value


def key_texts(summary: Summary, key: Key) -> list[str]:
    """A row's values of the axes."""
    return [field_text(name, value) for name, value in zip(summary.axes, key, strict=True)]


def rows(summary: Summary, measure: str = "test_accuracy") -> list[tuple[Key, list[str]]]:
    """The table's rows: the axes' values, then a text a normaliser."""

    def text(cell: Cell | None) -> str:
        if measure == "test_accuracy" or cell is None:
            return cell_text(cell, summary.usual_n)
        return spread_text(cell.measure(measure))

    return [
        (key, [text(columns.get(name)) for name in summary.normalizers])
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


def terminal(summary: Summary, width: int = WIDE) -> list[Table]:
    """A Rich table for each measure taken, for so many columns."""
    tables = [_terminal(summary, name, width) for name in ("test_accuracy", *summary.taken())]
    if notes := footnotes(summary):
        tables[0].caption = Text("\n".join(notes))
    return tables


def _terminal(summary: Summary, measure: str, width: int) -> Table:
    """A normaliser a column, or a line where they do not fit."""
    lines = [(key, [*key_texts(summary, key), *texts]) for key, texts in rows(summary, measure)]
    names = headings(summary)
    widths = _widths(names, [texts for _, texts in lines])
    if sum(widths) + 3 * len(widths) + 1 > width:
        names = [*map(label, summary.axes), "normaliser", NAMES[measure].split()[-1]]
        lines = _long(summary, measure)
        widths = _widths(names, [texts for _, texts in lines])
    # As Text: a name or an error may hold what Rich would take for markup.
    heading = Text(f"{summary.sweep}: {title(measure)}")
    table = Table(title=heading, title_justify="left", caption_justify="left")
    for name, least in zip(names, widths, strict=True):
        table.add_column(name, justify="right", overflow="fold", min_width=least)
    before: Key | None = None
    for key, texts in lines:
        table.add_row(*texts)
        if before is not None and before[:2] != key[:2]:
            table.rows[-2].end_section = True
        before = key
    return table


def _long(summary: Summary, measure: str) -> list[tuple[Key, list[str]]]:
    """A line for each cell that has trials."""
    return [
        (key, [*key_texts(summary, key), name.upper(), text])
        for key, texts in rows(summary, measure)
        for name, text in zip(summary.normalizers, texts, strict=True)
        if text
    ]


def _widths(names: list[str], lines: list[list[str]]) -> list[int]:
    """What each column needs: its notes may be folded between words, its numbers may not."""

    def least(text: str) -> int:
        number, _, note = text.partition("(")
        return max([len(number.strip()), *map(len, f"({note}".split() if note else [])])

    return [
        max([len(name), *map(least, texts)]) for name, *texts in zip(names, *lines, strict=True)
    ]


def markdown(summary: Summary) -> str:
    """A GitHub table under a heading, with the footnotes as a list."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    names, lines = headings(summary), [f"### {summary.sweep}"]
    for measure in ("test_accuracy", *summary.taken()):
        what = title(measure)
        lines += ["", f"{what[0].upper()}{what[1:]}.", "", line(names)]
        lines.append(line(["---:"] * len(names)))
        lines += [line([*key_texts(summary, key), *t]) for key, t in rows(summary, measure)]
    lines += ["", *(f"- {note.strip()}" for note in footnotes(summary))]
    return "\n".join(lines).rstrip() + "\n"


METRICS = {"validation_accuracy": "validation", "test_accuracy": "test"}


def search_rows(findings: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """The headings and lines of what searches found: an arm a line."""
    from fedsweep.report.findings import names

    rivals = list(dict.fromkeys(gain.rival for f in findings for gain in f.gains))
    metrics = dict.fromkeys(METRICS[f.arm.spec.search.metric] for f in findings)
    headings = ["arm", "best T⋆", "90 % interval", f"{'/'.join(metrics)}, %"]
    headings += [f"gain over {rival}" for rival in rivals]
    headings += ["tried", "rounds, of a grid's", "standing"]
    lines = []
    for name, f in zip(names(findings), findings, strict=True):
        found = f.answer
        gains = {gain.rival: gain for gain in f.gains}
        share = f"{found.spent / found.whole_grid:.0%}" if found.whole_grid else ""
        lines.append(
            [
                name,
                "–" if found.freeze_round is None else str(found.freeze_round),
                "–" if found.low is None else f"{found.low} – {found.high}",
                "–" if f.value is None else f"{100 * f.value:.2f}",
                *(gain_text(gains.get(rival)) for rival in rivals),
                f"{len(f.history)} of {f.points}",
                f"{found.spent:,} of {found.whole_grid:,} ({share})",
                f.standing,
            ]
        )
    return headings, lines


def gain_text(gain: Gain | None) -> str:
    """+1.20 (0.40 to 2.00), in points; † where T* was selected on the same seeds."""
    if gain is None:
        return "–"
    mark = "" if gain.fresh else "†"
    if gain.low is None or gain.high is None:
        return f"{100 * gain.mean:+.2f}{mark}"
    return f"{100 * gain.mean:+.2f} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f}){mark}"


def search_notes(findings: Sequence[Finding]) -> list[str]:
    """How the numbers are to be read, and why each search ended."""
    from fedsweep.report.findings import names

    notes = [
        "gains: test accuracy, points, mean and 95 % interval of paired differences over seeds",
        "rounds: the arm's, its trunk included, of those of a grid over its T⋆ that shares nothing",
    ]
    if any(not gain.fresh for f in findings for gain in f.gains):
        notes.append("† on the seeds that selected T⋆: plan with confirm_seeds for others")
    if any(f.arm.spec.search.metric == "test_accuracy" for f in findings):
        notes.append("T⋆ was searched by the TEST accuracy, as the plan says: no gain is unbiased")
    for name, f in zip(names(findings), findings, strict=True):
        if f.arm.said:
            notes.append(f"{name}: {f.standing}: {f.arm.said}")
    return notes


def search_terminal(findings: Sequence[Finding], width: int = WIDE) -> list[Table | Text]:
    """What searches found, for so many columns, and how to read it."""
    notes = Text("\n".join(search_notes(findings)), style="dim")
    return [_search_table(findings, width), notes]


def _search_table(findings: Sequence[Finding], width: int) -> Table:
    """An arm a line, or a block where they do not fit."""
    headings, lines = search_rows(findings)
    needed = [max(map(len, column)) for column in zip(headings, *lines, strict=True)]
    heading = Text(f"{findings[0].arm.sweep_name}: the best freeze round")
    table = Table(title=heading, title_justify="left")
    if sum(needed) + 3 * len(needed) + 1 <= width:
        for name in headings:
            table.add_column(name, justify="left" if name == "arm" else "right")
        for line in lines:
            table.add_row(*line)
        return table
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in lines:
        for name, text in zip(headings, line, strict=True):
            table.add_row(name, text)
        table.rows[-1].end_section = True
    return table


def search_markdown(findings: Sequence[Finding]) -> str:
    """The same as a GitHub table."""
    headings, lines = search_rows(findings)

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    said = [f"### {findings[0].arm.sweep_name}: the best freeze round", "", line(headings)]
    said += [line(["---:"] * len(headings)), *map(line, lines), ""]
    return "\n".join([*said, *(f"- {note}" for note in search_notes(findings))]) + "\n"


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
            **{f"mean_{name}": cell.measure(name).mean for name in MORE},
            **{f"std_{name}": cell.measure(name).std for name in MORE},
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

"""A summary as a LaTeX document of booktabs tables, to compile or to paste."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedsweep.fields import label
from fedsweep.reports.grouping import Summary, column_text
from fedsweep.reports.tables import (
    Entry,
    ReportOptions,
    difference_note,
    difference_rows,
    difference_tables,
    difference_title,
    footnotes,
    key_texts,
    query_note,
    rows,
    title,
)

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "α": r"$\alpha$",
    "⋆": r"$^\star$",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "…": r"\dots{}",
}

_UNSET = frozenset("«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ")
"""Latin letters that the default fonts of LaTeX lack."""

_PREAMBLE = r"""% Made by fedsweep. Compile it as it is, or paste a table into a paper with
% \usepackage{booktabs,graphicx}.
\documentclass{article}
\usepackage[margin=2cm,landscape]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
"""

_WIDE = 7
"""The most columns of a table in normal type. Wider tables are set smaller."""

_LONG = 32
"""The most rows of a table on one page."""

_AT_MOST_A_LINE = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""LaTeX that shrinks a table that is wider than the text."""

_Line = tuple[tuple[object, ...], Sequence[str]]
"""The group of a row, and its texts. There is a gap between groups."""


def escape(text: str) -> str:
    """Escape text for LaTeX. A character that the fonts may lack becomes a question mark."""
    out = "".join(_SPECIAL.get(c, c) for c in text)
    return "".join(
        c if ord(c) < 0x180 and c.isprintable() and c not in _UNSET else "?" for c in out
    )


def document(summaries: Sequence[tuple[Summary, ReportOptions]]) -> str:
    """Return a document with the tables of all sweeps."""
    used: set[str] = set()
    tables = [table for summary, options in summaries for table in _tables(summary, options, used)]
    # LaTeX can hold 52 tables that it has not placed yet.
    tables = [t + "\\clearpage\n" * (i % 10 == 0) for i, t in enumerate(tables, 1)]
    return _PREAMBLE + "\n".join(tables) + "\\end{document}\n"


def _tables(summary: Summary, options: ReportOptions, used: set[str]) -> list[str]:
    """Return a sweep's tables. Their labels are unique, and are added to `used`."""

    def tag(what: str) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", f"{summary.sweep} {what}".lower()).strip("-")
        names = (slug, *(f"{slug}-{n}" for n in range(2, len(used) + 3)))
        free = next(name for name in names if name not in used)
        used.add(free)
        return free

    headings = [*map(label, summary.axes), *(column_text(summary, c) for c in summary.columns)]
    parts = []
    for measure in options.measures(summary):
        lines = [
            (key[:1], [*map(escape, key_texts(summary, key)), *map(_entry, entries)])
            for key, entries in rows(summary, measure, options)
        ]
        first = measure == options.first
        notes = footnotes(summary, options) if first else [query_note(summary, measure, options)]
        name = f"{summary.sweep}: {title(measure, options)}"
        parts += _table(name, headings, len(summary.axes), lines, notes, tag(measure))
    for what, differences in difference_tables(summary, options):
        names, texts = difference_rows(summary, options.first, differences)
        name = f"{summary.sweep}: {difference_title(options.first, what)}"
        lines = [((), [_numbers(escape(text)) for text in line]) for line in texts]
        notes = [difference_note(summary, options)]
        parts += _table(name, names, len(summary.axes), lines, notes, tag(what))
    return parts


def _table(
    name: str,
    headings: Sequence[str],
    axes: int,
    lines: Sequence[_Line],
    notes: Sequence[str],
    tag: str,
) -> list[str]:
    size = r"\footnotesize" if len(headings) > _WIDE else r"\small"
    queries = [note for note in notes if note.startswith("query: ")]
    out = [
        f"% {line}" for query in queries for line in query.splitlines()
    ]  # each line is a comment
    note_texts = [escape(note.strip()) for note in notes if not note.startswith("query: ")]
    tables: list[str] = []
    for start in range(0, max(len(lines), 1), _LONG):
        out += [r"\begin{table}[tbp]", r"\centering", size]
        part = f" (part {start // _LONG + 1})" if len(lines) > _LONG else ""
        out.append(rf"\caption{{{escape(name + part)}.}}")
        out.append(rf"\label{{tab:{tag}{f'-part-{start // _LONG + 1}' if start else ''}}}")
        out.append(_AT_MOST_A_LINE)
        out.append(rf"\begin{{tabular}}{{{'r' * axes}{'c' * (len(headings) - axes)}}}")
        out += [r"\toprule", " & ".join(map(escape, headings)) + r" \\", r"\midrule"]
        out += _body(lines[start : start + _LONG])
        out += [r"\bottomrule", r"\end{tabular}}"]
        if note_texts and start + _LONG >= len(lines):
            out += [r"\par\smallskip\footnotesize", f"{'; '.join(note_texts)}."]
        out += [r"\end{table}", ""]
        tables.append("\n".join(out))
        out = []
    return tables


def _body(lines: Sequence[_Line]) -> list[str]:
    out: list[str] = []
    before: tuple[object, ...] | None = None
    for group, line in lines:
        if before is not None and before != group:
            out.append(r"\addlinespace")
        out.append(" & ".join(line) + r" \\")
        before = group
    return out


def _entry(entry: Entry) -> str:
    value, bracket, note = entry.text.partition(" (")
    text = _numbers(escape(value))
    if entry.mark == "best":
        text = rf"\textbf{{{text}}}"
    elif entry.mark == "level":
        text = rf"\underline{{{text}}}"
    return text + escape(bracket + note)


def _numbers(text: str) -> str:
    """Replace a hyphen before a number by a minus sign."""
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", text)

"""A summary as a LaTeX document: booktabs tables, to be compiled as they are or pasted."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedsweep.fields import label
from fedsweep.report.grouping import Summary, column_text
from fedsweep.report.tables import (
    Entry,
    View,
    contrast_note,
    contrast_rows,
    contrast_tables,
    contrast_title,
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
"""Latin letters that LaTeX's first fonts lack."""

_PREAMBLE = r"""% Made by fedsweep. Compiles as it is; a table can be pasted into a paper that has
% \usepackage{booktabs,graphicx}.
\documentclass{article}
\usepackage[margin=2cm,landscape]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
"""

_WIDE = 7
"""Columns beyond which a table is set in a smaller type."""

_LONG = 32
"""Rows that a page holds."""

_AT_MOST_A_LINE = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""Shrinks what is wider than the text."""

_Line = tuple[tuple[object, ...], Sequence[str]]
"""A row's group, and its texts; groups are set apart."""


def escape(text: str) -> str:
    """Text as LaTeX sets it; what its fonts may lack is a question mark."""
    out = "".join(_SPECIAL.get(c, c) for c in text)
    return "".join(
        c if ord(c) < 0x180 and c.isprintable() and c not in _UNSET else "?" for c in out
    )


def document(summaries: Sequence[tuple[Summary, View]]) -> str:
    """All tables in one document."""
    used: set[str] = set()
    tables = [table for summary, view in summaries for table in _tables(summary, view, used)]
    # LaTeX holds 52 tables that it has not placed yet.
    tables = [t + "\\clearpage\n" * (i % 10 == 0) for i, t in enumerate(tables, 1)]
    return _PREAMBLE + "\n".join(tables) + "\\end{document}\n"


def _tables(summary: Summary, view: View, used: set[str]) -> list[str]:
    """A sweep's tables, with labels that are not in `used`, and are then."""

    def tag(what: str) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", f"{summary.sweep} {what}".lower()).strip("-")
        names = (slug, *(f"{slug}-{n}" for n in range(2, len(used) + 3)))
        found = next(name for name in names if name not in used)
        used.add(found)
        return found

    headings = [*map(label, summary.axes), *(column_text(summary, c) for c in summary.columns)]
    found = []
    for measure in view.measures(summary):
        lines = [
            (key[:1], [*map(escape, key_texts(summary, key)), *map(_entry, entries)])
            for key, entries in rows(summary, measure, view)
        ]
        first = measure == view.first
        notes = footnotes(summary, view) if first else [query_note(summary, measure, view)]
        name = f"{summary.sweep}: {title(measure, view)}"
        found += _table(name, headings, len(summary.axes), lines, notes, tag(measure))
    for what, contrasts in contrast_tables(summary, view):
        names, texts = contrast_rows(summary, view.first, contrasts)
        name = f"{summary.sweep}: {contrast_title(view.first, what)}"
        lines = [((), [_numbers(escape(text)) for text in line]) for line in texts]
        notes = [contrast_note(summary, view)]
        found += _table(name, names, len(summary.axes), lines, notes, tag(what))
    return found


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
    out = [f"% {line}" for query in queries for line in query.splitlines()]  # all of it a comment
    said = [escape(note.strip()) for note in notes if not note.startswith("query: ")]
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
        if said and start + _LONG >= len(lines):
            out += [r"\par\smallskip\footnotesize", f"{'; '.join(said)}."]
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
    """A minus sign before a number is one, not a hyphen."""
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", text)

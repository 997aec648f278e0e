"""Markdown as the pages have it: prose with safe characters, tables, fences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

FREEZE_ROUND = re.compile(r"\bT\*")
"""The freeze round, as plain text spells it."""

SPECIAL = re.compile(r"([*_<>\[\]])")
"""Characters that have a meaning in Markdown outside of code."""


def prose(text: str) -> str:
    """Return plain text as Markdown on one line. Text in backquotes stays code."""
    parts = " ".join(text.split()).split("`")
    for place in range(0, len(parts), 2):
        spelled = FREEZE_ROUND.sub("T⋆", parts[place])
        parts[place] = SPECIAL.sub(r"\\\1", spelled)
    return "`".join(parts)


def sentence(text: str) -> str:
    """Return the first sentence of a text."""
    whole = " ".join(text.split())
    end = re.search(r"\.(?= [A-Zα-ω`])", whole)
    return whole[: end.end()] if end else whole


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a plain text as Markdown."""
    return [prose(part) for part in re.split(r"\n\s*\n", text.strip())]


def code(text: object) -> str:
    """Return a text as code within a line."""
    return f"`{text}`"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. A vertical bar in a cell is escaped."""
    lines = [list(headings), ["---"] * len(headings), *map(list, rows)]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def fence(text: str, language: str = "text") -> str:
    """Return a block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def document(title: str, *blocks: str, sources: Sequence[str]) -> str:
    """Return a page of blocks. Its last line names the code that it is generated from."""
    names = ", ".join(map(code, sources))
    last = f"_Generated from {names} by `make reference`._"
    return "\n\n".join([f"# {title}", *blocks, "---", last]) + "\n"

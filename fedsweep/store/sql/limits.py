"""Limits of an answer to a person's SQL on both databases, and the refusal of a statement."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedsweep.errors import SqlRefused

Parameters = Mapping[str, str | None]
"""Values by name. In a statement, `:name` stands for one, in any place of a value."""

Found = tuple[list[str], Sequence[Sequence[Any]]]
"""Columns and rows."""

MOST_COLUMNS = 300
"""Maximum number of columns of an answer that is limited in size."""

MOST_BYTES = 256 * 2**20
"""Maximum size of an answer on a person's own terminal, or in a file."""

TOO_LARGE = "a row is larger than the whole answer may be: narrow the statement"
TOO_MUCH = "the statement takes too much memory: narrow it"


def size(row: Sequence[Any]) -> int:
    """About so many bytes a row takes."""
    return sum(len(v) if isinstance(v, (str, bytes, memoryview)) else 8 for v in row)


def taken(rows: Iterable[Sequence[Any]], limit: int, room: int) -> list[Sequence[Any]]:
    """Rows up to the first that has no room: what comes after is never read."""
    rows_taken: list[Sequence[Any]] = []
    used = 0
    for row in rows:
        rows_taken.append(row)
        used += size(row)
        if len(rows_taken) == limit or used > room:
            break
    return rows_taken


def names(statement: str, parameter: str) -> bool:
    """Return whether a statement has a `:parameter` outside its strings and comments."""
    return any(token["name"] == parameter for token in LEXEME.finditer(statement))


LEXEME = re.compile(
    r"""'(?:[^']|'')*+(?:'|\Z) | "(?:[^"]|"")*+(?:"|\Z) | --[^\n]*+
    | /\*(?:[^*]|\*(?!/))*+(?:\*/|\Z) | :: | :(?P<name>[A-Za-z_]\w*+)""",
    re.VERBOSE,
)
"""A parameter, and what may look like one: strings, quoted names, comments, casts.

What is not closed reaches to the end, so that no text is searched twice.
"""


_NOT_ONE_READING = ("not authorized", "one statement", 'near ";"', "multi-query")
"""Parts of the drivers' messages about a statement that writes, or about several statements."""


def refusal(text: str, seconds: float) -> SqlRefused:
    """Return the refusal that tells a person about a driver's error."""
    first = text.strip().splitlines()[0] if text.strip() else "the statement failed"
    if "interrupted" in text or "statement timeout" in text:
        return SqlRefused(
            f"the statement took longer than {seconds:g} s: narrow it, or raise --timeout"
        )
    if any(phrase in text for phrase in _NOT_ONE_READING):
        return SqlRefused()
    if TOO_LARGE in text or "string or blob too big" in text:
        return SqlRefused(TOO_LARGE)
    return SqlRefused(f"the statement cannot be run: {first}")

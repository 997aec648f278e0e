"""The data of a figure as a CSV file, sent in pieces."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from fedsweep.filenames import safe_name

PIECE_ROWS = 500
"""Rows that are sent at once, so that a long table needs little memory."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""The first characters of a text that a spreadsheet would run as a formula."""


@dataclass(frozen=True)
class CsvTable:
    """A table with the name of its file, without the ending."""

    name: str
    columns: Sequence[str]
    rows: Iterable[Sequence[Any]]


def csv_response(table: CsvTable) -> Response:
    """Return a response that a browser stores as a file. The name is safe for any file system."""
    name = f"{safe_name(table.name)}.csv"
    encoded = quote(name)  # the header is ASCII
    kind = f'filename="{name}"' if encoded == name else f"filename*=utf-8''{encoded}"
    headers = {"content-disposition": f"attachment; {kind}"}
    return StreamingResponse(csv_text(table), media_type="text/csv", headers=headers)


def csv_text(table: CsvTable) -> Iterator[str]:
    """Yield the lines of the file, a header first. Numbers have all digits; None is empty."""
    rows = chain([table.columns], table.rows)
    while piece := list(islice(rows, PIECE_ROWS)):
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([cell(v) for v in row] for row in piece)
        yield out.getvalue()


def cell(value: Any) -> Any:
    """Return a value that a spreadsheet shows and does not run.

    A text that would be a formula gets an apostrophe before it. Numbers stay as they are.
    """
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return f"'{value}"
    return value

"""A summary as records, one for each cell, in CSV, JSON, Parquet or a workbook."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

from fedsweep.errors import RequestError
from fedsweep.measures import COMPARABLE, OPTIONAL
from fedsweep.reports import queries
from fedsweep.reports.differences import (
    CellDifference,
    differences_to_baseline,
    differences_to_centralized,
    marks,
)
from fedsweep.reports.grouping import FIELDS, Cell, Summary
from fedsweep.reports.labels import ColumnKey, RowKey
from fedsweep.reports.tables import ReportOptions

if TYPE_CHECKING:
    import pandas as pd


def records(summary: Summary, options: ReportOptions | None = None) -> list[dict[str, Any]]:
    """Return a record for each cell: its configuration, its numbers and its query.

    Fractions are from 0 to 1. The columns of `difference` are None if the cell was not compared
    to the baseline. Those of `gap` are None if it has no centralized twin.
    """
    options = options or ReportOptions()
    baseline = options.baseline
    compared = (
        _by_cell(differences_to_baseline(summary, options.first, baseline))
        if baseline is not None
        else {}
    )
    central = _by_cell(differences_to_centralized(summary, options.first))
    query = queries.table_query(summary, options.first, options.conditions)
    rows = []
    for key, cells in summary.cells.items():
        row_marks = marks(cells, options.first)
        for column, cell in cells.items():
            rows.append(
                {
                    **_numbers(summary, cell, options),
                    "best": int(column == row_marks.best),
                    "not_worse": int(column in row_marks.level),
                    **_difference("difference", compared.get((key, column))),
                    **_difference("gap", central.get((key, column))),
                    "query": query,
                }
            )
    return rows


def _numbers(summary: Summary, cell: Cell, options: ReportOptions) -> dict[str, Any]:
    names = {"test_accuracy", *OPTIONAL, options.measure}
    spreads = {name: cell.measure(name) for name in COMPARABLE if name in names}
    return {
        "sweep": summary.sweep,
        **{name: cell.fields.get(name) for name in FIELDS if name != "seed"},
        "n": cell.n,
        "n_failed": sum(cell.failures.values()),
        "n_diverged": cell.diverged,
        "n_unfinished": cell.unfinished,
        **{f"mean_{name}": spread.mean for name, spread in spreads.items()},
        **{f"std_{name}": spread.std for name, spread in spreads.items()},
        **{f"low_{name}": spread.low for name, spread in spreads.items()},
        **{f"high_{name}": spread.high for name, spread in spreads.items()},
        "cell_id": cell.cell_ids[0] if len(cell.cell_ids) == 1 else None,
    }


def _by_cell(
    differences: Sequence[CellDifference],
) -> dict[tuple[RowKey, ColumnKey], CellDifference]:
    return {(c.key, c.column): c for c in differences}


def _difference(name: str, cell: CellDifference | None) -> dict[str, Any]:
    difference = cell.difference if cell is not None else None
    return {
        name: difference.mean if difference else None,
        f"{name}_low": difference.low if difference else None,
        f"{name}_high": difference.high if difference else None,
        f"{name}_pairs": difference.n if difference else None,
        f"{name}_p": cell.p if cell else None,
    }


def as_json(rows: Sequence[dict[str, Any]]) -> str:
    """Return one JSON list."""
    out = io.StringIO()
    # `dumps` would keep all parts in memory.
    for part in json.JSONEncoder(indent=2).iterencode(list(rows)):
        out.write(part)
    return out.getvalue() + "\n"


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return a header and a line for each record."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()


def write_parquet(rows: Sequence[dict[str, Any]], file: IO[bytes]) -> None:
    """Write a row for each record.

    Raises:
        RequestError: the extra `tables` is missing.

    """
    _frame(rows).to_parquet(file, index=False)


def write_workbook(
    rows: Sequence[dict[str, Any]], trials: Sequence[dict[str, Any]], file: IO[bytes]
) -> None:
    """Write a sheet of cells and a sheet of their trials.

    Raises:
        RequestError: the extra `tables` is missing.

    """
    pandas = _pandas()
    with pandas.ExcelWriter(file, engine="openpyxl") as book:
        for name, records in (("cells", rows), ("trials", trials)):
            sheet_of = _frame(records).map(_printable)
            sheet_of.to_excel(book, sheet_name=name, index=False)
            sheet = book.sheets[name]
            sheet.freeze_panes = "A2"
            sheet.auto_filter.ref = sheet.dimensions
            for cells in sheet.iter_cols():
                for cell in cells:
                    if isinstance(cell.value, str):
                        cell.data_type = "s"  # a name that begins with "=" is not a formula
                width = max(len(str(cell.value or "")) for cell in cells[:50])
                sheet.column_dimensions[cells[0].column_letter].width = min(width + 2, 40)


def _printable(value: Any) -> Any:
    """Replace control characters, such as the colors of an error. A worksheet refuses them."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "?", value) if isinstance(value, str) else value


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return a data frame. Integer columns stay integers if values are missing."""
    frame: pd.DataFrame = _pandas().DataFrame.from_records(list(rows))
    return frame.convert_dtypes()


def _pandas() -> Any:
    try:
        import openpyxl  # noqa: F401  # all of the extra, or none
        import pandas as pd
        import pyarrow as pa  # noqa: F401
    except ImportError as error:
        raise RequestError(
            f"Parquet and xlsx need {error.name}: pip install 'fedsweep[tables]'"
        ) from error
    return pd

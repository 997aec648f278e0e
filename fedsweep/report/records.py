"""A summary as records, a cell each: CSV, JSON, Parquet, a workbook."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

from fedsweep.errors import RequestError
from fedsweep.measures import COMPARABLE, OPTIONAL
from fedsweep.report import queries
from fedsweep.report.differences import Contrast, against, gaps, marks
from fedsweep.report.grouping import FIELDS, Cell, Summary
from fedsweep.report.labels import Column, Key
from fedsweep.report.tables import View

if TYPE_CHECKING:
    import pandas as pd


def records(summary: Summary, view: View | None = None) -> list[dict[str, Any]]:
    """One record a cell: its configuration, its numbers (accuracies 0..1), its query.

    `difference` and what follows it are None where nothing was compared; so is `gap`.
    """
    view = view or View()
    baseline = view.baseline
    compared = _by_cell(against(summary, view.first, baseline)) if baseline is not None else {}
    central = _by_cell(gaps(summary, view.first))
    query = queries.of_table(summary, view.first, view.conditions)
    found = []
    for key, cells in summary.cells.items():
        marked = marks(cells, view.first)
        for column, cell in cells.items():
            found.append(
                {
                    **_numbers(summary, cell, view),
                    "best": int(column == marked.best),
                    "not_worse": int(column in marked.level),
                    **_contrast("difference", compared.get((key, column))),
                    **_contrast("gap", central.get((key, column))),
                    "query": query,
                }
            )
    return found


def _numbers(summary: Summary, cell: Cell, view: View) -> dict[str, Any]:
    told = dict.fromkeys(["test_accuracy", *OPTIONAL, *([view.measure] if view.measure else [])])
    spreads = {name: cell.measure(name) for name in COMPARABLE if name in told}
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


def _by_cell(contrasts: Sequence[Contrast]) -> dict[tuple[Key, Column], Contrast]:
    return {(c.key, c.column): c for c in contrasts}


def _contrast(name: str, contrast: Contrast | None) -> dict[str, Any]:
    apart = contrast.found if contrast is not None else None
    return {
        name: apart.mean if apart else None,
        f"{name}_low": apart.low if apart else None,
        f"{name}_high": apart.high if apart else None,
        f"{name}_pairs": apart.n if apart else None,
        f"{name}_p": contrast.p if contrast else None,
    }


def as_json(found: Sequence[dict[str, Any]]) -> str:
    """One list of records."""
    out = io.StringIO()
    for part in json.JSONEncoder(indent=2).iterencode(list(found)):  # `dumps` would keep all parts
        out.write(part)
    return out.getvalue() + "\n"


def as_csv(found: Sequence[dict[str, Any]]) -> str:
    """A line a record, under a header."""
    out = io.StringIO()
    if found:
        writer = csv.DictWriter(out, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    return out.getvalue()


def write_parquet(found: Sequence[dict[str, Any]], file: IO[bytes]) -> None:
    """A row a record.

    Raises:
        RequestError: the extra `tables` is missing.

    """
    _frame(found).to_parquet(file, index=False)


def write_workbook(
    found: Sequence[dict[str, Any]], trials: Sequence[dict[str, Any]], file: IO[bytes]
) -> None:
    """Two sheets: the cells, and the trials that they are made of.

    Raises:
        RequestError: the extra `tables` is missing.

    """
    pandas = _pandas()
    with pandas.ExcelWriter(file, engine="openpyxl") as book:
        for name, records in (("cells", found), ("trials", trials)):
            sheet_of = _frame(records).map(_printable)
            sheet_of.to_excel(book, sheet_name=name, index=False)
            sheet = book.sheets[name]
            sheet.freeze_panes = "A2"
            sheet.auto_filter.ref = sheet.dimensions
            for cells in sheet.iter_cols():
                for cell in cells:
                    if isinstance(cell.value, str):
                        cell.data_type = "s"  # a name that begins with = is no formula
                width = max(len(str(cell.value or "")) for cell in cells[:50])
                sheet.column_dimensions[cells[0].column_letter].width = min(width + 2, 40)


def _printable(value: Any) -> Any:
    """Without what no worksheet may hold: an error may be colored by escape codes."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "?", value) if isinstance(value, str) else value


def _frame(found: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """With whole numbers as such, also where some are missing."""
    frame: pd.DataFrame = _pandas().DataFrame.from_records(list(found))
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

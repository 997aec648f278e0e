"""The views as data frames of pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep.exports import require
from fedsweep.exports.columns import column_types, view_query
from fedsweep.store import sweep_rows
from fedsweep.store.transactions import reading

if TYPE_CHECKING:
    import pandas as pd

TYPES = {int: "Int64", float: "float64", str: "object"}
"""The type of pandas for each type of a view's column. Int64 can miss values."""


def frame(engine: Engine, view: str, sweep: str | None = None) -> pd.DataFrame:
    """Return a view as a data frame, of one sweep or of all (None). Its columns are the view's.

    Raises:
        PackageMissing: pandas is not installed.
        NotFound: there is no such sweep.

    """
    require(f"of {view}", "tables", "pandas")
    import pandas as pd

    scoped = sweep is not None
    with reading(engine) as connection:
        if sweep is not None:
            sweep_rows.require_sweep(connection, sweep)
        query = sa.text(view_query(view, scoped=scoped))
        found = connection.execute(query, {"sweep": sweep} if scoped else {})
        names = list(found.keys())
        rows = [tuple(row) for row in found]
    kinds = {name: TYPES[column_types()[name]] for name in names}
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    data = {
        name: pd.Series(column, dtype=kinds[name])
        for name, column in zip(names, columns, strict=True)
    }
    return pd.DataFrame(data, columns=names)

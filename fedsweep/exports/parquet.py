"""Export each view to a Parquet file, for pandas, DuckDB, polars, R and Spark."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sqlalchemy.engine import Connection, Engine

from fedsweep.exports import ShowProgress, require
from fedsweep.exports.columns import column_types, view_columns, view_query
from fedsweep.exports.folder import opened_together, refuse_foreign_files
from fedsweep.store import sweep_rows
from fedsweep.store.dialects import dialect_of
from fedsweep.store.targets import refuse_own
from fedsweep.store.transactions import reading
from fedsweep.store.views import NAMES

if TYPE_CHECKING:
    import pyarrow as pa

VIEW_KEY = b"fedsweep.view"
"""The key of the view's name in the metadata of a file."""


@dataclass(frozen=True)
class WrittenView:
    """The file of a view, with its number of rows and bytes."""

    file: Path
    rows: int
    bytes: int


def export(
    engine: Engine, folder: Path, sweep: str | None, progress: ShowProgress, *, force: bool = False
) -> list[WrittenView]:
    """Write every view of one sweep or of all, from one snapshot of the database.

    Raises:
        PackageMissing: pyarrow is not installed.
        NotFound: there is no such sweep.
        RequestError: the folder has foreign files and `force` is off, or cannot be written.

    """
    require("parquet", "tables", "pyarrow")
    files = {view: folder / f"{view}.parquet" for view in NAMES}
    for target in (folder, *files.values()):
        refuse_own(engine, target, "--output")
    if not force:
        refuse_foreign_files(folder, _is_ours)
    with reading(engine) as connection:
        if sweep is not None:
            sweep_rows.require_sweep(connection, sweep)
        files = {view: folder / f"{view}.parquet" for view in NAMES}
        with opened_together(folder, [file.name for file in files.values()]) as opened:
            counts = {
                view: _write(connection, view, opened[file.name], sweep, progress)
                for view, file in files.items()
            }
    return [WrittenView(files[view], n, files[view].stat().st_size) for view, n in counts.items()]


def _is_ours(file: Path) -> bool:
    """Return whether an earlier export wrote the file."""
    import pyarrow as pa
    from pyarrow import parquet

    if file.stem not in NAMES or file.suffix != ".parquet":
        return False
    try:
        metadata = parquet.read_schema(file).metadata
    except (pa.ArrowInvalid, OSError):
        return False
    return VIEW_KEY in (metadata or {})


def _write(
    connection: Connection, view: str, file: IO[bytes], sweep: str | None, progress: ShowProgress
) -> int:
    """Write a view, and return the number of its rows."""
    from pyarrow import parquet

    schema, count = _schema(connection, view), 0
    dialect, scoped = dialect_of(connection), sweep is not None
    dialect.lift_time_limits(connection)  # rows are fetched only as fast as the file is written
    batches = dialect.read_all(
        connection,
        view_query(view, scoped=scoped),
        {"sweep": sweep} if scoped else {},
        from_rows=lambda rows: [_batch(rows, schema)],
        from_csv=lambda block: _parsed(block, schema),
    )
    # An unfinished COPY would keep the connection busy, so it is closed first.
    with closing(batches), parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
            progress(view, count, None)
    return count


def _schema(connection: Connection, view: str) -> pa.Schema:
    """Return the schema of a view. A column of only NULL keeps its type, too."""
    import pyarrow as pa

    arrow = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    fields = [(name, arrow[column_types()[name]]) for name in view_columns(connection, view)]
    return pa.schema(fields, metadata={VIEW_KEY: view.encode()})


def _batch(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    """Turn rows into columns."""
    import pyarrow as pa

    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _parsed(block: bytes, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Parse CSV by Arrow, without a Python object for each value."""
    import pyarrow as pa
    from pyarrow import csv

    table = csv.read_csv(
        pa.BufferReader(block),
        read_options=csv.ReadOptions(column_names=schema.names, block_size=len(block) + 1),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=schema,
            null_values=[""],  # only without quotes: a quoted "" is an empty text
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    batches: list[pa.RecordBatch] = table.replace_schema_metadata(schema.metadata).to_batches()
    return batches

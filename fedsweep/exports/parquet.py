"""Each view as a Parquet file, for pandas, DuckDB, polars, R and Spark."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sqlalchemy.engine import Connection, Engine

from fedsweep.exports import Progress, require
from fedsweep.exports.columns import columns_of, kinds, rows_of
from fedsweep.exports.folder import opened_together, refuse_foreign
from fedsweep.store import sweep_rows
from fedsweep.store.dialects import dialect_of
from fedsweep.store.targets import refuse_own
from fedsweep.store.transactions import reading
from fedsweep.store.views import NAMES

if TYPE_CHECKING:
    import pyarrow as pa

MARK = b"fedsweep.view"
"""The key under which a file says which view it is."""


@dataclass(frozen=True)
class Written:
    """A file that was written."""

    file: Path
    rows: int
    bytes: int


def export(
    engine: Engine, folder: Path, sweep: str | None, progress: Progress, *, force: bool = False
) -> list[Written]:
    """Write every view, of one sweep or of all: one state of the whole database, typed.

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
        refuse_foreign(folder, _is_ours)
    with reading(engine) as connection:
        if sweep is not None:
            sweep_rows.require_sweep(connection, sweep)
        files = {view: folder / f"{view}.parquet" for view in NAMES}
        with opened_together(folder, [file.name for file in files.values()]) as opened:
            counts = {
                view: _write(connection, view, opened[file.name], sweep, progress)
                for view, file in files.items()
            }
    return [Written(files[view], n, files[view].stat().st_size) for view, n in counts.items()]


def _is_ours(file: Path) -> bool:
    """Whether an earlier export wrote it."""
    import pyarrow as pa
    from pyarrow import parquet

    if file.stem not in NAMES or file.suffix != ".parquet":
        return False
    try:
        metadata = parquet.read_schema(file).metadata
    except (pa.ArrowInvalid, OSError):
        return False
    return MARK in (metadata or {})


def _write(
    connection: Connection, view: str, file: IO[bytes], sweep: str | None, progress: Progress
) -> int:
    """Write one view; returns the number of its rows."""
    from pyarrow import parquet

    schema, count = _schema(connection, view), 0
    dialect, scoped = dialect_of(connection), sweep is not None
    dialect.lift_time_limits(connection)  # it fetches as fast as the file takes it
    batches = dialect.read_all(
        connection,
        rows_of(view, scoped=scoped),
        {"sweep": sweep} if scoped else {},
        from_rows=lambda rows: [_batch(rows, schema)],
        from_csv=lambda block: _parsed(block, schema),
    )
    # Closed before the connection is: an unfinished COPY would keep it.
    with closing(batches), parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
            progress(view, count, None)
    return count


def _schema(connection: Connection, view: str) -> pa.Schema:
    """Integers, doubles and strings, whatever the values are: a column of NULL keeps its type."""
    import pyarrow as pa

    arrow = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    fields = [(name, arrow[kinds()[name]]) for name in columns_of(connection, view)]
    return pa.schema(fields, metadata={MARK: view.encode()})


def _batch(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    """Turn rows to columns."""
    import pyarrow as pa

    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _parsed(block: bytes, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Let Arrow read the text: no value becomes an object of Python's."""
    import pyarrow as pa
    from pyarrow import csv

    table = csv.read_csv(
        pa.BufferReader(block),
        read_options=csv.ReadOptions(column_names=schema.names, block_size=len(block) + 1),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=schema,
            null_values=[""],  # without quotes; "" is an empty text
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    batches: list[pa.RecordBatch] = table.replace_schema_metadata(schema.metadata).to_batches()
    return batches

"""Exports to Parquet: typed, complete and equal on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from pyarrow import parquet as pq
from sqlalchemy.engine import Engine

from fedsweep.errors import NotFound, RequestError
from fedsweep.exports import parquet
from fedsweep.exports.columns import column_types, view_columns
from fedsweep.store.schema import open_store
from fedsweep.store.transactions import reading, transaction
from fedsweep.store.views import NAMES
from tests import study
from tests.builders import silent

pytestmark = pytest.mark.quick_on("sqlite")


def rows(store: Engine, view: str) -> list[dict[str, Any]]:
    with reading(store) as connection:
        mappings = connection.execute(sa.text(f"SELECT * FROM {view}")).mappings()
        return sorted(map(dict, mappings), key=str)


def test_each_view_is_a_file_with_the_same_rows(filled: Engine, tmp_path: Path) -> None:
    """Every column and value is equal, and NULL stays NULL."""
    written = parquet.export(filled, tmp_path / "out", None, silent)
    assert [one.file.name for one in written] == [f"{view}.parquet" for view in NAMES]
    for view, one in zip(NAMES, written, strict=True):
        stored = rows(filled, view)
        assert sorted(pq.read_table(one.file).to_pylist(), key=str) == stored
        assert (one.rows, one.bytes) == (len(stored), one.file.stat().st_size)


def test_both_databases_give_the_same_types(
    sqlite_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """Booleans and integers are integers, even if all values of a column are NULL."""
    schemas = []
    for name, url in (("sqlite", sqlite_url), ("postgres", postgres_url)):
        store = open_store(url)
        parquet.export(store, tmp_path / name, None, silent)
        files = (tmp_path / name).iterdir()
        schemas.append({file.name: pq.read_schema(file) for file in files})
        store.dispose()
    assert schemas[0] == schemas[1]
    results = schemas[0]["results.parquet"]
    assert results.field("decay_norm").type == pa.int64()
    assert results.field("gn_groups").type == pa.int64()
    assert results.field("test_miou").type == pa.float64()
    assert results.field("held").type == pa.string()


def test_every_column_of_every_view_has_the_type_that_postgres_says(postgres_url: str) -> None:
    """A new column without a type fails this test."""
    python = {"int8": int, "int4": int, "float8": float, "text": str}
    store = open_store(postgres_url)
    with reading(store) as connection:
        for view in NAMES:
            view_columns(connection, view)
            driver: Any = connection.connection.driver_connection
            with driver.cursor() as cursor:
                cursor.execute(f"SELECT * FROM {view} LIMIT 0")
                for column in cursor.description:
                    name = psycopg.adapters.types[column.type_code].name
                    assert column_types()[column.name] is python[name], (view, column.name)
    store.dispose()


def test_text_is_exported_unchanged(filled: Engine, tmp_path: Path) -> None:
    """Quotes, commas, line breaks and an empty text are kept, and are not NULL."""
    texts = ['a "quoted", text', "two\nlines\r\nand more", "", "\\N", "NULL", "é – ×"]
    with transaction(filled) as connection:
        keys = connection.execute(sa.text("SELECT id FROM trials ORDER BY id LIMIT 6")).scalars()
        for key, text in zip(list(keys), texts, strict=True):
            connection.execute(
                sa.text("UPDATE trials SET error = :text WHERE id = :key"),
                {"text": text, "key": key},
            )
    parquet.export(filled, tmp_path / "out", None, silent)
    errors = pq.read_table(tmp_path / "out" / "results.parquet").column("error").to_pylist()
    others = [text for text in errors if text not in texts]
    assert sorted(text for text in errors if text in texts) == sorted(texts)
    assert sorted(others, key=str) == [None] * 5 + ["the loss is nan in round 2"]


def test_one_sweep_can_be_exported(filled: Engine, tmp_path: Path) -> None:
    """Trials that it shares with another sweep are included."""
    plan = study.PLAN.replace('"study"', '"other"').replace('["bn", "gn"]', '"bn"')
    (tmp_path / "other.toml").write_text(plan.partition('[[grid]]\nnormalizer = "fixbn"')[0])
    from fedsweep.plans import read_plan
    from fedsweep.store import planning

    with transaction(filled) as connection:
        planning.add_sweep(connection, read_plan(tmp_path / "other.toml").alone())
    written = parquet.export(filled, tmp_path / "out", "other", silent)
    counts = {one.file.stem: one.rows for one in written}
    assert counts == {
        "results": 4, "curves": 12, "members": 4, "cells": 2, "ledger": 1, "clients": 12,
    }  # fmt: skip
    with pytest.raises(NotFound):
        parquet.export(filled, tmp_path / "none", "x' OR '1'='1", silent)
    assert not (tmp_path / "none").exists()


def test_foreign_files_are_kept_and_own_files_replaced(filled: Engine, tmp_path: Path) -> None:
    """With --force, the export writes into the same folder. No temporary file is left."""
    out = tmp_path / "out"
    parquet.export(filled, out, None, silent)
    parquet.export(filled, out, None, silent)
    pq.write_table(pa.table({"mine": [1]}), out / "cells.parquet")
    with pytest.raises(RequestError, match=r"has other files in it \(cells.parquet\)"):
        parquet.export(filled, out, None, silent)
    assert pq.read_schema(out / "cells.parquet").names == ["mine"]
    (out / "notes.txt").write_text("mine")
    parquet.export(filled, out, None, silent, force=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert pq.read_schema(out / "cells.parquet").names != ["mine"]
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []
    with pytest.raises(RequestError, match="is a file"):
        parquet.export(filled, out / "notes.txt", None, silent)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_links_are_followed_and_modes_kept(filled: Engine, tmp_path: Path) -> None:
    """A temporary file of a killed export does not make the folder foreign."""
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    parquet.export(filled, folder, None, silent)
    for file in sorted(folder.iterdir()):
        file.rename(elsewhere / file.name)
        (elsewhere / file.name).chmod(0o600)
        file.symlink_to(elsewhere / file.name)
    (folder / ".fedsweep-0123").write_bytes(b"half")
    parquet.export(filled, folder, None, silent)
    for view in NAMES:
        assert (folder / f"{view}.parquet").is_symlink()
        assert (elsewhere / f"{view}.parquet").stat().st_mode & 0o777 == 0o600
    assert len(list(elsewhere.iterdir())) == len(NAMES)


def test_an_interrupted_export_leaves_the_old_files(filled: Engine, tmp_path: Path) -> None:
    """Either all files are replaced, or none."""
    out = tmp_path / "out"
    parquet.export(filled, out, None, silent)
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}

    def breaks(view: str, _done: int, _total: int | None) -> None:
        if view == "cells":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parquet.export(filled, out, None, breaks)
    assert {file.name: file.stat().st_mtime_ns for file in out.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_pandas_and_duckdb_read_the_files(filled: Engine, tmp_path: Path) -> None:
    """Pandas reads the store, too. The mean of fixbn at T* = 1 is 0.78."""
    parquet.export(filled, tmp_path, None, silent, force=True)
    query = "SELECT * FROM cells WHERE freeze_round = 1"
    with reading(filled) as connection:
        from_store = pd.read_sql(sa.text(query), connection)
    from_file = pd.read_parquet(tmp_path / "cells.parquet")
    from_duckdb = duckdb.sql(
        f"{query.replace('cells', repr(str(tmp_path / 'cells.parquet')))}"
    ).df()
    for frame in (from_store, from_file[from_file.freeze_round == 1], from_duckdb):
        assert frame.mean_test_accuracy.tolist() == pytest.approx([0.78])

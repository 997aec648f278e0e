"""A fedsweep database is never what a command writes its results to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from fedsweep.errors import RequestError
from fedsweep.store.file_index import put_files
from fedsweep.store.readonly import open_to_read
from fedsweep.store.schema import open_store
from fedsweep.store.targets import refuse_own
from fedsweep.store.transactions import transaction
from tests import study
from tests.acceptance.command import at_once, query

OWN_FILES = [
    "fedsweep.db",
    "link.db",
    "hard.db",
    "sub/../fedsweep.db",
    "fedsweep.db-wal",
    "fedsweep.db-shm",
    "fedsweep.db-journal",
    "fedsweep.db-turn",
    "fedsweep.db.artifacts/new",
    "link.db.artifacts/new",
    "files/STORE/new",
    "another.db",
]
WRITERS = [
    ["report", "--format", "csv", "--output"],
    ["report", "--format", "xlsx", "--output"],
    ["report", "--figures"],
    ["search", "export", "--storage"],
    ["export", "parquet", "--force", "--output"],
    ["export", "tensorboard", "--output"],
    ["export", "mlflow", "--output"],
]


@pytest.fixture
def folder(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a study, links to it, another store, and a folder for its files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    Path("link.db").symlink_to("fedsweep.db")
    store = open_store("sqlite:///link.db")
    study.fill(store, tmp_path)
    with transaction(store) as connection:
        put_files(connection, "study", str(tmp_path / "files"))
    store.dispose()
    shutil.copy("fedsweep.db", "another.db")
    Path("hard.db").hardlink_to("fedsweep.db")
    return tmp_path


def _store_id(folder: Path) -> str:
    return str(query(f"sqlite:///{folder}/fedsweep.db", "SELECT id FROM store")[0][0])


@pytest.mark.parametrize("name", OWN_FILES)
def test_every_file_of_a_store_is_known(name: str, folder: Path) -> None:
    """As a path, as a URL and as a file: URI."""
    name = name.replace("STORE", _store_id(folder))
    engine = open_to_read("sqlite:///link.db")
    try:
        for target in (Path(name), name, f"sqlite:///{name}", f"file:{folder}/{name}"):
            with pytest.raises(RequestError, match="is a fedsweep database or one of its files"):
                refuse_own(engine, target, "--output")
    finally:
        engine.dispose()
    assert not list(folder.glob("another.db-*"))


@pytest.mark.parametrize("name", ["new.csv", "sub", "/dev/null", "sub/fedsweep.db-wal.csv"])
def test_other_places_are_free(name: str, folder: Path) -> None:
    """The folder of the database too, and databases of others."""
    engine = open_to_read(f"sqlite:///{folder}/fedsweep.db")
    others = (
        "sqlite:///study.db",
        "sqlite://",
        "http://h/x",
        "mysql://u@h/n",
        "postgresql://h:1/n",
    )
    for target in (Path(name), name, *others):
        refuse_own(engine, target, "--output")
    engine.dispose()


@pytest.mark.parametrize("writer", WRITERS, ids=" ".join)
def test_every_writer_asks_first(writer: list[str], folder: Path) -> None:
    """It refuses with exit 2, and no byte of the store changes."""
    database = writer[0] == "search" or writer[1] == "mlflow"
    target = "sqlite:///link.db" if database else "link.db.artifacts"
    before = Path("fedsweep.db").read_bytes()
    names = {path.name for path in folder.iterdir()}
    said = at_once(*writer, target, cwd=folder, code=2).stderr
    assert said == (
        f"fedsweep: {writer[-1]} is a fedsweep database or one of its files: name another one\n"
    )
    assert Path("fedsweep.db").read_bytes() == before
    assert {path.name for path in folder.iterdir()} == names


def test_a_server_s_store_is_known_by_its_tables(postgres_url: str, tmp_path: Path) -> None:
    """Not by its URL; another schema of the same database is free."""
    engine = open_to_read(postgres_url)
    plain = make_url(postgres_url)
    for name in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        url = plain.set(drivername=name).render_as_string(hide_password=False)
        with pytest.raises(RequestError, match="--storage is a fedsweep database"):
            refuse_own(engine, url, "--storage")
    others = plain.set(database="template1").render_as_string(hide_password=False)
    for target in (others, tmp_path, f"sqlite:///{tmp_path}/study.db"):
        refuse_own(engine, target, "--storage")
    engine.dispose()


def test_a_copy_never_goes_onto_its_own_files(folder: Path) -> None:
    """Neither by a link, nor by the name of its log."""
    source = f"sqlite:///{folder}/fedsweep.db"
    before = Path("fedsweep.db").read_bytes()
    for command in ("copy", "merge"):
        said = at_once("db", command, source, "sqlite:///link.db", code=2).stderr
        assert "the same one: name two" in said
        said = at_once("db", command, source, "sqlite:///fedsweep.db-journal", code=2).stderr
        assert "fedsweep.db-journal belongs to the database fedsweep.db" in said
    assert Path("fedsweep.db").read_bytes() == before


def test_a_drawn_partition_never_replaces_the_database(folder: Path) -> None:
    """Before anything is planned."""
    said = at_once(
        "plan", "study.toml", "--db", "sqlite:///x.png", "--show-partition", "x.png",
        cwd=folder, code=2,
    ).stderr  # fmt: skip
    assert "--show-partition is fedsweep's own database: name another file" in said
    assert not Path("x.png").exists()

"""One database, under every name that a user gives it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

import pytest
from sqlalchemy.engine import make_url

from fedsweep.cli.arguments import url
from fedsweep.errors import RequestError
from fedsweep.settings import data_folder
from fedsweep.store.artifacts import folder_of
from fedsweep.store.dialects import sqlite_file
from fedsweep.store.engine import parse_url
from fedsweep.store.file_index import Snapshot
from fedsweep.store.file_places import Home
from fedsweep.store.schema import open_store
from fedsweep.store.transactions import transaction
from tests.acceptance.command import at_once
from trainers.data.cache import cache_folder

STORE = "0123456789abcdef"
NAME, NEW = "abc-7-a.safetensors", f"abc-7-{STORE}-b.safetensors"
SPELLINGS = [
    "sqlite:///{folder}/study.db",
    "sqlite:///study.db",
    "sqlite:///./other/../study.db",
    "sqlite:///link.db",
    "sqlite:///link of link.db",
    "sqlite:///linked folder/study.db",
    "sqlite:///file:study.db?uri=true",
    "sqlite:///file:///{folder}/link.db?uri=true",
    "sqlite:///file://localhost{folder}/study.db?uri=true",
    "sqlite:///link%20of%20link.db?uri=true",
    "sqlite:///~/study.db",
    "  sqlite:///study.db\r\n",
    "sqlite:///study.db \n",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working and home folder, with a database and links to it."""
    folder = tmp_path.resolve() / "real"
    (folder / "other").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    open_store("sqlite:///study.db", create=True).dispose()
    Path("link.db").symlink_to("study.db")
    Path("link of link.db").symlink_to("link.db")
    Path("linked folder").symlink_to(folder)
    return folder


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_names_one_file(spelling: str, folder: Path) -> None:
    """The files next to it have one name too."""
    before = {path.name for path in folder.iterdir()}
    store = open_store(spelling.format(folder=folder))
    assert sqlite_file(store.url) == folder / "study.db"
    assert str(folder_of(store.url, Home(STORE, None))) == f"{folder}/study.db.artifacts"
    with transaction(store):
        pass
    store.dispose()
    assert {path.name for path in folder.iterdir()} == before | {"study.db-turn"}
    again = parse_url(store.url.render_as_string(hide_password=False))
    assert again == store.url


@pytest.mark.parametrize(
    "name",
    [
        "a%3Fb.db",
        "a%2523b.db",
        "100%2525.db",
        "with blank.db",
        "ünï⋆.db",
        "\udcff.db",
        "a%26b%3Dc.db",
    ],
)
def test_special_characters_are_part_of_a_name(name: str, folder: Path) -> None:
    """They are written as in SQLite's URIs, and the database works under that name."""
    address = f"sqlite:///file:odd/{name}?uri=true"
    (folder / "odd").mkdir()
    store = open_store(address, create=True)
    file = sqlite_file(store.url)
    with transaction(store):
        pass
    store.dispose()
    assert file is not None
    assert file.name == unquote(unquote(name))
    assert {path.name for path in (folder / "odd").iterdir()} == {file.name, f"{file.name}-turn"}
    assert "0" in at_once("sql", "SELECT count(*) FROM trials", "--db", address).stdout


def test_a_plain_url_contains_the_exact_name(folder: Path) -> None:
    """Spaces and number signs are characters of the name, and %3F is a question mark."""
    names = {"100%.db": "100%.db", "a%3Fb.db": "a?b.db", "a#b.db": "a#b.db", "a b.db": "a b.db"}
    for written, name in names.items():
        open_store(f"sqlite:///{written}", create=True).dispose()
        assert (folder / name).is_file()
        assert "0" in at_once("sql", "SELECT 0", "--db", f"sqlite:///{written}").stdout


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("sqlite:///what?.db", "write %3F for it"),
        ("sqlite:///what?x=1", "is not an option of SQLite"),
        ("sqlite:///what?", "write %3F for it"),
        ("sqlite:///two\nlines.db", "has a line end or a control character"),
        ("sqlite:///nul\0.db", "has a line end or a control character"),
        ("postgresql://h/n\nx", "has a line end or a control character"),
        ("sqlite:///file::memory:?uri=true", "in memory"),
        ("sqlite:///x.db?mode=memory", "in memory"),
        ("sqlite:///file://server/x.db?uri=true", "not a database URL"),
        ("sqlite:///loop.db", "cannot be followed"),
        ("sqlite:///study.db-wal", "study.db-wal belongs to the database study.db"),
        ("sqlite:///study.db-turn", "study.db-turn belongs to the database study.db"),
        ("sqlite:///study.db.artifacts/x.db", "belongs to the database study.db"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(address: str, says: str, folder: Path) -> None:
    """No second file is created."""
    Path("loop.db").symlink_to("loop.db")
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(RequestError, match=says):
        open_store(address, create=True)
    assert {path.name for path in folder.iterdir()} == before


def test_a_link_to_a_missing_file_creates_that_file(folder: Path) -> None:
    """The link stays a link."""
    Path("new link.db").symlink_to("other/new.db")
    open_store("sqlite:///new link.db", create=True).dispose()
    assert Path("new link.db").is_symlink()
    assert (folder / "other" / "new.db").is_file()


def test_files_that_lie_next_to_a_link_are_found(folder: Path) -> None:
    """Earlier versions put snapshots and weights there. New ones go to the database's folder."""
    earlier = folder_of(make_url(f"sqlite:///{folder}/link.db"), Home(STORE, None))
    kept = Snapshot(1, "numerics", NAME, 7, earlier.write(NAME, b"content"))
    store = open_store("sqlite:///link.db")
    assert (folder / "link.db.artifacts" / NAME).is_file()
    current = folder_of(store.url, Home(STORE, None))
    assert current.read(kept) == b"content"
    current.write(NEW, b"new")
    store.dispose()
    assert (folder / "study.db.artifacts" / NEW).is_file()
    assert current.remove(NAME) == len(b"content")
    assert not (folder / "link.db.artifacts" / NAME).exists()


@pytest.mark.parametrize("blank", ["", " ", "\n", " \r\n"])
def test_spaces_around_an_environment_variable_are_ignored(
    blank: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Files of such variables often end with a line end. A blank variable counts as not set."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for value in ("sqlite:///x.db", ""):
        monkeypatch.setenv("FEDSWEEP_DB", value + blank)
        assert url(None) == (value or "sqlite:///fedsweep.db")
        assert url(blank) == (value or "sqlite:///fedsweep.db")
        place = os.fspath(tmp_path / "data") if value else ""
        monkeypatch.setenv("FEDSWEEP_DATA", place + blank)
        assert data_folder(None) == (tmp_path / "data" if value else None)
        monkeypatch.setenv("FEDSWEEP_CACHE", place + blank)
        assert cache_folder() == (tmp_path / "data" if value else tmp_path / "fedsweep/decoded")

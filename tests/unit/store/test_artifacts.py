"""The files of a store: in a folder of this machine, or at a URL."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from sqlalchemy.engine import URL, make_url

from fedsweep.errors import RequestError
from fedsweep.files import write_whole
from fedsweep.store import artifacts, trust
from fedsweep.store.artifacts import Folder, Outside, Unapproved, folder_of, parse
from fedsweep.store.file_index import Weights
from fedsweep.store.file_places import Home

STORE = "0123456789abcdef"
NAME = f"abc-7-{STORE}-a.safetensors"
OLD = "abc-7-a.safetensors"
SQLITE = make_url("sqlite:////sweeps/fedsweep.db")
POSTGRES = make_url("postgresql+psycopg://user@host/name")


@pytest.fixture(autouse=True)
def own_data_folder(
    memory_bucket: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("share")))


def approved(place: str, url: URL = SQLITE) -> Folder:
    """Approve a place for this user, and return its folder."""
    trust.approve(STORE, place)
    return folder_of(url, Home(STORE, place))


@pytest.fixture(params=["here", "there"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder: on this machine, or at a URL that only fsspec reaches."""
    return approved(str(tmp_path) if request.param == "here" else f"memory:/{tmp_path}")


def wrote(folder: Folder, content: bytes = b"content") -> Weights:
    return Weights(NAME, len(content), folder.write(NAME, content))


def test_a_file_is_read_back_as_it_was_written(folder: Folder) -> None:
    """After the file is deleted, no file is left."""
    kept = wrote(folder)
    assert kept.sha256 == hashlib.sha256(b"content").hexdigest()
    assert folder.read(kept) == b"content"
    assert folder.size(NAME) == folder.remove(NAME) == 7
    assert folder.size(NAME) is folder.remove(NAME) is folder.read(kept) is None


def test_a_file_replaces_another_of_the_same_name(folder: Folder) -> None:
    """The second one is read."""
    first, second = wrote(folder), wrote(folder, b"other")
    assert folder.read(first) is None
    assert folder.read(second) == b"other"


@pytest.mark.parametrize("content", [b"", b"Content", b"content and more"])
def test_a_file_with_other_content_is_not_read(content: bytes, folder: Folder) -> None:
    """The content is cut off, changed, or longer."""
    kept = wrote(folder)
    folder.write(NAME, content)
    assert folder.read(kept) is None


@pytest.mark.parametrize("name", ["../precious", "/precious", "a/../../precious", "..", ".", ""])
def test_names_cannot_lead_out_of_their_folder(name: str, folder: Folder, tmp_path: Path) -> None:
    """The name in an index row makes no difference."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"keep")
    for bad in (name, str(precious), name.replace("/", "\\"), f"{name}\0"):
        for work in (folder.remove, folder.size, lambda n: folder.write(n, b"no")):
            with pytest.raises(Outside):
                work(bad)
        assert folder.read(Weights(bad, 4, hashlib.sha256(b"keep").hexdigest())) is None
    assert precious.read_bytes() == b"keep"


def test_links_cannot_lead_out_of_a_folder(tmp_path: Path) -> None:
    """The folder itself may be a link."""
    (tmp_path / "disk").mkdir()
    (tmp_path / STORE).symlink_to("disk")
    folder = approved(str(tmp_path))
    assert folder.read(wrote(folder)) == b"content"
    precious = tmp_path / "precious"
    precious.write_bytes(b"keep")
    (tmp_path / "disk" / OLD).symlink_to(precious)
    for work in (folder.remove, folder.size):
        with pytest.raises(Outside):
            work(OLD)
    assert folder.read(Weights(OLD, 4, hashlib.sha256(b"keep").hexdigest())) is None
    assert precious.read_bytes() == b"keep"


def test_a_folder_with_the_name_of_a_file_is_an_error(folder: Folder) -> None:
    """It is neither read nor deleted."""
    kept = wrote(folder)
    folder.remove(NAME)
    if "://" in str(folder):
        MemoryFileSystem().pipe_file(f"{folder}/{NAME}/precious", b"keep")
    else:
        Path(str(folder), NAME).mkdir()
    assert folder.read(kept) is None
    for work in (folder.remove, folder.size):
        with pytest.raises(IsADirectoryError):
            work(NAME)


def test_a_partial_file_is_deleted_with_the_complete_one(tmp_path: Path) -> None:
    """If a write is killed, a later removal deletes the temporary file too."""
    folder = approved(str(tmp_path))
    wrote(folder)
    place = tmp_path / STORE
    (place / f".{NAME}").write_bytes(b"con")
    assert folder.remove(NAME) == 7
    assert list(place.iterdir()) == []


def test_a_killed_write_leaves_no_file_after_the_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each temporary file has a new name, which begins with the name of the file."""
    names: list[str] = []

    def killed(_file: object, aside: Path, _target: Path, **_: object) -> None:
        names.append(aside.name)
        raise SystemExit  # not an OSError: no file is deleted

    place = tmp_path / STORE
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "sync_and_replace", killed)
        for _ in range(2):
            with pytest.raises(SystemExit):
                approved(str(tmp_path)).write(NAME, b"half")
    assert len(set(names)) == 2
    assert all(name.startswith(f".{NAME}.") for name in names)
    assert {path.name for path in place.iterdir()} == set(names)
    (place / f".other-{NAME}.0123456789abcdef").write_bytes(b"of another file")
    folder = approved(str(tmp_path))
    wrote(folder)
    assert folder.remove(NAME) == 7
    left = [path.name for path in place.iterdir()]
    assert left == [f".other-{NAME}.0123456789abcdef"]


def test_a_link_with_a_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user of a shared folder cannot make a worker overwrite one of its own files."""
    precious, place = tmp_path / "precious", tmp_path / STORE
    precious.write_bytes(b"keep")
    place.mkdir()
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)  # another user guesses it
    for name in (f".{NAME}", f".{NAME}.{'0' * 16}"):
        (place / name).symlink_to(precious)
    folder = approved(str(tmp_path))
    with pytest.raises(FileExistsError):
        folder.write(NAME, b"other")
    assert precious.read_bytes() == b"keep"
    monkeypatch.undo()
    assert folder.read(wrote(folder)) == b"content"
    assert precious.read_bytes() == b"keep"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0o600, 0o700), (0o640, 0o750), (0o644, 0o755), (0o660, 0o770), (0o664, 0o775)],
)
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_folder_next_to_a_database_has_the_database_s_permissions(
    mode: int, expected: int, mask: int, tmp_path: Path
) -> None:
    """Users who share a database file share its snapshots. Other users cannot read them."""
    file = tmp_path / "fedsweep.db"
    file.touch()
    file.chmod(mode)
    url = make_url(f"sqlite:///{file}")
    before = os.umask(mask)
    try:
        for artifacts_url in (None, str(tmp_path / "new" / "files")):
            if artifacts_url is not None:
                trust.approve(STORE, artifacts_url)
            folder = folder_of(url, Home(STORE, artifacts_url))
            wrote(folder)
            assert Path(str(folder)).stat().st_mode & 0o777 == expected
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o700), (0o777, 0o770), (0o755, 0o750)])
def test_a_server_s_folder_is_shared_with_the_group_of_a_named_folder(
    mode: int | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default, it belongs only to the user. All others have no permissions in it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    named = tmp_path / "named"
    if mode is not None:
        named.mkdir()
        named.chmod(mode)
    trust.approve(STORE, str(named))
    folder = folder_of(POSTGRES, Home(STORE, None if mode is None else str(named)))
    wrote(folder)
    assert Path(str(folder)).stat().st_mode & 0o777 == expected
    if mode is None:
        for place in (tmp_path / "data", tmp_path / "data" / "fedsweep"):
            assert place.stat().st_mode & 0o777 == 0o700


def test_folders_are_created_on_file_systems_that_need_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bucket does not need them, but a disk of another machine does."""
    made, pipe_file = [], MemoryFileSystem.pipe_file

    def strict(self: MemoryFileSystem, path: str, content: bytes) -> None:
        if not made:
            raise FileNotFoundError(path)
        pipe_file(self, path, content)

    monkeypatch.setattr(MemoryFileSystem, "makedirs", lambda _, path, exist_ok: made.append(path))
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", strict)
    folder = approved("memory://disk")
    assert folder.read(wrote(folder)) == b"content"
    assert made == [f"/disk/{STORE}"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(artifacts, "QUICK_SECONDS", 0.05)


def test_storage_that_hangs_is_not_used_for_a_while(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No operation waits for it twice. It is used again after it answers."""
    folder = approved("memory://hangs")
    kept, answers, calls = wrote(folder), threading.Event(), []

    def hanging(*_: object, **__: object) -> bytes:
        calls.append(1)
        answers.wait()
        return b"content"

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "cat_file", hanging)
        assert folder.read(kept) is None
        assert folder.read(kept) is None
        folder._rests_until = 0.0
        with pytest.raises(TimeoutError, match=f"memory://hangs/{STORE} did not answer"):
            folder.write(NAME, b"late")  # the thread still runs
        assert calls == [1]
    answers.set()
    assert folder._last is not None
    folder._last.result()
    assert folder.read(kept) == b"content"


def test_each_store_has_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stores never have the same folder, even if they name the same place."""
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setattr(trust, "is_approved", lambda store, place: (store, place) != ("", ""))
    expected_places = {
        (SQLITE, None): ("/sweeps/fedsweep.db.artifacts", True),
        (POSTGRES, None): (f"/data/fedsweep/artifacts/{STORE}", False),
        (SQLITE, "/scratch"): (f"/scratch/{STORE}", True),
        (POSTGRES, "/scratch"): (f"/scratch/{STORE}", False),
        (SQLITE, "s3://bucket/x"): (f"s3://bucket/x/{STORE}", True),
        (POSTGRES, "s3://bucket/x"): (f"s3://bucket/x/{STORE}", True),
    }
    for (url, place), expected in expected_places.items():
        folder = folder_of(url, Home(STORE, place))
        assert (str(folder), folder.shared) == expected


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("files", "{here}/files"),
        ("../files/", "{above}/files"),
        ("/scratch/x/../y/", "/scratch/y"),
        ("file:///scratch/x", "/scratch/x"),
        ("local:///scratch/x", "/scratch/x"),
        ("~/files", "{home}/files"),
        ("memory://bucket/x/", "memory://bucket/x"),
    ],
)
def test_a_place_is_stored_in_one_spelling(
    text: str, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is stored with its absolute path, because workers start in other folders."""
    monkeypatch.chdir(tmp_path)
    names = {"here": tmp_path, "above": tmp_path.parent, "home": Path.home()}
    assert parse(text) == stored.format(**names)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("s3://key:hunter2@bucket/x", "password or a key"),
        ("sftp://u:hun/ter2@host/x", "password or a key"),
        ("s3://bucket/x?token=hunter2", "password or a key"),
        ("az://box/x?sv=1&sig=hunter2", "password or a key"),
        ("s3://bucket?AWS_SECRET_ACCESS_KEY=hunter2", "password or a key"),
        ("s4://bucket/x", "knows no s4://: name a folder"),
        ("https://host/x", "can only be read"),
        ("simplecache::s3://bucket", "neither a folder nor one URL"),
        ("s3://bucket::reference://x", "neither a folder nor one URL"),
        ("s3://bucket/x?versionId=1", "neither a folder nor one URL"),
        ("s3://bucket/../other", "neither a folder nor one URL"),
        ("ftp://host/x", "keeps no files by ftp://: name a folder"),
        ("reference://x", "keeps no files by reference://: name a folder"),
        ("S3://bucket", "knows no S3://: name a folder"),
        ("s3://", "names no folder"),
        ("", "names no folder"),
        ("file://host/x", "has a host"),
        ("a\nb", "neither a folder"),
        (__file__, "is a file: name a folder"),
    ],
)
def test_an_invalid_place_is_refused(text: str, why: str) -> None:
    """The message is one sentence. Secrets belong in the environment, because all users read the
    database.
    """
    with pytest.raises(RequestError, match=why) as refused:
        parse(text)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message repeats fsspec's."""

    def missing(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(RequestError, match="needs a package, here and .*: Install s3fs to access"):
        parse("s3://bucket/x")


def full(_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_whole(folder / NAME, b"new"),
        lambda folder: approved(str(folder.parent)).write(NAME, b"new"),
    ],
)
def test_a_write_that_fails_keeps_the_old_file(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full."""
    folder = tmp_path / STORE
    folder.mkdir()
    trust.approve(STORE, str(tmp_path))
    monkeypatch.setattr(trust, "approve", lambda *_: None)
    monkeypatch.setattr("os.fsync", full)
    (folder / NAME).write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        write(folder)
    assert [path.read_bytes() for path in folder.iterdir()] == [b"old"]


HOSTILE = (
    "reference::ftp://127.0.0.1/x",
    "reference://x",
    "simplecache::s3://bucket",
    "ftp://host/x",
    "s3://bucket::file:///",
    "filecache::/tmp",
    "sftp://host/x",
    "github://a:b@/",
    "zip://x",
    "relative",
    "../up",
    "/scratch/../etc",
    "~",
    "~/x",
    "",
    "/",
    "/a\nb",
    "/a\0b",
    "file:///x",
    "s3://key:hunter2@bucket",
    "s3://bucket?token=hunter2",
    "data:text/plain,x",
    "\udc80",
    "http://host/x?token=y",
    "http://host/../x",
    "memory",
    "x" * 5000,
    7,
    b"/scratch",
)


@pytest.mark.parametrize("place", HOSTILE, ids=repr)
def test_an_invalid_place_in_a_database_is_never_used(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it is approved, neither fsspec nor the file system gets it."""
    monkeypatch.setattr(trust, "is_approved", lambda _store, place: place not in ("/", "/x"))
    for name in ("fsspec.get_filesystem_class", "fsspec.core.url_to_fs"):
        monkeypatch.setattr(name, untouched)
    for url in (SQLITE, POSTGRES):
        folder = folder_of(url, Home(STORE, place))
        assert folder.places == []
        assert folder.read(Weights(NAME, 7, "0" * 64)) is None
        for work in (folder.remove, folder.size, partial(folder.write, content=b"no")):
            with pytest.raises((Outside, Unapproved)):
                work(NAME)


def untouched(*_: object, **__: object) -> None:
    raise AssertionError("fsspec was used")


@pytest.mark.parametrize("name", ["..", "../x", "", "a" * 16 + "/..", "A" * 16, "id", None, 16])
def test_an_invalid_store_name_has_no_folder(name: Any, tmp_path: Path) -> None:
    """The store name would be the name of the folder."""
    trust.allow([str(tmp_path)])
    for place in (None, str(tmp_path)):
        folder = folder_of(POSTGRES, Home(name, place))
        with pytest.raises(Outside):
            folder.write(NAME, b"no")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", [SQLITE, POSTGRES], ids=["sqlite", "postgres"])
@pytest.mark.parametrize("place", ["{tmp}", "memory://bucket"])
def test_a_place_that_was_not_approved_is_neither_read_nor_written(
    place: str, url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The approval is per store and user. The message contains the remedy. The environment
    variable approves the place too.
    """
    place = place.format(tmp=tmp_path)
    home = Home(STORE, place)
    trust.approve("f" * 16, place)
    trust.approve(STORE, f"{place}/elsewhere")
    folder = folder_of(url, home)
    assert "not approved here: run `fedsweep db trust`" in str(folder.refusal)
    with pytest.raises(Unapproved):
        folder.write(NAME, b"no")
    assert list(tmp_path.iterdir()) == list(MemoryFileSystem.store) == []
    monkeypatch.setenv("FEDSWEEP_ARTIFACTS", f" {place}/ ")
    folder = folder_of(url, home)
    assert folder.read(wrote(folder)) == b"content"
    monkeypatch.delenv("FEDSWEEP_ARTIFACTS")
    trust.approve(STORE, place)
    assert folder_of(url, home).read(wrote(folder)) == b"content"


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "abc-7-a.safetensors.txt",
        "abc-7-c.safetensors",
        "abc-x-a.safetensors",
        f".{NAME}",
        f"{NAME}\n",
        NAME.upper(),
        NAME.replace(STORE, "f" * 16),
        "model.safetensors",
        "abc-7-\N{ARABIC-INDIC DIGIT ONE}.safetensors",
        None,
        7,
        b"abc-7-a.safetensors",
    ],
    ids=repr,
)
def test_an_invalid_file_name_is_refused(name: Any, folder: Folder, tmp_path: Path) -> None:
    """A name of another store is invalid too. Such a file is not read, written or deleted."""
    kept = wrote(folder)
    for work in (folder.remove, folder.size, lambda n: folder.write(n, b"no")):
        with pytest.raises(Outside):
            work(name)
    assert folder.read(Weights(name, 7, kept.sha256)) is None
    assert folder.read(kept) == b"content"


def test_names_of_earlier_versions_stay_readable(folder: Folder) -> None:
    """These names lack the store's name."""
    for name in (OLD, "abc-7-b.safetensors", "abc-7-128.safetensors", "abc-7-weights.safetensors"):
        total = folder.write(name, b"content")
        assert folder.read(Weights(name, 7, total)) == b"content"
        assert folder.remove(name) == 7


def test_a_file_is_not_overwritten_if_overwrite_is_off(folder: Folder) -> None:
    """The file keeps its content."""
    kept = wrote(folder)
    with pytest.raises(FileExistsError):
        folder.write(NAME, b"other", overwrite=False)
    assert folder.read(kept) == b"content"
    folder.remove(NAME)
    folder.write(NAME, b"content", overwrite=False)
    assert folder.read(kept) == b"content"


def test_a_link_next_to_a_database_needs_an_approval(tmp_path: Path) -> None:
    """The link may come from the author of the database. A folder there belongs to the database."""
    url = make_url(f"sqlite:///{tmp_path}/fedsweep.db")
    (tmp_path / "disk").mkdir()
    link = tmp_path / "fedsweep.db.artifacts"
    link.symlink_to("disk")
    with pytest.raises(Unapproved, match=f"a link to {tmp_path}/disk, which you have not approved"):
        folder_of(url, Home(STORE, None)).write(NAME, b"no")
    assert list((tmp_path / "disk").iterdir()) == []
    trust.approve(STORE, str(tmp_path / "disk"))
    folder = folder_of(url, Home(STORE, None))
    assert folder.read(wrote(folder)) == b"content"
    assert [file.name for file in (tmp_path / "disk").iterdir()] == [NAME]


def test_a_pipe_with_the_name_of_a_file_does_not_block(tmp_path: Path) -> None:
    """It is neither read nor deleted."""
    folder = approved(str(tmp_path))
    kept = wrote(folder)
    file = tmp_path / STORE / NAME
    file.unlink()
    os.mkfifo(file)
    assert folder.read(kept) is None
    with pytest.raises(Outside, match="not a regular file"):
        folder.remove(NAME)


def test_files_at_an_http_url_are_read_only() -> None:
    """A published study has such a URL."""
    folder = approved("https://host/study")
    for work in (folder.remove, lambda name: folder.write(name, b"no")):
        with pytest.raises(OSError, match="Read-only"):
            work(NAME)

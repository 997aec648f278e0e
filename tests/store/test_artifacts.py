"""The files of a store: in a folder of this machine, or behind a URL."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
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
    """The folder of a place that this user has approved."""
    trust.approve(STORE, place)
    return folder_of(url, Home(STORE, place))


@pytest.fixture(params=["here", "there"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder, on this machine and where fsspec alone reaches."""
    return approved(str(tmp_path) if request.param == "here" else f"memory:/{tmp_path}")


def wrote(folder: Folder, content: bytes = b"content") -> Weights:
    return Weights(NAME, len(content), folder.write(NAME, content))


def test_a_file_is_read_back_as_it_was_written(folder: Folder) -> None:
    """Nothing else is left, and where it is deleted nothing at all."""
    kept = wrote(folder)
    assert kept.sha256 == hashlib.sha256(b"content").hexdigest()
    assert folder.read(kept) == b"content"
    assert folder.size(NAME) == folder.remove(NAME) == 7
    assert folder.size(NAME) is folder.remove(NAME) is folder.read(kept) is None


def test_a_file_replaces_one_of_its_name(folder: Folder) -> None:
    """The second one counts."""
    first, second = wrote(folder), wrote(folder, b"other")
    assert folder.read(first) is None
    assert folder.read(second) == b"other"


@pytest.mark.parametrize("content", [b"", b"Content", b"content and more"])
def test_what_is_not_what_was_written_is_not_read(content: bytes, folder: Folder) -> None:
    """Cut off, changed, or grown."""
    kept = wrote(folder)
    folder.write(NAME, content)
    assert folder.read(kept) is None


@pytest.mark.parametrize("name", ["../precious", "/precious", "a/../../precious", "..", ".", ""])
def test_names_cannot_leave_their_folder(name: str, folder: Folder, tmp_path: Path) -> None:
    """Whatever an index row says."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"keep")
    for bad in (name, str(precious), name.replace("/", "\\"), f"{name}\0"):
        for work in (folder.remove, folder.size, lambda n: folder.write(n, b"no")):
            with pytest.raises(Outside):
                work(bad)
        assert folder.read(Weights(bad, 4, hashlib.sha256(b"keep").hexdigest())) is None
    assert precious.read_bytes() == b"keep"


def test_links_cannot_lead_out_of_a_folder(tmp_path: Path) -> None:
    """Of a folder which may itself be one."""
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


def test_a_folder_in_the_place_of_a_file_is_an_error_of_the_file(folder: Folder) -> None:
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


def test_half_a_file_is_deleted_under_the_whole_one_s_name(tmp_path: Path) -> None:
    """A kill in the middle of a write leaves nothing that no name leads to."""
    folder = approved(str(tmp_path))
    wrote(folder)
    place = tmp_path / STORE
    (place / f".{NAME}").write_bytes(b"con")
    assert folder.remove(NAME) == 7
    assert list(place.iterdir()) == []


def test_a_write_that_was_killed_leaves_nothing_after_its_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary file has another name each time, which begins with the file's own."""
    names: list[str] = []

    def killed(_file: object, aside: Path, _target: Path, **_: object) -> None:
        names.append(aside.name)
        raise SystemExit  # no OSError: nothing is cleaned up

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
    """Another user of a shared folder cannot let a worker overwrite a file of its own."""
    precious, place = tmp_path / "precious", tmp_path / STORE
    precious.write_bytes(b"keep")
    place.mkdir()
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)  # it is guessed
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
def test_a_folder_next_to_a_database_is_shared_as_the_database_is(
    mode: int, expected: int, mask: int, tmp_path: Path
) -> None:
    """A lab that shares a database file shares its snapshots, and nobody else sees them."""
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
    """By default it is the user's own. All others have no rights in it."""
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


def test_folders_are_made_where_names_alone_do_not_make_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a disk of another machine, unlike in a bucket."""
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


def test_storage_that_hangs_is_left_alone_for_a_while(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it twice; when it answers again, it is used again."""
    folder = approved("memory://hangs")
    kept, answers, asked = wrote(folder), threading.Event(), []

    def hanging(*_: object, **__: object) -> bytes:
        asked.append(1)
        answers.wait()
        return b"content"

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "cat_file", hanging)
        assert folder.read(kept) is None
        assert folder.read(kept) is None
        folder._rests_until = 0.0
        with pytest.raises(TimeoutError, match=f"memory://hangs/{STORE} did not answer"):
            folder.write(NAME, b"late")  # its thread is still there
        assert asked == [1]
    answers.set()
    assert folder._last is not None
    folder._last.result()
    assert folder.read(kept) == b"content"


def test_where_the_files_of_a_store_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two stores share a folder, whatever they are told."""
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
    for (url, said), expected in expected_places.items():
        folder = folder_of(url, Home(STORE, said))
        assert (str(folder), folder.shared) == expected


@pytest.mark.parametrize(
    ("said", "stored"),
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
    said: str, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder by its absolute path: workers start elsewhere."""
    monkeypatch.chdir(tmp_path)
    names = {"here": tmp_path, "above": tmp_path.parent, "home": Path.home()}
    assert parse(said) == stored.format(**names)


@pytest.mark.parametrize(
    ("said", "why"),
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
def test_a_place_that_cannot_be_is_refused(said: str, why: str) -> None:
    """In one sentence; secrets belong in the environment, not in a database that all can read."""
    with pytest.raises(RequestError, match=why) as refused:
        parse(said)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As fsspec has it."""

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
def test_a_write_that_fails_leaves_what_was_there(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk."""
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
    *("reference::ftp://127.0.0.1/x", "reference://x", "simplecache::s3://bucket", "ftp://host/x"),
    *("s3://bucket::file:///", "filecache::/tmp", "sftp://host/x", "github://a:b@/", "zip://x"),
    *("relative", "../up", "/scratch/../etc", "~", "~/x", "", "/", "/a\nb", "/a\0b", "file:///x"),
    *("s3://key:hunter2@bucket", "s3://bucket?token=hunter2", "data:text/plain,x", "\udc80"),
    *("http://host/x?token=y", "http://host/../x", "memory", "x" * 5000, 7, b"/scratch"),
)


@pytest.mark.parametrize("place", HOSTILE, ids=repr)
def test_a_database_s_place_of_another_form_is_never_used(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if it is approved: it reaches neither fsspec nor the file system."""
    monkeypatch.setattr(trust, "is_approved", lambda _store, place: place not in ("/", "/x"))
    for name in ("fsspec.get_filesystem_class", "fsspec.core.url_to_fs"):
        monkeypatch.setattr(name, untouched)
    for url in (SQLITE, POSTGRES):
        folder = folder_of(url, Home(STORE, place))
        assert folder.places == []
        assert folder.read(Weights(NAME, 7, "0" * 64)) is None
        for work in (folder.remove, folder.size, lambda n, f=folder: f.write(n, b"no")):
            with pytest.raises((Outside, Unapproved)):
                work(NAME)


def untouched(*_: object, **__: object) -> None:
    raise AssertionError("fsspec was asked")


@pytest.mark.parametrize("name", ["..", "../x", "", "a" * 16 + "/..", "A" * 16, "id", None, 16])
def test_a_store_s_name_of_another_form_leads_nowhere(name: Any, tmp_path: Path) -> None:
    """It would name the folder."""
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
    """For this store, by this user; the sentence says how. The variable approves it too."""
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
        *("notes.txt", "abc-7-a.safetensors.txt", "abc-7-c.safetensors", "abc-x-a.safetensors"),
        *(
            f".{NAME}",
            f"{NAME}\n",
            NAME.upper(),
            NAME.replace(STORE, "f" * 16),
            "model.safetensors",
        ),
        *("abc-7-\N{ARABIC-INDIC DIGIT ONE}.safetensors", None, 7, b"abc-7-a.safetensors"),
    ],
    ids=repr,
)
def test_a_name_of_another_form_or_store_is_no_file(
    name: Any, folder: Folder, tmp_path: Path
) -> None:
    """Also one that another store has given; nothing of the kind is read, written or deleted."""
    kept = wrote(folder)
    for work in (folder.remove, folder.size, lambda n: folder.write(n, b"no")):
        with pytest.raises(Outside):
            work(name)
    assert folder.read(Weights(name, 7, kept.sha256)) is None
    assert folder.read(kept) == b"content"


def test_names_of_earlier_versions_stay_readable(folder: Folder) -> None:
    """They lack the store's name."""
    for name in (OLD, "abc-7-b.safetensors", "abc-7-128.safetensors", "abc-7-weights.safetensors"):
        total = folder.write(name, b"content")
        assert folder.read(Weights(name, 7, total)) == b"content"
        assert folder.remove(name) == 7


def test_a_file_that_must_not_be_overwritten_is_not(folder: Folder) -> None:
    """It stays as it was."""
    kept = wrote(folder)
    with pytest.raises(FileExistsError):
        folder.write(NAME, b"other", overwrite=False)
    assert folder.read(kept) == b"content"
    folder.remove(NAME)
    folder.write(NAME, b"content", overwrite=False)
    assert folder.read(kept) == b"content"


def test_a_link_next_to_a_database_needs_an_approval(tmp_path: Path) -> None:
    """It came with the database, perhaps; a folder there is the database's own."""
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


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    """It is neither read nor deleted."""
    folder = approved(str(tmp_path))
    kept = wrote(folder)
    file = tmp_path / STORE / NAME
    file.unlink()
    os.mkfifo(file)
    assert folder.read(kept) is None
    with pytest.raises(Outside, match="no regular file"):
        folder.remove(NAME)


def test_by_http_files_are_only_read() -> None:
    """As someone publishes a study."""
    folder = approved("https://host/study")
    for work in (folder.remove, lambda name: folder.write(name, b"no")):
        with pytest.raises(OSError, match="Read-only"):
            work(NAME)

"""A database of another user: no text in it affects anything outside of the store's folder.

Any text is written to every text column. A command may refuse it or ignore it. The command deletes,
writes, contacts and executes nothing that does not belong to the store.
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine, make_url

from fedsweep import queue
from fedsweep.execution import attempt, place
from fedsweep.execution.attempt import _Attempt
from fedsweep.log_handler import Line, LogHandler
from fedsweep.plans import read_plan
from fedsweep.store import (
    artifacts,
    attempt_rows,
    file_index,
    file_names,
    file_places,
    planning,
    trunks,
)
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.schema import open_store
from fedsweep.store.tables import (
    attempts,
    files,
    identity,
    metadata,
    snapshots,
    sweeps,
    trials,
    weights,
)
from fedsweep.store.transactions import reading, transaction
from tests.acceptance.command import at_once
from tests.builders import WORKER

TEXTS = [
    (table.name, column.name)
    for table in metadata.sorted_tables
    for column in table.columns
    if isinstance(column.type, sa.Text)
]
"""Every column of every table that holds text."""

PLACES = [("sweeps", "artifacts"), ("store", "id"), ("files", "name"), ("snapshots", "name")]
PLACES += [("weights", "name"), ("attempts", "host")]
"""The columns that say where a file lies."""

EVIL = [
    *(
        "{outside}",
        "{outside}/notes.txt",
        "../outside",
        "../outside/notes.txt",
        "outside",
        "..",
        "",
    ),
    "file://{outside}",
    "file:///",
    "~",
    "~/.ssh",
    "/",
    "/dev/stdout",
    "{outside}/../outside",
    "ftp://127.0.0.1:9/x",
    "http://127.0.0.1:9/x",
    "https://127.0.0.1:9/x",
    "sftp://127.0.0.1/x",
    "s3://bucket",
    "gs://bucket/x",
    "abfs://box@127.0.0.1/x",
    "smb://127.0.0.1/x",
    "data:,x",
    "reference::{outside}/refs.json",
    "reference://{outside}/refs.json",
    "memory://x",
    "simplecache::ftp://127.0.0.1:9/x",
    "filecache::file://{outside}",
    "zip://*::file://x",
    "abc-1-a.safetensors",
    "../outside/abc-1-a.safetensors",
    "link-1-a.safetensors",
    "{{{{''.__class__}}}}",
    "$(touch {outside}/x)",
    "`touch {outside}/x`",
    "; touch {outside}/x",
    "__import__('os').system('true')",
    "\x1b]0;x\x07",
    "<script>",
    "%n%s",
    "a\nb",
    "x" * 3000,
    "postgresql://127.0.0.1:9/x",
    "sqlite:///{outside}/new.db",
    "[1, 2]",
    '{{"a": 1}}',
    "null",
]


@dataclass
class Recorder:
    """A recorder of Python's audit events, which records while it is active."""

    listens: bool = False
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.listens or event not in FORBIDDEN:
            return
        if event == "socket.connect" and isinstance(arguments[1], str | bytes):
            return  # a socket of this machine: the server of the tests
        self.seen.append(f"{event}{arguments!r}")


FORBIDDEN = frozenset(
    {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec"}
    | {"os.posix_spawn", "os.spawn", "os.fork", "pty.spawn", "ftplib.connect", "urllib.Request"}
    | {"smtplib.connect", "webbrowser.open", "pickle.find_class"}
)


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    """The only recorder. A hook cannot be removed, so that it stays inactive afterwards."""
    import fsspec.implementations.local  # noqa: F401  # what a command imports is not what it does
    import torch  # noqa: F401

    made = Recorder()
    sys.addaudithook(made)
    return made


def filled(engine: Engine, plan: Path) -> None:
    """Give a store trials in every state, with attempts, logs, files, snapshots and weights."""
    with transaction(engine) as c:
        planning.add_sweep(c, read_plan(plan, ["keep_weights=true"]))
    kept = [_begun(engine) for _ in range(3)]
    for claim in kept:
        _save(engine, claim)
    with transaction(engine) as c:
        total = _folder(c, engine, kept[1]).write(file_names.weights_name(kept[1]), b"weights")
        file_index.add_weights(
            c, kept[1], file_index.Weights(file_names.weights_name(kept[1]), 7, total)
        )
        queue.release(c, kept[0])
        queue.cancel(c, [kept[2].trial])
        ended = sa.update(attempts).where(attempts.c.trial == kept[1].trial)
        c.execute(ended.values(outcome="finished", ended_at=0.0))
        done = sa.update(trials).where(trials.c.id == kept[1].trial)
        c.execute(done.values(state="finished", lease_until=None, final_round=3))
        c.execute(sa.update(attempts).values(ended_at=0.0))
        c.execute(sa.update(files).values(free_since=0.0))
        c.execute(sa.update(sweeps).values(held=None))


def _begun(engine: Engine) -> Claim:
    with transaction(engine) as c:
        claim = queue.claim(c, WORKER, read_clock(c))
        assert claim is not None
        attempt_rows.start_attempt(c, claim, numerics_id="n", numerics={}, data_fingerprint="d")
        attempt_rows.add_logs(c, claim, [Line(1, 0.0, "info", "said")])
    return claim


def _folder(c: sa.Connection, engine: Engine, claim: Claim) -> artifacts.Folder:
    return artifacts.folder_of(engine.url, file_places.home(c, claim.trial))


def _save(engine: Engine, claim: Claim) -> None:
    with transaction(engine) as c:
        for name in file_names.snapshot_names(claim):
            total = _folder(c, engine, claim).write(name, b"state")
        file_index.add_snapshot(c, claim, file_index.Snapshot(1, "n", name, 5, total))


@dataclass(frozen=True)
class Stage:
    """A foreign store, and the files around it."""

    url: str
    root: Path
    outside: Path

    def run(self, *arguments: str) -> None:
        """Run a command; it may fail, in any way."""
        with suppress(Exception):
            at_once(*arguments, cwd=self.root / "inside")


def staged(root: Path, url: str) -> Stage:
    """Put a user's own files around a store, also at the places that its texts may name."""
    outside = root / "outside"
    shutil.rmtree(root, ignore_errors=True)
    (root / "inside").mkdir(parents=True)
    names = ("notes.txt", "abc-1-a.safetensors", "refs.json", "id/abc-1-a.safetensors")
    for name in (*names, f"{'0' * 16}/abc-1-a.safetensors", ".abc-1-a.safetensors"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text('{"version": 1, "templates": {"a": "{{1}}"}, "refs": {}}')
    return Stage(url, root, outside)


def tree(folder: Path) -> dict[str, Any]:
    """Return every file with its content and times."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in sorted(folder.rglob("*"))
    }


def put(engine: Engine, stage: Stage, texts: list[tuple[tuple[str, str], str]]) -> None:
    """Write a text into all rows of a column, as far as its constraints allow that."""
    for (table, column), text in texts:
        value = text.replace("{outside}", str(stage.outside)).replace("{{", "{").replace("}}", "}")
        for condition in ("", f" WHERE {column} IN (SELECT min({column}) FROM {table})"):
            with suppress(Exception), engine.begin() as c:
                if engine.dialect.name == "sqlite":
                    c.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
                statement = f"UPDATE {table} SET {column} = :value{condition}"
                c.execute(sa.text(statement), {"value": value})


def take_a_snapshot(engine: Engine, row: int) -> None:
    """Use files as an attempt does: resume from a snapshot, write one, delete old ones."""
    with transaction(engine) as c:
        claimed = queue.claim(c, WORKER, read_clock(c))
        last = c.execute(sa.select(trials.c.trial_id).where(trials.c.id == row)).scalar()
    claim = claimed or Claim(row, str(last), 1, {"rounds": 3}, "n", "d", 1)
    attempt = _Attempt(engine, claim, place.Place(), LogHandler())
    with reading(engine) as c:
        home, origins = file_places.home(c, claim.trial), trunks.origins(c, claim, "n")
        names = list(c.execute(sa.select(snapshots.c.name)).scalars())
    attempt.folder = artifacts.folder_of(engine.url, home)
    for origin in origins:
        attempt.read(origin)
    for name in (*file_names.file_names(claim), file_names.fork_name(claim, 2)):
        with suppress(OSError):
            attempt.files.write(name, b"state")
    attempt.discard([*names, *file_names.file_names(claim)])
    attempt.written.update(map(str, names))
    attempt.clear_up()


def everything(stage: Stage, blank: Callable[[str], str]) -> None:
    """Run every command that looks at a database's files."""
    db = ("--db", stage.url)
    stage.run("db", "gc", "--dry-run", *db)
    engine = open_store(stage.url)
    try:
        ids = _trial_ids(engine)
        for row in (1, 2, 3):
            with suppress(Exception):
                take_a_snapshot(engine, row)
    finally:
        engine.dispose()
    stage.run("db", "check", "--files", *db)
    stage.run("db", "trust", *db)
    stage.run("status", *db)
    stage.run("report", *db)
    stage.run("report", "--format", "json", *db)
    for trial_id in ids[:3]:
        stage.run("export", "weights", trial_id, "--output", "weights.safetensors", *db)
    stage.run("db", "copy", stage.url, blank("copy"))
    stage.run("db", "merge", stage.url, blank("into"))
    stage.run("db", "gc", *db)


def _trial_ids(engine: Engine) -> list[str]:
    with reading(engine) as c:
        return [str(i) for i in c.execute(sa.select(trials.c.trial_id)).scalars()]


@contextmanager
def nothing_outside(stage: Stage, recorder: Recorder) -> Iterator[None]:
    """Check that nothing outside of the store changes."""
    before = tree(stage.outside)
    around = {path.name for path in stage.root.iterdir()}
    recorder.seen.clear()
    recorder.listens = True
    try:
        yield
    finally:
        recorder.listens = False
    assert recorder.seen == []
    assert tree(stage.outside) == before
    assert {path.name for path in stage.root.iterdir()} == around
    inside = {path.name for path in (stage.root / "inside").iterdir()}
    assert inside <= OWN, inside - OWN


ENDS = ("", "-wal", "-shm", "-turn", "-journal", ".artifacts")
OWN = {f"{name}.db{end}" for name in ("fedsweep", "copy", "into") for end in ENDS}
OWN |= {"weights.safetensors"}

text = st.one_of(st.sampled_from(EVIL), st.text(st.characters(exclude_categories=["Cs"])))
columns = st.one_of(st.sampled_from(PLACES), st.sampled_from(TEXTS))
foreign = st.lists(st.tuples(columns, text), min_size=1, max_size=6)
fuzzed = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # to make an example smaller takes minutes
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> Path:
    """A user's folders."""
    assert recorder is not None
    for name in ("XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(attempt, "provenance_of", lambda *_: {})  # it asks git
    return tmp_path / "root"


SHIPPED = [
    [(("sweeps", "artifacts"), "{outside}"), (("store", "id"), "id")],
    [(("sweeps", "artifacts"), "{outside}"), (("store", "id"), "0" * 16)],
    [(("sweeps", "artifacts"), "{outside}"), (("files", "name"), "../notes.txt")],
    [(("files", "name"), "../../outside/notes.txt"), (("store", "id"), "..")],
    [(("sweeps", "artifacts"), "ftp://127.0.0.1:9/x")],
    [(("sweeps", "artifacts"), "reference::{outside}/refs.json")],
    [(("sweeps", "artifacts"), "https://127.0.0.1:9/x")],
    [(("snapshots", "name"), "{outside}/notes.txt"), (("weights", "name"), "{outside}/notes.txt")],
]
"""Attacks as they were run."""


def shipped(test: Any) -> Any:
    for texts in SHIPPED:
        test = example(texts=texts)(test)
    return test


@pytest.fixture(scope="module")
def sqlite_base(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> tuple[Path, Path]:
    """A store on SQLite with rows in every table, and an empty one."""
    folder = tmp_path_factory.mktemp("foreign")
    shutil.copy(sqlite_template, folder / "fedsweep.db")
    engine = open_store(f"sqlite:///{folder / 'fedsweep.db'}")
    with transaction(engine) as c:
        c.execute(sa.update(identity).values(id=uuid.uuid4().hex[:16]))
    engine.dispose()
    engine = open_store(f"sqlite:///{folder / 'fedsweep.db'}")
    from tests.builders import TINY

    (folder / "tiny.toml").write_text(TINY)
    filled(engine, folder / "tiny.toml")
    with reading(engine) as c:
        for table in (attempts, files, snapshots, weights):
            assert c.execute(sa.select(table)).first() is not None, table.name
    engine.dispose()
    return folder, sqlite_template


Texts = list[tuple[tuple[str, str], str]]
Base = tuple[Path, Path]


@shipped
@given(texts=foreign)
@settings(fuzzed, max_examples=4)
def test_no_text_of_a_sqlite_file_reaches_outside(
    texts: Texts, root: Path, sqlite_base: Base, recorder: Recorder
) -> None:
    """Its own files may be deleted and written. The known attacks take about ten seconds."""
    run_on_sqlite(texts, root, sqlite_base, recorder)


@pytest.mark.slow
@given(texts=foreign)
@settings(fuzzed, max_examples=50)
def test_none_of_many_texts_of_a_sqlite_file_reaches_outside(
    texts: Texts, root: Path, sqlite_base: Base, recorder: Recorder
) -> None:
    run_on_sqlite(texts, root, sqlite_base, recorder)


def run_on_sqlite(texts: Texts, root: Path, sqlite_base: Base, recorder: Recorder) -> None:
    """Run every command on a SQLite file with these texts. It may touch no file outside."""
    base, empty = sqlite_base
    stage = staged(root, f"sqlite:///{root}/inside/fedsweep.db")
    shutil.copy(base / "fedsweep.db", root / "inside" / "fedsweep.db")
    shutil.copytree(base / "fedsweep.db.artifacts", root / "inside" / "fedsweep.db.artifacts")
    engine = open_store(stage.url)
    put(engine, stage, texts)
    engine.dispose()

    def blank(name: str) -> str:
        shutil.copy(empty, root / "inside" / f"{name}.db")
        return f"sqlite:///{root}/inside/{name}.db"

    with nothing_outside(stage, recorder):
        everything(stage, blank)


@pytest.fixture(scope="module")
def postgres_base(
    postgres_server: str, postgres_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The names of a store with rows in every table, and of one to work in."""
    names = [f"foreign_{uuid.uuid4().hex[:12]}" for _ in range(2)]
    folder = tmp_path_factory.mktemp("foreign")
    from tests.builders import TINY

    (folder / "tiny.toml").write_text(TINY)
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {names[0]} TEMPLATE {postgres_template}")
    url = make_url(postgres_server).set(database=names[0]).render_as_string(hide_password=False)
    before = os.environ.get("XDG_DATA_HOME")
    os.environ["XDG_DATA_HOME"] = str(folder / "share")
    engine = open_store(url)
    filled(engine, folder / "tiny.toml")
    engine.dispose()
    if before is not None:
        os.environ["XDG_DATA_HOME"] = before
    yield names[0], names[1]
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        for name in names:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.mark.slow
@shipped
@given(texts=foreign)
@settings(fuzzed, max_examples=5)
def test_no_text_in_a_server_s_database_has_an_effect_outside(
    texts: list[tuple[tuple[str, str], str]],
    root: Path,
    postgres_server: str,
    postgres_base: tuple[str, str],
    sqlite_template: Path,
    recorder: Recorder,
) -> None:
    """The same holds if the files lie in the user's data folder."""
    full, name = postgres_base
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {full}")
    url = make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    stage = staged(root, url)
    engine = open_store(url)
    put(engine, stage, texts)
    engine.dispose()

    def blank(name: str) -> str:
        shutil.copy(sqlite_template, root / "inside" / f"{name}.db")
        return f"sqlite:///{root}/inside/{name}.db"

    with nothing_outside(stage, recorder):
        everything(stage, blank)


def test_the_recorder_records_forbidden_events(recorder: Recorder) -> None:
    """Otherwise the other tests would prove nothing."""
    import socket
    import subprocess

    recorder.seen.clear()
    recorder.listens = True
    try:
        with suppress(OSError), socket.create_connection(("127.0.0.1", 9), timeout=1):
            pass
        subprocess.run(["true"], check=True)
    finally:
        recorder.listens = False
    events = {one.partition("(")[0] for one in recorder.seen}
    assert {"socket.connect", "subprocess.Popen"} <= events

"""Whole databases: what a copy and a merge promise, between every two kinds of database."""

from __future__ import annotations

import functools
import hashlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, make_url

from fedsweep import queue
from fedsweep.errors import (
    FedsweepError,
    Refused,
    RequestError,
    SchemaOld,
    StoreEmpty,
    StoreError,
    StoreMissing,
)
from fedsweep.plans import ClientScore, Round, read_plan
from fedsweep.states import FailureKind, Hold
from fedsweep.store import (
    arms,
    artifacts,
    attempt_rows,
    file_index,
    file_names,
    file_places,
    planning,
    round_rows,
    schema,
    trust,
)
from fedsweep.store.claim import Claim
from fedsweep.store.engine import make_engine
from fedsweep.store.moment import Moment
from fedsweep.store.schema import open_store
from fedsweep.store.tables import (
    attempts,
    client_rounds,
    files,
    identity,
    logs,
    members,
    metadata,
    plans,
    rounds,
    snapshots,
    sweeps,
    trials,
    weights,
)
from fedsweep.store.transactions import reading, transaction
from fedsweep.transfer import copy, integrity, merge, rows
from fedsweep.transfer.integrity import faults
from fedsweep.transfer.merge import MERGED, Merged, _add_members, merge_stores
from fedsweep.transfer.rows import insert
from fedsweep.transfer.stores import both

NOW = Moment(1000.0, "boot-1")
NOTES = "α = 0.1 — “été” 🙂\n\ttab 'quote' \\ \x01"
ODD = (5e-324, 1e308, 0.1 + 0.2, -1.5, 0.0, 1 / 3, 2.0**-1074 * 3, 123456789.123456789)
"""Floats that a text of 15 digits, or a single-precision column, does not keep."""

DIRECTIONS = ["sqlite-sqlite", "sqlite-postgres", "postgres-sqlite", "postgres-postgres"]
OTHERS = ["sqlite-postgres", "postgres-sqlite"]
FILES = ["sqlite-sqlite"]
"""For tests of a rule that does not depend on the database."""

between = functools.partial(pytest.mark.parametrize, "two", indirect=True)


def another(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> str:
    """The URL of a database without tables, other than `sqlite_url` and `postgres_url`."""
    if kind == "postgres":
        return str(request.getfixturevalue("empty_postgres"))
    return f"sqlite:///{tmp_path / 'another.db'}"


@pytest.fixture(params=DIRECTIONS)
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    """Two fresh stores, of each two kinds."""
    one, other = request.param.split("-")
    source = open_store(str(request.getfixturevalue(f"{one}_url")))
    target = open_store(another(request, other, tmp_path), create=True)
    yield source, target
    source.dispose()
    target.dispose()


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Servers' files go to a temporary folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def content(engine: Engine, *without: sa.Table) -> dict[str, list[str]]:
    """Every row of every table, its floats with all their digits; without the store's own name."""
    with reading(engine) as c:
        own = c.execute(sa.select(identity.c.id)).scalar_one()
        return {
            table.name: sorted(
                repr(tuple(row)).replace(own, "") for row in c.execute(sa.select(table))
            )
            for table in metadata.sorted_tables
            if table not in (identity, *without)
        }


def plan(engine: Engine, file: Path, *changes: str, name: str = "tiny") -> None:
    planned = read_plan(file, changes)
    with transaction(engine) as c:
        planning.add_sweep(c, replace(planned, name=name).alone())


def measured(number: int, value: float = 0.5, **more: Any) -> Round:
    usual = Round(number, "explore", 1.0 / number, value, 0.1 * number, None, None, 10, 20, 0.25)
    return replace(usual, **more)


def attempt(
    engine: Engine,
    row: int,
    todo: Sequence[Round] = (),
    *,
    worker: str = "alice",
    end: str = "release",
    numerics: str = "n1",
) -> Claim:
    """One attempt of a trial, by its row: claimed, some rounds, an end (or none: it runs)."""
    with transaction(engine) as c:
        c.execute(sa.update(trials).where(trials.c.id == row).values(priority=9))
        claim = queue.claim(c, queue.Claimant(worker, "cpu", "host", 1), NOW, lease=15.0)
        assert claim is not None
        assert claim.trial == row
        c.execute(sa.update(trials).where(trials.c.id == row).values(priority=0))
        attempt_rows.start_attempt(
            c, claim, numerics_id=numerics, numerics={"torch": "2"}, data_fingerprint="f"
        )
        assert round_rows.add_rounds(c, claim, todo) is None
        if end == "finish":
            queue.finish(c, claim)
        elif end == "release":
            queue.release(c, claim)
        elif end == "diverge":
            queue.fail(c, claim, NOW, FailureKind.DIVERGED, "round 2: the loss is nan")
        elif end == "fail":
            queue.fail(c, claim, NOW, FailureKind.ERROR, NOTES, "Traceback …")
    return claim


def some(count: int, **more: Any) -> list[Round]:
    return [measured(number, **more) for number in range(1, count + 1)]


def everything(engine: Engine, tiny: Path) -> None:
    """Rows of every kind in every table: trial 1 finished, 2 runs, 3 backs off, 4 diverged, 5 is
    cancelled, 6 waits, held; two sweeps, two texts.
    """
    plan(engine, tiny)
    plan(engine, tiny, "seed=0", name="été")
    full = [
        measured(
            number,
            ODD[number],
            train_loss=ODD[number + 1],
            test_miou=ODD[number + 2],
            mean_client_accuracy=1e-300,
            statistics_mismatch=ODD[number + 3],
            statistics_mismatch_layers={"layer1.norm": 1 / 7},
            clients=(ClientScore(0, 11, ODD[number]), ClientScore(3, 13, 1 / 3)),
        )
        for number in (1, 2, 3)
    ]
    attempt(engine, 1, full[:2])
    first = attempt(engine, 1, full[2:], end="finish", worker="bob")
    second = attempt(engine, 2, full[:1], end="run")
    attempt(engine, 3, end="fail")
    attempt(engine, 4, some(1), end="diverge")
    kept = file_index.Weights(file_names.weights_name(first), 3, hashlib.sha256(b"abc").hexdigest())
    with transaction(engine) as c:
        queue.cancel(c, [5])
        queue.hold(c, [6], Hold.PAUSE)
        file_index.add_snapshot(c, second, file_index.Snapshot(1, "n1", "snapshot", 3, "0" * 64))
        file_index.add_weights(c, first, kept)
        for n in (0, 1):
            row = {"trial": 2, "fence": 1, "n": n, "at": 0.1 + n, "level": "info"}
            c.execute(sa.insert(logs).values(**row, message=NOTES))
    place = folder(engine)
    place.mkdir(parents=True, exist_ok=True)
    (place / kept.name).write_bytes(b"abc")


SEARCHED = """
[[grid]]
normalizer = "fixbn"
validation = 0.2
[search]
freeze_round = { low = 1, high = 3, step = 1 }
"""


def search(connection: Connection, tiny: Path) -> None:
    """An arm of the sweep, for which a trial was proposed."""
    (tiny.parent / "searched.toml").write_text(tiny.read_text() + SEARCHED)
    planned = replace(read_plan(tiny.parent / "searched.toml"), trials=())
    assert arms.add_arms(connection, planned, 0) == 1
    (arm,) = arms.of_sweep(connection, "tiny")
    specs = [arm.spec.trial(2, 1)]
    said = {"freeze_round": 2, "seed": None, "why": NOTES, "cost": 3}
    assert arms.commit(connection, arm, specs, **said)


def folder(engine: Engine) -> Path:
    """Return the folder of the files of a store's trials."""
    with reading(engine) as c:
        return Path(str(artifacts.folder_of(engine.url, file_places.home(c, 1))))


def at_rest(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without the tables in which a copy changes something."""
    changed = {t.name for t in (trials, attempts, snapshots, files)}
    return {name: rows for name, rows in found.items() if name not in changed}


def merged_into(source: Engine, target: Engine) -> Merged:
    with transaction(target) as c:
        merged = merge_stores(source, c)
    assert faults(target) == []
    return merged


def row_of(engine: Engine, table: sa.Table, **key: Any) -> Any:
    with reading(engine) as c:
        query = sa.select(table).where(*(table.c[name] == value for name, value in key.items()))
        return c.execute(query).one()


def count(engine: Engine, table: sa.Table) -> int:
    with reading(engine) as c:
        return int(c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


# --- copies


def test_a_copy_has_every_row_bit_for_bit_under_its_own_key(
    two: tuple[Engine, Engine], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None, tiny and huge floats, any character; also in more batches than one."""
    source, target = two
    everything(source, tiny)
    with transaction(source) as c:
        search(c, tiny)
    monkeypatch.setattr(rows, "COPIED_ROWS", 2)
    copied = copy.copy_store(source, target)
    assert at_rest(content(target)) == at_rest(content(source))
    assert {t.name: t.rows for t in copied.tables} == {
        "sweeps": 2,
        "plans": 2,
        "trials": 7,
        "sweep_members": 10,
        "arms": 1,
        "proposals": 1,
        "proposed": 1,
        "lattices": 1,
        "attempts": 5,
        "rounds": 5,
        "client_rounds": 8,
        "weights": 1,
        "logs": 2,
    }
    assert copied.lost == ()
    with transaction(source) as c:
        queue.rescue(c, Moment(NOW.seconds + 16, NOW.clock))
    assert science(target) == science(source)


@between(argvalues=OTHERS)
def test_a_running_trial_is_queued_in_the_copy_and_its_attempt_released(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """Nobody holds it there; what backed off need not wait; FROM goes on as it was."""
    source, target = two
    everything(source, tiny)
    before = content(source)
    copy.copy_store(source, target)
    with reading(target) as c:
        found = c.execute(sa.select(trials.c.state, trials.c.clock, trials.c.not_before)).all()
        left = [c.execute(sa.select(t)).all() for t in (snapshots, files)]
        own = c.execute(sa.select(identity.c.id)).scalar_one()
    assert sorted(row.state for row in found) == sorted(
        ["finished", "queued", "queued", "failed", "cancelled", "queued"]
    )
    assert {(row.clock, row.not_before) for row in found} == {(None, None)}
    assert row_of(target, trials, id=2).final_round == 1
    ended = row_of(target, attempts, trial=2)
    assert (ended.outcome, ended.error) == ("released", "copied")
    assert ended.ended_at >= ended.started_at
    assert left == [[], []]
    assert len(own) > 0
    assert faults(target) == []
    assert content(source) == before


def test_there_and_back_again_is_the_same(
    sqlite_url: str, empty_postgres: str, tiny: Path, tmp_path: Path
) -> None:
    """From SQLite to Postgres to SQLite: every table, every bit."""
    stores = [open_store(sqlite_url), open_store(empty_postgres)]
    stores += [open_store(f"sqlite:///{tmp_path}/{name}.db", create=True) for name in "ab"]
    first, server, back, again = stores
    everything(first, tiny)
    copy.copy_store(first, server)
    copy.copy_store(server, back)
    copy.copy_store(back, again)
    assert content(back) == content(server) == content(again)
    assert at_rest(content(back)) == at_rest(content(first))
    for store in stores:
        store.dispose()


def test_a_zero_s_sign_is_all_that_a_sqlite_file_does_not_keep(
    postgres_url: str, tiny: Path, tmp_path: Path
) -> None:
    """It is no reason to call a copy damaged."""
    server = open_store(postgres_url)
    plan(server, tiny)
    attempt(server, 1, [measured(1, -0.0)])
    target = open_store(f"sqlite:///{tmp_path}/to.db", create=True)
    copy.copy_store(server, target)
    assert repr(row_of(server, rounds, trial=1).test_loss) == "-0.0"
    assert row_of(target, rounds, trial=1).test_loss == 0.0
    server.dispose()
    target.dispose()


def test_a_copy_is_what_was_there_at_one_moment_while_workers_go_on(
    two: tuple[Engine, Engine], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker commits between any two tables; in the copy, trials, attempts and rounds agree."""
    source, target = two
    tiny.write_text(tiny.read_text().replace("seed = [0, 1]", f"seed = {list(range(10))}"))
    plan(source, tiny)
    stop, commits = threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            with transaction(source) as c:
                claim = queue.claim(c, queue.Claimant("alice", "cpu", "host", 1), NOW)
                if claim is None:
                    return
                round_rows.add_rounds(c, claim, some(2))
            with transaction(source) as c:
                round_rows.add_rounds(c, claim, [measured(3)])
                queue.finish(c, claim)
            commits.append(time.monotonic())

    inner = copy._copy_table

    def meanwhile(*arguments: Any) -> copy.CopiedTable:
        seen, deadline = len(commits), time.monotonic() + 60
        while len(commits) == seen and worker.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        return inner(*arguments)

    monkeypatch.setattr(copy, "_copy_table", meanwhile)
    worker = threading.Thread(target=work)
    worker.start()
    try:
        copy.copy_store(source, target)
    finally:
        stop.set()
        worker.join()
    assert len(commits) >= len(copy.TABLES)
    assert_consistent(target)


def assert_consistent(store: Engine) -> None:
    """Check that each trial and its attempts agree with their stored rounds."""
    with reading(store) as c:
        stored = c.execute(sa.select(rounds.c.trial, rounds.c.round)).all()
        new = c.execute(sa.select(attempts.c.trial, attempts.c.rounds_new)).all()
        for row in c.execute(sa.select(trials)):
            of_it = [r.round for r in stored if r.trial == row.id]
            assert len(of_it) == (row.final_round or 0)
            assert len(of_it) == sum(a.rounds_new for a in new if a.trial == row.id)
            assert row.state != "running"
            assert (row.state == "finished") == (row.final_round == 3)


@between(argvalues=OTHERS)
def test_a_trial_that_was_copied_can_be_worked_on_and_planned_beside(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """Keys go on behind those that came; the running one is finished from where it was."""
    source, target = two
    everything(source, tiny)
    copy.copy_store(source, target)
    plan(target, tiny, "seed=7")
    assert count(target, trials) == 9
    assert row_of(target, members, sweep=1, trial=9).shared == 0
    claim = attempt(target, 2, [measured(2), measured(3)], end="finish", worker="carol")
    assert (claim.fence, claim.final_round) == (2, 1)
    assert row_of(target, trials, id=2).state == "finished"
    assert_keys_grow(target)


def assert_keys_grow(store: Engine) -> None:
    with reading(store) as c:
        for table in (sweeps, plans, trials, attempts):
            ids = list(c.execute(sa.select(table.c.id).order_by(table.c.id)).scalars())
            assert ids == list(range(1, len(ids) + 1)), table.name


@between(argvalues=OTHERS)
def test_weights_come_with_their_files_and_those_without_are_named(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """One sound, one missing, one damaged: the sound one is there, the others' rows are not."""
    source, target = two
    plan(source, tiny)
    place, sha = folder(source), hashlib.sha256(b"abc").hexdigest()
    place.mkdir(parents=True)
    names = []
    for row in (1, 2, 3):
        claim = attempt(source, row, some(3), end="finish")
        names.append(file_names.weights_name(claim))
        with transaction(source) as c:
            file_index.add_weights(c, claim, file_index.Weights(names[-1], 3, sha))
    sound, missing, damaged = names
    (place / sound).write_bytes(b"abc")
    (place / damaged).write_bytes(b"abd")
    copied = copy.copy_store(source, target)
    there = folder(target)
    assert there != place
    new = brought(source, target, sound)
    assert (there / new).read_bytes() == b"abc"
    assert copied.lost == (str(place / missing), str(place / damaged))
    with reading(target) as c:
        assert list(c.execute(sa.select(weights.c.name)).scalars()) == [new]
    assert {t.name: t.rows for t in copied.tables}["weights"] == 1


# --- what a copy refuses


@between(argvalues=OTHERS)
def test_a_database_with_anything_in_it_is_no_place_for_a_copy(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """It says what to do, and writes nothing."""
    source, target = two
    plan(source, tiny)
    plan(target, tiny, "seed=9")
    before = content(target)
    with pytest.raises(RequestError, match="TO is not empty.*fedsweep db merge"):
        copy.copy_store(source, target)
    assert content(target) == before


def test_a_database_is_not_copied_to_or_merged_with_itself(
    store_url: str, tiny: Path, tmp_path: Path
) -> None:
    """Other names of the same database are recognized."""
    url = make_url(store_url)
    if url.drivername == "sqlite":
        assert url.database is not None
        (tmp_path / "link.db").symlink_to(url.database)
        other = f"sqlite:///{tmp_path}/link.db"
    else:
        other = url.update_query_dict({"connect_timeout": "9"}).render_as_string(False)
    one, same = open_store(store_url), open_store(other)
    with pytest.raises(RequestError, match="the same"):
        copy.copy_store(one, same)
    with pytest.raises(RequestError, match="the same"):
        merged_into(one, same)
    one.dispose()
    same.dispose()


def test_an_old_or_foreign_or_missing_database_is_named_and_nothing_is_made(
    store_url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """FROM is not upgraded, not even given a schema; TO is not created."""
    kind = make_url(store_url).get_backend_name().removesuffix("ql")
    empty = another(request, kind, tmp_path)
    target = tmp_path / "to.db"
    made = make_engine(empty, create=True)
    names = ("FROM", "TO")

    def refused(error: type[StoreError], url: str, says: str) -> None:
        to = f"sqlite:///{target}"
        with pytest.raises(error, match=says), both(url, to, names=names, create=True):
            pass
        assert not target.exists()

    refused(StoreEmpty, empty, "FROM: The database is empty")
    with reading(made) as c:
        assert sa.inspect(c).get_table_names() == []
    with transaction(made) as c:
        config = schema._config()
        config.attributes["connection"] = c
        command.upgrade(config, "0001")
    refused(SchemaOld, empty, "FROM: .*fedsweep db upgrade")
    refused(StoreMissing, f"sqlite:///{tmp_path}/none.db", "name another with FROM")
    with (
        pytest.raises(SchemaOld, match=r"TO: .*fedsweep db upgrade"),
        both(store_url, empty, names=names, create=True),
    ):
        pass
    made.dispose()


@between(argvalues=OTHERS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_copy_that_breaks_off_leaves_nothing(
    two: tuple[Engine, Engine],
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    """Not a row; and the next one succeeds."""
    source, target = two
    everything(source, tiny)
    inner = insert

    def breaks(here: Connection, table: sa.Table, *rest: Any) -> None:
        inner(here, table, *rest)
        if table is rounds:
            raise error

    with monkeypatch.context() as broken:
        broken.setattr(copy, "insert", breaks)
        with pytest.raises(error):
            copy.copy_store(source, target)
    assert set(map(len, content(target).values())) == {0}
    copy.copy_store(source, target)
    assert at_rest(content(target)) == at_rest(content(source))


@between(argvalues=OTHERS)
@pytest.mark.parametrize("damage", ["dropped", "changed"])
def test_a_copy_that_reads_back_differently_is_not_kept(
    two: tuple[Engine, Engine], tiny: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """A row less, or one bit of one float: exit 1, and the target stays empty."""
    source, target = two
    everything(source, tiny)
    inner = insert

    def damages(
        here: Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[Any]
    ) -> None:
        if table is client_rounds and damage == "dropped":
            rows = rows[1:]
        elif table is client_rounds:
            place = list(columns).index("test_accuracy")
            changed = (*rows[0][:place], ODD[2], *rows[0][place + 1 :])
            rows = [changed, *rows[1:]]
        inner(here, table, columns, rows)

    monkeypatch.setattr(copy, "insert", damages)
    with pytest.raises(FedsweepError, match="client_rounds did not come over") as caught:
        copy.copy_store(source, target)
    assert caught.value.exit_code == 1
    assert set(map(len, content(target).values())) == {0}


def test_a_text_that_postgres_cannot_hold_is_refused_in_a_sentence(
    sqlite_url: str, empty_postgres: str, tiny: Path
) -> None:
    """SQLite takes a NUL, Postgres does not."""
    source, target = open_store(sqlite_url), open_store(empty_postgres)
    plan(source, tiny)
    with transaction(source) as c:
        c.execute(sa.update(plans).values(text="a\0b"))
    with pytest.raises(StoreError, match="plans holds a value that Postgres cannot"):
        copy.copy_store(source, target)
    assert count(target, sweeps) == 0
    source.dispose()
    target.dispose()


# --- merges


def halves(two: tuple[Engine, Engine], tiny: Path) -> None:
    """The same sweep in both; FROM has done trials 1 to 3 (2 not wholly), INTO 4 to 6 (one
    diverged).
    """
    for engine, name in zip(two, ("alice", "bob"), strict=True):
        plan(engine, tiny)
        for row, end, n in PARTS[name]:
            attempt(engine, row, rounds_of(row, n), end=end, worker=name)


PARTS = {
    "alice": [(1, "finish", 3), (2, "release", 2), (3, "finish", 3)],
    "bob": [(4, "finish", 3), (5, "diverge", 1), (6, "finish", 3)],
}


def rounds_of(row: int, n: int) -> list[Round]:
    scores = (ClientScore(0, row, 0.1 * row),)
    return [measured(r, ODD[row], clients=scores) for r in range(1, n + 1)]


def science(engine: Engine) -> list[list[tuple[Any, ...]]]:
    """Return the results of a sweep, without the machines that measured them."""
    results = (
        "trial_id, sweep, state, failure, config, final_round, test_accuracy, test_loss, "
        "best_round, bytes_up, seconds, numerics_id, attempts"
    )
    queries = [f"SELECT {results} FROM results"]
    queries += [f"SELECT * FROM {view}" for view in ("curves", "clients", "members", "ledger")]
    with reading(engine) as c:
        return [sorted((tuple(row) for row in c.execute(sa.text(q))), key=str) for q in queries]


def test_merged_halves_of_a_sweep_are_the_whole(
    two: tuple[Engine, Engine], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same results, curves, members and ledger as where one worker did it all; in steps too."""
    whole = open_store(f"sqlite:///{tmp_path}/whole.db", create=True)
    plan(whole, tiny)
    for name, parts in PARTS.items():
        for row, end, n in parts:
            attempt(whole, row, rounds_of(row, n), end=end, worker=name)
    halves(two, tiny)
    monkeypatch.setattr(merge, "TRIALS", 4)
    merged = merged_into(*two)
    assert merged == Merged(0, 3, 3, 8, ("tiny",), ())
    assert science(two[1]) == science(whole)
    whole.dispose()


@between(argvalues=OTHERS)
def test_trials_of_only_one_store_are_added_under_new_keys(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """Sweeps of one name are joined, with all their texts; others come whole."""
    source, target = two
    plan(target, tiny, "seed=5")
    plan(source, tiny, "seed=6", name="first")
    plan(source, tiny, "seed=6")
    tiny.write_text(tiny.read_text() + "# a comment\n")
    plan(source, tiny, "seed=5")
    attempt(source, 1, rounds_of(1, 3), end="finish")
    attempt(source, 2, rounds_of(2, 1), end="run")
    merged = merged_into(source, target)
    assert (merged.added, merged.taken_over, merged.kept, merged.rounds) == (3, 0, 3, 4)
    assert merged.sweeps == ("first", "tiny")
    with reading(target) as c:
        texts = c.execute(sa.select(plans.c.sweep, plans.c.text).order_by(plans.c.id)).all()
        names = {row.name: row.id for row in c.execute(sa.select(sweeps))}
        joined = c.execute(sa.select(members).order_by(members.c.trial, members.c.sweep)).all()
        states = list(c.execute(sa.select(trials.c.state).order_by(trials.c.id)).scalars())
    assert [(row.sweep, "# a comment" in row.text) for row in texts] == [
        *((names["tiny"], False), (names["first"], False)),
        *((names["tiny"], False), (names["tiny"], True)),
    ]
    tiny_, first = names["tiny"], names["first"]
    assert {(row.sweep, row.trial, row.shared) for row in joined} == {
        *((tiny_, row, 0) for row in (1, 2, 3)),
        *((first, row, 0) for row in (4, 5, 6)),
        *((tiny_, row, 1) for row in (4, 5, 6)),
    }
    assert states == ["queued"] * 3 + ["finished", "queued", "queued"]
    assert row_of(target, attempts, trial=5).error == "copied"
    plan(target, tiny, "seed=8")
    assert_keys_grow(target)


@between(argvalues=OTHERS)
def test_merging_again_adds_nothing(two: tuple[Engine, Engine], tiny: Path) -> None:
    """Not an attempt, not a text, not a bit."""
    source, target = two
    everything(source, tiny)
    plan(target, tiny)
    attempt(target, 1, rounds_of(1, 2), worker="bob")
    with transaction(source) as c:
        c.execute(sa.delete(rounds).where(rounds.c.trial == 1))
        c.execute(sa.delete(client_rounds).where(client_rounds.c.trial == 1))
        c.execute(sa.update(trials).where(trials.c.id == 1).values(state="queued", final_round=0))
    first = merged_into(source, target)
    assert (first.added, first.taken_over, first.kept) == (0, 2, 4)
    before = content(target)
    again = merged_into(source, target)
    assert again == Merged(0, 0, 6, 0, first.sweeps, ())
    assert content(target) == before


UNEQUAL: list[tuple[dict[str, Any], str]] = [
    ({"test_loss": 0.1 + 0.2}, "round 2: test_loss is 0.30000000000000004 in FROM and 0.3 in INTO"),
    ({"statistics_mismatch_layers": {"n": 0.5}}, "round 2: statistics_mismatch_layers"),
    ({"test_accuracy": None}, "round 2: test_accuracy is None in FROM and 0.2 in INTO"),
    ({"clients": (ClientScore(0, 1, 0.25),)}, "round 2: test_accuracy of client 0 is 0.25 in FROM"),
    ({"clients": ()}, "round 2: samples of client 0 is None in FROM and 1 in INTO"),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("change", "says"), UNEQUAL)
@pytest.mark.parametrize("ends", [("finish", "finish"), ("finish", "release"), ("release", "fail")])
def test_a_trial_with_an_unequal_round_is_named_and_nothing_is_merged(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny: Path,
    change: dict[str, Any],
    says: str,
    ends: tuple[str, str],
) -> None:
    """The state of the trial does not matter. The other trials are not merged either."""
    source = open_store(str(request.getfixturevalue("sqlite_url")))
    target = open_store(f"sqlite:///{tmp_path}/into.db", create=True)
    plan(source, tiny)
    plan(target, tiny, "seed=0")
    usual = [replace(r, test_loss=0.3) for r in rounds_of(1, 3)]
    attempt(source, 2, some(3), end="finish")
    attempt(source, 1, [usual[0], replace(usual[1], **change), usual[2]], end=ends[0])
    attempt(target, 1, usual if ends[1] == "finish" else usual[:2], end=ends[1])
    before = content(target)
    with pytest.raises(Refused, match="nothing was merged") as caught:
        merged_into(source, target)
    assert says in str(caught.value)
    assert row_of(source, trials, id=1).trial_id in str(caught.value)
    assert "under the same numerics (n1)" in str(caught.value)
    assert content(target) == before
    source.dispose()
    target.dispose()


@between(argvalues=FILES)
def test_unequal_rounds_of_unlike_machines_are_told_apart(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """Both numerics are named; on both kinds of database nothing is written."""
    for engine, numerics, loss in zip(two, ("n1", "n2"), (0.5, 0.25), strict=True):
        plan(engine, tiny)
        attempt(engine, 3, some(3, value=loss), end="finish", numerics=numerics)
    before = content(two[1])
    with pytest.raises(Refused, match=r"cannot be compared \(n1 and n2\)"):
        merged_into(*two)
    assert content(two[1]) == before


@between(argvalues=OTHERS)
def test_equal_rounds_of_unlike_machines_are_one_result(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """INTO's stays as it is; the other attempt is history, and what it trained counts as lost."""
    for engine, numerics in zip(two, ("n1", "n2"), strict=True):
        plan(engine, tiny)
        attempt(engine, 3, some(3), end="finish", numerics=numerics, worker=numerics)
    target = two[1]
    before = row_of(target, trials, id=3)
    assert merged_into(*two).kept == 6
    after = row_of(target, trials, id=3)
    assert after.fence == before.fence + 1 == 2
    assert tuple(after)[:3] == tuple(before)[:3]
    assert after.numerics_id == "n2"
    with reading(target) as c:
        query = sa.select(attempts).where(attempts.c.trial == 3).order_by(attempts.c.fence)
        own, came = c.execute(query)
        spent = c.execute(sa.text("SELECT * FROM ledger")).one()
    assert (own.worker, own.rounds_new, own.rounds_lost) == ("n2", 3, 0)
    assert (came.worker, came.fence, came.rounds_new, came.rounds_lost) == ("n1", 2, 0, 3)
    assert (own.outcome, came.outcome, came.error) == ("finished", "released", MERGED)
    assert (spent.rounds_trained, spent.rounds_lost, spent.seconds_lost) == (6, 3, 0.75)


@between(argvalues=FILES)
def test_only_what_both_have_measured_is_compared_where_they_were_asked_otherwise(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """Planned with and without diagnostics, the same trial says the same; what wins keeps its own
    account of what it measured.
    """
    source, target = two
    plan(source, tiny, "diagnostics=true")
    plan(target, tiny)
    attempt(source, 1, some(3, client_drift=0.5), end="finish")
    attempt(target, 1, some(2), worker="bob")
    attempt(source, 2, some(2, client_drift=0.5))
    attempt(target, 2, some(3), end="finish", worker="bob")
    merged = merged_into(source, target)
    assert (merged.taken_over, merged.rounds) == (1, 1)
    assert row_of(target, trials, id=1).diagnostics is True
    assert '"diagnostics": true' in row_of(target, trials, id=1).config
    assert row_of(target, rounds, trial=1, round=1).client_drift == 0.5
    assert row_of(target, trials, id=2).diagnostics is False
    assert row_of(target, rounds, trial=2, round=1).client_drift is None


@between(argvalues=FILES)
def test_the_further_of_two_unfinished_trials_continues_and_into_wins_a_tie(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """The other's rounds are counted as lost in the ledger. The next fence is new."""
    source, target = two
    for engine, name in zip(two, ("alice", "bob"), strict=True):
        plan(engine, tiny)
        for row, n in ((1, 2 if name == "alice" else 1), (2, 1), (3, 1 if name == "alice" else 2)):
            attempt(engine, row, some(n), worker=name)
    merged = merged_into(source, target)
    assert (merged.taken_over, merged.kept, merged.rounds) == (1, 5, 1)
    with reading(target) as c:
        spent = c.execute(sa.text("SELECT * FROM ledger")).one()
        order = (attempts.c.trial, attempts.c.fence)
        query = sa.select(attempts.c.worker, attempts.c.fence, attempts.c.rounds_lost)
        found = [tuple(row) for row in c.execute(query.order_by(*order))]
    assert found == [
        *(("bob", 1, 1), ("alice", 2, 0)),
        *(("bob", 1, 0), ("alice", 2, 1)),
        *(("bob", 1, 0), ("alice", 2, 1)),
    ]
    assert (spent.rounds_trained, spent.rounds_lost) == (8, 3)
    claim = attempt(target, 1, [measured(3)], end="finish", worker="carol")
    assert (claim.fence, claim.final_round) == (3, 2)


@between(argvalues=FILES)
def test_a_finished_trial_is_taken_whatever_into_made_of_it(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """Queued, failed or cancelled there; its final numbers come, its place in the queue stays."""
    source, target = two
    for engine in two:
        plan(engine, tiny)
    for row in (1, 2, 3):
        attempt(source, row, some(3), end="finish")
    attempt(target, 1, some(2), worker="bob")
    with transaction(target) as c:
        c.execute(sa.update(trials).where(trials.c.id == 1).values(priority=7))
        c.execute(sa.update(trials).where(trials.c.id == 2).values(state="failed", failure="lost"))
        queue.cancel(c, [3])
    assert merged_into(source, target).taken_over == 3
    for row in (1, 2, 3):
        found = row_of(target, trials, id=row)
        assert (found.state, found.failure, found.final_round) == ("finished", None, 3)
        assert found.test_accuracy == row_of(source, trials, id=row).test_accuracy is not None
    assert row_of(target, trials, id=1).priority == 7


@between(argvalues=FILES)
def test_into_decides_if_a_trial_is_cancelled(two: tuple[Engine, Engine], tiny: Path) -> None:
    """FROM's rounds come all the same."""
    source, target = two
    for engine in two:
        plan(engine, tiny)
    attempt(source, 1, some(2))
    attempt(source, 2, some(2))
    with transaction(target) as c:
        queue.cancel(c, [1])
    with transaction(source) as c:
        queue.cancel(c, [2])
    assert merged_into(source, target).taken_over == 2
    found = [row_of(target, trials, id=row) for row in (1, 2)]
    assert [(row.state, row.final_round) for row in found] == [("cancelled", 2), ("queued", 2)]


@between(argvalues=FILES)
def test_a_diverged_trial_comes_as_the_result_that_it_is(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """Also where INTO has got as far; one that went on elsewhere is refused."""
    source, target = two
    for engine in two:
        plan(engine, tiny)
    attempt(source, 1, some(1), end="diverge")
    attempt(target, 1, some(1), worker="bob")
    assert merged_into(source, target).taken_over == 1
    found = row_of(target, trials, id=1)
    assert (found.state, found.failure) == ("failed", "diverged")
    with transaction(target) as c:
        queue.retry(c, [1])
    attempt(target, 1, [measured(2), measured(3)], end="finish", worker="bob")
    with pytest.raises(Refused, match="diverged in FROM and went on"):
        merged_into(source, target)
    with pytest.raises(Refused, match="diverged in INTO and went on"):
        merged_into(target, source)


@between(argvalues=OTHERS)
def test_a_trial_that_runs_in_into_is_left_to_its_worker(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """It says which, and what to do; the worker goes on."""
    source, target = two
    for engine in two:
        plan(engine, tiny)
    attempt(source, 1, some(3), end="finish")
    claim = attempt(target, 2, some(1), end="run")
    before = content(target)
    with pytest.raises(Refused, match=f"trial {claim.trial_id} is running in INTO: stop"):
        merged_into(source, target)
    assert content(target) == before
    with transaction(target) as c:
        queue.renew(c, claim, NOW)


@between(argvalues=OTHERS)
def test_an_attempt_that_went_on_after_a_merge_is_told_anew_not_twice(
    two: tuple[Engine, Engine], tiny: Path
) -> None:
    """Merged while it ran, and again when it had finished: one attempt, its end, all its rounds
    and all that it said.
    """
    source, target = two
    plan(source, tiny)
    claim = attempt(source, 1, some(1), end="run")

    def say(n: int) -> None:
        with transaction(source) as c:
            row = {"trial": 1, "fence": 1, "n": n, "at": 1.0, "level": "info", "message": str(n)}
            c.execute(sa.insert(logs).values(**row))

    say(0)
    merged_into(source, target)
    assert row_of(target, attempts, trial=1).error == "copied"
    with transaction(source) as c:
        queue.renew(c, claim, NOW)
        round_rows.add_rounds(c, claim, [measured(2), measured(3)])
        queue.finish(c, claim)
    say(1)
    merged = merged_into(source, target)
    assert (merged.added, merged.taken_over, merged.kept, merged.rounds) == (0, 1, 5, 2)
    found = row_of(target, attempts, trial=1)
    assert (found.outcome, found.error, found.rounds_new, found.rounds_lost) == (
        *("finished", None),
        *(3, 0),
    )
    assert count(target, logs) == 2
    assert row_of(target, trials, id=1).state == "finished"


def test_a_file_that_was_copied_and_worked_on_in_two_places_comes_together(
    sqlite_url: str, tiny: Path, tmp_path: Path
) -> None:
    """With cp, so that both have the same name of a store: what they share is not told twice."""
    one = open_store(sqlite_url)
    plan(one, tiny)
    attempt(one, 1, some(1))
    with one.connect() as c:
        c.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    one.dispose()
    shutil.copy(tmp_path / "fedsweep.db", tmp_path / "laptop.db")
    laptop = open_store(f"sqlite:///{tmp_path}/laptop.db")
    attempt(laptop, 1, [measured(2), measured(3)], end="finish", worker="bob")
    attempt(one, 2, some(3), end="finish")
    merged = merged_into(laptop, one)
    assert (merged.added, merged.taken_over, merged.kept, merged.rounds) == (0, 1, 5, 2)
    assert count(one, attempts) == 3
    with reading(one) as c:
        spent = c.execute(sa.text("SELECT * FROM ledger")).one()
    assert (spent.rounds_trained, spent.rounds_lost) == (6, 0)
    laptop.dispose()
    one.dispose()


@between(argvalues=FILES)
def test_merged_weights_come_once_with_their_file(two: tuple[Engine, Engine], tiny: Path) -> None:
    """They come if INTO has none. A file that is missing comes with a later merge."""
    source, target = two
    for engine in two:
        plan(engine, tiny)
    place, sha = folder(source), hashlib.sha256(b"abc").hexdigest()
    place.mkdir(parents=True)
    names = []
    for row in (1, 2):
        claim = attempt(source, row, some(3), end="finish")
        names.append(file_names.weights_name(claim))
        with transaction(source) as c:
            file_index.add_weights(c, claim, file_index.Weights(names[-1], 3, sha))
    first, second = names
    (place / first).write_bytes(b"abc")
    assert merged_into(source, target).lost == (str(place / second),)
    (place / second).write_bytes(b"abc")
    assert merged_into(source, target).lost == ()
    assert count(target, weights) == 2
    assert (folder(target) / brought(source, target, second)).read_bytes() == b"abc"


@between(argvalues=FILES)
def test_a_merge_never_overwrites_a_file(two: tuple[Engine, Engine], tiny: Path) -> None:
    """FROM's file has the name of INTO's; or a file of no row has the name to be given."""
    source, target = two
    for engine in two:
        plan(engine, tiny)
    mine, theirs = keep(target, 1, b"mine"), keep(source, 2, b"theirs")
    old = mine.replace(f"-{mine.split('-')[2]}-", "-")
    for engine, name in ((target, mine), (source, theirs)):
        (folder(engine) / name).rename(folder(engine) / old)
        with transaction(engine) as c:
            c.execute(sa.update(weights).values(name=old))
    merged_into(source, target)
    assert (folder(target) / old).read_bytes() == b"mine"
    assert (folder(target) / brought(source, target, theirs)).read_bytes() == b"theirs"
    third = keep(source, 3, b"third")
    taken = folder(target) / brought(source, target, third)
    taken.write_bytes(b"of no row")
    merged_into(source, target)
    assert taken.read_bytes() == b"of no row"
    assert taken.with_name(taken.name.replace("-weights.", "-weights2.")).read_bytes() == b"third"
    checked = integrity.check_files(target)
    assert (checked.sound, checked.faults) == (3, [])
    assert faults(source) == [
        f"trial {theirs.partition('-')[0]}: its weights are in a file of another trial"
    ]


@between(argvalues=FILES)
def test_weights_at_a_place_that_was_not_approved_are_not_left_out_in_silence(
    two: tuple[Engine, Engine], tiny: Path, tmp_path: Path
) -> None:
    """Nothing is merged or copied; what this user has approved for FROM holds for the copy."""
    source, target = two
    plan(source, tiny)
    place = tmp_path / "scratch"
    with transaction(source) as c:
        file_index.put_files(c, "tiny", str(place))
        own = c.execute(sa.select(identity.c.id)).scalar_one()
    trust.approve(own, str(place))
    keep(source, 1, b"theirs")
    shutil.rmtree(tmp_path / "data" / "fedsweep" / "approved")
    for work in (copy.copy_store, merged_into):
        with pytest.raises(RequestError, match="weights of FROM cannot be read: .*not approved"):
            work(source, target)
        assert count(target, trials) == count(target, sweeps) == 0
    trust.approve(own, str(place))
    assert copy.copy_store(source, target).lost == ()
    assert integrity.check_files(target).sound == 1


def keep(engine: Engine, row: int, content: bytes) -> str:
    """Finish a trial, with weights; returns their file's name."""
    claim = attempt(engine, row, some(3), end="finish")
    name, place = file_names.weights_name(claim), folder(engine)
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(content)
    with transaction(engine) as c:
        kept = file_index.Weights(name, len(content), hashlib.sha256(content).hexdigest())
        file_index.add_weights(c, claim, kept)
    return name


def brought(source: Engine, target: Engine, name: str) -> str:
    """The name of FROM's file in the other database."""
    with reading(source) as there, reading(target) as here:
        one, other = (c.execute(sa.select(identity.c.id)).scalar_one() for c in (there, here))
    return name.replace(one, other)


@between(argvalues=OTHERS)
def test_a_merge_that_breaks_off_leaves_into_as_it_was(
    two: tuple[Engine, Engine], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of its second step."""
    halves(two, tiny)
    before = content(two[1])
    monkeypatch.setattr(merge, "TRIALS", 2)
    calls: list[int] = []
    inner: Callable[..., None] = _add_members

    def breaks(*arguments: Any) -> None:
        inner(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError

    monkeypatch.setattr(merge, "_add_members", breaks)
    with pytest.raises(RuntimeError):
        merged_into(*two)
    assert content(two[1]) == before


@between(argvalues=OTHERS)
def test_a_merge_brings_searches_along_once(two: tuple[Engine, Engine], tiny: Path) -> None:
    """With what was proposed, under INTO's keys; a search that INTO has is INTO's."""
    source, target = two
    plan(target, tiny, "seed=0", name="other")
    plan(source, tiny)
    with transaction(source) as c:
        search(c, tiny)
    merged_into(source, target)
    with reading(source) as c:
        (theirs,) = arms.of_sweep(c, "tiny")
        tried = arms.tried(c, theirs)
        said = arms.proposals_of(c, theirs.key)
    before = content(target)
    merged_into(source, target)
    assert content(target) == before
    with reading(target) as c:
        (mine,) = arms.of_sweep(c, "tiny")
        assert mine.spec == theirs.spec
        assert (mine.asked, mine.ended) == (1, None)
        assert arms.tried(c, mine) == tried
        assert len(tried) == 1
        assert arms.proposals_of(c, mine.key) == said
        assert arms.trunks_of(c, mine.key) == [theirs.spec.trial(2, 0).trunk]


@pytest.mark.parametrize("refused", [0, 1])
def test_an_error_names_the_store_that_it_came_from(
    two: tuple[Engine, Engine], refused: int
) -> None:
    """A failure of either store says its URL and its argument, not those of the other one."""
    name = ("FROM", "INTO")[refused]
    urls = [engine.url.render_as_string(hide_password=False) for engine in two]
    with both(*urls, names=("FROM", "INTO")) as stores:
        broken = stores[refused]
        error: Exception = sqlite3.OperationalError("attempt to write a readonly database")
        if broken.dialect.name == "postgresql":
            error = psycopg.errors.ReadOnlySqlTransaction("a read-only transaction")

        def fail(*_: object) -> None:
            raise error

        event.listen(broken, "before_cursor_execute", fail)

        def fails() -> None:
            with reading(stores[0]) as there, transaction(stores[1]) as here:
                (there, here)[refused].execute(sa.select(trials.c.id))

        with pytest.raises(StoreError) as caught:
            fails()
        with pytest.raises(StoreError) as inside, transaction(stores[1]) as here:
            merge_stores(stores[0], here)
    for said in (str(caught.value), str(inside.value)):
        assert Path(broken.url.database or "").name in said
        assert Path(stores[1 - refused].url.database or "").name not in said
        assert name in said
        assert "--db" not in said

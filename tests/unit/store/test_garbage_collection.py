"""Garbage collection: the files that it deletes, keeps, and must never touch."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from fsspec.implementations.memory import MemoryFileSystem
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.errors import Refused
from fedsweep.plans import read_plan
from fedsweep.states import FailureKind
from fedsweep.store import (
    attempt_rows,
    file_index,
    file_names,
    file_places,
    garbage_collection,
    planning,
    trust,
)
from fedsweep.store.artifacts import Folder, folder_of
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.garbage_collection import Collected, collect
from fedsweep.store.tables import attempts, files, identity, snapshots, trials
from fedsweep.store.transactions import reading, transaction

HOST = queue.Claimant("w", "cpu").host


@pytest.fixture(autouse=True)
def own_data_folder(memory_bucket: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


@pytest.fixture(autouse=True)
def planned(store: Engine, tiny: Path) -> None:
    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny, ["keep_weights=true"]).alone())


def begun(store: Engine, host: str = HOST) -> Claim:
    """Return a claim of a trial that an attempt runs, with its files in the index."""
    with transaction(store) as c:
        claim = queue.claim(c, queue.Claimant("w", "cpu", host, 1), read_clock(c))
        assert claim is not None
        attempt_rows.start_attempt(c, claim, numerics_id="n", numerics={}, data_fingerprint="d")
    return claim


def home(store: Engine, claim: Claim) -> Folder:
    with reading(store) as c:
        return folder_of(store.url, file_places.home(c, claim.trial))


def saved(store: Engine, claim: Claim, name: str | None = None) -> str:
    """Write a snapshot to the first of the attempt's two files, or to another name."""
    name = name or file_names.snapshot_names(claim)[0]
    folder = home(store, claim)
    with transaction(store) as c:
        total = folder.write(name, b"state")
        file_index.add_snapshot(c, claim, file_index.Snapshot(1, "n", name, 5, total))
    return name


def left(store: Engine, claim: Claim) -> str:
    """Write a file that was never committed, the second of the attempt's two files."""
    name = file_names.snapshot_names(claim)[1]
    home(store, claim).write(name, b"half")
    return name


def put_at(store: Engine, place: str, *, approved: bool = True) -> None:
    """Set the place of the sweep's files."""
    with transaction(store) as c:
        file_index.put_files(c, "tiny", place)
    if approved:
        trust.approve(store_of(store), place)


def store_of(store: Engine) -> str:
    with reading(store) as c:
        return str(c.execute(sa.select(identity.c.id)).scalar_one())


def age(store: Engine, seconds: float = 2 * garbage_collection.GRACE_SECONDS) -> None:
    """Move all past events into the past by some time."""
    with transaction(store) as c:
        for column in (attempts.c.ended_at, files.c.free_since):
            c.execute(sa.update(column.table).values({column: column - seconds}))


def there(store: Engine, claim: Claim) -> list[str]:
    return sorted(path.name for path in Path(str(home(store, claim))).iterdir())


def indexed(store: Engine) -> list[str]:
    with reading(store) as c:
        return list(c.execute(sa.select(files.c.name).order_by(files.c.name)).scalars())


def test_files_of_a_killed_attempt_except_its_snapshot_are_deleted_after_an_hour(
    store: Engine,
) -> None:
    """The trial may run again. A dry run lists the files, and a collection deletes them."""
    first = begun(store)
    kept, half = saved(store, first), left(store, first)
    assert collect(store) == Collected()
    with transaction(store) as c:
        queue.lose(c, first, "killed")
    assert collect(store) == Collected()
    age(store)
    second = begun(store)
    assert second.trial == first.trial
    assert collect(store, dry_run=True) == Collected(files=1, bytes=4)
    assert there(store, first) == [kept, half]
    assert collect(store) == Collected(files=1, bytes=4)
    assert there(store, first) == [kept]
    assert indexed(store) == sorted([kept, *file_names.file_names(second)])
    assert collect(store) == Collected()


def test_the_hour_of_a_file_begins_when_it_is_replaced(store: Engine) -> None:
    """The end of its attempt does not matter."""
    first = begun(store)
    old = saved(store, first)
    with transaction(store) as c:
        queue.release(c, first)
    age(store)
    second = begun(store)
    new = saved(store, second)
    assert collect(store).files == 0
    assert there(store, first) == sorted([old, new])
    age(store)
    assert collect(store).files == 1
    assert there(store, first) == [new]


def test_weights_are_never_deleted(store: Engine) -> None:
    """The plan requested them."""
    claim = begun(store)
    name = file_names.weights_name(claim)
    total = home(store, claim).write(name, b"weights")
    with transaction(store) as c:
        file_index.add_weights(c, claim, file_index.Weights(name, 7, total))
        c.execute(sa.update(trials).values(state="finished", lease_until=None))
        c.execute(sa.update(attempts).values(outcome="finished", ended_at=time.time()))
    age(store)
    assert collect(store) == Collected()
    assert there(store, claim) == [name]
    assert indexed(store) == [name]


def test_snapshots_of_trials_that_will_not_resume_are_deleted(store: Engine) -> None:
    """The trials were cancelled or diverged. After another failure, a trial may be retried."""
    cancelled, diverged, failed = claims = [begun(store) for _ in range(3)]
    names = [saved(store, claim) for claim in claims]
    with transaction(store) as c:
        queue.cancel(c, [cancelled.trial])
        queue.fail(c, diverged, read_clock(c), FailureKind.DIVERGED, "nan")
        queue.fail(c, failed, read_clock(c), FailureKind.BAD_DATA, "gone")
    assert collect(store) == Collected()
    age(store)
    assert collect(store, dry_run=True) == collect(store) == Collected(files=2, bytes=10)
    assert there(store, failed) == [names[2]]
    with reading(store) as c:
        assert list(c.execute(sa.select(snapshots.c.name)).scalars()) == [names[2]]


def test_the_next_collection_completes_an_interrupted_one(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interruption comes between the file and its row."""
    claim = begun(store)
    left(store, claim)
    with transaction(store) as c:
        queue.cancel(c, [claim.trial])
    age(store)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(file_index, "forget_files", killed)
        with pytest.raises(KeyboardInterrupt):
            collect(store)
    assert there(store, claim) == []
    assert indexed(store) == sorted(file_names.file_names(claim))
    assert collect(store) == Collected()
    assert indexed(store) == []


def test_files_that_the_index_does_not_name_are_never_touched(store: Engine) -> None:
    """A dry run lists the files that it would delete."""
    claim = begun(store)
    half = left(store, claim)
    place = Path(str(home(store, claim)))
    others = ["notes.txt", half.replace("-b.", "-c."), half.replace("-1-", "-2-", 1)]
    for name in others:
        (place / name).write_text("mine")
    with transaction(store) as c:
        queue.cancel(c, [claim.trial])
    age(store)
    assert collect(store, dry_run=True).named == [str(place / half)]
    assert collect(store).files == 1
    assert there(store, claim) == sorted(others)


@pytest.mark.parametrize(
    "name", ["../precious", "{root}/precious", "link", "..", "precious", "model.safetensors"]
)
def test_files_with_names_of_another_form_are_kept(
    name: str, store: Engine, tmp_path: Path
) -> None:
    """The other files are deleted."""
    claim = begun(store)
    left(store, claim)
    place = Path(str(home(store, claim)))
    name = name.format(root=tmp_path)
    precious = [place.parent / "precious", tmp_path / "precious"]
    precious += [place / "precious", place / "model.safetensors"]
    for file in precious:
        file.write_text("keep")
    (place / "link").symlink_to(precious[0])
    with transaction(store) as c:
        c.execute(sa.insert(files).values(name=name, trial=claim.trial, fence=claim.fence))
        queue.cancel(c, [claim.trial])
    age(store)
    assert collect(store) == Collected(files=1, bytes=4, outside=[name])
    assert [file.read_text() for file in precious] == ["keep"] * 4
    assert indexed(store) == [name]


def test_a_file_that_cannot_be_deleted_is_named_and_left_for_later(store: Engine) -> None:
    """For example, it is a folder."""
    claim = begun(store)
    name = file_names.snapshot_names(claim)[0]
    (Path(str(home(store, claim))) / name).mkdir(parents=True)
    with transaction(store) as c:
        queue.cancel(c, [claim.trial])
    age(store)
    collected = collect(store)
    assert list(collected.failed) == [name]
    assert "is a folder" in collected.failed[name]
    assert indexed(store) == [name]


def test_files_on_another_machine_are_kept(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """If each machine has a folder, a file that is missing on one may exist on another."""
    monkeypatch.setattr("platform.node", lambda: "here")
    claim = begun(store, host="there")
    with transaction(store) as c:
        queue.cancel(c, [claim.trial])
    age(store)
    many_machines = store.dialect.name == "postgresql"
    assert collect(store).elsewhere == ({"there": 3} if many_machines else {})
    assert indexed(store) == (sorted(file_names.file_names(claim)) if many_machines else [])
    monkeypatch.setattr("platform.node", lambda: "there")
    assert collect(store) == Collected()
    assert indexed(store) == []


def test_files_at_a_url_are_collected_from_every_machine(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are deleted only there."""
    put_at(store, "memory://bucket")
    claim = begun(store, host="there")
    kept, _ = saved(store, claim), left(store, claim)
    folder = str(home(store, claim)).removeprefix("memory:/")
    with transaction(store) as c:
        queue.lose(c, claim, "killed")
    age(store)
    assert collect(store) == Collected(files=1, bytes=4)
    assert list(MemoryFileSystem.store) == [f"{folder}/{kept}"]


def test_the_place_of_files_cannot_change_while_files_exist(store: Engine) -> None:
    """The change is refused and nothing is stored. The same place again is not a change."""
    put_at(store, "memory://one")
    put_at(store, "memory://two")
    claim = begun(store)
    with pytest.raises(Refused, match="lie in memory://two"), transaction(store) as c:
        file_index.put_files(c, "tiny", "memory://one")
    with transaction(store) as c:
        file_index.put_files(c, "tiny", "memory://two")
    assert str(home(store, claim)).startswith("memory://two/")


@pytest.mark.parametrize("place", ["{tmp}/project", "memory://bucket", "ftp://127.0.0.1/x", ".."])
def test_files_at_an_unapproved_place_are_not_deleted(
    place: str, store: Engine, tmp_path: Path
) -> None:
    """Only this user can approve a place. An invalid place is never used."""
    place = place.format(tmp=tmp_path)
    put_at(store, place)
    claim = begun(store)
    name = file_names.snapshot_names(claim)[0]
    file = tmp_path / "project" / store_of(store) / name
    file.parent.mkdir(parents=True)
    file.write_text("keep")
    MemoryFileSystem().pipe_file(f"/bucket/{store_of(store)}/{name}", b"keep")
    with transaction(store) as c:
        queue.cancel(c, [claim.trial])
    shutil.rmtree(tmp_path / "share" / "fedsweep" / "approved")
    age(store)
    for dry_run in (True, False):
        collected = collect(store, dry_run=dry_run)
        assert (collected.files, collected.named, collected.failed) == (0, [], {})
        assert sum(collected.unapproved.values()) + len(collected.outside) == 3
    assert file.read_text() == "keep"
    assert len(MemoryFileSystem.store) == 1
    assert len(indexed(store)) == 3


def begin_after(store: Engine, claim: Claim) -> file_places.Home:
    with transaction(store) as c:
        attempt_rows.start_attempt(c, claim, numerics_id="n", numerics={}, data_fingerprint="d")
        return file_places.home(c, claim.trial)


def plan_elsewhere(store: Engine) -> None:
    with transaction(store) as c:
        file_index.put_files(c, "tiny", "memory://there")


def test_an_attempt_that_begins_during_a_plan_uses_the_plan_s_place(
    store: Engine,
) -> None:
    """The attempt waits for the plan. Otherwise the index would not find its files."""
    with transaction(store) as c:
        claim = queue.claim(c, queue.Claimant("w", "cpu"), read_clock(c))
    assert claim is not None
    with ThreadPoolExecutor(1) as other:
        with transaction(store) as c:
            file_index.put_files(c, "tiny", "memory://there")
            attempt = other.submit(begin_after, store, claim)
            with pytest.raises(TimeoutError):
                attempt.result(timeout=0.3)
        assert attempt.result().artifacts == "memory://there"


def test_a_plan_with_another_place_is_refused_if_an_attempt_begins(
    store: Engine,
) -> None:
    """The plan waits for the attempt, and is then refused."""
    with transaction(store) as c:
        claim = queue.claim(c, queue.Claimant("w", "cpu"), read_clock(c))
    assert claim is not None
    with ThreadPoolExecutor(1) as other:
        with transaction(store) as c:
            attempt_rows.start_attempt(c, claim, numerics_id="n", numerics={}, data_fingerprint="d")
            plan = other.submit(plan_elsewhere, store)
            with pytest.raises(TimeoutError):
                plan.result(timeout=0.3)
        with pytest.raises(Refused, match="lie in this database's own folder"):
            plan.result()

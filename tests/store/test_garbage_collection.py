"""Files that nothing needs: what goes, what stays, and what no collection may touch."""

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
from fedsweep.plan import read_plan
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
    """A trial that an attempt runs, its files on the index."""
    with transaction(store) as c:
        claim = queue.claim(c, queue.Claimant("w", "cpu", host, 1), read_clock(c))
        assert claim is not None
        attempt_rows.start_attempt(c, claim, numerics_id="n", numerics={}, data_fingerprint="d")
    return claim


def home(store: Engine, claim: Claim) -> Folder:
    with reading(store) as c:
        return folder_of(store.url, file_places.home(c, claim.trial))


def saved(store: Engine, claim: Claim, name: str | None = None) -> str:
    """A snapshot in the first of its two files, or under another name."""
    name = name or file_names.snapshot_names(claim)[0]
    folder = home(store, claim)
    with transaction(store) as c:
        total = folder.write(name, b"state")
        file_index.add_snapshot(c, claim, file_index.Snapshot(1, "n", name, 5, total))
    return name


def left(store: Engine, claim: Claim) -> str:
    """A file that was never committed, in the second."""
    name = file_names.snapshot_names(claim)[1]
    home(store, claim).write(name, b"half")
    return name


def put_at(store: Engine, place: str, *, approved: bool = True) -> None:
    """Put the sweep's files at a place."""
    with transaction(store) as c:
        file_index.put_files(c, "tiny", place)
    if approved:
        trust.approve(store_of(store), place)


def store_of(store: Engine) -> str:
    with reading(store) as c:
        return str(c.execute(sa.select(identity.c.id)).scalar_one())


def age(store: Engine, seconds: float = 2 * garbage_collection.GRACE_SECONDS) -> None:
    """Let time pass, for what has happened."""
    with transaction(store) as c:
        for column in (attempts.c.ended_at, files.c.free_since):
            c.execute(sa.update(column.table).values({column: column - seconds}))


def there(store: Engine, claim: Claim) -> list[str]:
    return sorted(path.name for path in Path(str(home(store, claim))).iterdir())


def indexed(store: Engine) -> list[str]:
    with reading(store) as c:
        return list(c.execute(sa.select(files.c.name).order_by(files.c.name)).scalars())


def test_what_a_killed_attempt_left_goes_after_an_hour_and_its_snapshot_stays(
    store: Engine,
) -> None:
    """Also of a trial that runs again; told first, then done, then nothing is left to do."""
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


def test_a_file_is_free_from_when_it_was_replaced(store: Engine) -> None:
    """Not from when its attempt ended."""
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


def test_weights_stay_for_good(store: Engine) -> None:
    """They are what was asked for."""
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


def test_snapshots_of_trials_that_will_not_go_on_are_left_over(store: Engine) -> None:
    """Cancelled or diverged; one that failed otherwise may be tried again."""
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


def test_a_collection_that_is_cut_short_is_made_good_by_the_next(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the file and its row."""
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


def test_what_the_index_does_not_name_is_never_touched(store: Engine) -> None:
    """No folder is listed. A dry run names what it would delete."""
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
def test_names_that_the_store_does_not_give_are_left_alone(
    name: str, store: Engine, tmp_path: Path
) -> None:
    """The others go."""
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
    """A folder in its place, for one."""
    claim = begun(store)
    name = file_names.snapshot_names(claim)[0]
    (Path(str(home(store, claim))) / name).mkdir(parents=True)
    with transaction(store) as c:
        queue.cancel(c, [claim.trial])
    age(store)
    found = collect(store)
    assert list(found.failed) == [name]
    assert "is a folder" in found.failed[name]
    assert indexed(store) == [name]


def test_files_on_another_machine_are_left_to_it(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each has a folder of its own, a file that is not here may still be there."""
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


def test_files_behind_a_url_are_collected_from_anywhere(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And from there alone."""
    put_at(store, "memory://bucket")
    claim = begun(store, host="there")
    kept, _ = saved(store, claim), left(store, claim)
    folder = str(home(store, claim)).removeprefix("memory:/")
    with transaction(store) as c:
        queue.lose(c, claim, "killed")
    age(store)
    assert collect(store) == Collected(files=1, bytes=4)
    assert list(MemoryFileSystem.store) == [f"{folder}/{kept}"]


def test_where_files_lie_cannot_change_while_there_are_any(store: Engine) -> None:
    """Refused with what is stored; the same again is no change."""
    put_at(store, "memory://one")
    put_at(store, "memory://two")
    claim = begun(store)
    with pytest.raises(Refused, match="lie in memory://two"), transaction(store) as c:
        file_index.put_files(c, "tiny", "memory://one")
    with transaction(store) as c:
        file_index.put_files(c, "tiny", "memory://two")
    assert str(home(store, claim)).startswith("memory://two/")


@pytest.mark.parametrize("place", ["{tmp}/project", "memory://bucket", "ftp://127.0.0.1/x", ".."])
def test_nothing_is_deleted_at_a_place_that_a_database_names(
    place: str, store: Engine, tmp_path: Path
) -> None:
    """Unless this user has approved it; a place of another form is never used."""
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
        found = collect(store, dry_run=dry_run)
        assert (found.files, found.named, found.failed) == (0, [], {})
        assert sum(found.unapproved.values()) + len(found.outside) == 3
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


def test_an_attempt_that_begins_as_its_sweep_is_planned_elsewhere_sees_the_plan(
    store: Engine,
) -> None:
    """It waits for it: else its files would lie where no index looks."""
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


def test_a_plan_that_puts_files_elsewhere_as_an_attempt_begins_sees_the_attempt(
    store: Engine,
) -> None:
    """And is refused."""
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

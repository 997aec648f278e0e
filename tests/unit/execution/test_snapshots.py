"""Snapshots of a claimed trial: their schedule, and the cost of a bad one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load, save
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.errors import MachineError
from fedsweep.execution import attempt
from fedsweep.execution.attempt import execute
from fedsweep.execution.files import AttemptFiles
from fedsweep.execution.place import Place
from fedsweep.plans import Round
from fedsweep.states import Hold, Outcome
from fedsweep.store import artifacts, file_index, file_names, spare_files, trial_rows, trust
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.identity import store_name
from fedsweep.store.tables import files, snapshots
from fedsweep.store.transactions import patiently, reading, transaction
from tests.builders import WORKER
from tests.execution import claim, direct, folder, planned, run, stored

pytestmark = [pytest.mark.quick_on("sqlite"), pytest.mark.usefixtures("own_data_folder")]


def snapshot_of(store: Engine, claimed: Claim) -> file_index.Snapshot | None:
    with reading(store) as c:
        row = c.execute(
            sa.select(snapshots).where(snapshots.c.trial == claimed.trial)
        ).one_or_none()
    if row is None:
        return None
    return file_index.Snapshot(row.round, row.numerics_id, row.name, row.bytes, row.sha256)


def change(store: Engine, **values: Any) -> None:
    with transaction(store) as c:
        c.execute(sa.update(snapshots).values(**values))


def indexed(store: Engine) -> list[str]:
    with reading(store) as c:
        return list(c.execute(sa.select(files.c.name).order_by(files.c.name)).scalars())


def watched(store: Engine, claimed: Claim, watch: Callable[[Round], None]) -> Outcome | None:
    """Execute a claimed trial with this watch, and return its outcome."""
    end = execute(store, claimed, Place(), lambda: False, watch)
    return end and end.outcome


def lost(store: Engine, claimed: Claim) -> list[int]:
    with reading(store) as c:
        return [a["rounds_lost"] for a in trial_rows.trial_attempts(c, claimed.trial)]


def truncated(file: Path, _: Engine) -> None:
    file.write_bytes(file.read_bytes()[:100])


def garbage(file: Path, _: Engine) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def empty(file: Path, _: Engine) -> None:
    file.write_bytes(b"")


def deleted(file: Path, _: Engine) -> None:
    file.unlink()


def a_folder(file: Path, _: Engine) -> None:
    file.unlink()
    file.mkdir()
    (file / "precious").touch()


def a_circle(file: Path, _: Engine) -> None:
    """Replace the file with a link to itself, which even root cannot read."""
    file.unlink()
    file.symlink_to(file.name)


def of_another_trial(file: Path, _: Engine) -> None:
    tensors = {name: t + 1 for name, t in load(file.read_bytes()).items()}
    file.write_bytes(save(tensors))


def of_other_numerics(_: Path, store: Engine) -> None:
    change(store, numerics_id="another machine's")


def outside(file: Path, store: Engine) -> None:
    file.rename(file.parent.parent / "precious")
    change(store, name="../precious")


def indexed_as(file: Path, store: Engine, content: bytes) -> None:
    file.write_bytes(content)
    change(store, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def of_other_shapes(file: Path, store: Engine) -> None:
    tensors = load(file.read_bytes())
    indexed_as(file, store, save(tensors | {"server": tensors["server"][:1]}))


def of_another_precision(file: Path, store: Engine) -> None:
    indexed_as(file, store, save({n: t.double() for n, t in load(file.read_bytes()).items()}))


def of_other_tensors(file: Path, store: Engine) -> None:
    indexed_as(file, store, save({"client": load(file.read_bytes())["server"]}))


def no_tensors(file: Path, store: Engine) -> None:
    indexed_as(file, store, b"tensors")


def of_no_round(_: Path, store: Engine) -> None:
    change(store, round=3)


HARMS = (truncated, garbage, empty, deleted, a_folder, a_circle, of_another_trial)
HARMS += (of_other_numerics, outside, of_other_shapes, of_another_precision, of_other_tensors)
HARMS += (no_tensors, of_no_round)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("harm", HARMS)
def test_a_bad_snapshot_costs_only_its_rounds(
    harm: Callable[[Path, Engine], None], store: Engine, tiny: Path
) -> None:
    """The trial begins again. Its stored rounds come out equal, and count as lost."""
    planned(store, tiny, "momentum=local", "normalizer=bn", "seed=0")
    first = claim(store)
    run(store, first, stop_after=2)
    place = folder(store, first)
    (file,) = place.iterdir()
    harm(file, store)
    precious = list(place.parent.rglob("precious"))
    second = claim(store)
    outcome, seen = run(store, second)
    assert outcome is Outcome.FINISHED
    assert [r.round for r in seen] == [1, 2, 3]
    assert stored(store, second) == direct(second)
    assert lost(store, second) == [0, 2]
    assert snapshot_of(store, second) is None
    assert all(path.exists() for path in precious)


def test_a_snapshot_that_cannot_be_read_costs_its_rounds(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing disk is logged once."""

    def failing(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    planned(store, tiny, "normalizer=bn", "seed=0")
    run(store, claim(store), stop_after=2)
    monkeypatch.setattr(artifacts._LocalFiles, "read", failing)
    second = claim(store)
    with caplog.at_level(logging.WARNING):
        assert run(store, second)[0] is Outcome.FINISHED
    assert caplog.text.count("begins again, its snapshot is missing, damaged or out of reach") == 1
    monkeypatch.undo()
    assert stored(store, second) == direct(second)


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a snapshot after every round."""
    monkeypatch.setattr(attempt, "SNAPSHOT_SECONDS", 0.0)


def test_an_indexed_snapshot_is_never_overwritten(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two names alternate. Each is indexed before its file is written."""
    at_once(monkeypatch)
    planned(store, tiny, "normalizer=bn", "seed=0", "rounds=5")
    claimed, seen = claim(store), []
    a, b = file_names.snapshot_names(claimed)
    write = artifacts.Folder.write

    def seen_to(self: artifacts.Folder, name: str, content: bytes) -> str:
        named = snapshot_of(store, claimed)
        assert name in indexed(store)
        assert named is None or named.name != name
        seen.append((name, named and named.name))
        return write(self, name, content)

    monkeypatch.setattr(artifacts.Folder, "write", seen_to)
    assert run(store, claimed)[0] is Outcome.FINISHED
    assert seen == [(a, None), (b, a), (a, b), (b, a)]
    assert list(folder(store, claimed).iterdir()) == []
    assert indexed(store) == []


def test_a_file_that_a_killed_trainer_left_is_in_the_index(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed before the commit. The trial resumes from the snapshot before."""

    class Killed(BaseException):
        """The process is killed: nothing is cleared up."""

    def killed(*_: object) -> list[str]:
        if snapshot_of(store, first) is not None:
            raise Killed
        return add(*_)

    add = file_index.add_snapshot
    planned(store, tiny, "normalizer=bn", "seed=0")
    first = claim(store)
    with monkeypatch.context() as patch:
        at_once(patch)
        patch.setattr(file_index, "add_snapshot", killed)
        patch.setattr(AttemptFiles, "clear_up", lambda _: None)
        with pytest.raises(Killed):
            run(store, first)
    a, b = file_names.snapshot_names(first)
    assert sorted(path.name for path in folder(store, first).iterdir()) == [a, b]
    assert indexed(store) == [a, b]
    with transaction(store) as c:
        queue.lose(c, first, "killed")
    second = claim(store)
    outcome, seen = run(store, second)
    assert (outcome, [r.round for r in seen]) == (Outcome.FINISHED, [2, 3])
    assert stored(store, second) == direct(second)
    # The second attempt deletes only its own files; the rest is left to `db gc`.
    assert [path.name for path in folder(store, first).iterdir()] == [b]
    assert indexed(store) == [b]


def test_an_attempt_that_lost_its_trial_deletes_its_uncommitted_files(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its committed snapshot stays, because the next attempt resumes from it."""
    at_once(monkeypatch)
    planned(store, tiny, "normalizer=bn", "seed=0")
    first = claim(store)

    def stolen(row: Round) -> None:
        if row.round == 2:
            with transaction(store) as c:
                queue.lose(c, first, "stolen")

    assert watched(store, first, stolen) is None
    a, b = file_names.snapshot_names(first)
    assert [path.name for path in folder(store, first).iterdir()] == [a]
    assert indexed(store) == [a, b]


def test_weights_stay_if_the_answer_of_their_commit_was_lost(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retried commit finds the trial finished, so the attempt believes it has lost it."""

    def twice(engine: Engine, work: Callable[[Any], Any]) -> Any:
        done = patiently(engine, work)
        return patiently(engine, work) if getattr(work, "__name__", "") == "end" else done

    monkeypatch.setattr(attempt, "patiently", twice)
    planned(store, tiny, "normalizer=bn", "seed=0", "keep_weights=true")
    claimed = claim(store)
    assert run(store, claimed)[0] is None
    (file,) = folder(store, claimed).iterdir()
    with reading(store) as c:
        kept = spare_files.kept_weights(c, claimed.trial)
    assert kept is not None
    assert file.name == kept.name


def test_snapshot_every_sets_the_rounds_of_snapshots(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds between snapshots are stored too. After a kill they are trained again and compared."""
    at_once(monkeypatch)
    planned(store, tiny, "normalizer=bn", "seed=0", "rounds=6", "snapshot_every=2")
    first, taken = claim(store), []
    add = file_index.add_snapshot

    def noted(c: Any, claimed: Claim, snapshot: file_index.Snapshot) -> list[str]:
        taken.append(snapshot.round)
        return add(c, claimed, snapshot)

    monkeypatch.setattr(file_index, "add_snapshot", noted)

    def killed(row: Round) -> None:
        if row.round == 4:
            with transaction(store) as c:
                queue.lose(c, first, "killed")

    assert watched(store, first, killed) is None
    assert taken == [2]
    assert len(stored(store, first)) == 3
    second = claim(store)
    outcome, seen = run(store, second)
    assert (outcome, [r.round for r in seen]) == (Outcome.FINISHED, [3, 4, 5, 6])
    assert taken == [2, 4]
    assert lost(store, second) == [0, 1]
    assert stored(store, second) == direct(second)


def test_snapshot_every_also_holds_for_quick_rounds(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot is always taken when the trial is given back."""
    monkeypatch.setattr(attempt, "SNAPSHOT_SECONDS", 1e9)
    planned(store, tiny, "normalizer=bn", "seed=0", "rounds=6", "snapshot_every=2")
    first = claim(store)
    rounds: list[int | None] = []

    def stop() -> bool:
        snapshot = snapshot_of(store, first)
        rounds.append(snapshot.round if snapshot else None)
        return len(rounds) == 5

    end = execute(store, first, Place(), stop, lambda _: None)
    assert end is not None
    assert end.outcome is Outcome.RELEASED
    assert rounds == [None, None, 2, 2, 4]
    snapshot = snapshot_of(store, first)
    assert snapshot is not None
    assert snapshot.round == 5


@pytest.mark.parametrize("every", [None, 5])
def test_a_paused_trial_resumes_bitwise_from_its_snapshot(
    every: int | None, store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given back at its next commit, with a snapshot even if none was due."""
    at_once(monkeypatch)
    planned(store, tiny, "normalizer=bn", "seed=0", "rounds=4", *_every(every))
    first = claim(store)

    def pause(row: Round) -> None:
        if row.round == 2:
            with transaction(store) as c:
                queue.hold_sweep(c, "tiny", Hold.PAUSE)

    assert watched(store, first, pause) is Outcome.RELEASED
    snapshot = snapshot_of(store, first)
    assert snapshot is not None
    assert (snapshot.round, len(stored(store, first))) == (2, 2)
    assert indexed(store) == [snapshot.name]
    with transaction(store) as c:
        assert queue.claim(c, WORKER, read_clock(c)) is None
        queue.hold_sweep(c, "tiny", None)
    second = claim(store)
    outcome, seen = run(store, second)
    assert (outcome, [r.round for r in seen]) == (Outcome.FINISHED, [3, 4])
    assert lost(store, second) == [0, 0]
    assert stored(store, second) == direct(second)


def _every(every: int | None) -> list[str]:
    return [] if every is None else [f"snapshot_every={every}"]


def test_an_attempt_returns_its_connection_if_its_rounds_are_slow(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise hundreds of attempts would hold connections of the server."""
    at_once(monkeypatch)
    gone: list[Engine] = []
    monkeypatch.setattr(attempt, "close_idle", gone.append)
    planned(store, tiny, "normalizer=bn", "seed=0")
    run(store, claim(store), stop_after=2)
    assert gone == []
    monkeypatch.setattr(attempt, "IDLE_SECONDS", 0.0)
    run(store, claim(store))
    assert gone == []  # one round was left: it finished
    planned(store, tiny, "normalizer=bn", "seed=1")
    run(store, claim(store))
    assert gone == [store, store]


@pytest.fixture
def bucket(memory_bucket: None) -> str:
    """A URL that only fsspec can read."""
    return "memory://bucket/study"


def planned_at(store: Engine, tiny: Path, place: str, *changes: str) -> None:
    planned(store, tiny, "normalizer=bn", "seed=0", *changes)
    with transaction(store) as c:
        file_index.put_files(c, "tiny", artifacts.parse(place))
        trust.approve(store_name(c), place)


def in_bucket() -> list[str]:
    return sorted(MemoryFileSystem.store)


def test_files_lie_under_the_url_of_their_sweep(
    store: Engine, tiny: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host resumes from them. Unneeded files are deleted, and the weights stay."""
    at_once(monkeypatch)
    planned_at(store, tiny, bucket, "keep_weights=true")
    with reading(store) as c:
        (name,) = c.execute(sa.text("SELECT id FROM store")).scalars()
    first = claim(store)
    run(store, first, stop_after=2)
    _, b = file_names.snapshot_names(first)
    assert in_bucket() == [f"/bucket/study/{name}/{b}"]
    monkeypatch.setattr("platform.node", lambda: "another host")
    second = claim(store)
    outcome, seen = run(store, second)
    assert (outcome, [r.round for r in seen]) == (Outcome.FINISHED, [3])
    assert stored(store, second) == direct(second)
    assert in_bucket() == [f"/bucket/study/{name}/{file_names.weights_name(second)}"]
    assert indexed(store) == [file_names.weights_name(second)]


def test_a_damaged_remote_file_costs_its_rounds(store: Engine, tiny: Path, bucket: str) -> None:
    """A file may be incomplete, or missing because the bucket was emptied."""
    planned_at(store, tiny, bucket)
    run(store, claim(store), stop_after=1)
    (path,) = in_bucket()
    MemoryFileSystem().pipe_file(path, b"half")
    run(store, claim(store), stop_after=1)
    MemoryFileSystem.store.clear()
    third = claim(store)
    outcome, seen = run(store, third)
    assert (outcome, [r.round for r in seen]) == (Outcome.FINISHED, [1, 2, 3])
    assert stored(store, third) == direct(third)


def test_snapshots_at_a_place_that_was_not_approved_cost_rounds(
    store: Engine,
    tiny: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is written, read or deleted at that place. It is logged once per trial."""
    at_once(monkeypatch)
    planned_at(store, tiny, bucket)
    run(store, claim(store), stop_after=2)
    before = in_bucket()
    monkeypatch.setenv("XDG_DATA_HOME", str(tiny.parent / "another user"))
    second = claim(store)
    with caplog.at_level(logging.WARNING):
        outcome, seen = run(store, second)
    assert (outcome, [r.round for r in seen]) == (Outcome.FINISHED, [1, 2, 3])
    assert stored(store, second) == direct(second)
    assert in_bucket() == before
    assert caplog.text.count("which you have not approved here: run `fedsweep db trust`") == 2


def test_a_trial_whose_weights_have_no_approved_place_is_given_back(
    store: Engine, tiny: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is not charged, and another worker can keep its weights. This worker stops."""
    planned_at(store, tiny, bucket, "keep_weights=true")
    with monkeypatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tiny.parent / "another user"))
        first = claim(store)
        with pytest.raises(MachineError, match=f"cannot be kept: the database names {bucket}"):
            run(store, first)
        with reading(store) as c:
            (attempt,) = trial_rows.trial_attempts(c, first.trial)
    assert (attempt["outcome"], attempt["rounds_trained"]) == ("released", 0)
    second = claim(store)
    assert second.trial == first.trial
    assert run(store, second)[0] is Outcome.FINISHED
    assert [name.rpartition("/")[2] for name in in_bucket()] == [file_names.weights_name(second)]


def unreachable(*_: object, **__: object) -> None:
    raise ConnectionResetError("the storage is away, secret=hunter2")


def of_its_own_kind(*_: object, **__: object) -> None:
    class ClientError(Exception):
        """An exception class that only one file system has."""

    raise ClientError("the storage is away")


def without_its_package(*_: object, **__: object) -> None:
    raise ImportError("Install s3fs: the storage is away")


@pytest.mark.parametrize("fault", [unreachable, of_its_own_kind, without_its_package])
def test_unreachable_storage_is_logged_once_and_costs_no_trial(
    fault: Callable[..., None],
    store: Engine,
    tiny: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """File systems have exception classes of their own."""
    at_once(monkeypatch)
    planned_at(store, tiny, bucket)
    for verb in ("pipe_file", "cat_file", "info", "rm_file"):
        monkeypatch.setattr(MemoryFileSystem, verb, fault)
    with caplog.at_level(logging.WARNING):
        run(store, claim(store), stop_after=2)
        assert caplog.text.count("the storage is away") == 1
        assert "hunter2" not in caplog.text
        second = claim(store)
        outcome, seen = run(store, second)
    assert (outcome, [r.round for r in seen]) == (Outcome.FINISHED, [1, 2, 3])
    assert stored(store, second) == direct(second)
    assert lost(store, second) == [0, 2]


def test_a_trial_resumes_from_a_snapshot_of_an_earlier_version(store: Engine, tiny: Path) -> None:
    """The file keeps its name. On Postgres it lies in a folder named after the URL."""
    planned(store, tiny, "normalizer=bn", "seed=0")
    first = claim(store)
    run(store, first, stop_after=2)
    (file,) = folder(store, first).iterdir()
    name = f"{first.trial_id}-1-2.safetensors"
    old = file.parent
    if store.dialect.name == "postgresql":
        old = artifacts._earlier_folder(store.url)
    old.mkdir(exist_ok=True)
    file.rename(old / name)
    change(store, name=name)
    with transaction(store) as c:
        c.execute(sa.update(files).values(name=name))
    second = claim(store)
    outcome, seen = run(store, second)
    assert (outcome, [r.round for r in seen]) == (Outcome.FINISHED, [3])
    assert list(old.iterdir()) == []
    assert indexed(store) == []

"""One claimed trial, from its claim to its outcome, on every database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import executor, queue
from fedsweep.errors import DeviceError, PlanError
from fedsweep.executor import Place, execute
from fedsweep.spec import Claim, Round, read_plan
from fedsweep.states import Outcome
from fedsweep.store import artifacts, reads, writes
from fedsweep.store.engine import read_clock, reading, transaction
from fedsweep.store.tables import rounds, snapshots, trials
from trainers import fedavg

WORKER = queue.Worker("w", "cpu", "h", 1)


def planned(store: Engine, plan: Path, *changes: str) -> None:
    with transaction(store) as c:
        writes.add_sweep(c, read_plan(plan, changes))


def claim(store: Engine) -> Claim:
    with transaction(store) as c:
        claimed = queue.claim(c, WORKER, read_clock(c))
    assert claimed is not None
    return claimed


def run(
    store: Engine, claimed: Claim, place: Place | None = None, stop_after: int | None = None
) -> tuple[Outcome | None, list[Round]]:
    seen: list[Round] = []

    def stop() -> bool:
        return stop_after is not None and len(seen) >= stop_after

    return execute(store, claimed, place or Place(), stop, seen.append), seen


def result(store: Engine, claimed: Claim) -> dict[str, Any]:
    with reading(store) as c:
        return reads.trial_result(c, claimed.trial_id)


def stored(store: Engine, claimed: Claim) -> list[tuple[Any, ...]]:
    columns = [rounds.c[name] for name in ("round", *writes.MEASURED)]
    query = sa.select(*columns).where(rounds.c.trial == claimed.trial).order_by(rounds.c.round)
    with reading(store) as c:
        return [tuple(row) for row in c.execute(query)]


def direct(claimed: Claim) -> list[tuple[Any, ...]]:
    """What the trainer gives without a store."""
    from fedsweep.spec import TrainConfig
    from trainers import data

    fedavg.settle(1)
    found = fedavg.run(TrainConfig(**claimed.config), data.load("digits"))
    return [tuple(getattr(r, name) for name in ("round", *writes.MEASURED)) for r in found]


def test_a_trial_s_stored_rounds_are_the_trainer_s_bit_for_bit(store: Engine, tiny: Path) -> None:
    """Through the database and back, floats do not lose a bit."""
    planned(store, tiny)
    claimed = claim(store)
    outcome, seen = run(store, claimed)
    assert outcome is Outcome.FINISHED
    assert stored(store, claimed) == direct(claimed)
    assert [r.round for r in seen] == [1, 2, 3]
    row = result(store, claimed)
    assert row["test_accuracy"] == seen[-1].test_accuracy
    assert (row["state"], row["final_round"], row["device"]) == ("finished", 3, "cpu")
    with reading(store) as c:
        (attempt,) = reads.trial_attempts(c, claimed.trial)
    assert row["numerics_id"] == attempt["numerics_id"]
    assert '"threads": "1"' in attempt["numerics"]
    assert (attempt["rounds_trained"], attempt["rounds_lost"]) == (3, 0)


def test_a_stopped_trial_is_saved_given_back_and_goes_on_bitwise(store: Engine, tiny: Path) -> None:
    """No round is trained twice; its snapshot goes when nothing needs it."""
    planned(store, tiny)
    first = claim(store)
    outcome, seen = run(store, first, stop_after=1)
    assert outcome is Outcome.RELEASED
    assert len(seen) == 1
    folder = artifacts.folder(store.url)
    with reading(store) as c:
        (name,) = c.execute(sa.select(snapshots.c.name)).scalars()
    assert (folder / name).is_file()

    second = claim(store)
    assert (second.trial, second.final_round) == (first.trial, 1)
    outcome, seen = run(store, second)
    assert outcome is Outcome.FINISHED
    assert [r.round for r in seen] == [2, 3]
    assert stored(store, second) == direct(second)
    assert not (folder / name).exists()
    with reading(store) as c:
        assert c.execute(sa.select(sa.func.count()).select_from(snapshots)).scalar_one() == 0


def missing(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [missing, truncated, flipped])
def test_a_harmed_snapshot_costs_rounds_never_a_trial(
    harm: Callable[[Path], None], store: Engine, tiny: Path
) -> None:
    """The trial starts again; its stored rounds come out equal, and count as lost."""
    planned(store, tiny)
    first = claim(store)
    run(store, first, stop_after=2)
    with reading(store) as c:
        (name,) = c.execute(sa.select(snapshots.c.name)).scalars()
    harm(artifacts.folder(store.url) / name)
    second = claim(store)
    outcome, seen = run(store, second)
    assert outcome is Outcome.FINISHED
    assert len(seen) == 3
    assert stored(store, second) == direct(second)
    with reading(store) as c:
        attempt = reads.trial_attempts(c, second.trial)[1]
    assert (attempt["rounds_trained"], attempt["rounds_lost"]) == (3, 2)


def test_a_diverged_trial_is_a_result_with_its_rounds_up_to_there(
    store: Engine, tiny: Path
) -> None:
    """Failed as `diverged`, with one sentence; nothing that is not finite is stored."""
    planned(store, tiny, "normalizer=gn", "lr=1e25", "clip_norm=0", "seed=0")
    claimed = claim(store)
    outcome, seen = run(store, claimed)
    assert outcome is Outcome.FAILED
    row = result(store, claimed)
    assert (row["state"], row["failure"]) == ("failed", "diverged")
    assert "is not finite" in row["error"] or "is nan" in row["error"] or "is inf" in row["error"]
    assert [r[0] for r in stored(store, claimed)] == [r.round for r in seen]


def test_a_bug_in_a_trainer_costs_its_trial_an_attempt_and_keeps_the_traceback(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds before it are stored; the trial is queued again, with a delay."""
    train = fedavg._Federation.train

    def broken(self: Any, number: int, visit: Any) -> float:
        if number == 2:
            raise ZeroDivisionError("a bug")
        return train(self, number, visit)

    monkeypatch.setattr(fedavg._Federation, "train", broken)
    planned(store, tiny)
    claimed = claim(store)
    outcome, _ = run(store, claimed)
    assert outcome is Outcome.FAILED
    assert len(stored(store, claimed)) == 1
    with reading(store) as c:
        (attempt,) = reads.trial_attempts(c, claimed.trial)
        delayed = sa.select(trials.c.state, trials.c.not_before).where(trials.c.id == claimed.trial)
        state, not_before = c.execute(delayed).one()
    assert attempt["error"] == "ZeroDivisionError: a bug"
    assert 'raise ZeroDivisionError("a bug")' in attempt["traceback"]
    assert (state, not_before is not None) == ("queued", True)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_of_memory_is_told_apart(
    error: Exception, store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's fault, perhaps: worth another attempt."""

    def full(*_: object) -> float:
        raise error

    monkeypatch.setattr(fedavg._Federation, "train", full)
    planned(store, tiny)
    claimed = claim(store)
    run(store, claimed)
    with reading(store) as c:
        (attempt,) = reads.trial_attempts(c, claimed.trial)
    assert attempt["failure"] == "out_of_memory"


def test_a_snapshot_that_cannot_be_written_costs_rounds_never_a_trial(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: the rounds are stored, the trial is given back, and finishes later."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    planned(store, tiny)
    first = claim(store)
    monkeypatch.setattr(artifacts, "write", full)
    outcome, _ = run(store, first, stop_after=2)
    assert outcome is Outcome.RELEASED
    assert len(stored(store, first)) == 2
    second = claim(store)
    assert run(store, second)[0] is Outcome.FINISHED
    assert stored(store, second) == direct(second)


def test_a_broken_device_is_taken_out_of_service_and_its_trial_is_not_charged(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would claim and fail the whole queue."""

    def broken(*_: object) -> float:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(fedavg._Federation, "train", broken)
    planned(store, tiny)
    claimed = claim(store)
    with pytest.raises(DeviceError, match="out of service: RuntimeError: CUDA error"):
        run(store, claimed)
    with reading(store) as c:
        state = sa.select(trials.c.state, trials.c.failures).where(trials.c.id == claimed.trial)
        assert tuple(c.execute(state).one()) == ("queued", 0)


def test_a_trial_of_another_machine_goes_on_from_no_foreign_snapshot(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds of other numerics are replaced with their snapshot; going back starts again too."""
    planned(store, tiny)
    here = fedavg.numerics
    run(store, claim(store), stop_after=2)
    monkeypatch.setattr(fedavg, "numerics", lambda *a: here(*a) | {"processor": "another"})
    run(store, claim(store), stop_after=1)
    monkeypatch.setattr(fedavg, "numerics", here)
    last = claim(store)
    outcome, seen = run(store, last)
    assert outcome is Outcome.FINISHED
    assert [r.round for r in seen] == [1, 2, 3]
    with reading(store) as c:
        counts = [
            (a["rounds_trained"], a["rounds_lost"]) for a in reads.trial_attempts(c, last.trial)
        ]
    assert counts == [(2, 0), (1, 2), (3, 1)]


def test_a_cancelled_trial_stops_at_its_next_write(store: Engine, tiny: Path) -> None:
    """Nothing of the attempt is written after the cancellation."""
    planned(store, tiny)
    claimed = claim(store)
    with transaction(store) as c:
        queue.cancel(c, [claimed.trial])
    outcome, seen = run(store, claimed)
    assert outcome is None
    assert seen == []
    assert stored(store, claimed) == []


def test_a_taken_over_trial_is_dropped_by_its_first_worker(store: Engine, tiny: Path) -> None:
    """Its rounds are not stored, its end changes nothing."""
    planned(store, tiny)
    first = claim(store)

    def stolen(_: Round) -> None:
        with transaction(store) as c:
            if queue.outstanding(c) == 6 and not taken:
                queue.release(c, first)
                taken.append(queue.claim(c, WORKER, read_clock(c)))

    taken: list[Claim | None] = []
    assert execute(store, first, Place(), lambda: False, stolen) is None
    assert taken[0] is not None
    assert taken[0].fence == 2
    assert stored(store, first) == []
    assert result(store, first)["state"] == "running"


def test_rounds_that_do_not_come_out_again_fail_the_attempt(store: Engine, tiny: Path) -> None:
    """A machine that does not compute the same twice is found out."""
    planned(store, tiny)
    first = claim(store)
    run(store, first, stop_after=2)
    with transaction(store) as c:
        c.execute(sa.update(rounds).where(rounds.c.round == 1).values(train_loss=1.25))
        c.execute(sa.delete(snapshots))
    second = claim(store)
    outcome, _ = run(store, second)
    assert outcome is Outcome.FAILED
    with reading(store) as c:
        attempt = reads.trial_attempts(c, second.trial)[1]
    assert "round 1 was trained again and gave train_loss" in attempt["error"]
    assert stored(store, second)[0][2] == 1.25


def test_missing_pictures_fail_the_trial_as_bad_data(
    store: Engine, tiny: Path, picture_folder: Path
) -> None:
    """And so do others than planned; neither is tried again."""
    planned(store, tiny, "dataset=imagefolder", "normalizer=bn", "seed=0")
    claimed = claim(store)
    outcome, _ = run(store, claimed, Place(data=picture_folder / "nowhere"))
    assert outcome is Outcome.FAILED
    row = result(store, claimed)
    assert (row["state"], row["failure"]) == ("failed", "bad_data")
    assert "there is no folder" in row["error"]
    assert "--data" in row["error"]


def test_other_pictures_than_those_of_the_stored_rounds_are_bad_data(
    store: Engine, tiny: Path, picture_folder: Path, tmp_path: Path
) -> None:
    """A trial that was not pinned when it was planned is pinned by its first rounds."""
    from tests.conftest import make_picture_folder

    planned(store, tiny, "dataset=imagefolder", "normalizer=bn", "seed=0")
    run(store, claim(store), Place(data=picture_folder), stop_after=1)
    other = make_picture_folder(tmp_path / "other", each=28)
    claimed = claim(store)
    run(store, claimed, Place(data=other))
    row = result(store, claimed)
    assert row["failure"] == "bad_data"
    assert "are not those of the stored rounds" in row["error"]


def test_a_plan_looks_at_the_folder_where_it_can(tiny: Path, picture_folder: Path) -> None:
    """It pins the content, and refuses what cannot be trained; else it says that it could not."""
    sweep = read_plan(tiny, ["dataset=imagefolder"])
    assert executor.look_at_data(sweep, None) == (sweep, True)
    seen, unseen = executor.look_at_data(sweep, picture_folder)
    assert not unseen
    assert all(t.config.fingerprint for t in seen.trials)
    with pytest.raises(PlanError, match="no folder"):
        executor.look_at_data(sweep, picture_folder / "x")
    with pytest.raises(PlanError, match="49 clients are more than the 48"):
        executor.look_at_data(
            read_plan(tiny, ["dataset=imagefolder", "clients=49"]), picture_folder
        )
    digits = read_plan(tiny)
    assert executor.look_at_data(digits, None) == (digits, False)


def test_devices_that_are_not_there_are_refused() -> None:
    """In one sentence with the remedy."""
    import torch

    assert executor.devices("cpu") == ["cpu"]
    with pytest.raises(DeviceError, match="none of auto, cpu, cuda"):
        executor.devices("tpu")
    if not torch.cuda.is_available():
        assert executor.devices("auto") == ["cpu"]
        for asked in ("cuda", "cuda:0"):
            with pytest.raises(DeviceError, match="no CUDA device here"):
                executor.devices(asked)


def test_snapshot_names_cannot_leave_their_folder(tmp_path: Path) -> None:
    """Whatever an index row says."""
    outside = tmp_path / "precious"
    outside.write_text("keep")
    place = tmp_path / "artifacts"
    place.mkdir()
    artifacts.remove(place, ["../precious", str(outside)])
    assert outside.exists()
    evil = writes.Snapshot(1, "n", "../precious", 4, "0")
    assert artifacts.read(place, evil) is None

"""One attempt at a trial, from its claim to its outcome, on every database."""

from __future__ import annotations

import json
import platform
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from PIL import Image
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.errors import DataMissing, DeviceError, MachineLacks, PackageMissing, PlanError
from fedsweep.execution import device, sizes, training
from fedsweep.execution.attempt import execute
from fedsweep.execution.data import holdings, look_at_data
from fedsweep.execution.place import Place
from fedsweep.plans import ClientScore, Round, SweepSpec, TrainConfig, read_plan
from fedsweep.states import Outcome
from fedsweep.store import artifacts, file_names, planning, spare_files, stops, trial_rows
from fedsweep.store.claim import Claim
from fedsweep.store.clock import read_clock
from fedsweep.store.tables import files, rounds, snapshots, trials
from fedsweep.store.transactions import reading, transaction
from tests import walk
from tests.builders import WORKER
from tests.execution import claim, direct, folder, planned, result, run, stored
from tests.image_folders import make_camvid, make_image_folder, make_tiny_imagenet
from trainers import fedavg, numerics, seq
from trainers.data import datasets

pytestmark = [pytest.mark.quick_on("sqlite"), pytest.mark.usefixtures("own_data_folder")]


@pytest.mark.quick_on("sqlite", "postgres")
def test_stored_rounds_are_bitwise_equal_to_the_trainer_s(store: Engine, tiny: Path) -> None:
    """Floats do not change when they are stored and read again."""
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
        (attempt,) = trial_rows.trial_attempts(c, claimed.trial)
    assert row["numerics_id"] == attempt["numerics_id"]
    assert '"threads": "1"' in attempt["numerics"]
    assert (attempt["rounds_trained"], attempt["rounds_lost"]) == (3, 0)
    assert 10**7 < attempt["memory"] < json.loads(attempt["provenance"])["memory"]


@pytest.mark.quick_on("sqlite", "postgres")
def test_a_stopped_trial_resumes_bitwise_from_its_snapshot(store: Engine, tiny: Path) -> None:
    """Each round is trained once. The snapshot is deleted when nothing needs it."""
    planned(store, tiny)
    first = claim(store)
    outcome, seen = run(store, first, stop_after=1)
    assert outcome is Outcome.RELEASED
    assert len(seen) == 1
    place = folder(store, first)
    assert [file.name for file in place.iterdir()] == [file_names.snapshot_names(first)[0]]

    second = claim(store)
    assert (second.trial, second.final_round) == (first.trial, 1)
    outcome, seen = run(store, second)
    assert outcome is Outcome.FINISHED
    assert [r.round for r in seen] == [2, 3]
    assert stored(store, second) == direct(second)
    assert list(place.iterdir()) == []
    with reading(store) as c:
        for table in (snapshots, files):
            assert c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 0


def test_a_diverged_trial_keeps_its_rounds_before_the_divergence(store: Engine, tiny: Path) -> None:
    """It fails as `diverged` with one sentence. All stored numbers are finite."""
    planned(store, tiny, "normalizer=gn", "lr=1e25", "clip_norm=0", "seed=0")
    claimed = claim(store)
    outcome, seen = run(store, claimed)
    assert outcome is Outcome.FAILED
    row = result(store, claimed)
    assert (row["state"], row["failure"]) == ("failed", "diverged")
    assert "is not finite" in row["error"] or "is nan" in row["error"] or "is inf" in row["error"]
    assert [r[0] for r in stored(store, claimed)] == [r.round for r in seen]


def test_a_bug_in_a_trainer_fails_the_attempt_with_its_traceback(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds before the bug are stored. The trial is queued again with a delay."""
    walk.install(monkeypatch)

    def broken(round: int) -> None:
        if round == 2:
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(walk, "meet", broken)
    planned(store, tiny)
    claimed = claim(store)
    outcome, _ = run(store, claimed)
    assert outcome is Outcome.FAILED
    assert len(stored(store, claimed)) == 1
    with reading(store) as c:
        (attempt,) = trial_rows.trial_attempts(c, claimed.trial)
        delayed = sa.select(trials.c.state, trials.c.not_before).where(trials.c.id == claimed.trial)
        state, not_before = c.execute(delayed).one()
    assert attempt["error"] == "ZeroDivisionError: a bug"
    assert 'raise ZeroDivisionError("a bug")' in attempt["traceback"]
    assert (state, not_before is not None) == ("queued", True)


def test_out_of_memory_is_a_failure_of_its_own_kind(
    store: Engine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine may be at fault, so the trial is tried again."""
    walk.install(monkeypatch)
    monkeypatch.setenv(walk.FOLDER, str(tmp_path))
    (tmp_path / "fill-1").touch()
    planned(store, tiny)
    claimed = claim(store)
    run(store, claimed)
    with reading(store) as c:
        (attempt,) = trial_rows.trial_attempts(c, claimed.trial)
    assert attempt["failure"] == "out_of_memory"


def test_a_snapshot_that_cannot_be_written_fails_no_trial(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a full disk, rounds are stored, and the trial is given back and finishes later."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    planned(store, tiny)
    first = claim(store)
    monkeypatch.setattr(artifacts.Folder, "write", full)
    outcome, _ = run(store, first, stop_after=2)
    assert outcome is Outcome.RELEASED
    assert len(stored(store, first)) == 2
    second = claim(store)
    assert run(store, second)[0] is Outcome.FINISHED
    assert stored(store, second) == direct(second)


def test_a_broken_device_stops_its_slot_and_charges_no_trial(
    store: Engine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the device would claim and fail every trial in the queue."""
    walk.install(monkeypatch)
    monkeypatch.setenv(walk.FOLDER, str(tmp_path))
    (tmp_path / "fail-1").write_text("CUDA error: an illegal memory access was encountered")
    planned(store, tiny)
    claimed = claim(store)
    with pytest.raises(DeviceError, match="out of service: RuntimeError: CUDA error"):
        run(store, claimed)
    with reading(store) as c:
        state = sa.select(trials.c.state, trials.c.failures).where(trials.c.id == claimed.trial)
        assert tuple(c.execute(state).one()) == ("queued", 0)


def test_a_trial_does_not_resume_from_a_snapshot_of_other_numerics(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds of other numerics and their snapshot are replaced, in both directions."""
    planned(store, tiny)
    original = numerics.numerics
    run(store, claim(store), stop_after=2)
    monkeypatch.setattr(numerics, "numerics", lambda *a: original(*a) | {"processor": "another"})
    run(store, claim(store), stop_after=1)
    monkeypatch.setattr(numerics, "numerics", original)
    last = claim(store)
    outcome, seen = run(store, last)
    assert outcome is Outcome.FINISHED
    assert [r.round for r in seen] == [1, 2, 3]
    with reading(store) as c:
        counts = [
            (a["rounds_trained"], a["rounds_lost"])
            for a in trial_rows.trial_attempts(c, last.trial)
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


@pytest.mark.quick_on("sqlite", "postgres")
def test_a_taken_over_trial_is_dropped_by_its_first_worker(store: Engine, tiny: Path) -> None:
    """Its rounds are not stored, and its end changes nothing."""
    planned(store, tiny)
    first = claim(store)

    def stolen(_: Round) -> None:
        with transaction(store) as c:
            if not taken:
                queue.release(c, first)
                taken.append(queue.claim(c, WORKER, read_clock(c)))

    taken: list[Claim | None] = []
    assert execute(store, first, Place(), lambda: False, stolen) is None
    assert taken[0] is not None
    assert taken[0].fence == 2
    assert stored(store, first) == []
    assert result(store, first)["state"] == "running"


def test_a_round_that_differs_when_trained_again_fails_the_attempt(
    store: Engine, tiny: Path
) -> None:
    """A machine that computes different results each time is detected."""
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
        attempt = trial_rows.trial_attempts(c, second.trial)[1]
    assert "round 1 was trained again and gave train_loss" in attempt["error"]
    assert stored(store, second)[0][2] == 1.25


def attempts_of(store: Engine, claimed: Claim) -> list[tuple[Any, ...]]:
    names = ("outcome", "failure", "error")
    with reading(store) as c:
        return [tuple(a[n] for n in names) for a in trial_rows.trial_attempts(c, claimed.trial)]


def charges(store: Engine, claimed: Claim) -> tuple[Any, ...]:
    columns = (trials.c.state, trials.c.failures, trials.c.losses)
    with reading(store) as c:
        return tuple(c.execute(sa.select(*columns).where(trials.c.id == claimed.trial)).one())


def test_a_trial_whose_images_are_missing_here_is_given_back(
    store: Engine, tiny: Path, image_folder: Path
) -> None:
    """The attempt stores the reason, and the trial is not charged."""
    planned(store, tiny, "dataset=imagefolder", "normalizer=bn", "seed=0")
    claimed = claim(store)
    with pytest.raises(DataMissing, match="there is no folder") as missing:
        run(store, claimed, Place(data=image_folder / "nowhere"))
    assert missing.value.lack == (("dataset", "imagefolder"), ("fingerprint", None))
    assert charges(store, claimed) == ("queued", 0, 0)
    assert attempts_of(store, claimed) == [("released", None, str(missing.value))]
    assert "--data" in str(missing.value)


@pytest.mark.parametrize("evidence", ["none", "a plan saw them", "an attempt loaded them"])
def test_images_that_no_machine_has_seen_are_bad_data(
    evidence: str,
    store: Engine,
    tiny: Path,
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trial fails after two machines lacked them, unless a plan or an attempt has read them."""
    sweep = read_plan(tiny, ["dataset=imagefolder", "normalizer=bn", "seed=0"])
    if evidence == "a plan saw them":
        sweep, *_ = look_at_data(sweep, image_folder)
    with transaction(store) as c:
        planning.add_sweep(c, sweep.alone())
    if evidence == "an attempt loaded them":
        run(store, claim(store), Place(data=image_folder), stop_after=1)
    nowhere = Place(data=image_folder / "nowhere")
    for host in ("one", "one", "two"):
        monkeypatch.setattr(platform, "node", lambda host=host: host)
        claimed = claim(store)
        try:
            run(store, claimed, nowhere)
        except DataMissing as missing:
            about = {"host": host, "pid": 1, "device": "cpu", "lack": missing.lack}
            with transaction(store) as c:
                stops.note(c, reason=str(missing), **about)
    row = result(store, claimed)
    if evidence == "none":
        assert (row["state"], row["failure"]) == ("failed", "bad_data")
        assert "there is no folder" in row["error"]
    else:
        assert charges(store, claimed) == ("queued", 0, 0)


def test_a_trial_whose_images_changed_is_given_back(
    store: Engine, tiny: Path, image_folder: Path, tmp_path: Path
) -> None:
    """The first stored rounds pin the data of a trial that the plan did not pin."""
    planned(store, tiny, "dataset=imagefolder", "normalizer=bn", "seed=0")
    run(store, claim(store), Place(data=image_folder), stop_after=1)
    other = make_image_folder(tmp_path / "other", each=28)
    claimed = claim(store)
    with pytest.raises(DataMissing, match="are not those of the stored rounds"):
        run(store, claimed, Place(data=other))
    assert charges(store, claimed) == ("queued", 0, 0)


@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError("a bug")])
def test_a_failure_on_an_unproven_machine_is_not_charged(
    error: Exception, store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt keeps its error and traceback. A proven machine charges the trial."""
    walk.install(monkeypatch)

    def broken(_round: int) -> None:
        raise error

    monkeypatch.setattr(walk, "meet", broken)
    planned(store, tiny)
    claimed = claim(store)
    end = execute(store, claimed, Place(proven=False), lambda: False, lambda _row: None)
    assert end is not None
    assert end.outcome is Outcome.RELEASED
    assert charges(store, claimed) == ("queued", 0, 0)
    with reading(store) as c:
        (attempt,) = trial_rows.trial_attempts(c, claimed.trial)
    assert type(error).__name__ in attempt["error"]
    assert "Traceback" in attempt["traceback"]
    claimed = claim(store)
    assert run(store, claimed)[0] is Outcome.FAILED
    assert charges(store, claimed) == ("queued", 1, 0)


def test_a_failure_after_a_round_is_charged_on_every_machine(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round has proved that the machine can train."""
    walk.install(monkeypatch)

    def broken(round: int) -> None:
        if round == 2:
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(walk, "meet", broken)
    planned(store, tiny)
    claimed = claim(store)
    end = execute(store, claimed, Place(proven=False), lambda: False, lambda _row: None)
    assert end is not None
    assert end.outcome is Outcome.FAILED
    assert charges(store, claimed) == ("queued", 1, 0)


def test_a_package_that_cannot_be_imported_gives_the_trial_back(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import may fail during an attempt too, on a machine that has trained before."""

    def broken(*_: object) -> None:
        raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(seq, "load", broken)
    planned(store, tiny)
    claimed = claim(store)
    with pytest.raises(PackageMissing, match="libgomp") as missing:
        run(store, claimed)
    assert missing.value.lack == (("model", "cnn"), ("dataset", "digits"))
    assert charges(store, claimed) == ("queued", 0, 0)
    assert "libgomp" in attempts_of(store, claimed)[0][2]


def test_an_engine_that_cannot_train_a_trial_gives_it_back(store: Engine, tiny: Path) -> None:
    """The user has asked for it. The trial costs nothing, and the remedy is told."""
    planned(store, tiny)
    claimed = claim(store)
    with pytest.raises(MachineLacks, match="stack cannot train .*: ask for --engine auto or seq"):
        run(store, claimed, Place(engine="stack"))
    assert charges(store, claimed) == ("queued", 0, 0)
    assert "the engine stack cannot train this trial" in attempts_of(store, claimed)[0][2]


def test_a_device_is_tried_before_the_first_claim() -> None:
    """The device must exist, and compute a step with known results."""
    device.try_machine("cpu")
    with pytest.raises(DeviceError, match="out of service"):
        device.try_machine("cuda:99")


def test_a_device_that_computes_wrong_numbers_is_out_of_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise all its trials would diverge, which is final."""
    import torch

    convolve = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *a: convolve(*a) * 1.001)
    with pytest.raises(DeviceError, match="a convolution of ones came out wrong"):
        device.try_machine("cpu")


def test_a_model_that_does_not_fit_into_free_memory_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The refusal names the model and the device."""
    from trainers import rehearsal

    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    assert device.too_small("resnet20", "cpu") is None
    monkeypatch.setattr(rehearsal, "reserve", full)
    missing = device.too_small("resnet20", "cpu")
    assert missing is not None
    assert missing.lack == (("model", "resnet20"),)
    assert "cpu has too little free memory for resnet20" in str(missing)


def test_notes_about_the_data_are_logged_in_each_attempt(
    store: Engine, tiny: Path, image_folder: Path
) -> None:
    """They are logged for cached data too, and the plan prints them."""
    Image.new("RGBA", (8, 8)).save(image_folder / "train" / "class0" / "clear.png")
    (image_folder / "train" / "class0" / "x.gif").write_bytes(b"x")
    changes = ("dataset=imagefolder", "normalizer=gn", "rounds=1")
    clear = "1 image with transparency, which is dropped: hidden colors show"
    expected = [
        "imagefolder: 2 classes, 49 + 12 images; ignored: 1 .gif",
        "imagefolder: classes: class0, class1",
        f"imagefolder: {clear} (train/class0/clear.png)",
    ]
    notes: list[str] = []
    look_at_data(read_plan(tiny, changes), image_folder, report=notes.append)
    assert notes == expected
    notes.clear()
    look_at_data(read_plan(tiny, (*changes, "image_size=4000")), image_folder, report=notes.append)
    assert notes == [*expected, "imagefolder: decoded, the images take 2.9 GB"]
    planned(store, tiny, *changes)
    for _ in range(2):
        claimed = claim(store)
        outcome, _ = run(store, claimed, Place(data=image_folder))
        assert outcome is Outcome.FINISHED
        with reading(store) as c:
            rows = trial_rows.trial_logs(c, claimed.trial, claimed.fence, None)
        messages = [row["message"] for row in rows]
        assert [line for line in messages if line in expected] == expected


def test_a_refused_image_fails_the_trial_by_name_and_mode(
    store: Engine, tiny: Path, image_folder: Path
) -> None:
    """A name that is not UTF-8 is stored with escapes. The trial is not tried again."""
    victim = image_folder / "train" / "class0" / "caf\udce9.tif"
    Image.new("F", (8, 8)).save(victim)
    planned(store, tiny, "dataset=imagefolder", "normalizer=bn", "seed=0")
    with pytest.raises(PlanError, match="has mode F"):
        look_at_data(read_plan(tiny, ["dataset=imagefolder"]), image_folder)
    claimed = claim(store)
    run(store, claimed, Place(data=image_folder))
    row = result(store, claimed)
    assert (row["state"], row["failure"]) == ("failed", "bad_data")
    assert r"class0/caf\xe9.tif has mode F" in row["error"]


def test_a_plan_checks_the_data_folder(tiny: Path, image_folder: Path) -> None:
    """It pins the content, and refuses untrainable data. Without a folder it reports that."""
    sweep = read_plan(tiny, ["dataset=imagefolder"])
    assert look_at_data(sweep, None)[:2] == (sweep, True)
    seen, unseen, _ = look_at_data(sweep, image_folder)
    assert not unseen
    assert all(t.config.fingerprint for t in seen.trials)
    with pytest.raises(PlanError, match="no folder"):
        look_at_data(sweep, image_folder / "x")
    with pytest.raises(PlanError, match="49 clients are more than the 48"):
        look_at_data(read_plan(tiny, ["dataset=imagefolder", "clients=49"]), image_folder)
    digits = read_plan(tiny)
    assert look_at_data(digits, None)[:2] == (digits, False)


def test_a_plan_checks_each_data_set_of_a_mixed_sweep(tiny: Path, tmp_path: Path) -> None:
    """Each data set pins its own trials. A missing one is refused by name."""
    root = make_tiny_imagenet(tmp_path / "data")
    scenes = ["dataset=camvid", "model=deeplabv3plus", "partition=iid", "clients=2"]
    plans = [read_plan(tiny, changes) for changes in (["dataset=tiny-imagenet"], scenes, [])]
    sweep = SweepSpec("mixed", "", tuple(t for plan in plans for t in plan.trials))
    with pytest.raises(PlanError, match="CamVid"):
        look_at_data(sweep, root)
    make_camvid(root)
    seen, unseen, _ = look_at_data(sweep, root)
    prints = {t.config.dataset: t.config.fingerprint for t in seen.trials}
    assert not unseen
    assert prints["digits"] is None
    assert len({prints["tiny-imagenet"], prints["camvid"], None}) == 3
    with pytest.raises(PlanError, match="7 clients are more than the 6"):
        look_at_data(read_plan(tiny, [*scenes[:3], "clients=7"]), root)
    assert look_at_data(sweep, None)[:2] == (sweep, True)


def test_the_holdings_of_a_partition_cover_all_of_the_data(tiny: Path, camvid: Path) -> None:
    """They count samples per client and class; in segmentation they count pixels."""
    (held,) = holdings([read_plan(tiny).trials[0].config], None)
    assert (len(held.counts), len(held.counts[0]), held.unit) == (4, 10, "samples")
    assert sum(map(sum, held.counts)) == 1437
    scenes = ["dataset=camvid", "model=deeplabv3plus", "partition=natural", "image_height=48"]
    config = read_plan(tiny, scenes).trials[0].config
    (held,) = holdings([config], camvid)
    assert (len(held.counts), len(held.counts[0]), held.unit) == (2, 11, "pixels")
    assert 0 < sum(map(sum, held.counts)) < 6 * 48 * 64  # without the void
    with pytest.raises(PlanError, match="--data"):
        holdings([config], None)


def test_the_holdings_of_an_image_folder_have_its_names(tiny: Path, image_folder: Path) -> None:
    """Classes are named, and natural clients. Other data sets have numbers."""
    changes = ["dataset=imagefolder", "clients=2"]
    (held,) = holdings([read_plan(tiny, changes).trials[0].config], image_folder)
    assert (held.classes, held.clients) == (("class0", "class1"), ())
    for part in ("train", "test"):
        (image_folder / part).rename(image_folder / "other")
        (image_folder / part).mkdir()
        (image_folder / "other").rename(image_folder / part / "anna")
        shutil.copytree(image_folder / part / "anna", image_folder / part / "ben")
    natural = ["dataset=imagefolder", "partition=natural", "clients_by=folder"]
    (held,) = holdings([read_plan(tiny, natural).trials[0].config], image_folder)
    assert (held.classes, held.clients) == (("class0", "class1"), ("anna", "ben"))
    assert len(held.counts) == 2


def test_a_partition_that_cannot_be_drawn_fails_the_trial_as_bad_data(
    store: Engine, tiny: Path
) -> None:
    """The sizes of the data set cannot show this. The trial is not tried again."""
    planned(store, tiny, "partition=dirichlet-class", "alpha=0.001", "clients=40", "min_samples=30")
    claimed = claim(store)
    assert run(store, claimed)[0] is Outcome.FAILED
    row = result(store, claimed)
    assert (row["state"], row["failure"]) == ("failed", "bad_data")
    assert "raise alpha" in row["error"]


EVERYTHING = ("client_accuracy=true", "diagnostics=true", "keep_weights=true", "validation=0.2")


def test_all_measures_are_stored_bitwise(store: Engine, tiny: Path) -> None:
    """Diagnostics and client scores survive a trial that is given back after a round."""
    planned(store, tiny, *EVERYTHING, "normalizer=bn", "seed=0")
    first = claim(store)
    assert run(store, first, stop_after=1)[0] is Outcome.RELEASED
    second = claim(store)
    _, seen = run(store, second)
    assert stored(store, second) == direct(second)
    # The last four measures are those of data with test images of each client.
    rows = stored(store, second)
    assert all(value is not None for row in rows for value in row[:1] + row[-7:-4])
    assert all(row[-4:] == (None,) * 4 for row in rows)
    with reading(store) as c:
        clients = c.execute(sa.text("SELECT round, client, samples, test_accuracy FROM clients"))
        by_round = sorted(tuple(row) for row in clients)
    assert [row[:2] for row in by_round] == [(r, m) for r in (1, 2, 3) for m in range(4)]
    last = [ClientScore(*row[1:]) for row in by_round if row[0] == 3]
    assert tuple(last) == seen[-1].clients
    row = result(store, second)
    assert row["worst_client_accuracy"] == min(score.test_accuracy for score in last)


def test_a_diagnostic_that_is_not_finite_is_left_out() -> None:
    """It carries no information, and databases store it differently."""
    from trainers.fedavg import Round as Measured

    values: dict[str, Any] = dict.fromkeys(Measured.__dataclass_fields__) | {"clients": ()}
    values |= {"client_drift": float("nan"), "gradient_deviation": float("inf")}
    values |= {"statistics_mismatch_layers": {"a": float("nan"), "b": 0.5}}
    row = training.stored_round(Measured(**values))
    assert (row.client_drift, row.gradient_deviation) == (None, None)
    assert row.statistics_mismatch_layers == {"b": 0.5}


def test_final_weights_are_kept_with_keep_weights(store: Engine, tiny: Path) -> None:
    """The model of the last round is indexed in the commit that finishes the trial."""
    from safetensors.torch import load

    planned(store, tiny, "normalizer=bn", "seed=0", "keep_weights=true")
    claimed = claim(store)
    assert run(store, claimed)[0] is Outcome.FINISHED
    with reading(store) as c:
        kept = spare_files.kept_weights(c, claimed.trial)
    assert kept is not None
    assert kept.name == file_names.weights_name(claimed)
    assert re.fullmatch(rf"{claimed.trial_id}-1-[0-9a-f]{{16}}-weights.safetensors", kept.name)
    content = (folder(store, claimed) / kept.name).read_bytes()
    *_, last = fedavg.run(TrainConfig(**claimed.config), datasets.load("digits"))
    tensors, expected = load(content), last.weights()
    assert tensors.keys() == expected.keys()
    assert all(tensors[name].equal(expected[name]) for name in expected)


def test_no_weights_are_kept_by_default(store: Engine, tiny: Path) -> None:
    """The trial has neither a row of weights nor a file."""
    planned(store, tiny, "normalizer=bn", "seed=0")
    claimed = claim(store)
    run(store, claimed)
    with reading(store) as c:
        assert spare_files.kept_weights(c, claimed.trial) is None
        assert c.execute(sa.select(files)).all() == []
    place = folder(store, claimed)
    assert not place.exists() or list(place.iterdir()) == []


def test_a_trial_whose_weights_cannot_be_written_is_tried_again(
    store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished trial would stay without its weights. Its rounds are stored."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    planned(store, tiny, "normalizer=bn", "seed=0", "keep_weights=true")
    first = claim(store)
    with monkeypatch.context() as patch:
        patch.setattr(artifacts.Folder, "write", full)
        assert run(store, first)[0] is Outcome.FAILED
    with reading(store) as c:
        (attempt,) = trial_rows.trial_attempts(c, first.trial)
    assert "cannot be written" in attempt["error"]
    assert "No space left on device" in attempt["error"]
    assert len(stored(store, first)) == 3
    assert result(store, first)["state"] == "queued"
    with transaction(store) as c:
        c.execute(sa.update(trials).values(not_before=None))
    second = claim(store)
    assert run(store, second)[0] is Outcome.FINISHED
    with reading(store) as c:
        kept = spare_files.kept_weights(c, second.trial)
    assert kept is not None
    assert kept.name == file_names.weights_name(second)


def test_road_scenes_are_trained_with_their_natural_partition(
    store: Engine, tiny: Path, camvid: Path
) -> None:
    """The data set on disk has groups of its own. The trial stores the mean IoU."""
    scenes = ["dataset=camvid", "model=deeplabv3plus", "partition=natural", "image_height=32"]
    changes = ["rounds=1", "local_steps=1", "batch_size=2", "normalizer=gn", "seed=0"]
    planned(store, tiny, *scenes, *changes)
    claimed = claim(store)
    outcome, seen = run(store, claimed, Place(data=camvid))
    assert outcome is Outcome.FINISHED, result(store, claimed)["error"]
    row = result(store, claimed)
    assert (row["clients"], row["partition"]) == (None, "natural")
    assert row["test_miou"] == seen[-1].test_miou
    assert 0 <= row["test_miou"] <= 1


def test_the_size_of_a_snapshot_includes_its_velocities(tiny: Path) -> None:
    """There is one per registered client, one of the server, or none."""

    def size(*changes: str) -> int:
        return sizes.snapshot_bytes([read_plan(tiny, changes).trials[0].config])

    model = size()
    assert model == 4 * 67_000
    assert size("momentum=none") == model
    assert size("dtype=float64") == 2 * model
    assert size("momentum=global") == 2 * model
    assert size("momentum=local") == (1 + 4) * model
    assert size("momentum=local", "server_momentum=0.9") == (1 + 4 + 1) * model
    assert size("momentum=local", "centralized=true") == 2 * model
    assert size("algorithm=fedadam") == (1 + 2) * model
    assert size("algorithm=scaffold") == (1 + 1 + 4) * model
    assert size("algorithm=feddyn", "momentum=global") == (1 + 1 + 1 + 4) * model
    assert size("optimizer=adam") == model
    assert sizes.snapshot_bytes([]) == 0


def test_missing_devices_are_refused() -> None:
    """The refusal is one sentence with the remedy."""
    import torch

    assert device.devices("cpu") == ["cpu"]
    with pytest.raises(DeviceError, match="none of auto, cpu, cuda"):
        device.devices("tpu")
    if not torch.cuda.is_available():
        assert device.devices("auto") == ["cpu"]
        for option in ("cuda", "cuda:0"):
            with pytest.raises(DeviceError, match="no CUDA device here"):
                device.devices(option)

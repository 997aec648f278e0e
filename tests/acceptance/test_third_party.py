"""Parts of other packages, installed as their authors would.

These tests take more than ten seconds, because pip builds the packages, and real processes train
with torch.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.command import at_once, environment, fedsweep, query
from tests.builders import REPOSITORY, TINY

pytestmark = pytest.mark.slow

PACKAGES = ("frn_normalizer", "clipped_fedavg", "convmixer_model", "drawings_dataset")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the example packages, installed by one run of pip."""
    place = tmp_path_factory.mktemp("packages") / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    sources = [str(REPOSITORY / "examples" / package) for package in PACKAGES]
    subprocess.run([*install, str(place), *sources], check=True, env=environment())
    return place


def test_another_package_s_normalizer_is_planned_trained_and_reported(
    site: Path, tmp_path: Path
) -> None:
    """`frn` comes from examples/frn_normalizer. Its package and version are part of the numerics.

    Without the package, a plan that names it is refused.
    """
    plan = tmp_path / "frn.toml"
    plan.write_text(TINY.replace('["bn", "gn"]', '"frn"').replace("seed = [0, 1]", "seed = 0"))
    db = ("--db", f"sqlite:///{tmp_path}/frn.db")

    refused = at_once("plan", str(plan), *db, code=2).stderr
    assert 'normalizer = "frn" is none of bn, fixbn, gn' in refused
    path = {"PYTHONPATH": str(site)}
    assert "2 new trials" in fedsweep("plan", str(plan), *db, **path).stdout
    work = ("work", *db, "--device", "cpu", "--until-empty")
    assert "2 trials finished, 0 failed" in fedsweep(*work, **path).stdout
    states = query(db[1], "SELECT state FROM results WHERE normalizer = 'frn'")
    assert states == [("finished",)]
    (numerics,) = query(
        db[1],
        "SELECT numerics FROM attempts a JOIN trials t ON t.id = a.trial "
        "WHERE t.normalizer = 'frn'",
    )
    assert '"normalizer": "frn-normalizer 1.0"' in numerics[0]
    assert "FRN" in at_once("report", *db).stdout


def test_another_package_s_algorithm_is_planned_trained_and_reported(
    site: Path, tmp_path: Path
) -> None:
    """`clipped` comes from examples/clipped_fedavg. BN and FIXBN share a trunk with it.

    A plan is refused without the package, and with server momentum, which it would not use. A
    trial that the algorithm refuses fails as `bad_data`. A machine without the package gives its
    trials back.
    """
    plan = tmp_path / "clipped.toml"
    text = TINY.replace("alpha = 0.5", 'alpha = 0.5\nalgorithm = "clipped"')
    plan.write_text(text.replace("seed = [0, 1]", "seed = 0"))
    db = ("--db", f"sqlite:///{tmp_path}/clipped.db")

    refused = at_once("plan", str(plan), *db, code=2).stderr
    assert 'algorithm = "clipped" is none of fedavg, fedprox, scaffold' in refused
    path = {"PYTHONPATH": str(site)}
    momentum = ("--set", "server_momentum=0.9")
    refused = fedsweep("plan", str(plan), *db, *momentum, code=2, **path).stderr
    assert "server_momentum = 0.9 does not fit clipped" in refused
    both = ("--set", "normalizer=gn", "--set", "name=without")
    fedsweep("plan", str(plan), *db, *both[:2], **path)
    lr = ("--set", "server_lr=1.0")
    assert "3 new trials" in fedsweep("plan", str(plan), *db, *lr, **path).stdout

    work = ("work", *db, "--device", "cpu", "--until-empty")
    lacking = fedsweep(*work, code=1)
    assert "algorithm clipped is offered by no package" in lacking.stdout + lacking.stderr
    assert query(db[1], "SELECT DISTINCT state FROM results") == [("queued",)]
    assert "3 trials finished, 1 failed" in fedsweep(*work, **path).stdout
    assert query(db[1], "SELECT failure, error FROM results WHERE failure IS NOT NULL") == [
        ("bad_data", "clipped needs a server_lr, for example server_lr = 1.0")
    ]
    rows = query(
        db[1], "SELECT normalizer, algorithm, server_lr, rounds_shared FROM results "
        "WHERE state = 'finished' ORDER BY normalizer",
    )  # fmt: skip
    assert sorted(row[:3] for row in rows) == [
        ("bn", "clipped", 1.0),
        ("fixbn", "clipped", 1.0),
        ("gn", "clipped", 1.0),
    ]
    assert sum(row[3] for row in rows) == 1
    (numerics,) = query(
        db[1],
        "SELECT numerics FROM attempts a JOIN trials t ON t.id = a.trial WHERE t.normalizer = 'bn'",
    )
    assert '"algorithm": "clipped-fedavg 1.0"' in numerics[0]
    (trial,) = query(db[1], "SELECT trial_id FROM results WHERE normalizer = 'fixbn'")
    assert "equal" in fedsweep("verify", trial[0], *db, **path).stdout


def test_another_package_s_model_is_planned_trained_and_verified(
    site: Path, tmp_path: Path
) -> None:
    """`convmixer` comes from examples/convmixer_model, and trains with every normalizer of a plan.

    Its package, version and code are part of the trials' identity. Changed code makes new trials,
    and a worker with other code passes trials over.
    """
    place = tmp_path / "site"
    shutil.copytree(site, place)
    path = {"PYTHONPATH": str(place)}
    plan = tmp_path / "convmixer.toml"
    plan.write_text(TINY.replace('"cnn"', '"convmixer"').replace("seed = [0, 1]", "seed = 0"))
    db = ("--db", f"sqlite:///{tmp_path}/convmixer.db")
    work = ("work", *db, "--device", "cpu", "--until-empty")

    refused = at_once("plan", str(plan), *db, code=2).stderr
    assert 'model = "convmixer" is none of cnn, resnet8, resnet20' in refused
    assert "3 new trials" in fedsweep("plan", str(plan), *db, **path).stdout
    lacking = fedsweep(*work, code=1).stderr
    assert "passing over trials: model convmixer is offered by no package" in lacking
    assert "3 trials finished, 0 failed" in fedsweep(*work, **path).stdout
    (codes,) = query(db[1], "SELECT DISTINCT code FROM results")
    assert re.fullmatch(r"convmixer-model 1\.0 [0-9a-f]{16}", codes[0])
    (numerics,) = query(db[1], "SELECT DISTINCT numerics FROM attempts WHERE outcome = 'finished'")
    assert '"model": "convmixer-model 1.0"' in numerics[0]
    (trial,) = query(db[1], "SELECT trial_id FROM results WHERE normalizer = 'gn'")
    assert "equal" in fedsweep("verify", trial[0], *db, **path).stdout

    code = place / "convmixer_model.py"
    code.write_text(code.read_text().replace("DEPTH, KERNEL = 32, 2", "DEPTH, KERNEL = 32, 1"))
    assert "3 new trials" in fedsweep("plan", str(plan), *db, **path).stdout
    code.write_text(code.read_text() + "\n")
    other = fedsweep(*work, code=1, **path).stderr
    assert "passing over trials: the trial was planned with the code convmixer-model 1.0" in other
    assert "install the planned code here and start a new worker" in other
    refused = fedsweep("verify", trial[0], *db, code=2, **path).stderr
    assert "the trial was planned with the code" in refused


def test_packages_of_a_model_a_data_set_and_an_algorithm_are_one_trial(
    site: Path, tmp_path: Path
) -> None:
    """`drawings` comes from examples/drawings_dataset, with its plan. Its clients are people, each
    tested on images in its own style.

    A worker passes trials over if the data set has another version or other code than planned. It
    names the remedy.
    """
    place = tmp_path / "site"
    shutil.copytree(site, place)
    path = {"PYTHONPATH": str(place)}
    plan = str(REPOSITORY / "examples" / "drawings_dataset" / "drawings.toml")
    parts = ("model=convmixer", "algorithm=clipped", "server_lr=1.0", "normalizer=bn")
    few = ("rounds=2", "local_steps=2", "seed=0")
    changes = [f"--set={change}" for change in (*parts, *few)]
    db = ("--db", f"sqlite:///{tmp_path}/own.db")
    work = ("work", *db, "--device", "cpu", "--until-empty")

    refused = at_once("plan", plan, *db, code=2).stderr
    assert 'dataset = "drawings" is none of digits, cifar10' in refused
    assert not (tmp_path / "own.db").exists()
    assert "drawings: 9 new trials" in fedsweep("plan", plan, *db, "--dry-run", **path).stdout
    planned = fedsweep("plan", plan, *db, *changes, **path).stdout
    assert "drawings: 344 training and 144 test images, 4 classes" in planned
    assert "natural: 6 clients with 24 to 96 samples, median 56" in planned
    assert "1 new trial" in planned
    code, version = (
        place / "drawings_dataset.py",
        next(place.glob("drawings_dataset-1.0*/METADATA")),
    )
    for file, before, after in (
        (code, "SIDE = 16", "SIDE = 12"),
        (version, "Version: 1.0", "Version: 1.1"),
    ):
        kept = file.read_text()
        file.write_text(kept.replace(before, after))
        other = fedsweep(*work, code=1, **path).stderr
        assert "the package of the data set drawings here" in other
        assert "install the same version here and start a new worker, or plan again" in other
        file.write_text(kept)
        assert query(db[1], "SELECT state FROM results") == [("queued",)]
    assert "1 trial finished, 0 failed" in fedsweep(*work, **path).stdout
    assert query(
        db[1],
        "SELECT model, dataset, algorithm, normalizer, mean_own_accuracy IS NULL FROM results",
    ) == [("convmixer", "drawings", "clipped", "bn", 0)]
    samples = query(db[1], "SELECT samples, own_samples FROM clients WHERE round = 2")
    assert sorted(samples) == [(n, 24) for n in (24, 32, 48, 64, 80, 96)]
    assert "drawings" in at_once("report", *db).stdout
    ((trial, codes),) = query(db[1], "SELECT trial_id, code FROM results")
    assert re.fullmatch(r"clipped-fedavg 1\.0 \w{16}; convmixer-model 1\.0 \w{16}", codes)
    assert "equal" in fedsweep("verify", trial, *db, **path).stdout


def test_exported_weights_are_initial_weights_of_another_trial(tmp_path: Path) -> None:
    """They are found in the data folder, by the planned content. Other content is refused."""
    plan, data = tmp_path / "tiny.toml", tmp_path / "data"
    plan.write_text(TINY)
    db = ("--db", f"sqlite:///{tmp_path}/tiny.db")
    work = ("work", *db, "--device", "cpu", "--until-empty", "--data", str(data))
    few = [f"--set={change}" for change in ("seed=0", "rounds=2", "normalizer=bn")]
    data.mkdir()
    at_once("plan", str(plan), *db, *few, "--set=keep_weights=true")
    fedsweep(*work)
    ((first,),) = query(db[1], "SELECT trial_id FROM results")
    at_once("export", "weights", first, *db, "--output", str(data / "start.safetensors"))

    start = "--set=pretrained=start.safetensors"
    refused = at_once("plan", str(plan), *db, *few, start, code=2).stderr
    assert "name the folder with --data or FEDSWEEP_DATA" in refused
    every = ("--set=normalizer=gn", "--data", str(data))
    assert "1 new trial" in at_once("plan", str(plan), *db, *few, start, *every[1:]).stdout
    assert "1 new trial" in at_once("plan", str(plan), *db, *few, start, *every).stdout
    assert "2 trials finished, 0 failed" in fedsweep(*work).stdout
    losses = query(
        db[1],
        "SELECT c.train_loss FROM curves c JOIN results r USING (trial_id) WHERE c.round = 1 AND "
        "r.normalizer = 'bn' ORDER BY r.pretrained IS NULL",
    )
    assert losses[0][0] < losses[1][0]
    ((trial,),) = query(
        db[1], "SELECT trial_id FROM results WHERE pretrained IS NOT NULL AND normalizer = 'gn'"
    )
    logs = at_once("trial", "logs", trial, *db).stdout
    assert "pretrained = start.safetensors: 8 tensors are taken" in logs
    assert "left out, because the normalizer has no such tensors: norm1.running_mean" in logs

    (data / "start.safetensors").write_bytes(b"changed")
    refused = at_once("plan", str(plan), *db, *few, start, *every, code=2).stderr
    assert "pretrained = start.safetensors is no safetensors file" in refused

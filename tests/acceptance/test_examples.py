"""Every plan file in examples/ is planned and, with the slow tests, run."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.command import at_once, fedsweep, query
from tests.builders import REPOSITORY
from tests.image_folders import (
    make_camvid,
    make_cityscapes,
    make_image_folder,
    make_tiny_imagenet,
)

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.toml"))


def images(root: Path) -> Path:
    return make_image_folder(root, classes=10, each=48)


TREES: dict[str, tuple[Callable[[Path], Path] | None, tuple[str, ...]]] = {
    "digits": (None, ()),
    "imagefolder": (images, ()),
    "cifar10": (images, ("dataset=imagefolder",)),  # its archive's sums fit no other images
    # A processor without bfloat16 takes minutes for a step of this model.
    "tiny-imagenet": (lambda root: make_tiny_imagenet(root, each=24), ("dtype=float32",)),
    "camvid": (make_camvid, ("image_height=32",)),
    "cityscapes": (make_cityscapes, ("image_height=32",)),
}
"""For each data set: a function that makes a tiny tree, and the changes of the plan for it."""


def shortened(example: Path) -> list[str]:
    """Return the changes to one round of one step of four images, and one seed.

    The plans of papers keep every normalizer, at one point of the grid.
    """
    text = example.read_text()
    steps = "local_epochs=1" if "local_epochs" in text else "local_steps=1"
    few = ("momentum=reset", "alpha=0.1", "clients=2") if example.name.startswith("paper") else ()
    changes = TREES[tomllib.loads(text)["protocol"]["dataset"]][1]
    small = ("rounds=1", "batch_size=4", "seed=0")
    return [f"--set={change}" for change in (*small, steps, *few, *changes)]


QUICK = ("digits.toml",)
"""The examples that `make test` trains. It only plans the others."""


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_can_be_planned(example: Path, tmp_path: Path) -> None:
    """It is planned unchanged, or shortened for a tiny data tree if it needs data."""
    make, _ = TREES[tomllib.loads(example.read_text())["protocol"]["dataset"]]
    data = ("--data", str(make(tmp_path / "data")), *shortened(example)) if make else ()
    db = ("--db", f"sqlite:///{tmp_path}/example.db")
    output = at_once("plan", str(example), *db, *data).stdout
    ((count,),) = query(db[1], "SELECT count(*) FROM trials")
    assert f" {count} new trials, 0 kept" in output
    assert count > 1


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(path, id=path.name, marks=() if path.name in QUICK else pytest.mark.slow)
        for path in EXAMPLES
    ],
)
def test_an_example_can_be_planned_worked_and_reported(example: Path, tmp_path: Path) -> None:
    """Every trial finishes one round on a tiny data tree."""
    make, _ = TREES[tomllib.loads(example.read_text())["protocol"]["dataset"]]
    data = ("--data", str(make(tmp_path / "data"))) if make else ()
    db = ("--db", f"sqlite:///{tmp_path}/example.db")
    at_once("plan", str(example), *db, *data, *shortened(example))
    work = ("work", *db, *data, "--device", "cpu", "--until-empty")
    assert " 0 failed" in at_once(*work).stdout
    states = query(db[1], "SELECT DISTINCT state FROM results")
    assert states == [("finished",)]
    assert "BN" in at_once("report", *db).stdout


@pytest.mark.slow
@pytest.mark.data
def test_real_cifar10_trains_from_an_image_folder(some_cifar10: Path, tmp_path: Path) -> None:
    """ResNet20 trains on 400 real images and is tested on 100. The plan has their fingerprint."""
    db = ("--db", f"sqlite:///{tmp_path}/cifar.db")
    data = ("--data", str(some_cifar10))
    plan = REPOSITORY / "examples" / "cifar10_folder.toml"
    changes = ("rounds=2", "local_steps=2", "seed=0", "clients=4")
    fedsweep("plan", str(plan), *db, *data, *(x for c in changes for x in ("--set", c)))
    fedsweep("work", *db, *data, "--device", "cpu", "--until-empty")
    rows = query(db[1], "SELECT state, fingerprint, test_accuracy * 100 FROM results")
    assert len(rows) == 3
    assert {row[0] for row in rows} == {"finished"}
    assert len({row[1] for row in rows}) == 1
    assert all(abs(row[2] - round(row[2])) < 1e-9 for row in rows)

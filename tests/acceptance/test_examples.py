"""Every plan file in examples/ is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.command import fedsweep, query
from tests.conftest import REPOSITORY, make_picture_folder

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.toml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_can_be_planned_worked_and_reported(example: Path, tmp_path: Path) -> None:
    """With one round, on a tiny data tree; every trial of it finishes."""
    pictures = make_picture_folder(tmp_path / "pictures", classes=10, each=48)
    db = ("--db", f"sqlite:///{tmp_path}/example.db")
    data = ("--data", str(pictures))
    short = ("--set", "rounds=1", "--set", "local_steps=1")
    fedsweep("plan", str(example), *db, *data, *short)
    work = ("work", *db, *data, "--device", "cpu", "--until-empty", "--slots", "2")
    assert " 0 failed" in fedsweep(*work).stdout
    states = query(db[1], "SELECT DISTINCT state FROM results")
    assert states == [("finished",)]
    assert "FIXBN" in fedsweep("report", *db).stdout


@pytest.mark.data
def test_real_cifar10_trains_from_an_image_folder(some_cifar10: Path, tmp_path: Path) -> None:
    """ResNet20 on 400 real pictures: planned with their fingerprint, trained, tested on 100."""
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

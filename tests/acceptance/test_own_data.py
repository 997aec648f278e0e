"""A user's own data, from the plan to the verification."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.command import at_once, fedsweep, query
from tests.array_files import PLAN, TRAIN, install_shapes, save_npz

GRIDS = """
[[grid]]
dataset = "arrays"
file = "a.npz"
partition = "natural"

[[grid]]
dataset = "arrays"
file = "a.npz"
partition = "file"
partition_file = "p.csv"

[[grid]]
dataset = "shapes"
partition = "natural"
"""


@pytest.mark.slow
def test_own_data_are_planned_trained_and_verified(tmp_path: Path) -> None:
    """Natural clients, the clients of a file, and a data set of another package.

    The view `clients` has each client's accuracy on its own test images. The test takes more than
    ten seconds, because real processes train with torch.
    """
    place = install_shapes(tmp_path / "site")
    data = tmp_path / "data"
    data.mkdir()
    save_npz(data / "a.npz")
    rows = [f"{i},client {i % 4}" for i in range(TRAIN)]
    (data / "p.csv").write_text("\n".join(["sample,client", *rows]))
    protocol = "\n".join(
        line for line in PLAN.splitlines() if line.split(" ")[0] not in ("dataset", "file")
    )
    plan = tmp_path / "own.toml"
    plan.write_text(protocol.replace('partition = "natural"', "") + GRIDS)
    url = f"sqlite:///{tmp_path}/own.db"
    where = ("--db", url, "--data", str(data))
    path = {"PYTHONPATH": str(place)}

    assert "3 new trials" in fedsweep("plan", str(plan), *where, **path).stdout
    work = ("work", *where, "--device", "cpu", "--until-empty")
    assert "3 trials finished, 0 failed" in fedsweep(*work, **path).stdout
    finished = query(
        url,
        "SELECT dataset, partition, mean_own_accuracy IS NULL, weighted_own_accuracy = "
        "test_accuracy FROM results ORDER BY dataset, partition",
    )
    assert finished == [
        ("arrays", "file", 1, None),
        ("arrays", "natural", 0, 1),
        ("shapes", "natural", 0, 1),
    ]
    counted = query(
        url,
        "SELECT r.dataset, c.client, c.own_samples FROM clients c JOIN results r "
        "ON r.trial_id = c.trial_id WHERE c.round = 2 AND r.partition = 'natural' "
        "ORDER BY r.dataset, c.client",
    )
    assert counted == [
        *(("arrays", client, samples) for client, samples in enumerate((6, 3, 3))),
        *(("shapes", client, 3) for client in range(2)),
    ]
    for (trial,) in query(url, "SELECT trial_id FROM results WHERE dataset = 'shapes'"):
        assert "bit for bit" in fedsweep("verify", trial, *where, **path).stdout
    for (trial,) in query(url, "SELECT trial_id FROM results WHERE partition = 'file'"):
        assert "bit for bit" in at_once("verify", trial, *where).stdout


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("a.npz", "the images in .* are not those that the trial was planned for"),
        pytest.param(
            "p.csv",
            r"p\.csv here .* is not the file that the trial was planned with",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_trials_wait_for_the_files_that_they_were_planned_with(
    changed: str, message: str, tmp_path: Path
) -> None:
    """A worker with another file passes over them, and says which."""
    save_npz(tmp_path / "a.npz")
    rows = [f"{i},{i % 4}" for i in range(TRAIN)]
    (tmp_path / "p.csv").write_text("\n".join(["sample,client", *rows]))
    plan = tmp_path / "own.toml"
    plan.write_text(PLAN.replace('"natural"', '"file"\npartition_file = "p.csv"'))
    url = f"sqlite:///{tmp_path}/own.db"
    at_once("plan", str(plan), "--db", url, "--data", str(tmp_path))
    if changed == "p.csv":
        (tmp_path / "p.csv").write_text("\n".join(["sample,client", *reversed(rows)]))
    else:
        save_npz(tmp_path / "a.npz", clients=None, test_clients=None)
    work = ("work", "--db", url, "--data", str(tmp_path), "--device", "cpu", "--until-empty")
    assert re.search(message, at_once(*work, code=1).stderr)
    assert query(url, "SELECT state FROM results") == [("queued",)]

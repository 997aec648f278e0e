"""A real Slurm for the tests of this folder, and sweeps that its workers walk through."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests import walk
from tests.cluster.local_slurm import LocalSlurm, local_slurm, missing

TINY = """
name = "tiny"
[protocol]
dataset = "digits"
model = "cnn"
clients = 4
rounds = 40
local_steps = 2
batch_size = 8
lr = 0.05
alpha = 0.5
snapshot_every = 1
[[grid]]
normalizer = ["bn", "gn"]
seed = [0, 1, 2, 3]
[[grid]]
normalizer = "fixbn"
freeze_round = [10, 20]
seed = [0, 1, 2, 3]
"""


@pytest.fixture(scope="session")
def slurm_of_run() -> Iterator[LocalSlurm]:
    """The Slurm of this run. Other users can reach its sockets."""
    if why := missing():
        pytest.skip(f"no Slurm: {why}")
    with TemporaryDirectory(prefix="fedsweep-slurm-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        with local_slurm(Path(name)) as slurm:
            yield slurm


@pytest.fixture
def slurm(slurm_of_run: LocalSlurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSlurm]:
    """The Slurm of this run, idle, and all that a test starts its client."""
    slurm_of_run.wait_for_nodes()
    for name, value in slurm_of_run.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_of_run
    slurm_of_run.ask("scancel", "--user", "root")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """The plan of a tiny sweep: 16 trials of 40 rounds."""
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path / "tiny.toml"


@pytest.fixture
def deeds(tmp_path: Path, walk_in_test: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that slows walks down, in the environment of all workers."""
    folder = tmp_path / "deeds"
    folder.mkdir()
    monkeypatch.setenv(walk.FOLDER, str(folder))
    assert "PYTHONPATH" in os.environ
    return folder

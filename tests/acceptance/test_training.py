"""Workers that train real trials have the numbers of one undisturbed worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.command import (
    assert_equal_to_calm,
    at_once,
    eventually,
    query,
    start,
    trainers,
)
from tests.builders import TINY
from tests.shared import made_once

pytestmark = pytest.mark.slow

LONG = ("--set=seed=0", "--set=normalizer=bn", "--set=rounds=100")
"""One trial that lasts until its trainer is killed."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny sweep and the long trial, trained by one undisturbed worker on SQLite."""
    return f"sqlite:///{made_once(tmp_path_factory, 'calm-training', train_calmly)}/calm.db"


def train_calmly(folder: Path) -> None:
    """Fill the folder of `calm`."""
    (folder / "tiny.toml").write_text(TINY)
    url = f"sqlite:///{folder}/calm.db"
    at_once("plan", f"{folder}/tiny.toml", "--db", url)
    at_once("plan", f"{folder}/tiny.toml", "--db", url, *LONG)
    done = at_once("work", "--db", url, "--device", "cpu", "--until-empty")
    assert "7 trials finished, 0 failed" in done.stdout


@pytest.mark.parametrize("count", [2, 4])
def test_workers_on_postgres_give_what_one_gives_on_sqlite(
    count: int, calm: str, tiny: Path, postgres_url: str
) -> None:
    """Each trial takes one attempt.

    It takes more than ten seconds, because each worker imports torch.
    """
    at_once("plan", str(tiny), "--db", postgres_url)
    workers = [
        start("work", "--device", "cpu", "--until-empty", FEDSWEEP_DB=postgres_url)
        for _ in range(count)
    ]
    outputs = [worker.communicate(timeout=180)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * count, outputs
    assert_equal_to_calm(calm, postgres_url)
    assert query(postgres_url, "SELECT count(*), max(attempts) FROM results") == [(6, 1)]


def test_a_killed_trainer_s_trial_goes_on_from_its_snapshot(
    calm: str, tiny: Path, sqlite_url: str
) -> None:
    """A new process of the slot takes the trial over, with equal numbers.

    It takes about ten seconds, because both processes import torch and train.
    """
    at_once("plan", str(tiny), "--db", sqlite_url, *LONG)
    worker = start("work", "--db", sqlite_url, "--device", "cpu", "--until-empty")
    eventually(lambda: query(sqlite_url, "SELECT 1 FROM curves WHERE round = 1"))
    trainers(worker.pid)[0].kill()
    output, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0, output
    assert_equal_to_calm(calm, sqlite_url)
    outcomes = query(sqlite_url, "SELECT outcome, error FROM attempts ORDER BY fence")
    assert outcomes == [("expired", "its trainer died (SIGKILL)"), ("finished", None)]

"""Several trials that train in one process on one GPU, in threads, with a made-up GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsweep import worker
from fedsweep.worker import WorkStatus
from tests import walk
from tests.acceptance.command import at_once, query

ROUNDS = 200


@pytest.fixture(autouse=True)
def walk_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process, and all that the test starts, use the engine of `tests.walk_cuda`."""
    walk.install(monkeypatch, "walk_cuda")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of deeds. Its trials take a while."""
    deeds = tmp_path / "deeds"
    deeds.mkdir()
    for name, value in walk.slow_down(deeds, 0.01).items():
        monkeypatch.setenv(name, value)
    return deeds


def options(url: str, **more: object) -> worker.WorkOptions:
    chosen: dict[str, object] = {"slots": 8, "packed": True, "until_empty": True} | more
    return worker.WorkOptions(url, devices=("cuda:0",), **chosen)  # type: ignore[arg-type]


def test_packed_trials_give_what_trials_alone_give(
    sqlite_url: str, tiny: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Four trials fit into the memory. Each is trained in one attempt."""
    at_once("plan", str(tiny), "--db", sqlite_url, "--set", f"rounds={ROUNDS}")
    most = 0

    def look(view: WorkStatus) -> None:
        nonlocal most
        most = max(most, sum(slot.claim is not None for slot in view.slots))

    tally = worker.work(options(sqlite_url), look)
    assert (tally.finished, tally.failed, tally.lost, tally.released) == (6, 0, 0, 0)
    assert most == 4
    decisions = capfd.readouterr().err.splitlines()
    assert decisions[0] == "fedsweep: cuda:0: a trial of cnn takes 200 B: 4 trials fit"
    assert decisions[-1].endswith("stay at 4, the limit")
    assert query(sqlite_url, "SELECT count(*), max(fence) FROM attempts") == [(6, 1)]

"""Short runs of chaos on random walks. On real trials they are slow.

A long run is always on real trials: `python -m tests.chaos --database postgres --minutes 30`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import walk
from tests.chaos.calm import Calm
from tests.chaos.play import Play, perform

GAPS = (0.2, 1.0)
"""Shortest and longest time between two disturbances in seconds."""


@pytest.fixture(scope="module", params=["walk", pytest.param("seq", marks=pytest.mark.slow)])
def calm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Calm]:
    """The undisturbed trials, trained once by the same engine for the runs on both databases."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "walk":
            walk.install(patch)
            patch.setenv(walk.SECONDS, "0.02")  # a trial lasts for several snapshots
            yield Calm(tmp_path_factory.mktemp("calm"), **{walk.SECONDS: "0"})
        else:
            yield Calm(tmp_path_factory.mktemp("calm"))


@pytest.mark.quick_on("sqlite")
@pytest.mark.timeout(1800)  # if the machine is busy with other things
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_disturbed_workers_give_bitwise_the_results_of_an_undisturbed_one(
    database: str, calm: Calm, tmp_path: Path
) -> None:
    """Workers are killed, frozen and cut off. The disk fills, the clock jumps, snapshots break.

    A run ends when each kind of disturbance has come once.
    """
    report = perform(Play(database, None, gaps=GAPS, verify=1), tmp_path, calm, print)
    assert not report.faults, report
    assert report.verified == 1
    assert report.disturbances
    assert all(report.disturbances.values())

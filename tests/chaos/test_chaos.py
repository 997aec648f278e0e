"""The short form. The long one: `python -m tests.chaos --database postgres --minutes 30`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.calm import Calm
from tests.chaos.play import Play, perform

MINUTES = 0.4


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """The trials that both runs share are trained once."""
    return Calm(tmp_path_factory.mktemp("calm"))


@pytest.mark.timeout(1800)  # where the machine is busy with other things
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_what_disturbed_workers_give_is_bitwise_what_one_undisturbed_gives(
    database: str, calm: Calm, tmp_path: Path
) -> None:
    """Killed, frozen, cut off, on a full disk, under a clock that jumps, with damaged snapshots."""
    found = perform(Play(database, MINUTES, verify=1), tmp_path, calm, print)
    assert not found.faults, found
    assert found.verified == 1
    assert found.disturbances

"""Real trials that fork from a shared trunk have the same numbers as trials without one."""

from __future__ import annotations

from pathlib import Path

from fedsweep.plans import read_plan
from fedsweep.store.schema import open_store
from tests.trunks import PLAN, T, measured, plan, trained, work


def test_trials_with_a_shared_trunk_equal_trials_without_one(
    sqlite_url: str, tmp_path: Path
) -> None:
    """Eleven T* trials cost as much as six and a half."""
    (tmp_path / "shared.toml").write_text(PLAN)
    sweep = read_plan(tmp_path / "shared.toml")
    shared = open_store(sqlite_url)
    alone = open_store(f"sqlite:///{tmp_path}/alone.db", create=True)
    for store, trials in ((shared, sweep), (alone, sweep.alone())):
        plan(store, trials)
        assert work(store) == 11
    assert (trained(shared), trained(alone)) == (6.5 * T, 11 * T)
    assert measured(shared) == measured(alone)
    shared.dispose()
    alone.dispose()

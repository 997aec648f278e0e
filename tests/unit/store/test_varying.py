"""The fields that describe trials because they vary within a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fedsweep import queue
from fedsweep.actions import status
from fedsweep.fields import CATALOG, DESCRIBED, TELLING, UNSAID
from fedsweep.plans import read_plan
from fedsweep.reports.labels import describe
from fedsweep.store import planning
from fedsweep.store.clock import read_clock
from fedsweep.store.schema import open_store
from fedsweep.store.tables import trials
from fedsweep.store.transactions import reading, transaction
from fedsweep.store.varying import varying_fields
from fedsweep.worker import WorkOptions
from fedsweep.worker.watch import _Watch
from tests.acceptance.command import at_once
from tests.builders import TINY, WORKER


def renamed(name: str, *lines: str) -> str:
    """Return `TINY` under another name, with more lines in each block of the grid."""
    text = TINY.replace('"tiny"', f'"{name}"')
    if any(line.startswith("lr ") for line in lines):
        text = text.replace("lr = 0.05\n", "")
    return text.replace("[[grid]]", "\n".join(["[[grid]]", *lines]))


def add(store: Engine, folder: Path, name: str, *lines: str) -> None:
    file = folder / f"{name}.toml"
    file.write_text(renamed(name, *lines))
    with transaction(store) as connection:
        planning.add_sweep(connection, read_plan(file))


def test_a_field_is_in_one_of_three_groups() -> None:
    """It always describes a trial, or where it varies, or never."""
    groups = [set(DESCRIBED), set(TELLING), set(UNSAID)]
    assert set.union(*groups) == {field.name for field in CATALOG}
    assert sum(map(len, groups)) == len(CATALOG)


def test_the_fields_that_vary_within_a_sweep_are_found(store: Engine, tmp_path: Path) -> None:
    """Two sweeps that differ have no field that varies within one."""
    add(store, tmp_path, "first", "lr = 0.1")
    add(store, tmp_path, "second", "lr = 0.2")
    with reading(store) as connection:
        assert varying_fields(connection) == ()
    add(store, tmp_path, "third", "lr = [0.1, 0.4]", "weight_decay = [0.0, 1e-4]")
    with reading(store) as connection:
        assert varying_fields(connection) == ("lr", "weight_decay")
        assert varying_fields(connection, "third") == ("lr", "weight_decay")
        assert varying_fields(connection, "first") == ()


def test_a_setting_that_a_normalizer_lacks_does_not_vary(store: Engine, tmp_path: Path) -> None:
    """BN has no number of groups. That is no second value."""
    add(store, tmp_path, "groups", "gn_groups = 4")
    with reading(store) as connection:
        assert varying_fields(connection) == ()


def test_none_is_a_value_where_it_is_a_choice(store: Engine, tmp_path: Path) -> None:
    """Only some trials begin with weights from a file."""
    add(store, tmp_path, "weights")
    with transaction(store) as connection:
        some = sa.update(trials).where(trials.c.seed == 0)
        connection.execute(some.values(pretrained="weights.safetensors"))
        assert varying_fields(connection) == ("pretrained",)
        connection.execute(sa.update(trials).values(pretrained="weights.safetensors"))
        assert varying_fields(connection) == ()


def test_running_trials_are_described_by_them(store: Engine, tmp_path: Path) -> None:
    """`status` names the learning rate of each."""
    add(store, tmp_path, "two", "lr = [0.1, 0.2]")
    with transaction(store) as connection:
        while queue.claim(connection, WORKER, read_clock(connection)) is not None:
            pass
    glance = status.glance(store)
    assert glance.varying == ("lr",)
    texts = [describe(row, glance.varying) for row in glance.running]
    assert {text.partition("lr=")[2].split()[0] for text in texts} == {"0.1", "0.2"}


def counted_by(watch: _Watch) -> list[tuple[str, int, int]]:
    """Return the sweeps that the watch counts after its next reading: name, done and all."""
    watch.read_progress()
    return [(sweep.sweep, sweep.done, sweep.trials) for sweep in watch.view().progress]


def test_a_worker_counts_the_sweeps_that_have_had_work_since_it_began(
    store_url: str, tmp_path: Path
) -> None:
    """One that was over before is left out. One that begins and ends in a moment counts."""
    store = open_store(store_url)
    finish = sa.update(trials).values(state="finished", final_round=3)
    add(store, tmp_path, "over")
    with transaction(store) as connection:
        connection.execute(finish)
    watch = _Watch(WorkOptions(store_url), lambda _view: None)
    assert counted_by(watch) == []
    add(store, tmp_path, "short", "lr = 0.2")
    with transaction(store) as connection:
        connection.execute(finish)
    assert counted_by(watch) == [("short", 6, 6)]
    add(store, tmp_path, "open", "lr = 0.3")
    assert counted_by(watch) == [("short", 6, 6), ("open", 0, 6)]
    watch.engine.dispose()
    watch.boxes.cleanup()
    store.dispose()


def test_an_outage_does_not_hide_what_varies(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fields are read again with the next progress."""
    store = open_store(store_url)
    add(store, tmp_path, "two", "lr = [0.1, 0.2]")
    watch = _Watch(WorkOptions(store_url), lambda _view: None)

    def away(*_: object) -> None:
        raise OSError("away")

    with monkeypatch.context() as patch:
        patch.setattr("fedsweep.worker.watch.varying_fields", away)
        with pytest.raises(OSError, match="away"):
            watch.read_progress()
    watch.read_progress()
    assert watch.view().varying == ("lr",)
    watch.engine.dispose()
    watch.boxes.cleanup()
    store.dispose()


@pytest.mark.usefixtures("walk_in_test")
def test_a_worker_and_a_list_name_them_and_count_only_sweeps_that_had_work(
    sqlite_url: str, tmp_path: Path
) -> None:
    """The trials of a finished sweep are not among those that are left."""
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    work = ("work", "--db", sqlite_url, "--device", "cpu", "--until-empty")
    at_once("plan", str(file), "--db", sqlite_url)
    lines = at_once(*work).stdout.splitlines()
    assert lines[-2].endswith("[6/6, 0s left]")
    assert not any("lr=" in line for line in lines)
    file.write_text(renamed("more", "lr = [0.1, 0.2]"))
    at_once("plan", str(file), "--db", sqlite_url, "--set", "seed=0")
    lines = at_once(*work).stdout.splitlines()
    ends = [line for line in lines if ": finished " in line]
    assert sum(" lr=0.1 seed=0: " in line for line in ends) == 3
    assert sum(" lr=0.2 seed=0: " in line for line in ends) == 3
    assert ends[-1].endswith("[6/6, 0s left]")
    listed = at_once("trial", "list", "--db", sqlite_url, "--sweep", "more").stdout
    assert listed.count("lr=0.1 ") == listed.count("lr=0.2 ") == 3
    listed = at_once("trial", "list", "--db", sqlite_url, "--sweep", "tiny").stdout
    assert "lr=" not in listed

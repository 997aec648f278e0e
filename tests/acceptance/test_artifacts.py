"""Where a sweep's files lie, as a user says it; and what cleans up after them."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.acceptance.command import at_once, eventually, fedsweep, query, start

ONE = ["--set", "seed=0", "--set", "normalizer=bn", "--set", "keep_weights=true"]
LONG = ["--set", "seed=0", "--set", "normalizer=bn", "--set", "rounds=200"]
ENDLESS = [*LONG, "--set", "rounds=1000000"]


def stored(here: Path, text: str) -> list[tuple[object, ...]]:
    return query(f"sqlite:///{here}/fedsweep.db", text)


def later(here: Path, hours: float) -> None:
    """What happened in this store happened so many hours earlier."""
    with sqlite3.connect(here / "fedsweep.db") as connection:
        for table, column in (("attempts", "ended_at"), ("files", "free_since")):
            connection.execute(f"UPDATE {table} SET {column} = {column} - {3600 * hours}")
    connection.close()


@pytest.mark.parametrize("spelling", ["scratch", "file://{here}/scratch"])
def test_the_files_of_a_sweep_lie_where_its_plan_was_told(spelling: str, tiny: Path) -> None:
    """Planned again it stays so; another place is refused once there are files; they come out."""
    here = tiny.parent
    place = spelling.format(here=here)
    at_once("plan", "tiny.toml", *ONE, "--artifacts", place, cwd=here)
    fedsweep("work", "--device", "cpu", "--until-empty", cwd=here)
    ((store,),) = stored(here, "SELECT id FROM store")
    ((trial,),) = stored(here, "SELECT trial_id FROM results")
    (file,) = (here / "scratch" / str(store)).iterdir()
    assert file.name == f"{trial}-1-weights.safetensors"
    assert not (here / "fedsweep.db.artifacts").exists()
    at_once("plan", "tiny.toml", *ONE, cwd=here)
    assert stored(here, "SELECT artifacts FROM sweeps") == [(str(here / "scratch"),)]
    again = ("plan", "tiny.toml", "--artifacts", "elsewhere")
    refused = fedsweep(*again, cwd=here, code=2).stderr
    assert f"the files of sweep tiny lie in {here / 'scratch'}: plan it without" in refused
    assert stored(here, "SELECT count(*) FROM results") == [(1,)]
    at_once("export", "weights", str(trial), "--output", "out.safetensors", cwd=here)
    assert (here / "out.safetensors").read_bytes() == file.read_bytes()
    file.unlink()
    gone = at_once("export", "weights", str(trial), cwd=here, code=2).stderr
    assert f"are missing in {file}" in gone


def test_a_url_that_workers_cannot_use_costs_no_trial(tiny: Path) -> None:
    """Somebody took the package away, or it was never there: said once, and trained without."""
    here = tiny.parent
    at_once("plan", "tiny.toml", *LONG, cwd=here)
    with sqlite3.connect(here / "fedsweep.db") as connection:
        connection.execute("UPDATE sweeps SET artifacts = 'nosuch://bucket'")
    connection.close()
    done = fedsweep("work", "--device", "cpu", "--until-empty", cwd=here)
    assert "1 trial finished, 0 failed" in done.stdout
    assert (done.stdout + done.stderr).count("no snapshot of trial") <= 1


def test_a_killed_worker_s_files_are_collected_an_hour_later(tiny: Path) -> None:
    """Its snapshot while the trial may go on is needed; when it is cancelled it is not."""
    here = tiny.parent
    at_once("plan", "tiny.toml", *ENDLESS, cwd=here)
    worker = start("work", "--db", f"sqlite:///{here}/fedsweep.db", "--device", "cpu")
    eventually(lambda: stored(here, "SELECT 1 FROM snapshots"))
    os.killpg(worker.pid, signal.SIGKILL)
    worker.communicate()
    folder = here / "fedsweep.db.artifacts"
    files = sorted(folder.iterdir())
    assert files
    assert "0 files deleted" in at_once("db", "gc", cwd=here).stdout
    ((trial,),) = stored(here, "SELECT trial_id FROM results")
    at_once("trial", "cancel", str(trial), cwd=here)
    assert "0 files deleted" in at_once("db", "gc", cwd=here).stdout
    later(here, 2)
    said = at_once("db", "gc", "--dry-run", cwd=here).stdout
    assert "would be deleted (nothing is)" in said
    assert sorted(folder.iterdir()) == files
    (folder / "notes.txt").write_text("mine")
    shown = len([file for file in files if not file.name.startswith(".")])
    said = at_once("db", "gc", cwd=here).stdout
    assert f"{shown} file{'' if shown == 1 else 's'} deleted, " in said
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]
    assert stored(here, "SELECT count(*) FROM files") == [(0,)]
    assert "0 files deleted, 0 B" in at_once("db", "gc", cwd=here).stdout


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("s3://key:hunter2@bucket", "has a password or a key in it"),
        ("s3://bucket?token=hunter2", "has a password or a key in it"),
        ("s4://bucket", "fsspec knows no s4://: name a folder"),
        ("tiny.toml", "is a file: name a folder"),
    ],
)
def test_a_place_that_cannot_be_is_refused_and_nothing_is_written(
    place: str, says: str, tiny: Path
) -> None:
    """Neither the place, nor a database; in one sentence without the secret."""
    before = sorted(tiny.parent.iterdir())
    for more in ([], ["--dry-run"]):
        done = at_once("plan", "tiny.toml", "--artifacts", place, *more, cwd=tiny.parent, code=2)
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "hunter2" not in done.stdout + done.stderr
    assert sorted(tiny.parent.iterdir()) == before

"""The folder of a sweep's files, as a user names it, and the garbage collection of the files."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.acceptance.command import at_once, eventually, query, start
from tests.walk import SECONDS

pytestmark = pytest.mark.usefixtures("walk")

ONE = ["--set", "seed=0", "--set", "normalizer=bn", "--set", "keep_weights=true"]
LONG = ["--set", "seed=0", "--set", "normalizer=bn", "--set", "rounds=200"]
ENDLESS = [*LONG, "--set", "rounds=1000000"]
SLOWLY = {SECONDS: "0.02"}


def stored(folder: Path, text: str) -> list[tuple[object, ...]]:
    return query(f"sqlite:///{folder}/fedsweep.db", text)


def later(folder: Path, hours: float) -> None:
    """Move the times of a store's events this many hours back."""
    with sqlite3.connect(folder / "fedsweep.db") as connection:
        for table, column in (("attempts", "ended_at"), ("files", "free_since")):
            connection.execute(f"UPDATE {table} SET {column} = {column} - {3600 * hours}")
    connection.close()


@pytest.mark.parametrize("spelling", ["scratch", "file://{here}/scratch"])
def test_the_files_of_a_sweep_lie_in_the_planned_folder(spelling: str, tiny: Path) -> None:
    """A second plan keeps the folder. Another folder is refused as soon as files are stored."""
    folder = tiny.parent
    place = spelling.format(here=folder)
    at_once("plan", "tiny.toml", *ONE, "--artifacts", place, cwd=folder)
    at_once("work", "--device", "cpu", "--until-empty", cwd=folder)
    ((store,),) = stored(folder, "SELECT id FROM store")
    ((trial,),) = stored(folder, "SELECT trial_id FROM results")
    (file,) = (folder / "scratch" / str(store)).iterdir()
    assert file.name == f"{trial}-1-{store}-weights.safetensors"
    assert not (folder / "fedsweep.db.artifacts").exists()
    at_once("plan", "tiny.toml", *ONE, cwd=folder)
    assert stored(folder, "SELECT artifacts FROM sweeps") == [(str(folder / "scratch"),)]
    again = ("plan", "tiny.toml", "--artifacts", "elsewhere")
    refused = at_once(*again, cwd=folder, code=2).stderr
    assert f"the files of sweep tiny lie in {folder / 'scratch'}: plan it without" in refused
    assert stored(folder, "SELECT count(*) FROM results") == [(1,)]
    at_once("export", "weights", str(trial), "--output", "out.safetensors", cwd=folder)
    assert (folder / "out.safetensors").read_bytes() == file.read_bytes()
    file.unlink()
    gone = at_once("export", "weights", str(trial), cwd=folder, code=2).stderr
    assert f"are missing in {file}" in gone


def test_a_url_that_workers_cannot_use_costs_no_trial(tiny: Path) -> None:
    """Its package is missing. The worker says so once, and trains without the place."""
    folder = tiny.parent
    at_once("plan", "tiny.toml", *LONG, cwd=folder)
    with sqlite3.connect(folder / "fedsweep.db") as connection:
        connection.execute("UPDATE sweeps SET artifacts = 'nosuch://bucket'")
    connection.close()
    done = at_once("work", "--device", "cpu", "--until-empty", cwd=folder, **SLOWLY)
    assert "1 trial finished, 0 failed" in done.stdout
    assert (done.stdout + done.stderr).count("no snapshot of trial") <= 1


def test_a_killed_worker_s_files_are_collected_an_hour_later(tiny: Path) -> None:
    """Its snapshot is needed while the trial may go on, and no longer after a cancel."""
    home = tiny.parent
    at_once("plan", "tiny.toml", *ENDLESS, cwd=home)
    url = f"sqlite:///{home}/fedsweep.db"
    worker = start("work", "--db", url, "--device", "cpu", **SLOWLY)
    eventually(lambda: stored(home, "SELECT 1 FROM snapshots"))
    os.killpg(worker.pid, signal.SIGKILL)
    worker.communicate()
    folder = home / "fedsweep.db.artifacts"
    files = sorted(folder.iterdir())
    assert files
    assert "0 files deleted" in at_once("db", "gc", cwd=home).stdout
    ((trial,),) = stored(home, "SELECT trial_id FROM results")
    at_once("trial", "cancel", str(trial), cwd=home)
    assert "0 files deleted" in at_once("db", "gc", cwd=home).stdout
    later(home, 2)
    output = at_once("db", "gc", "--dry-run", cwd=home).stdout
    assert "would be deleted (nothing is)" in output
    assert {line.strip() for line in output.splitlines()[1:]} == {
        str(file) for file in files if not file.name.startswith(".")
    }
    assert sorted(folder.iterdir()) == files
    (folder / "notes.txt").write_text("mine")
    shown = len([file for file in files if not file.name.startswith(".")])
    output = at_once("db", "gc", cwd=home).stdout
    assert f"{shown} file{'' if shown == 1 else 's'} deleted, " in output
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]
    assert stored(home, "SELECT count(*) FROM files") == [(0,)]
    assert "0 files deleted, 0 B" in at_once("db", "gc", cwd=home).stdout


def test_a_study_that_moves_to_another_user_asks_before_it_uses_a_place(tiny: Path) -> None:
    """Until then, missing snapshots cost rounds but no trial. A message says how to approve it."""
    folder, other = tiny.parent, str(tiny.parent / "another user")
    at_once("plan", "tiny.toml", *ONE[:-2], "--artifacts", "scratch", cwd=folder)
    place = str(folder / "scratch")
    assert "nothing to approve" not in at_once("db", "trust", cwd=folder).stdout
    work = ("work", "--device", "cpu", "--until-empty", "--max-trials", "1")
    output = at_once(*work, cwd=folder, XDG_DATA_HOME=other)
    assert "1 trial finished, 0 failed" in output.stdout
    (line,) = (line for line in output.stderr.splitlines() if "approved" in line)
    assert line == (
        f"fedsweep: no snapshots of sweep tiny here, which costs rounds: the database names {place}"
        ", which you have not approved here: run `fedsweep db trust`, or set FEDSWEEP_ARTIFACTS"
    )
    assert not (folder / "scratch").exists()
    refused = at_once("db", "trust", cwd=folder, code=2, XDG_DATA_HOME=other).stderr
    assert f"would write and delete files in {place} (sweep tiny)" in refused
    unknown = at_once("db", "trust", "/elsewhere", cwd=folder, code=2, XDG_DATA_HOME=other).stderr
    assert "names no place /elsewhere" in unknown
    output = at_once("db", "trust", place, cwd=folder, XDG_DATA_HOME=other).stdout
    assert output == f"{place} (sweep tiny): approved\n"
    again = at_once("db", "trust", cwd=folder, XDG_DATA_HOME=other).stdout
    assert again == f"{place} (sweep tiny): approved before\n"


@pytest.mark.parametrize("by", ["--artifacts", "FEDSWEEP_ARTIFACTS"])
def test_a_worker_is_given_the_place_that_it_may_use(by: str, tiny: Path) -> None:
    """The machine has no home folder of this user. A place of another kind is refused."""
    folder, other = tiny.parent, str(tiny.parent / "another user")
    at_once("plan", "tiny.toml", *ONE, "--artifacts", "scratch", cwd=folder)
    work = ("work", "--device", "cpu", "--until-empty")
    given = {"XDG_DATA_HOME": other}
    if by == "--artifacts":
        work += (by, "scratch")
    else:
        given[by] = str(folder / "scratch")
    output = at_once(*work, cwd=folder, **given)
    assert "1 trial finished, 0 failed" in output.stdout
    assert "approved" not in output.stderr
    assert len(list((folder / "scratch").rglob("*-weights.safetensors"))) == 1
    if by != "--artifacts":
        refused = at_once("work", cwd=folder, code=2, FEDSWEEP_ARTIFACTS="ftp://host/x").stderr
        assert "fedsweep keeps no files by ftp://" in refused


def test_a_check_of_files_reads_each_of_them(tiny: Path) -> None:
    """A file with another checksum and a missing file are named."""
    folder = tiny.parent
    at_once("plan", "tiny.toml", *ONE, cwd=folder)
    at_once("work", "--device", "cpu", "--until-empty", cwd=folder)
    assert ", 1 file as written" in at_once("db", "check", "--files", cwd=folder).stdout
    ((trial,),) = stored(folder, "SELECT trial_id FROM results")
    (file,) = (folder / "fedsweep.db.artifacts").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "sound" in at_once("db", "check", cwd=folder).stdout
    output = at_once("db", "check", "--files", cwd=folder, code=1).stdout
    assert output == f"trial {trial}: its weights are damaged ({file})\n"
    file.unlink()
    assert "its weights are missing" in at_once("db", "check", "--files", cwd=folder, code=1).stdout


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("s3://key:hunter2@bucket", "has a password or a key in it"),
        ("s3://bucket?token=hunter2", "has a password or a key in it"),
        ("s4://bucket", "fsspec knows no s4://: name a folder"),
        ("tiny.toml", "is a file: name a folder"),
    ],
)
def test_a_place_that_cannot_be_is_refused_and_nothing_is_written(
    place: str, reason: str, tiny: Path
) -> None:
    """Neither the place nor a database is made. The sentence does not repeat the secret."""
    before = sorted(tiny.parent.iterdir())
    for more in ([], ["--dry-run"]):
        done = at_once("plan", "tiny.toml", "--artifacts", place, *more, cwd=tiny.parent, code=2)
        assert reason in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "hunter2" not in done.stdout + done.stderr
    assert sorted(tiny.parent.iterdir()) == before

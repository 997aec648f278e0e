"""Wrong requests: one sentence with the remedy, exit 2, nothing written."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsweep.cli import main
from tests.acceptance.command import fedsweep, query
from tests.builders import TINY

pytestmark = [
    # A command leaves its connections to the end of its process, which is not this one's.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

REQUESTS = [
    (["plan", "missing.toml"], "cannot be read"),
    (["plan", "tiny.toml", "--set", "lrr=1"], "did you mean lr?"),
    (["plan", "tiny.toml", "--set", "normalizer=bm"], "did you mean bn?"),
    (["plan", "tiny.toml", "--set", "alpha=-1"], "greater than 0"),
    (["plan", "tiny.toml", "--set", "freeze_round=4"], "after the last round"),
    (
        ["plan", "tiny.toml", "--set", "partition=shards", "--set", "shards_per_client=999"],
        "shards",
    ),
    (
        ["plan", "tiny.toml", "--set", "validation=0.001"],
        "tiny.toml: validation = 0.001 holds back",
    ),
    (
        ["plan", "tiny.toml", "--set", "partition=dirichlet-class", "--set", "clients=99"],
        "raise alpha, or lower clients or min_samples",
    ),
    (["plan", "tiny.toml", "--set", "dataset=imagefolder", "--data", "nowhere"], "no folder"),
    (["plan", "tiny.toml", "--set", "dataset=imagefolder", "--data", "empty"], "holds no images"),
    (
        ["plan", "tiny.toml", "--set", "dataset=imagefolder", "--data", "deep"],
        "one class with images, all, with all images in folders inside it (cat, dog)",
    ),
    (["plan", "tiny.toml", "--show-partition", "x.jpg"], "none of .png, .svg, .pdf"),
    (["plan", "tiny.toml", "--show-partition", "nowhere/x.png"], "cannot be written"),
    (
        ["plan", "tiny.toml", "--set", "dataset=imagefolder", "--show-partition", "x.png"],
        "point --data or FEDSWEEP_DATA at",
    ),
    (["plan", "tiny.toml", "--db", "mysql://h/n"], "no driver for mysql"),
    (["plan", "tiny.toml", "--db", "sqlite:///nowhere/x.db"], "no folder"),
    (["plan", "tiny.toml", "--db", "sqlite:///notes.txt"], "no sound SQLite database"),
    (["plan", "tiny.toml", "--db", "sqlite:///other.db"], "not a fedsweep database"),
    (["plan", "tiny.toml", "--db", "postgresql://u:hunter2@127.0.0.1:1/n"], "cannot be reached"),
    (["work"], "there is no database fedsweep.db"),
    (["work", "--slots", "0"], "--slots 0 is neither auto nor a number of at least 1"),
    (["work", "--slots", "many"], "--slots many is neither auto nor a number of at least 1"),
    (["report"], "there is no database fedsweep.db"),
    (["status"], "there is no database fedsweep.db"),
    (["sql", "SELECT 1"], "there is no database fedsweep.db"),
    (["db", "upgrade"], "there is no database fedsweep.db"),
    (["work", "--device", "tpu"], "none of auto, cpu, cuda"),
    (["work", "--engine", "fast"], "--engine fast is none of auto, seq, stack"),
    (["work", "--engine", "stack", "--device", "cpu"], "--engine stack trains only on GPUs"),
    (["trial", "show", "abc"], "there is no database"),
    (["export", "weights", "abc"], "there is no database"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "notes.txt").write_text("not a database at all")
    for part in ("train", "test"):
        (tmp_path / "empty" / part / "class").mkdir(parents=True)
        for name in ("cat", "dog"):
            (tmp_path / "deep" / part / "all" / name).mkdir(parents=True)
            (tmp_path / "deep" / part / "all" / name / "x.png").touch()
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    return tmp_path


Said = Callable[..., tuple[str, str]]


@pytest.fixture
def refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Said:
    """A function that runs a command in this process and returns its stdout and stderr.

    That takes a tenth of the time of another process.
    """
    for name in [name for name in os.environ if name.startswith("FEDSWEEP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["fedsweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        output = capsys.readouterr()
        return output.out, output.err

    return call


@pytest.mark.parametrize(("arguments", "reason"), REQUESTS, ids=[" ".join(a) for a, _ in REQUESTS])
def test_a_wrong_request_says_why_and_writes_nothing(
    arguments: list[str], reason: str, folder: Path, refused: Said
) -> None:
    """It prints one line on stderr, and leaves the folder unchanged."""
    before = {p: p.read_bytes()[100:] for p in folder.rglob("*") if p.is_file()}
    out, err = refused(*arguments)
    assert reason in err
    assert len(err.strip().splitlines()) == 1
    assert "hunter2" not in err + out
    assert out == ""
    assert {p: p.read_bytes()[100:] for p in folder.rglob("*") if p.is_file()} == before


def test_a_real_process_refuses_in_the_same_way(folder: Path) -> None:
    """Its exit code and its streams are those of the function."""
    arguments, reason = REQUESTS[2]
    done = fedsweep(*arguments, cwd=folder, code=2)
    assert reason in done.stderr
    assert done.stdout == ""


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    """It does not create the database either."""
    output = fedsweep("plan", "tiny.toml", "--dry-run", cwd=folder).stdout
    assert "6 new trials, 0 kept" in output
    assert "rounds   16, and 2 that trials share" in output
    assert "not measured yet" in output
    assert not (folder / "fedsweep.db").exists()


def test_a_missing_name_or_a_forbidden_state_is_refused(folder: Path, refused: Said) -> None:
    """The requests have unknown names, ambiguous ids, or trials in a wrong state."""
    fedsweep("plan", "tiny.toml", cwd=folder)
    ids = [
        row[0] for row in query(f"sqlite:///{folder}/fedsweep.db", "SELECT trial_id FROM results")
    ]
    for arguments, reason in (
        (["report", "--sweep", "tinny"], "there is no sweep 'tinny': there are tiny"),
        (["work", "--sweep", "tinny", "--device", "cpu"], "there is no sweep 'tinny'"),
        (["trial", "show", "zzz"], "there is no trial 'zzz'"),
        (["trial", "show", ""], "there is no trial ''"),
        (["trial", "retry", ids[0]], "only failed and cancelled"),
        (["export", "weights", "zzz"], "there is no trial 'zzz'"),
        (["export", "weights", ids[0]], "was planned without keep_weights: plan it with"),
        (["trial", "list", "--state", "done"], "'done' is not one of"),
        (["sweep", "cancel", "x"], "there is no sweep 'x'"),
        (["report", "--format", "html", "--output", "no/such/folder.html"], "cannot be written"),
        (["report", "--format", "docx"], "'docx' is not one of"),
    ):
        _, err = refused(*arguments)
        assert reason in " ".join(err.replace("│", " ").split())


def test_a_read_only_database_says_so(folder: Path) -> None:
    """The URL makes it read-only, also for root."""
    fedsweep("plan", "tiny.toml", cwd=folder)
    done = fedsweep(
        "plan", "tiny.toml", "--set", "seed=9", "--db",
        f"sqlite:///file:{folder}/fedsweep.db?mode=ro&uri=true", cwd=folder, code=2,
    )  # fmt: skip
    assert "is read-only" in done.stderr
    assert query(f"sqlite:///{folder}/fedsweep.db", "SELECT count(*) FROM results") == [(6,)]


def test_a_schema_that_this_version_does_not_know_is_refused(folder: Path) -> None:
    """The message says what to do. The tests of the upgrades cover older schemas."""
    fedsweep("plan", "tiny.toml", cwd=folder)
    with sqlite3.connect(folder / "fedsweep.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.close()
    done = fedsweep("status", cwd=folder, code=2)
    assert "written by a newer fedsweep" in done.stderr

"""`fedsweep plan`: the size of large grids, and the description of the data."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsweep.cli import main
from fedsweep.cli import plan as command
from fedsweep.errors import PlanError
from fedsweep.plans import Trials, TrialSpec, fork_round, most_forks, own_rounds, read_plan
from tests.acceptance.command import at_once
from tests.builders import TINY
from tests.image_folders import make_image_folder

pytestmark = [
    # A command leaves its connections to the end of its process, which is not this one's.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

Run = Callable[..., int]


def grid(folder: Path, *lengths: int) -> Path:
    """Write a plan whose axes have these lengths."""
    keys = ("seed", "lr", "batch_size", "clip_norm", "weight_decay")
    lines = [
        f"{key} = [{', '.join(str(n + 1) for n in range(length))}]"
        for key, length in zip(keys, lengths, strict=False)
    ]
    protocol = TINY.partition("[[grid]]")[0]
    path = folder / "large.toml"
    path.write_text("\n".join([protocol, "[[grid]]", 'normalizer = "bn"', *lines]) + "\n")
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `fedsweep` in this process and in its own folder; return the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDSWEEP_DB", raising=False)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["fedsweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return call


@pytest.mark.parametrize(
    ("lengths", "points"),
    [((100, 100, 100, 10), "10,000,000"), ((100, 100, 100, 40, 6), "240,000,000")],
)
def test_a_dry_run_of_a_large_grid_only_counts(
    lengths: tuple[int, ...],
    points: str,
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The number of points is printed, and nothing is built or written."""
    assert run("plan", grid(tmp_path, *lengths).name, "--dry-run") == 0
    assert f"large.toml makes {points} points" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["large.toml"]


def test_a_grid_above_ten_million_points_is_refused_without_a_terminal(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The points are counted before one is built, and the message has the remedy."""
    assert run("plan", grid(tmp_path, 1000, 100, 100, 24).name) == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    assert "240,000,000 points" in err
    assert "make its grid smaller, or confirm with --yes" in err
    assert [path.name for path in tmp_path.iterdir()] == ["large.toml"]


@pytest.mark.parametrize(
    ("options", "answer", "code"),
    [(["--yes"], None, 0), ([], True, 0), ([], False, 2)],
    ids=["yes", "confirmed", "declined"],
)
def test_a_large_plan_is_made_if_the_user_confirms_it(
    options: list[str],
    answer: bool | None,
    code: int,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With `--yes` no question is asked; on a terminal the answer decides."""
    monkeypatch.setattr(command, "ANNOUNCED_ABOVE", 3)
    monkeypatch.setattr(command, "CONFIRMED_ABOVE", 4)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    questions: list[str] = []
    monkeypatch.setattr("typer.confirm", lambda text, **_: questions.append(text) or answer)
    assert run("plan", grid(tmp_path, 3, 2).name, *options) == code
    assert len(questions) == (answer is not None)
    out, err = capsys.readouterr()
    assert "large.toml makes 6 points" in err
    assert ("6 new trials" in out) == (code == 0)
    assert (tmp_path / "fedsweep.db").exists() == (code == 0)


def test_the_points_of_all_blocks_are_counted_without_fixed_keys(tmp_path: Path) -> None:
    """Points are counted before duplicates are merged."""
    path = grid(tmp_path, 7, 3)
    more = '[[grid]]\nnormalizer = ["gn", "bn"]\nlr = 1\nseed = [1, 2]\n'
    path.write_text(path.read_text() + more)
    counts: list[int] = []
    assert len(read_plan(path, permit=counts.append).trials) == 7 * 3 + 2
    read_plan(path, ["seed=0"], counts.append)
    assert counts == [7 * 3 + 4, 3 + 2]
    with pytest.raises(PlanError, match=r"--set seed = \[0, 1\] cannot be used"):
        read_plan(path, ["seed=[0, 1]"])


EVERY_KIND = """
[[grid]]
normalizer = ["bn", "gn", "fixbn", "ws", "none"]
freeze_round = [1, "auto"]
momentum = ["none", "local"]
weight_decay = [0, 1e-4]
centralized = [false, true]
client_accuracy = [true, false]
seed = [0, 9223372036854775807]
"""


def test_packed_trials_equal_the_trials(tiny: Path) -> None:
    """Ids, trunks, configurations and order are the same before and after packing."""
    tiny.write_text(TINY.partition("[[grid]]")[0] + EVERY_KIND)
    packed = read_plan(tiny).trials
    assert isinstance(packed, Trials)
    trials = [TrialSpec.of(type(t.config)(**t.config.model_dump())) for t in packed]
    assert list(packed) == trials
    assert list(packed.configs) == [trial.config for trial in trials]
    assert packed.ids == [trial.trial_id for trial in trials]
    assert Trials(trials) == packed == packed[:]
    assert list(packed[3:9]) == trials[3:9]
    assert packed[-1] == trials[-1]
    shared = [(t.trial_id, t.trunk, fork_round(t.config)) for t in trials if t.trunk is not None]
    assert list(packed.forks) == shared != []
    assert all(trial.trunk is None for trial in packed.alone())
    assert list(packed.alone().forks) == []
    left = packed.without(packed.ids[::2])
    assert list(left) == trials[1::2]
    assert own_rounds(left) == own_rounds(trials[1::2])
    assert most_forks(left) == most_forks(trials[1::2])
    seeds = [config.seed for config in packed.distinct("seed")]
    assert seeds == [0, 9223372036854775807]


def test_a_planned_trial_takes_little_memory(tmp_path: Path) -> None:
    """A trial of a grid with three axes takes at most 500 bytes."""
    path = grid(tmp_path, 100, 4, 5)
    read_plan(path)  # the caches are filled
    tracemalloc.start()
    try:
        sweep = read_plan(path)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(sweep.trials) == 2000
    assert taken <= 500 * 2000


MEASURED = """
import pathlib, re, sys
from fedsweep.cli import main
try:
    main()
finally:
    status = pathlib.Path("/proc/self/status").read_text()
    print("peak KiB:", re.search(r"VmHWM:\\s+(\\d+)", status)[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(2500, 10, 4), (1, 50, 50, 40)], ids=["seeds", "cells"])
def test_a_hundred_thousand_trials_need_at_most_200_mib(
    lengths: tuple[int, ...], store_url: str, tmp_path: Path
) -> None:
    """The peak of the process stays below it for a new plan and for the same plan again."""
    path = grid(tmp_path, *lengths)
    for summary in ("100,000 new trials, 0 kept", "0 new trials, 100,000 kept"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, "plan", str(path), "--db", store_url],
            check=True,
            capture_output=True,
            text=True,
        )
        assert summary in done.stdout
        assert int(done.stdout.split("peak KiB: ")[1]) <= 200 * 1024


@pytest.mark.slow
@pytest.mark.parametrize("format", ["csv", "json"])
def test_a_report_of_a_hundred_thousand_trials_needs_at_most_200_mib(
    format: str, store_url: str, tmp_path: Path
) -> None:
    """The peak of the process stays below it for a report of cells with many seeds."""
    path = grid(tmp_path, 2500, 10, 4)
    plan = [sys.executable, "-m", "fedsweep", "plan", str(path), "--db", store_url]
    subprocess.run(plan, check=True, capture_output=True)
    output = tmp_path / f"report.{format}"
    report = ["report", "--db", store_url, "--format", format, "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *report], check=True, capture_output=True, text=True
    )
    assert output.stat().st_size > 0
    assert int(done.stdout.split("peak KiB: ")[1]) <= 200 * 1024


def test_a_plan_prints_a_summary_of_an_image_folder(tmp_path: Path) -> None:
    """The summary follows the number of trials, in a dry run too."""
    root = make_image_folder(tmp_path / "data", classes=3, each=20)
    for i in range(15):
        (root / "train" / "class0" / f"{i}.gif").write_bytes(b"x")
    for part in ("train", "test"):
        (root / part / "class1" / ".cache").mkdir()
    (tmp_path / "tiny.toml").write_text(TINY)
    plan = ("plan", "tiny.toml", "--set", "dataset=imagefolder", "--data", "data")
    for more in (("--dry-run",), ()):
        output = at_once(*plan, *more, cwd=tmp_path).stdout.splitlines()
        assert output[0].startswith("tiny: ")
        assert "  imagefolder: 3 classes, 60 + 15 images; ignored: 15 .gif, 2 hidden" in output


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n"])
def test_a_plan_refuses_a_file_that_is_not_an_image(content: bytes, tmp_path: Path) -> None:
    """Nothing is written, because every trial would fail on a file without a readable header."""
    root = make_image_folder(tmp_path / "data", each=6)
    for name in ("x.png", "y.jpg"):
        (root / "test" / "class1" / name).write_bytes(content)
    (tmp_path / "tiny.toml").write_text(TINY)
    plan = ("plan", "tiny.toml", "--set", "dataset=imagefolder", "--data", "data")
    output = at_once(*plan, cwd=tmp_path, code=2).stderr
    assert "test/class1/x.png (and 1 more) cannot be read as an image: mend" in output
    assert not (tmp_path / "fedsweep.db").exists()

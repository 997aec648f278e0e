"""The runner of `make gpu`: its parts, their limits, and its one file of results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.acceptance.command import at_once, eventually, query
from tests.benchmarks import whole_gpu
from tests.benchmarks.whole_gpu import Part, parts, run_parts
from tests.builders import REPOSITORY
from tests.image_folders import make_image_folder

SAY = (sys.executable, "-c", "import sys; print('one'); print('two', file=sys.stderr)")
FAIL = (sys.executable, "-c", "raise SystemExit(3)")


def test_all_output_is_in_one_file_and_a_failure_stops_its_part_alone(tmp_path: Path) -> None:
    """A part that cannot be run has its reason there."""
    results = tmp_path / "results" / "gpu.md"
    third = Part("search", [SAY], 60, missing="there are no images")
    sound = run_parts(
        [Part("tests", [FAIL, SAY], 60), Part("table", [SAY], 60), third], results, "# x"
    )
    text = results.read_text()
    assert not sound
    assert text.startswith("# x\n")
    assert f"tests: {sys.executable} exited with 3" in text
    assert text.count("one\ntwo\n") + text.count("two\none\n") == 1
    assert "table: succeeded" in text
    assert "search: not run: there are no images" in text
    assert run_parts([Part("table", [SAY], 60)], results, "# y")


def test_a_part_that_takes_too_long_is_ended_with_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next part is run. The limit comes when the command has started a process."""
    mark = tmp_path / "child"
    program = (
        "import os, pathlib, time\n"
        "if child := os.fork():\n"
        f"    pathlib.Path({str(mark)!r}).write_text(f'{{child}}\\n')\n"
        "time.sleep(3600)\n"
    )
    wait = subprocess.Popen.wait

    def limited(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout == pytest.approx(1800, abs=100):
            eventually(lambda: mark.exists() and mark.read_text().endswith("\n"))
            raise subprocess.TimeoutExpired(process.args, 1800)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", limited)
    long = Part("long", [(sys.executable, "-c", program)], 1800)
    assert not run_parts([long, Part("table", [SAY], 60)], tmp_path / "gpu.md", "# x")
    text = (tmp_path / "gpu.md").read_text()
    assert f"long: {sys.executable} took too long" in text
    assert "table: succeeded" in text
    child = int(mark.read_text())
    eventually(lambda: not psutil.pid_exists(child) or is_zombie(child))


def is_zombie(number: int) -> bool:
    try:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_parts_come_in_order_and_the_search_needs_images(tmp_path: Path) -> None:
    """CUDA tests, figures, search. Each has a limit."""
    (tmp_path / "train").mkdir()
    whole, without = parts(tmp_path), parts(tmp_path / "nowhere")
    assert [part.name for part in whole] == ["CUDA tests", "figures", "search on CIFAR-10"]
    assert all(part.seconds > 0 for part in whole)
    assert [bool(part.missing) for part in whole] == [False, False, False]
    assert [bool(part.missing) for part in without] == [False, False, True]
    assert os.fspath(tmp_path) in whole[2].commands[0]


TINY = ("model=cnn", "rounds=2", "local_steps=1", "batch_size=4", "clients=2", "evaluate_every=1")
"""Changes that let a CPU run the search in seconds."""


@pytest.mark.slow
def test_the_commands_of_the_search_run_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plan, work, search show, sql and report accept their options and succeed.

    The worker gets another device and number of slots. The plan gets a tiny model.
    """
    images = make_image_folder(tmp_path / "images", classes=10, each=48)
    store = tmp_path / "search.db"
    monkeypatch.setattr(whole_gpu, "STORE", store)
    output = []
    for command in parts(images)[2].commands:
        line = " ".join(command[3:])
        line = line.replace("--device cuda --slots auto", "--device cpu --slots 1")
        arguments = line.split(" ")
        if arguments[0] == "plan":
            arguments += [f"--set={change}" for change in TINY]
        output.append(at_once(*arguments, cwd=REPOSITORY).stdout)
    planned, worked, searched, ledger, reported = output
    assert "search-cifar10: 6 new trials, 0 kept" in planned
    assert "1 arm to search" in planned
    assert " 0 failed" in worked
    assert "the best freeze round" in searched
    assert "rounds_shared" in ledger
    assert "FIXBN" in reported
    rows = query(f"sqlite:///{store}", "SELECT normalizer, state FROM results")
    assert {state for _, state in rows} == {"finished"}
    counts = {name: [n for n, _ in rows].count(name) for name in ("bn", "gn", "fixbn")}
    assert counts["bn"] == counts["gn"] == 3
    assert counts["fixbn"] in range(3, 10)

"""The wheel, installed where nothing of the repository is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.command import environment
from tests.conftest import REPOSITORY, TINY


@pytest.mark.timeout(900)
def test_an_installed_wheel_plans_works_and_reports_in_an_empty_folder(tmp_path: Path) -> None:
    """With its migrations and its declared dependencies, and nothing else."""
    run = ("--quiet", "--disable-pip-version-check")
    dist, venv, empty = tmp_path / "dist", tmp_path / "venv", tmp_path / "empty"
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(dist), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True, env=environment())
    (wheel,) = dist.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    constraints = str(REPOSITORY / "constraints.txt")
    install = [python, "-m", "pip", "install", *run, "--no-compile", "-c", constraints, str(wheel)]
    subprocess.run(install, check=True, env=environment())
    empty.mkdir()
    (empty / "tiny.toml").write_text(TINY)

    def fedsweep(*arguments: str) -> str:
        done = subprocess.run(
            [str(venv / "bin" / "fedsweep"), *arguments],
            cwd=empty, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [python, "-c", "import fedsweep, trainers; print(fedsweep.__file__, trainers.__file__)"]
    found = subprocess.run(where, cwd=empty, check=True, capture_output=True, text=True).stdout
    assert all(place.startswith(str(venv)) for place in found.split())
    assert "6 new trials" in fedsweep("plan", "tiny.toml")
    assert "6 trials finished, 0 failed" in fedsweep("work", "--device", "cpu", "--until-empty")
    assert "FIXBN" in fedsweep("report")
    fedsweep("report", "--format", "html", "--output", "report.html")
    assert "<svg" in (empty / "report.html").read_text()

"""The wheel, installed in an environment without the repository."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.acceptance.command import environment
from tests.builders import REPOSITORY, TINY

HEAVY = ("torch", "triton", "nvidia", "cuda")
"""Beginnings of the names of very large packages, which are linked and not installed."""


def link_heavy(site: Path) -> None:
    """Link large packages into an environment, so that pip finds them installed."""
    for package in metadata.distributions():
        if package.name.startswith(HEAVY):
            home = Path(str(package.locate_file("")))
            for top in {file.parts[0] for file in package.files or () if file.parts[0] != ".."}:
                if not (site / top).exists() and top != "__pycache__":
                    (site / top).symlink_to(home / top)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_installed_wheel_plans_works_and_reports_in_an_empty_folder(tmp_path: Path) -> None:
    """The environment has only the wheel and its declared dependencies."""
    run = ("--quiet", "--disable-pip-version-check")
    dist, venv, empty = tmp_path / "dist", tmp_path / "venv", tmp_path / "empty"
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(dist), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True, env=environment())
    (wheel,) = dist.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    place = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    link_heavy(
        Path(subprocess.run(place, check=True, capture_output=True, text=True).stdout.strip())
    )
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
    location = subprocess.run(where, cwd=empty, check=True, capture_output=True, text=True).stdout
    assert all(place.startswith(str(venv)) for place in location.split())
    assert "6 new trials" in fedsweep("plan", "tiny.toml")
    assert "6 trials finished, 0 failed" in fedsweep("work", "--device", "cpu", "--until-empty")
    assert "FIXBN" in fedsweep("report")
    fedsweep("report", "--format", "html", "--output", "report.html")
    assert "<svg" in (empty / "report.html").read_text()

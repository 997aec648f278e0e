"""The command line of this repository, for the workers and the harness of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trainers.engines import TEST_ENGINE

REPOSITORY = Path(__file__).parents[2]
CLOCK = Path(__file__).parent / "clock"
FEDSWEEP = (sys.executable, "-m", "fedsweep")


def environment(folder: Path, *, clock: Path | None = None) -> dict[str, str]:
    """Return the environment of a command that does not use the user's own folders.

    If there is a `clock`, it sets the wall clock of the command.
    """
    kept = {
        k: v for k, v in os.environ.items() if k == TEST_ENGINE or not k.startswith("FEDSWEEP_")
    }
    path = [str(CLOCK)] if clock else []
    path += [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {
        "PYTHONPATH": os.pathsep.join(path),
        "XDG_DATA_HOME": str(folder / "data"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "COLUMNS": "160",
        **({"CHAOS_CLOCK": str(clock)} if clock else {}),
    }


def run(
    folder: Path, *arguments: str, seconds: float = 120, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end with more environment variables. Its exit code is not checked."""
    return subprocess.run(
        [*FEDSWEEP, *arguments],
        cwd=folder,
        env=environment(folder) | more,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


class Errands:
    """Commands that a person gives during the run. Some meet an outage and fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*FEDSWEEP, *arguments],
            cwd=self.folder,
            env=environment(self.folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.out = [errand for errand in self.out if errand.poll() is None]
        self.out.append(process)
        return process

    def wait(self, seconds: float = 120) -> None:
        """Wait until all have ended. Kill those that take too long."""
        for errand in self.out:
            try:
                errand.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                errand.kill()
                errand.wait()
        self.out.clear()

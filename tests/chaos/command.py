"""The command line of this tree, in folders of the run: for the workers and their harness."""

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
    """Nothing is taken from or left in the user's own folders; the wall clock is `clock`'s."""
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


def run(folder: Path, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """A command to its end, whatever that is."""
    return subprocess.run(
        [*FEDSWEEP, *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


class Errands:
    """Commands that a person gives meanwhile, from elsewhere; some meet an outage and fail."""

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
        """Until all have come back; one that does not is killed."""
        for errand in self.out:
            try:
                errand.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                errand.kill()
                errand.wait()
        self.out.clear()

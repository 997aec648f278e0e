"""The same sweeps, trained by one worker that nothing disturbs."""

from __future__ import annotations

from pathlib import Path

from tests.chaos import plans
from tests.chaos.command import run

HOURS = 3600.0
WORK = ("--device", "cpu", "--slots", "2", "--until-empty", "--strict")


class Calm:
    """A SQLite store that is trained as far as it is needed; several runs may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/calm.db"
        self.planned = 0

    def train(self, copies: int) -> None:
        """Have the first copies of the sweep, at least."""
        for copy in range(self.planned, copies):
            self._fedsweep("plan", str(plans.write(self.folder, copy)))
        self.planned = max(self.planned, copies)
        self._fedsweep("work", *WORK)

    def _fedsweep(self, *arguments: str) -> None:
        done = run(self.folder, *arguments, "--db", self.url, seconds=HOURS)
        if done.returncode != 0:
            raise RuntimeError(f"the calm run failed: {done.stdout[-2000:]}\n{done.stderr}")

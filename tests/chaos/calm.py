"""The same sweeps, trained by one worker that nothing disturbs."""

from __future__ import annotations

from pathlib import Path

from tests.chaos import plans
from tests.chaos.command import run

HOURS = 3600.0
WORK = ("--device", "cpu", "--slots", "2", "--until-empty", "--strict")


class Calm:
    """A SQLite store that is trained as far as it is needed. Several runs may share it.

    `more` are environment variables of its commands.
    """

    def __init__(self, folder: Path, **more: str) -> None:
        self.folder = folder
        self.more = more
        self.url = f"sqlite:///{folder}/calm.db"
        self.planned = 0

    def train(self, copies: int) -> None:
        """Train the first copies of the sweep, as far as they are not trained yet."""
        for copy in range(self.planned, copies):
            self._fedsweep("plan", str(plans.write(self.folder, copy)))
        self.planned = max(self.planned, copies)
        self._fedsweep("work", *WORK)

    def _fedsweep(self, *arguments: str) -> None:
        done = run(self.folder, *arguments, "--db", self.url, seconds=HOURS, **self.more)
        if done.returncode != 0:
            raise RuntimeError(f"the calm run failed: {done.stdout[-2000:]}\n{done.stderr}")

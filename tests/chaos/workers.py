"""Real `fedsweep work` processes. Each has its own session, and is replaced after its end."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.command import FEDSWEEP, environment

LEASE = 3.0
REPLACED_AFTER = (0.2, 1.0)
"""Shortest and longest time in seconds between a worker's end and its successor."""


@dataclass
class Worker:
    """One `fedsweep work`: the watch, and the slots under it."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path
    asked: bool = False
    """True if it was told to end in any way."""
    ended: float | None = None
    """Time at which its end was noticed, on the monotonic clock."""
    began: bool = False
    """True if it has had slots. A worker that meets an outage before that reports it and ends,
    because its URL may be wrong."""

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def slots(self) -> list[int]:
        """Return the processes that claim and train, without the helper of multiprocessing."""
        try:
            children = psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []
        return [child.pid for child in children if _is_slot(child)]

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def last_line(self) -> str:
        lines = self.said().strip().splitlines()
        return lines[-1] if lines else "nothing said"


def _is_slot(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _living_under(process: psutil.Process, clock: Path) -> bool:
    """Return True if a process has this run's clock, so that it belongs to the run."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get("CHAOS_CLOCK") == str(clock)
    except psutil.Error:
        return False


def send(pids: list[int], what: signal.Signals) -> None:
    """Send a signal to the processes that still exist."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, what)


@dataclass
class Crew:
    """A fixed number of workers, which are replaced until they are stopped."""

    folder: Path
    url: str
    size: int
    rng: random.Random
    clock: Path
    ever: list[Worker] = field(default_factory=list)
    due: list[float] = field(default_factory=list)
    """Times at which the next workers start."""

    def __post_init__(self) -> None:
        self.due = [0.0] * self.size

    def alive(self) -> list[Worker]:
        return [worker for worker in self.ever if worker.alive]

    def look(self) -> None:
        """Note the workers that have begun and those that have ended."""
        for worker in self.ever:
            if worker.alive:
                worker.began = worker.began or bool(worker.slots())
            else:
                worker.ended = worker.ended or time.monotonic()

    def tick(self) -> None:
        """Replace ended workers after a moment."""
        self.look()
        now = time.monotonic()
        missing = self.size - len(self.alive()) - len(self.due)
        self.due += [now + self.rng.uniform(*REPLACED_AFTER) for _ in range(missing)]
        for at in [at for at in self.due if at <= now]:
            self.due.remove(at)
            self.start()

    def start(self) -> Worker:
        slots, grace = self.rng.choice(["1", "2"]), self.rng.choice(["0.5", "5"])
        options = ["--slots", slots, "--grace", grace, "--lease", str(LEASE)]
        log = self.folder / f"worker-{len(self.ever):04}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*FEDSWEEP, "work", "--db", self.url, "--device", "cpu", "--until-empty", *options],
                cwd=self.folder,
                env=environment(self.folder, clock=self.clock),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        worker = Worker(len(self.ever), process, log)
        self.ever.append(worker)
        return worker

    def processes(self) -> list[int]:
        """Return all living processes of the workers, with orphans."""
        return [p.pid for p in psutil.process_iter() if _living_under(p, self.clock)]

    def wait(self, seconds: float) -> list[int]:
        """Wait until all processes have ended. Return those that are left after this time."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left

    def end(self) -> None:
        """Kill all processes of the workers."""
        send(self.processes(), signal.SIGKILL)
        for worker in self.ever:
            worker.process.wait()

    def gave_up(self, *, at_work: bool) -> list[Worker]:
        """Return the workers that ended with an error although they were not told to end."""
        unasked = [w for w in self.ever if not w.asked and w.began is at_work]
        return [worker for worker in unasked if worker.process.poll()]

    def said_lost(self) -> int:
        """Count the attempts that their workers reported as lost."""
        return sum(int(n) for worker in self.ever for n in _LOST.findall(worker.said()))

    def tracebacks(self) -> dict[str, int]:
        """Count the tracebacks that workers printed by their last lines."""
        counts: dict[str, int] = {}
        for worker in self.ever:
            for last in _TRACEBACK.findall(worker.said()):
                counts[last[:200]] = counts.get(last[:200], 0) + 1
        return counts


_LOST = re.compile(r"^stopped: .*\b(\d+) lost\b", re.MULTILINE)
_TRACEBACK = re.compile(r"^Traceback .*\n(?:[ \t].*\n|\n)*(\S.*)$", re.MULTILINE)

"""Schedulers: what `list`, `logs` and `stop` ask of each, and the registry of their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from fedsweep.store.launches import Launch


@dataclass(frozen=True)
class Job:
    """A job of a launch, as its scheduler tells it."""

    id: str
    state: str
    """One of "pending", "running", "stopping", "ended", or the scheduler's word for another."""
    reason: str = ""
    """Why it waits, or how it ended; "" if there is no more to say."""
    node: str = ""
    """The machine; "" before it starts."""

    @property
    def over(self) -> bool:
        """Return whether it neither runs nor waits."""
        return self.state not in ("pending", "running", "stopping")


class Scheduler(Protocol):
    """A scheduler of launched workers. All errors are a `RequestError` of one sentence."""

    def jobs(self, launch: Launch) -> list[Job]:
        """Return the jobs of a launch, as far as the scheduler still knows them."""

    def logs(self, launch: Launch) -> Mapping[str, list[Path]]:
        """Return the log files of each job, the oldest first."""

    def stop(self, launch: Launch) -> None:
        """Let its workers finish their rounds and give their trials back. Start no more."""

    def cancel(self, launch: Launch) -> None:
        """End all of its jobs at once."""


SCHEDULERS = {"slurm": "fedsweep.launch.slurm:Slurm", "ray": "fedsweep.launch.ray:Ray"}
"""Each scheduler's class, by its name. The modules are imported on first use."""


def find(kind: str) -> Scheduler:
    """Return the scheduler of this name."""
    module, name = SCHEDULERS[kind].split(":")
    made = cast("Callable[[], Scheduler]", getattr(import_module(module), name))
    return made()


def tail(file: Path, lines: int) -> Iterator[str]:
    """Yield the last lines of a log. A missing file has none."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    yield from text.splitlines()[-lines:]

"""An order: what each worker of a launch runs. It holds no secret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fedsweep.settings import NOTIFY, setting


@dataclass(frozen=True, kw_only=True)
class Order:
    """The launch of a worker, and its options of `fedsweep work`."""

    launch: str
    """The launch's id."""
    kind: str
    """The scheduler."""
    folder: str
    """The launch's folder. All nodes see it under this path, except those of Ray."""
    home: str | None = None
    """The working folder of the worker, if its machine has it; None for that of the scheduler."""
    sweep: str | None = None
    device: str = "auto"
    slots: str = "auto"
    threads: int = 1
    engine: str = "auto"
    max_attempts: int = 3
    lease: float = 15.0
    grace: float = 20.0
    data: str | None = None
    artifacts: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """Return the options of `fedsweep work` by name, without those that are not given."""
        own = {"launch", "kind", "folder", "home"}
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in own}
        return {name: value for name, value in named.items() if value not in (None, ())}

    def command(self, hours: float | None = None) -> list[str]:
        """Return the arguments of `fedsweep` that run such a worker.

        The database and the webhooks are not among them: they are in the environment.
        """
        arguments = ["work", "--until-empty"]
        for name, value in self.options().items():
            for one in value if isinstance(value, tuple) else (value,):
                arguments += [f"--{name.replace('_', '-')}", str(one)]
        arguments += ["--max-hours", f"{hours:.6f}"] if hours is not None else []
        return arguments


def webhooks() -> Sequence[str]:
    """Return the webhooks in the environment of a launched worker."""
    return (setting(NOTIFY) or "").split()


def data_path(folder: str | None) -> Path | None:
    """Return an order's data folder as a path."""
    return None if folder is None else Path(folder)

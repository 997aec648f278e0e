"""The samples that each client holds."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.config import (
    TrainConfig,
)


@dataclass(frozen=True)
class Holdings:
    """The samples that each client holds under a configuration."""

    config: TrainConfig
    counts: tuple[tuple[int, ...], ...]
    """Counts by client and class, including the samples held back for validation."""
    unit: str
    """The unit of the counts: samples, or pixels if each pixel has a class."""
    classes: tuple[str, ...] = ()
    """The names of the classes; empty if the data have none. Ignored if their number differs."""
    clients: tuple[str, ...] = ()
    """The names of natural clients; empty if the clients have none."""

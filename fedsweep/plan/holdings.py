"""The samples that each client holds."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.config import (
    TrainConfig,
)


@dataclass(frozen=True)
class Holdings:
    """Who holds what under a configuration."""

    config: TrainConfig
    counts: tuple[tuple[int, ...], ...]
    """By client and class, with what is held back for validation."""
    unit: str
    """What is counted: samples, or pixels where each has a class."""

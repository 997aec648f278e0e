"""Sizes of the files that trials write, as far as a plan can tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fedsweep.plan import (
    TrainConfig,
)

if TYPE_CHECKING:
    pass


def snapshot_bytes(configs: Iterable[TrainConfig]) -> int:
    """The largest snapshot of these trials, bytes, as far as a plan can tell."""
    return max((_model_bytes(c) * (1 + _velocities(c)) for c in configs), default=0)


def weights_bytes(configs: Iterable[TrainConfig]) -> int:
    """All the final weights that these trials are to keep, bytes, about."""
    return sum(_model_bytes(config) for config in configs if config.keep_weights)


def _model_bytes(config: TrainConfig) -> int:
    from trainers.facts import STATE_ELEMENTS

    return STATE_ELEMENTS[config.model] * (8 if config.dtype == "float64" else 4)


def _velocities(config: TrainConfig) -> int:
    """Vectors as long as the model: each registered client's, or the averaged one; the server's."""
    clients = 1 if config.centralized else config.clients or 1  # natural ones are not known yet
    kept = {"local": clients, "global": 1}.get(config.momentum, 0)
    return kept + (config.server_momentum > 0)

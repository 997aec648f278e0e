"""The arms that every claim about the engine is tested on."""

from __future__ import annotations

import itertools
from typing import Any

from trainers import fedavg
from trainers.config import TrainConfig
from trainers.data.dataset import Dataset

SMALL: dict[str, Any] = {
    "clients": 5,
    "rounds": 4,
    "local_steps": 3,
    "batch_size": 8,
    "alpha": 0.3,
    "weight_decay": 1e-3,
    "participation": 0.6,
}
MOMENTA = ("none", "reset", "local", "global")
NORMALIZERS: list[dict[str, Any]] = [
    {"normalizer": "bn"},
    {"normalizer": "fixbn", "freeze_round": 2},
    {"normalizer": "fixbn", "freeze_round": 2, "freeze": "layer"},
    {"normalizer": "gn"},
    {"normalizer": "ln"},
    {"normalizer": "in"},
    {"normalizer": "wn"},
    {"normalizer": "none"},
    {"normalizer": "fedbn"},
    {"normalizer": "silobn"},
    {"normalizer": "ws"},
]
SERVER_STATISTICS: list[dict[str, Any]] = [{"normalizer": "fbn"}, {"normalizer": "hbn"}]
"""Normalizers of `seq` alone, which use the server's statistics in the local steps."""
JOINT: list[dict[str, Any]] = [{"normalizer": "fedtan"}]
"""The normalizer of `seq` alone whose first local step is one of all clients of the cohort."""


def small(**changes: Any) -> TrainConfig:
    """A trial of a second or less; `weight_decay` and unequal sizes make order and weights show."""
    return config(**{**SMALL, **changes})


BASE: dict[str, Any] = {
    "dataset": "digits",
    "model": "cnn",
    "normalizer": "bn",
    "alpha": 0.1,
    "clients": 10,
    "rounds": 24,
    "local_steps": 5,
    "batch_size": 20,
    "lr": 0.05,
}


ROAD: dict[str, Any] = {"dataset": "camvid", "model": "deeplabv3plus", "partition": "natural"}


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{**BASE, **changes})


ARMS = [
    {**arm, "momentum": momentum}
    for arm, momentum in zip(NORMALIZERS, itertools.cycle(MOMENTA), strict=False)
]


def measured(round: fedavg.Round) -> tuple[object, ...]:
    return (
        round.round,
        round.phase,
        round.train_loss,
        round.test_loss,
        round.test_accuracy,
        round.validation_loss,
        round.validation_accuracy,
    )


def trace(
    chosen: TrainConfig,
    digits: Dataset,
    state: fedavg.State | None = None,
    *,
    states: list[fedavg.State] | None = None,
    **how: Any,
) -> list[tuple[object, ...]]:
    """Every round's measurements and the whole state, as comparable values.

    The states are also added to `states`.
    """
    rows: list[tuple[object, ...]] = []
    for r in fedavg.run(chosen, digits, state, **how):
        after = r.state()
        if states is not None:
            states.append(after)
        contents = {name: t.numpy().tobytes() for name, t in after.tensors.items()}
        rows.append((*measured(r), contents))
    return rows

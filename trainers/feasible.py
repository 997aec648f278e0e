"""Checks that refuse configurations which fail every trial on every machine."""

from __future__ import annotations

import math
from decimal import Decimal

from trainers.config import TrainConfig

LARGEST_FLOAT32 = float.fromhex("0x1.fffffep+127")


MOST_OF: dict[str, int] = {
    "image_size": 16_384,
    "image_height": 16_384,
    "local_steps": 10**8,
    "local_epochs": 10**8,
}
"""The largest values that a plan may give: beyond them, no machine trains a single round."""


def check_feasible(config: TrainConfig) -> None:
    """Refuse values that are valid on their own and fail every trial on every machine.

    A stored trial is not checked, so that an older database still opens.

    Raises:
        ValueError: a value is above the largest that can be trained with.

    """
    for name, most in MOST_OF.items():
        value = getattr(config, name)
        if value is not None and value > most:
            raise ValueError(f"{name} = {value} is too much to train with: choose {most} or less")
    for name in ("lr", "weight_decay"):
        value = getattr(config, name)
        if config.dtype != "float64" and value > LARGEST_FLOAT32:
            raise ValueError(
                f"{name} = {value:g} is more than {config.dtype} weights can hold: lower {name}"
            )


def share(part: float | Decimal, whole: int) -> int:
    """floor(part * whole + 1/2), with `part` read as the decimal that was written."""
    return math.floor(Decimal(str(part)) * whole + Decimal("0.5"))


def held_back(validation: float, samples: int) -> int:
    """Return how many of a client's samples are held back; at least one stays for training."""
    return min(share(validation, samples), samples - 1)


def check_sizes(config: TrainConfig, samples: int) -> None:
    """Refuse a partition that cannot give every client a training sample.

    Raises:
        ValueError: more clients, or more shards, than samples.

    """
    if config.clients is None or config.centralized:
        return
    each, what = 1, "clients"
    if config.shards_per_client is not None:
        each, what = config.shards_per_client, "shards"
    elif config.min_samples is not None:
        each, what = config.min_samples, f"samples ({config.min_samples} for each client)"
    if config.clients * each > samples:
        also = {"shards": " or shards_per_client", "clients": ""}.get(what, " or min_samples")
        raise ValueError(
            f"{config.clients * each} {what} are more than the {samples} training samples of "
            f"{config.dataset}: lower clients{also}"
        )

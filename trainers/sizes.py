"""Sizes: fractions of rounds, clients and samples, and the samples that each client gets."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainers.config import TrainConfig


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

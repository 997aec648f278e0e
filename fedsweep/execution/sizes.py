"""Estimated sizes of the files that trials write."""

from __future__ import annotations

from collections.abc import Iterable

from fedsweep.plans import (
    TrainConfig,
)
from trainers import own_models


def snapshot_bytes(configs: Iterable[TrainConfig]) -> int:
    """Return the size of the largest snapshot of these trials, in bytes, estimated."""
    return max((_model_bytes(c) * (1 + _vectors(c)) for c in configs), default=0)


def weights_bytes(configs: Iterable[TrainConfig]) -> int:
    """Return the size of all final weights that these trials keep, in bytes, estimated."""
    return sum(_model_bytes(config) for config in configs if config.keep_weights)


def unknown(configs: Iterable[TrainConfig]) -> tuple[str, ...]:
    """Return the models whose size is not known. The estimates leave them out."""
    models = dict.fromkeys(config.model for config in configs)
    return tuple(model for model in models if not _elements(model))


def _model_bytes(config: TrainConfig) -> int:
    return _elements(config.model) * (8 if config.dtype == "float64" else 4)


def _elements(model: str) -> int:
    """Return the elements of a model's state, about; 0 if that is not known."""
    own = own_models.facts(model)
    return (own.elements if own is not None else None) or 0


def _vectors(config: TrainConfig) -> int:
    """Return the number of further vectors in a snapshot. Each is as long as the model.

    Local momentum has one per client, global momentum one, and server momentum one more. The
    vectors of a foreign algorithm are not known.
    """
    from trainers.own_algorithms import BY_NAME

    clients = 1 if config.centralized else config.clients or 1  # a natural split is not known yet
    kept = {"local": clients, "global": 1}.get(config.momentum, 0)
    own = BY_NAME.get(config.algorithm or "")
    of_algorithm = own.server_vectors + clients * own.client_vectors if own else 0
    return kept + (config.server_momentum > 0) + of_algorithm

"""The identity of a trial: the fields that its numbers depend on."""

from __future__ import annotations

from functools import cache
from typing import Any

from trainers.config import TrainConfig, field_defaults

RECIPE = 1
"""Raised whenever a change of the code changes the numbers of an unchanged configuration."""


TINY_ALPHA = 0.01
"""Below this alpha, the class mixes of a Dirichlet partition by client underflow in float64. The
mix of one class in 1,700 is then 0 at 0.01, and of every second class at 0.001."""


TINY_ALPHA_RECIPE = 2
"""The recipe of those partitions. Under recipe 1, a client whose classes had run out was nearly
IID."""


OUTSIDE_IDENTITY = frozenset(
    {"evaluate_every", "client_accuracy", "keep_weights", "diagnostics", "snapshot_every"}
)
"""Fields that change what is measured or kept, but never the training.

A test loss that is not finite fails a trial in the round that measures it. The weights of such a
trial are finite.
"""


def canonical(config: TrainConfig) -> dict[str, Any]:
    """Return a trial's identity: its seed, used fields that differ from the default, recipe."""
    values = config.__dict__
    identity = {
        name: value
        for name, default in _identity_defaults(type(config))
        if (value := values[name]) is not None and value != default
    }
    return identity | {"seed": config.seed, "recipe": recipe(config)}


@cache
def _identity_defaults(of: type[TrainConfig]) -> list[tuple[str, Any]]:
    """Return the fields that are part of an identity if they are not at these defaults."""
    own = OUTSIDE_IDENTITY | {"seed"}
    return [(name, default) for name, default in field_defaults(of).items() if name not in own]


def recipe(config: TrainConfig) -> int:
    """Return the version of the code that computes this configuration's numbers."""
    tiny = config.alpha is not None and config.alpha < TINY_ALPHA
    return TINY_ALPHA_RECIPE if tiny and config.partition == "dirichlet" else RECIPE

"""Checks that refuse configurations which fail every trial on every machine."""

from __future__ import annotations

from trainers.config import TrainConfig
from trainers.own_models import TIMM, timm_problem

LARGEST_FLOAT32 = float.fromhex("0x1.fffffep+127")
LEAST_FLOAT32 = 2.0**-126
"""The least positive number that float32 holds in full."""

DIVISORS = ("adam_eps", "server_tau", "dyn_alpha")
"""The numbers that are divided by, so that they may not become 0."""


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
        ValueError: a value is above the largest that can be trained with, or the timm that is
            installed here has no such model.

    """
    for name, most in MOST_OF.items():
        value = getattr(config, name)
        if value is not None and value > most:
            raise ValueError(f"{name} = {value} is too much to train with: choose {most} or less")
    if config.model.startswith(TIMM) and (problem := timm_problem(config.model)) is not None:
        raise ValueError(f"model = {config.model}: {problem}")
    if config.dtype == "float64":
        return
    for name in ("lr", "weight_decay", "server_lr", "prox_mu", *DIVISORS):
        value = getattr(config, name)
        if value is not None and value > LARGEST_FLOAT32:
            raise ValueError(
                f"{name} = {value:g} is more than {config.dtype} weights can hold: lower {name}"
            )
    for name in DIVISORS:
        value = getattr(config, name)
        if value is not None and value < LEAST_FLOAT32:
            raise ValueError(
                f"{name} = {value:g} is less than {config.dtype} weights can hold: raise {name}"
            )

"""The rule that chooses T* from the trunk's own statistics: `freeze_round = "auto"`.

It is a rule of ours, as a baseline for a search to beat. After each round r >= 2 of BN it takes the
averaged running means mu and deviations s of the layers before and after the round. The drift is
d_r = mean over layers of sqrt(mean over channels of ((mu_r - mu_{r-1})^2 + (s_r - s_{r-1})^2) /
(s_r^2 + eps)). This is the distance that the statistics moved, in their own deviations.

The statistics have settled after the first round whose mean drift over the last three rounds is at
most a tenth of the largest such mean. They are frozen then. If they never settle, the trial is BN
to its end. The rule uses no test or validation data.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import torch
from torch import Tensor

from trainers.diagnostics import EPS

WINDOW = 3
"""Rounds that a drift is averaged over."""
SETTLED = 0.1
"""Fraction of the largest mean drift at which the statistics have settled."""


def drift(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Return the drift of the running statistics between two models; 0 without statistics."""
    layers = [n.removesuffix(".running_mean") for n in after if n.endswith(".running_mean")]
    each = []
    for layer in layers:
        (mean, other), (deviation, earlier) = (
            [model[f"{layer}.{kind}"].double().cpu() for model in (after, before)]
            for kind in ("running_mean", "running_var")
        )
        apart = (mean - other).square() + (deviation.sqrt() - earlier.sqrt()).square()
        each.append(math.sqrt((apart / (deviation + EPS)).mean()))
    return statistics.fmean(each) if each else 0.0


class AutoFreeze:
    """The rule's memory, a vector [2 + WINDOW]: the round after which it froze (-1: not yet), the
    largest mean drift, and the latest drifts, the newest first (-1: not yet).

    It is kept in the state's own type, so that a resumed trial decides as one that never stopped.
    """

    def __init__(self, like: Tensor) -> None:
        self.memory = torch.full((2 + WINDOW,), -1.0, dtype=like.dtype)

    @property
    def frozen_at(self) -> int | None:
        """T*; None before the freeze."""
        at = int(self.memory[0])
        return at if at >= 0 else None

    def note(self, round: int, drifted: float) -> None:
        """Add the drift of a round of BN, and freeze if the drift has settled."""
        self.memory[3:] = self.memory[2:-1].clone()
        self.memory[2] = drifted
        latest = self.memory[2:]
        if bool((latest < 0).any()):
            return
        mean = latest.mean()
        self.memory[1] = torch.maximum(self.memory[1], mean)
        if mean <= SETTLED * self.memory[1]:
            self.memory[0] = round

    def state(self) -> dict[str, Tensor]:
        """Return the rule's memory."""
        return {"freeze": self.memory}

    def lengths(self) -> dict[str, int]:
        """Return the length of the rule's memory."""
        return {"freeze": len(self.memory)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a saved memory into this one."""
        self.memory.copy_(tensors["freeze"])

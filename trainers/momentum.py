"""SGD momentum: v <- beta v + (g + lambda w), w <- w - eta v (torch's convention)."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.config import TrainConfig


class Momentum:
    """The velocity v of the client that trains, and what becomes of it between rounds.

    none: plain SGD, no v. reset: v starts at zero in every client's round, the usual practice.
    """

    def __init__(self, config: TrainConfig, length: int, like: Tensor) -> None:
        self.factor = config.momentum_factor
        self.velocity = None if self.factor is None else torch.zeros_like(like[:length])

    def start(self) -> None:
        """A client begins its round."""
        if self.velocity is not None:
            self.velocity.zero_()

    def direction(self, gradient: Tensor) -> Tensor:
        """What the client's weights [P] step against: v, or the gradient itself."""
        if self.velocity is None or self.factor is None:
            return gradient
        velocity = self.velocity[: len(gradient)]
        return velocity.mul_(self.factor).add_(gradient)

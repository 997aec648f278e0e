"""FedAvg with a clipped update of the server, as another package adds it to fedsweep."""

from __future__ import annotations

from torch import Tensor

from trainers.algorithms import Algorithm
from trainers.config import TrainConfig

BOUND = 1.0
"""The longest update of a round."""


class ClippedFedAvg(Algorithm):
    """x <- x + eta min(1, bound / |a - x|) (a - x), with a the cohort's average.

    eta is the key `server_lr`. Statistics are averaged as in FedAvg. The last update is kept, as
    an example of a vector that snapshots save.
    """

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        """Refuse a plan without a learning rate."""
        if config.server_lr is None:
            raise ValueError("clipped needs a server_lr, for example server_lr = 1.0")

    def __init__(self, config: TrainConfig, server: Tensor) -> None:
        super().__init__(config, server)
        assert config.server_lr is not None
        self.eta = config.server_lr
        self.update = self.server_vector("update")

    def step(self, server: Tensor, average: Tensor) -> None:
        """Move the server's parameters."""
        update = average - server
        update.mul_((BOUND / update.norm()).clamp(max=1.0))
        self.update[: len(update)] = update
        server.add_(update, alpha=self.eta)

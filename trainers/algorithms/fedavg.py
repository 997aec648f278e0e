"""FedAvg (McMahan et al. 2017), and FedAvgM (Hsu et al. 2019).

x <- a, the cohort's average. With `server_momentum` beta > 0: u <- beta u + (x - a), x <- x - u.
"""

from __future__ import annotations

from torch import Tensor

from trainers.algorithms.algorithm import Algorithm
from trainers.config import TrainConfig


class FedAvg(Algorithm):
    """The average of the cohort, or FedAvgM's momentum over it."""

    def __init__(self, config: TrainConfig, server: Tensor) -> None:
        super().__init__(config, server)
        self.beta = config.server_momentum
        self.update = server.new_zeros(len(server)) if self.beta > 0 else None
        if self.update is not None:
            self._server_vectors["server_velocity"] = self.update  # its name in older snapshots

    def step(self, server: Tensor, average: Tensor) -> None:
        """Move x to the average, or by the momentum u."""
        if self.update is None:
            server.copy_(average)
            return
        update = self.update[: len(server)].mul_(self.beta).add_(server).sub_(average)
        server.sub_(update)

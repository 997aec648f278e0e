"""FedProx (Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020).

A client minimizes h(w) = F_m(w) + mu/2 |w - w^t|^2, with w^t the server's parameters x of round t.
So g <- g + mu (w - w^t). The gradient of F_m is clipped before; that order is ours. The server is
FedAvg's. With mu = 0 it is FedAvg.
"""

from __future__ import annotations

from torch import Tensor

from trainers.algorithms.fedavg import FedAvg
from trainers.config import TrainConfig


class FedProx(FedAvg):
    """FedAvg whose clients are pulled to the server's parameters."""

    def __init__(self, config: TrainConfig, server: Tensor) -> None:
        super().__init__(config, server)
        assert config.prox_mu is not None
        self.mu = config.prox_mu

    def correct_gradient(self, gradient: Tensor, values: Tensor) -> None:
        """Add the gradient of the proximal term."""
        gradient.add_(values - self.server[: len(values)], alpha=self.mu)

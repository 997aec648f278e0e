"""FedDyn (Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021).

A client k minimizes L_k(theta) - <g_k, theta> + alpha/2 |theta - theta^{t-1}|^2 from theta^{t-1},
the server's parameters x. So its steps are along g - g_k + alpha (theta - theta^{t-1}). Then
g_k <- g_k - alpha (theta_k - theta^{t-1}). The server takes
h <- h - alpha sum over the cohort of p_k (theta_k - theta^{t-1}), theta^t = a - h / alpha, with a
the cohort's average. h and all g_k are 0 at first.

The paper has p_k = 1/m for m clients, and a mean of the cohort without weights. Ours is client k's
fraction of all samples, and a is weighted by samples, as clients are weighted everywhere. Both are
equal if clients have equally many samples. The gradient of L_k is clipped before; that order is
ours. The regularizer's gradient enters the momentum, also that of earlier rounds; that is ours too.

Clients send nothing else: each keeps its g_k, and the server computes h from their models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.algorithms.algorithm import Algorithm, Turn
from trainers.average import Average
from trainers.config import TrainConfig


class FedDyn(Algorithm):
    """FedAvg with a dynamic regularizer at each client."""

    def __init__(self, config: TrainConfig, server: Tensor) -> None:
        super().__init__(config, server)
        assert config.dyn_alpha is not None
        self.alpha = config.dyn_alpha
        self.h = self.server_vector("h")
        self.g_of = self.client_vectors("g")
        self.g = torch.zeros_like(self.h)
        """g_k of the client that trains."""

    def begin_round(self, fractions: Sequence[float], end: int) -> None:
        """Begin to sum p_k (theta_k - theta^{t-1})."""
        self.change = Average(fractions, self.h[:end])

    def begin_client(self, turn: Turn) -> None:
        """Set g_k."""
        if turn.client in self.g_of:
            self.g.copy_(self.g_of[turn.client])
        else:
            self.g.zero_()

    def correct_gradient(self, gradient: Tensor, values: Tensor) -> None:
        """Add the gradient of the regularizer."""
        end = len(values)
        gradient.sub_(self.g[:end]).add_(values - self.server[:end], alpha=self.alpha)

    def end_client(self, turn: Turn, values: Tensor) -> None:
        """Update g_k."""
        end = len(values)
        moved = values - self.server[:end]
        kept = self.g.clone()
        kept[:end].sub_(moved, alpha=self.alpha)
        self.g_of[turn.client] = kept
        self.change.add(turn.position, moved)

    def step(self, server: Tensor, average: Tensor) -> None:
        """Move h, and x to a - h / alpha."""
        h = self.h[: len(server)].sub_(self.change.total, alpha=self.alpha)
        torch.sub(average, h, alpha=1 / self.alpha, out=server)

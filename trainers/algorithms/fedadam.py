"""FedAdam (Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2).

Delta = a - x, the cohort's average change of the parameters. m <- beta_1 m + (1 - beta_1) Delta,
v <- beta_2 v + (1 - beta_2) Delta^2, x <- x + eta m / (sqrt(v) + tau). m is 0 and v is tau^2 at
first, the least that the paper allows. There is no bias correction, unlike in Adam (Kingma and Ba
2015). The average is by samples, as in the paper's experiments. The paper has plain SGD at the
client. With momentum there, Delta is the change by its steps; a global velocity is averaged apart.
"""

from __future__ import annotations

from torch import Tensor

from trainers.algorithms.algorithm import Algorithm
from trainers.config import TrainConfig


class FedAdam(Algorithm):
    """FedAvg whose server takes an adaptive step along the average change."""

    def __init__(self, config: TrainConfig, server: Tensor) -> None:
        super().__init__(config, server)
        assert config.server_lr is not None
        assert config.server_beta1 is not None
        assert config.server_beta2 is not None
        assert config.server_tau is not None
        self.eta, self.tau = config.server_lr, config.server_tau
        self.beta_1, self.beta_2 = config.server_beta1, config.server_beta2
        self.m = self.server_vector("mean")
        self.v = self.server_vector("variance", self.tau**2)

    def step(self, server: Tensor, average: Tensor) -> None:
        """Move x by the adaptive step."""
        delta = average - server
        m, v = self.m[: len(server)], self.v[: len(server)]
        m.mul_(self.beta_1).add_(delta, alpha=1 - self.beta_1)
        self.accumulate(v, delta.square())
        server.addcdiv_(m, v.sqrt().add_(self.tau), value=self.eta)

    def accumulate(self, v: Tensor, square: Tensor) -> None:
        """Update v by Delta^2."""
        v.mul_(self.beta_2).add_(square, alpha=1 - self.beta_2)

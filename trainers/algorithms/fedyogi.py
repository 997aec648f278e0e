"""FedYogi (Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2).

It is FedAdam with v <- v - (1 - beta_2) Delta^2 sign(v - Delta^2), after Yogi (Zaheer et al. 2018).
"""

from __future__ import annotations

from torch import Tensor

from trainers.algorithms.fedadam import FedAdam


class FedYogi(FedAdam):
    """FedAdam whose v changes additively."""

    def accumulate(self, v: Tensor, square: Tensor) -> None:
        """Update v by Delta^2."""
        v.addcmul_(square, (v - square).sign_(), value=self.beta_2 - 1)

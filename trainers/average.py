"""The weighted mean of clients' vectors, always added in the same order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Average:
    """acc <- acc + (n_m / N) x_m over the cohort in ascending order, bit for bit.

    Floating-point sums depend on their order, so a vector that comes early waits for its turn.
    """

    def __init__(self, weights: Sequence[float], like: Tensor) -> None:
        self.weights = weights
        self.total = torch.zeros_like(like)
        self._waiting: dict[int, Tensor] = {}
        self._turn = 0

    def add(self, position: int, values: Tensor) -> None:
        """Take the vector of the client at this position of the ascending cohort."""
        if position != self._turn:
            self._waiting[position] = values.clone()
            return
        self._fold(values)
        while (waiting := self._waiting.pop(self._turn, None)) is not None:
            self._fold(waiting)

    def _fold(self, values: Tensor) -> None:
        self.total.add_(values, alpha=self.weights[self._turn])
        self._turn += 1

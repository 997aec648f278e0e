"""HBN's statistics of the server, gathered from the clients of a round (Chen et al., ICML 2025).

Client m of the cohort takes the server's model with its own mixture. It goes through it, as in
training and without a gradient, with one batch of n_m samples. Each layer mixes its constants and
the batch's statistics into mean_m and var_m, which normalize the batch. With N = sum n_m, the
server computes

    M = sum n_m mean_m / N,    V = (sum n_m var_m + sum n_m (mean_m - M)^2) / (N - 1).

This happens before the local steps. After them, the constants move: c <- c + 0.002 ((M, V) - c).
For a test, the same clients do it again with the new average, and that (M, V) alone are the test's
statistics. They do not enter the next round.

Ours: the batch is a client's first 64 training samples, without augmentation and dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from trainers.normalizers import HybridBatchNorm
from trainers.vector import Vector

MOST = 64
"""The samples of a client's batch, at most."""

RATE = 0.002
"""The part of (M, V) in the new constants."""

Statistics = list[Tensor]
"""The mean and the variance [C] of each layer: mean, variance, mean, variance, …"""


class Gathered:
    """The layers whose statistics the server gathers, with their places in a state vector."""

    def __init__(self, vector: Vector) -> None:
        named = vector.model.named_modules()
        self.vector = vector
        self.layers = {p: layer for p, layer in named if isinstance(layer, HybridBatchNorm)}
        self.of_test: Statistics | None = None
        """Those of the latest round's test; None before they are gathered."""

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self.layers)

    def views(self, values: Tensor) -> Statistics:
        """Return the views of the constants in a state vector [S]."""
        if not self.layers:
            return []
        named = self.vector.named(values, self.vector.parameters_end)
        kinds = ("running_mean", "running_var")
        return [named[f"{path}.{kind}"] for path in self.layers for kind in kinds]

    def of_client(self, forward: Callable[[], object]) -> Statistics:
        """Return the mixed statistics of a client's batch, which `forward` sends through the model.

        If a layer is called several times, the last call counts.
        """
        with self._noting() as noted, torch.no_grad():
            forward()
        constants = self.views(self.vector.values)
        pairs = zip(self.layers.values(), constants[::2], constants[1::2], strict=True)
        each = [noted.get(layer, (mean, variance)) for layer, mean, variance in pairs]
        return [tensor.clone() for pair in each for tensor in pair]

    def move(self, server: Tensor, starts: Statistics, moments: Statistics) -> None:
        """Set the constants in the server's state [S] to new ones, from those of the round's start.

        They were the same for all clients, so that their average would only round them.
        """
        for constant, start, moment in zip(self.views(server), starts, moments, strict=True):
            constant.copy_(start).lerp_(moment, RATE)

    @contextmanager
    def _noting(self) -> Iterator[dict[HybridBatchNorm, tuple[Tensor, Tensor]]]:
        noted: dict[HybridBatchNorm, tuple[Tensor, Tensor]] = {}
        for layer in self.layers.values():
            layer.note = noted.__setitem__
        try:
            yield noted
        finally:
            for layer in self.layers.values():
                layer.note = None


def pooled(clients: Sequence[Statistics], samples: Sequence[int]) -> Statistics:
    """Return M and V of each layer from the clients' statistics, added in their order."""
    total = sum(samples)
    found: Statistics = []
    for layer in range(0, len(clients[0]), 2):
        mean = torch.zeros_like(clients[0][layer])
        for n, statistics in zip(samples, clients, strict=True):
            mean.add_(statistics[layer], alpha=n)
        mean.div_(total)
        square = torch.zeros_like(mean)
        for n, statistics in zip(samples, clients, strict=True):
            square.add_(statistics[layer + 1], alpha=n)
            square.add_((statistics[layer] - mean).square(), alpha=n)
        found += [mean, square.div_(max(total - 1, 1))]
    return found

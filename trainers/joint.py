"""FedTAN's first local step of a round, which the clients of the cohort take together.

F = sum over m of p_m F_m is the weighted loss of the first batches, with p_m = n_m / N. All clients
have the same weights, so one pass over all of these batches gives the joint mean and variance at
each call of a BN layer, and their slopes: the total derivatives of F with respect to them.

Then each client goes through the model on its own, with the joint statistics as constants. Its
gradient is that of F_m + sum over calls of <slope of the mean, mean_m> + <slope of the variance,
E_m[(x - mean)^2]>. By the chain rule this is g_m = (1 / p_m) dF / dw_m, with w_m its own copy of
the weights. (The variance has no slope along the mean, because sum p_m E_m[x - mean] = 0.)

So a model must compute the same activations in both passes. Dropout would draw other ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainers.normalizers import JointBatchNorm, norm_layers


@dataclass(frozen=True)
class Call:
    """One call of a BN layer in the pass over the batches of all clients; tensors [C]."""

    layer: JointBatchNorm
    mean: Tensor
    variance: Tensor
    count: int
    """The values per channel, of all clients."""


@dataclass(frozen=True)
class Slopes:
    """The total derivatives of F with respect to the mean and variance of a call, [C]."""

    mean: Tensor
    variance: Tensor


class JointStep:
    """The joint statistics of a round's first local step, and their slopes."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [layer for layer in norm_layers(model) if isinstance(layer, JointBatchNorm)]
        self.elements = sum(4 * layer.num_features for layer in self.layers)
        """The elements that a client sends, and receives: mean, variance, and both slopes."""
        self.calls: list[tuple[Call, Slopes]] = []

    def gather(
        self, loss: Callable[[], Tensor], sizes: Sequence[int], weights: Sequence[float]
    ) -> None:
        """Compute the joint statistics and their slopes. `loss` returns F (see `pooled`)."""
        with self.pooled(sizes, weights) as calls:
            total = loss()
        tensors = [tensor for call in calls for tensor in (call.mean, call.variance)]
        found = zip(tensors, torch.autograd.grad(total, tensors, allow_unused=True), strict=True)
        slopes = [torch.zeros_like(t) if slope is None else slope for t, slope in found]
        self.calls = [
            (Call(c.layer, c.mean.detach(), c.variance.detach(), c.count), Slopes(*pair))
            for c, pair in zip(calls, zip(slopes[::2], slopes[1::2], strict=True), strict=True)
        ]

    @contextmanager
    def pooled(self, sizes: Sequence[int], weights: Sequence[float]) -> Iterator[list[Call]]:
        """Let the layers take the joint statistics of batches that follow each other in one batch.

        `sizes` are the images of each client's batch, and `weights` the p_m. The list gets the
        calls in their order.
        """
        calls: list[Call] = []

        def normalize(layer: JointBatchNorm, x: Tensor) -> tuple[Tensor, Tensor]:
            parts = torch.split(x, list(sizes))
            mean = _weighted([part.mean(PIXELS) for part in parts], weights)
            if not mean.requires_grad:  # a layer before the first weight
                mean.requires_grad_()
            squares = [(part - mean[:, None, None]).square().mean(PIXELS) for part in parts]
            variance = _weighted(squares, weights)
            calls.append(Call(layer, mean, variance, x.numel() // len(mean)))
            return mean, variance

        with self._layers_use(normalize):
            yield calls

    @contextmanager
    def alone(self) -> Iterator[list[Tensor]]:
        """Let the layers take the statistics of `gather`, for one client's batch.

        The list gets the scalars whose gradients are the joint part of the client's gradient. The
        layers move their running statistics.

        Raises:
            ValueError: the layers are called otherwise than in `gather`.

        """
        terms: list[Tensor] = []
        calls = iter(self.calls)

        def normalize(layer: JointBatchNorm, x: Tensor) -> tuple[Tensor, Tensor]:
            call, slopes = next(calls, (None, None))
            if call is None or slopes is None or call.layer is not layer:
                raise ValueError(UNEQUAL)
            square = (x - call.mean[:, None, None]).square().mean(PIXELS)
            terms.append(torch.dot(slopes.mean, x.mean(PIXELS)))
            terms.append(torch.dot(slopes.variance, square))
            layer.track(call.mean, call.variance, call.count)
            return call.mean, call.variance

        with self._layers_use(normalize):
            yield terms
        if next(calls, None) is not None:
            raise ValueError(UNEQUAL)

    @contextmanager
    def _layers_use(
        self, statistics: Callable[[JointBatchNorm, Tensor], tuple[Tensor, Tensor]]
    ) -> Iterator[None]:
        for layer in self.layers:
            layer.statistics = statistics
        try:
            yield
        finally:
            for layer in self.layers:
                layer.statistics = None


PIXELS = (0, 2, 3)
"""The axes of x [B, C, H, W] over which BN takes its statistics."""

UNEQUAL = (
    "the model calls its normalization layers in another order for one client than for all of "
    "them, so that normalizer = fedtan cannot train it"
)


def _weighted(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum p_m v_m, added in ascending order."""
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + value * weight
    return total

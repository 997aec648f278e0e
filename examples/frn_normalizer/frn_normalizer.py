"""Filter response normalization, as another package adds it to fedsweep."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.config import TrainConfig
from trainers.normalizers import Normalizer, NormLayer


class FilterResponseNorm(NormLayer):
    """FRN (Singh and Krishnan, CVPR 2020), without its thresholded activation:
    y = gamma x / sqrt(mean over H, W of x^2 + eps) + beta.

    Nothing is kept between batches. In FedAvg gamma and beta are averaged; the test uses the
    average.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        scale = (x.square().mean((2, 3), keepdim=True) + 1e-6).rsqrt()
        return x * scale * self.weight[:, None, None] + self.bias[:, None, None]


def layer(channels: int, _config: TrainConfig) -> nn.Module:
    """Return the layer that follows a convolution of so many channels."""
    return FilterResponseNorm(channels)


FRN = Normalizer(layer)

"""ConvMixer, as another package adds a model to fedsweep."""

from __future__ import annotations

from torch import Tensor, nn

from trainers.models import Model, Norm

WIDTH, DEPTH, KERNEL = 32, 2, 5
"""Small values of ours, so that an example trains in seconds."""


class Mixer(nn.Module):
    """A block: x + norm(gelu(depthwise(x))), then norm(gelu(pointwise(x)))."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, KERNEL, padding="same", groups=width, bias=False)
        self.norm1 = norm(width)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.norm2 = norm(width)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        x = x + self.norm1(nn.functional.gelu(self.depthwise(x)))
        mixed: Tensor = self.norm2(nn.functional.gelu(self.pointwise(x)))
        return mixed


class ConvMixer(nn.Module):
    """ConvMixer (Trockman and Kolter, TMLR 2023) with patches of 2x2 pixels."""

    def __init__(self, channels: int, classes: int, norm: Norm) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, WIDTH, 2, 2, bias=False)
        self.norm = norm(WIDTH)
        self.blocks = nn.Sequential(*(Mixer(WIDTH, norm) for _ in range(DEPTH)))
        self.linear = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        x = self.blocks(self.norm(nn.functional.gelu(self.patches(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def build(channels: int, size: int, classes: int, norm: Norm) -> nn.Module:
    """Return the model for images [channels, size, size]."""
    if size % 2:
        raise ValueError(f"the side of an image is {size} pixels, and patches need an even number")
    return ConvMixer(channels, classes, norm)


CONVMIXER = Model(build, elements=5_000, uses_generator=False)

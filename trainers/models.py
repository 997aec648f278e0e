"""Models, built with any normalizer, and initial weights that depend only on the seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainers.config import TrainConfig
from trainers.keys import keyed
from trainers.normalizers import find

Norm = Callable[[int], nn.Module]


class Activation(nn.Module):
    """A normalization layer that also computes the shortcut's sum and ReLU, in one pass."""

    def activate(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        """Return relu(norm(x) + shortcut)."""
        raise NotImplementedError


def activate(norm: nn.Module, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """Return relu(norm(x) + shortcut)."""
    if isinstance(norm, Activation):
        return norm.activate(x, shortcut)
    y = norm(x)
    if shortcut is not None:
        y = y.add_(shortcut)
    return y.relu_()  # type: ignore[no-any-return]  # a module call is Any


class MeanPool(nn.Module):
    """The mean of each channel over its pixels: [B, C, H, W] to [B, C]."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        return x.mean((2, 3))


class SmallCNN(nn.Module):
    """Two 3x3 convolutions (32, 64 channels), each normalized, rectified and pooled; one linear
    layer. Ours, after the CNN of McMahan et al. 2017.
    """

    def __init__(self, channels: int, size: int, classes: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1, bias=False)
        self.norm1 = norm(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.norm2 = norm(64)
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(64 * (size // 4) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        x = self.pool(activate(self.norm1, self.conv1(x)))
        x = self.pool(activate(self.norm2, self.conv2(x)))
        return self.linear(x.flatten(1))  # type: ignore[no-any-return]  # a module call is Any


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters: every second pixel, and zeros for
    the new channels (option A of He et al. 2016).
    """

    def __init__(self, inner: int, outer: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False)
        self.norm1 = norm(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.norm2 = norm(outer)
        self.stride, self.new = stride, outer - inner

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        y = self.conv2(activate(self.norm1, self.conv1(x)))
        if self.new:
            x = x[:, :, :: self.stride, :: self.stride]
            x = nn.functional.pad(x, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return activate(self.norm2, y, x)


class ResNet20(nn.Module):
    """He et al. 2016, section 4.2: 3 stages of 3 blocks, 16, 32, 64 channels."""

    def __init__(self, channels: int, _size: int, classes: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.norm = norm(16)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.blocks = nn.Sequential(
            *(Block(a, b, b // a, norm) for a, b in itertools.pairwise(widths))
        )
        self.pool = MeanPool()
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        x = self.blocks(activate(self.norm, self.conv(x)))
        return self.linear(self.pool(x))  # type: ignore[no-any-return]  # a module call is Any


def resnet18(channels: int, _size: int, classes: int, norm: Norm) -> nn.Module:
    """Torchvision's ResNet18 (He et al. 2016) with the stem of small images, 32 or 64 pixels: one
    3x3 convolution, no pooling.
    """
    from torchvision.models import resnet18 as torchvision_resnet18

    model: nn.Module = torchvision_resnet18(num_classes=classes, norm_layer=norm)
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def deeplabv3plus(channels: int, _size: int, classes: int, norm: Norm) -> nn.Module:
    """DeepLabv3+ (Chen et al. 2018) of segmentation-models-pytorch, over a MobileNetV2 without
    fetched weights; every BN in it is made by `norm`. Logits [B, classes, H, W].
    """
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "deeplabv3plus needs segmentation-models-pytorch: pip install 'fedsweep[segmentation]'"
        ) from error
    model: nn.Module = smp.DeepLabV3Plus(
        "mobilenet_v2", encoder_weights=None, in_channels=channels, classes=classes
    )
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, norm(child.num_features))
    return model


MODELS: dict[str, Callable[[int, int, int, Norm], nn.Module]] = {
    "cnn": SmallCNN,
    "resnet20": ResNet20,
    "resnet18": resnet18,
    "deeplabv3plus": deeplabv3plus,
}


def build(config: TrainConfig, channels: int, size: int, classes: int) -> nn.Module:
    """Build the configured model for images [channels, size, size], with the seed's weights."""
    normalizer = find(config.normalizer)
    model = MODELS[config.model](channels, size, classes, lambda c: normalizer.layer(c, config))
    initialize(model, config.seed)
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d) and module.bias is None:
            normalizer.convolution(module)
    return model.to(torch.float64 if config.dtype == "float64" else torch.float32)


@torch.no_grad()
def initialize(model: nn.Module, seed: int) -> None:
    """Weights keyed by module path, so that they are equal under every normalizer.

    Convolutions: normal, variance 2 / fan_out (He et al. 2015); output layers, which are those with
    a bias: uniform within 1/sqrt(fan_in), torch's usual. A normalizer comes as its layer makes it:
    scale 1, shift 0, running mean 0 and variance 1.
    """
    for path, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        shape = tuple(module.weight.shape)
        if module.bias is None and isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
            draw = keyed(seed, "init", path, "weight").standard_normal(shape)
            module.weight.copy_(torch.from_numpy(draw * math.sqrt(2 / fan_out)))
            continue
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        for name, parameter in module.named_parameters():
            draw = keyed(seed, "init", path, name).uniform(-bound, bound, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(draw))

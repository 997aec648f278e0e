"""Models, built with any normalizer, and initial weights that depend only on the seed.

Other packages add models as entry points of the group `fedsweep.models`: each names a `Model`.
timm's models are `timm:NAME`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from trainers import own_models, pretrained
from trainers.config import MODEL, TrainConfig
from trainers.exchange import Norm, check_normalized, exchange
from trainers.keys import keyed
from trainers.normalizers import TYPES, leave
from trainers.normalizers import find as find_normalizer


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


class CifarResNet(nn.Module):
    """The ResNets of He et al. 2016, section 4.2: 3 stages of `blocks` blocks each, with 16, 32 and
    64 channels.
    """

    def __init__(self, blocks: int, channels: int, classes: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.norm = norm(16)
        widths = [16] + [16] * blocks + [32] * blocks + [64] * blocks
        self.blocks = nn.Sequential(
            *(Block(a, b, b // a, norm) for a, b in itertools.pairwise(widths))
        )
        self.pool = MeanPool()
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        x = self.blocks(activate(self.norm, self.conv(x)))
        return self.linear(self.pool(x))  # type: ignore[no-any-return]  # a module call is Any


def resnet8(channels: int, _size: int, classes: int, norm: Norm) -> nn.Module:
    """One block in each stage. It takes a third of the computation of ResNet20."""
    return CifarResNet(1, channels, classes, norm)


def resnet20(channels: int, _size: int, classes: int, norm: Norm) -> nn.Module:
    """Three blocks in each stage: the smallest ResNet in table 6 of He et al. 2016."""
    return CifarResNet(3, channels, classes, norm)


def resnet18(channels: int, _size: int, classes: int, norm: Norm) -> nn.Module:
    """Torchvision's ResNet18 (He et al. 2016) with the stem of small images, 32 or 64 pixels: one
    3x3 convolution, no pooling.
    """
    from torchvision.models import resnet18 as torchvision_resnet18

    model: nn.Module = torchvision_resnet18(num_classes=classes, norm_layer=norm)
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def resnet50(channels: int, _size: int, classes: int, norm: Norm) -> nn.Module:
    """Torchvision's ResNet50 (He et al. 2016) with the stem of `resnet18`."""
    from torchvision.models import resnet50 as torchvision_resnet50

    model: nn.Module = torchvision_resnet50(num_classes=classes, norm_layer=norm)
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def mobilenet_v2(channels: int, _size: int, classes: int, norm: Norm) -> nn.Module:
    """Torchvision's MobileNetV2 (Sandler et al. 2018), dropout of 0.2 before the last layer.

    The stem has stride 1, not 2, for small images of 32 or 64 pixels. This choice is ours, as is
    usual for CIFAR. The other strides are the paper's.
    """
    from torchvision.models import mobilenet_v2 as torchvision_mobilenet_v2

    model: nn.Module = torchvision_mobilenet_v2(num_classes=classes, norm_layer=norm)
    stem = nn.Conv2d(channels, 32, 3, stride=1, padding=1, bias=False)
    model.get_submodule("features.0").register_module("0", stem)
    return model


def vit_tiny(channels: int, size: int, classes: int, _norm: Norm) -> nn.Module:
    """Torchvision's ViT (Dosovitskiy et al. 2021) in the size Ti of DeiT (Touvron et al. 2021).

    It has 12 layers of 192 channels and 3 heads, and patches of 4x4 pixels. The patch is our choice
    for 32 pixels. It has no BatchNorm. Its LayerNorm layers normalize each token over its channels.
    They stay, so that the only normalizer is `ln`.
    """
    from torchvision.models import VisionTransformer

    model: nn.Module = VisionTransformer(
        size, 4, 12, 3, 192, 768, num_classes=classes, norm_layer=partial(nn.LayerNorm, eps=1e-6)
    )
    model.conv_proj = nn.Conv2d(channels, 192, 4, 4)
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
    exchange(model, norm)
    return model


def timm_model(architecture: str, channels: int, size: int, classes: int) -> nn.Module:
    """Return a model of timm without fetched weights.

    Raises:
        ValueError: the timm that is installed here has no such model.

    """
    import timm

    if not timm.is_model(architecture):
        raise ValueError(f"timm {timm.__version__} has no such model")
    pretrained_config = timm.models.get_pretrained_cfg(architecture)
    shape: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    if pretrained_config is not None and pretrained_config.fixed_input_size:
        shape["img_size"] = size
    model: nn.Module = timm.create_model(architecture, pretrained=False, **shape)
    return model


Build = Callable[[int, int, int, Norm], nn.Module]
"""Builds a model from the channels and the side of its images, the number of classes, and the
function that makes a normalization layer for so many channels.
"""


OURS: dict[str, Build] = {own.name: globals()[own.function] for own in own_models.OWN}
"""Our own models, from the functions above."""


@dataclass(frozen=True)
class Model:
    """A model of another package.

    A plan does not import it. A worker imports it, and checks it before the first round.
    """

    build: Build
    """Its normalization layers come from the function `norm` that it is given, or are BatchNorm2d
    layers, which are exchanged. Its initial weights may come from torch's generator, which the
    trial's seed sets. They must not depend on the normalizer. Its logits are [B, classes], or
    [B, classes, H, W] in segmentation.
    """
    task: own_models.Task = "classification"
    elements: int | None = None
    """Elements of its state, about. A worker compares them with a device's free memory. None:
    unknown."""
    uses_generator: bool = True
    """False if its training draws nothing from torch's random generator, as dropout does."""


def find(name: str) -> Model:
    """Return a model of another package.

    Raises:
        ValueError: no installed package offers it, or what it offers is no `Model`.

    """
    loaded = MODEL.load(name)
    if not isinstance(loaded, Model) or loaded.task not in get_args(own_models.Task):
        point = MODEL.offered(name)
        value = point.value if point is not None else name
        raise ValueError(
            f"{value}, offered as {name}, is no Model (with a `task` of those known): "
            "correct its package"
        )
    return loaded


def draws(config: TrainConfig) -> bool:
    """Return whether training the model draws from torch's generator.

    A model of another package counts as one that does if it cannot be imported.
    """
    own = own_models.facts(config.model)
    if own is not None:
        return own.uses_generator
    try:
        return find(config.model).uses_generator
    except Exception:  # noqa: BLE001  # code of another package; its trials fail with this error
        return True


def build(
    config: TrainConfig,
    channels: int,
    size: int,
    classes: int,
    weights: Mapping[str, Tensor] | None = None,
    note: Callable[[str], object] = lambda _: None,
) -> nn.Module:
    """Build the configured model for images [channels, size, size].

    Its weights are those of the seed, or `weights` by torch's names, as far as they reach. `note`
    is called with each sentence about the weights.

    Raises:
        ValueError: the model, its normalizer and the weights do not fit each other.

    """
    normalizer = find_normalizer(config.normalizer)
    made: list[nn.Module] = []

    def norm(channels: int) -> nn.Module:
        made.append(layer := normalizer.layer(channels, config))
        return layer

    if config.model in OURS:
        model = OURS[config.model](channels, size, classes, norm)
        initialize(model, config.seed, made)
    else:
        model = _of_others(config, channels, size, classes, norm)
        exchange(model, norm, made)
        check_normalized(model, config.normalizer, made)
    dtype = torch.float64 if config.dtype == "float64" else torch.float32
    fitted = None if weights is None else pretrained.fit(model.to(dtype), weights, made)
    convolutions = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.bias is None
    ]
    if config.model not in OURS and not convolutions and normalizer.convolution is not leave:
        raise ValueError(f"it has no convolution without bias that {config.normalizer} can change")
    for module in convolutions:
        normalizer.convolution(module)
    if fitted is not None:
        fitted.finish(model)
        for sentence in fitted.notes:
            note(sentence)
    return model.to(dtype)


def _of_others(
    config: TrainConfig, channels: int, size: int, classes: int, norm: Norm
) -> nn.Module:
    """Return a model of timm or of another package, with the initial weights that it draws."""
    # Loaded first: an import may draw too.
    offered = None if own_models.facts(config.model) else find(config.model)
    with torch.random.fork_rng(devices=[]):
        seed = keyed(config.seed, "init", "torch").randint(2**31)
        torch.default_generator.manual_seed(int(seed))
        if offered is None:
            architecture = config.model.removeprefix(own_models.TIMM)
            return timm_model(architecture, channels, size, classes)
        model = offered.build(channels, size, classes, norm)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"its build returned a {type(model).__name__}, which is no torch module: "
            "correct its package"
        )
    return model


@torch.no_grad()
def initialize(model: nn.Module, seed: int, made: Collection[nn.Module] = ()) -> None:
    """Weights keyed by module path, so that they are equal under every normalizer.

    Convolutions: normal, variance 2 / fan_out (He et al. 2015); output layers, which are those with
    a bias: uniform within 1/sqrt(fan_in), torch's usual. A normalizer, of which `made` are the
    layers, comes as its layer makes it: scale 1, shift 0, running mean 0 and variance 1. Other
    parameters (a transformer's attention, tokens and positions): normal, standard deviation 0.02,
    and vectors zero (Dosovitskiy et al. 2021).
    """
    normalizers = {part for layer in made for part in layer.modules()}
    for path, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            if module not in normalizers and not isinstance(module, TYPES):
                _initialize_other(module, path, seed)
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


def _initialize_other(module: nn.Module, path: str, seed: int) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() == 1:
            parameter.zero_()
            continue
        draw = keyed(seed, "init", path, name).standard_normal(tuple(parameter.shape))
        parameter.copy_(torch.from_numpy(draw * 0.02))

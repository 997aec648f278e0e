"""Layers of K lanes, and the exchange of a model's layers for them.

Each layer treats the images of a lane with that lane's parameters (see `trainers.lane_operations`).
A model's own `forward` is unchanged, because only its layers are exchanged, by their type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from trainers.lane_operations import Operations, Weight
from trainers.models import Activation, MeanPool
from trainers.normalizers import BatchNorm, InstanceNorm, Shift, StandardizedWeight


@dataclass(frozen=True)
class Lanes:
    """Everything that the layers of K lanes share."""

    operations: Operations
    active: Tensor
    """True [K] for the lanes that take the current step."""
    tensors: Mapping[str, Tensor]
    """Parameters and statistics [K, ...], by the name of the tensor in the model of one lane."""

    def of(self, path: str) -> dict[str, Tensor]:
        """Return a layer's tensors, by their names in the layer."""
        prefix = f"{path}."
        named = self.tensors.items()
        return {name.removeprefix(prefix): t for name, t in named if name.startswith(prefix)}


class LaneLayer(nn.Module):
    """The base of the layers of K lanes."""

    def __init__(self, lanes: Lanes, path: str) -> None:
        super().__init__()
        self.lanes = lanes
        self.operations = lanes.operations
        self.named = lanes.of(path)


class LaneConv2d(LaneLayer):
    """A convolution with each lane's own weight, which a parametrization may compute."""

    def __init__(self, conv: nn.Conv2d, lanes: Lanes, path: str) -> None:
        super().__init__(lanes, path)
        self.stride, self.padding = conv.stride[0], int(conv.padding[0])
        self.is_standardized = _is_standardized(conv)

    @property
    def standardized(self) -> Tensor | None:
        """The trained weight that is standardized before use."""
        return self.named[STANDARDIZED] if self.is_standardized else None

    def weight(self) -> Weight:
        """Return the weight [K, Co, Ci, k, k] that the images are convolved with."""
        named = self.named
        if "weight" in named:
            return named["weight"]
        if self.is_standardized:
            return self.operations.standardize(named[STANDARDIZED], named[GAIN])
        return self.operations.weight_norm(named[DIRECTION], named[LENGTH])

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        bias = self.named.get("bias")
        return self.operations.conv(x, self.weight(), bias, self.stride, self.padding)


class LaneLinear(LaneLayer):
    """A linear layer with each lane's own weight and bias."""

    def __init__(self, _linear: nn.Linear, lanes: Lanes, path: str) -> None:
        super().__init__(lanes, path)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        return self.operations.linear(x, self.named["weight"], self.named.get("bias"))


class LaneNorm(LaneLayer, Activation):
    """The base of the normalization layers of K lanes."""

    def normalize(self, x: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
        """Normalize, add a shortcut and apply ReLU."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        return self.normalize(x, None, relu=False)

    def activate(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        """Return relu(norm(x) + shortcut)."""
        return self.normalize(x, shortcut, relu=True)


class LaneBatchNorm(LaneNorm):
    """`BatchNorm` over a lane's own images. Lanes that are not active keep their statistics."""

    def __init__(self, norm: BatchNorm, lanes: Lanes, path: str) -> None:
        super().__init__(lanes, path)
        assert norm.momentum is not None
        self.momentum, self.eps = norm.momentum, norm.eps
        self.frozen = False
        """True if the running statistics are constants, which normalize in training too."""

    def normalize(self, x: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
        """Normalize by the batch, or with the running statistics if they are frozen."""
        named = self.named
        values_per_channel = x.numel() // (x.shape[1] * len(self.lanes.active))
        return self.operations.batch_norm(
            x, named["weight"], named["bias"], named["running_mean"], named["running_var"],
            self.lanes.active, frozen=self.frozen or values_per_channel == 1,
            momentum=self.momentum, eps=self.eps, shortcut=shortcut, relu=relu,
        )  # fmt: skip


class LaneGroupNorm(LaneNorm):
    """GN, or LN as GN with one group, with each lane's own scale and shift."""

    def __init__(self, norm: nn.GroupNorm | InstanceNorm, lanes: Lanes, path: str) -> None:
        super().__init__(lanes, path)
        self.eps = norm.eps
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else norm.num_features

    def normalize(self, x: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
        """Normalize each image by groups of its channels."""
        return self.operations.group_norm(
            x, self.groups, self.named["weight"], self.named["bias"],
            eps=self.eps, shortcut=shortcut, relu=relu,
        )  # fmt: skip


class LaneInstanceNorm(LaneGroupNorm):
    """`InstanceNorm` with each lane's own scale and shift."""

    def normalize(self, x: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
        """Normalize each channel of each image; scale and shift a map of one pixel."""
        if x.shape[2] * x.shape[3] > 1:
            return super().normalize(x, shortcut, relu=relu)
        scale, shift = self.named["weight"], self.named["bias"]
        return self.operations.affine(x, scale, shift, shortcut=shortcut, relu=relu)


class LaneShift(LaneNorm):
    """`Shift` with each lane's own shift."""

    def __init__(self, _shift: Shift, lanes: Lanes, path: str) -> None:
        super().__init__(lanes, path)

    def normalize(self, x: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
        """Add the shift."""
        return self.operations.affine(x, None, self.named["bias"], shortcut=shortcut, relu=relu)


class LaneMeanPool(LaneLayer):
    """The mean over all pixels, [K*B, C] or, if `keep`, [K*B, C, 1, 1]."""

    def __init__(self, pool: MeanPool | nn.AdaptiveAvgPool2d, lanes: Lanes, path: str) -> None:
        super().__init__(lanes, path)
        self.keep = isinstance(pool, nn.AdaptiveAvgPool2d)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        mean = self.operations.mean_pool(x, len(self.lanes.active))
        return mean[:, :, None, None] if self.keep else mean


class LaneMaxPool(LaneLayer):
    """The maximum of each square of 2x2 pixels."""

    def __init__(self, _pool: nn.MaxPool2d, lanes: Lanes, path: str) -> None:
        super().__init__(lanes, path)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # nn.Module's
        return self.operations.max_pool(x, len(self.lanes.active))


STANDARDIZED = "parametrizations.weight.original"
GAIN = "parametrizations.weight.0.gain"
LENGTH = "parametrizations.weight.original0"
DIRECTION = "parametrizations.weight.original1"
"""Names of the parameters of a convolution under ws (weight, gain) and wn (length, direction)."""

EXCHANGED: dict[type[nn.Module], Callable[[Any, Lanes, str], LaneLayer]] = {
    nn.Conv2d: LaneConv2d,
    nn.Linear: LaneLinear,
    BatchNorm: LaneBatchNorm,
    nn.GroupNorm: LaneGroupNorm,
    InstanceNorm: LaneInstanceNorm,
    Shift: LaneShift,
    MeanPool: LaneMeanPool,
    nn.AdaptiveAvgPool2d: LaneMeanPool,
    nn.MaxPool2d: LaneMaxPool,
}
"""The layer of K lanes that takes the place of each type of layer. Subclasses are not in it."""

UNCHANGED = (nn.ReLU, nn.Identity)
"""Layers that treat each element by itself, so that they need no exchange."""

CONTAINERS = ("trainers.models", "torch.nn.modules.container", "torchvision.models.resnet")
"""Modules whose classes hold layers, and do nothing themselves that could join two lanes."""


def refusal(model: nn.Module) -> str | None:
    """Return why lanes cannot train a model, or None if they can."""
    for path, module in _layers(model, ""):
        if reason := _reason(module):
            return f"the layer {path or 'of the model'} {reason}"
    return None


def exchange(model: nn.Module, lanes: Lanes) -> None:
    """Exchange the layers of a model that has no `refusal` for those of K lanes, in place."""
    for path, module in list(_layers(model, "")):
        make = EXCHANGED.get(parametrize.type_before_parametrizations(module))
        if make is not None:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, make(module, lanes, path))


def _layers(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """Return the modules that hold no further layers, with their paths."""
    if _is_container(module):
        children = module.named_children()
        parts = [_layers(child, f"{path}.{name}" if path else name) for name, child in children]
        return [layer for part in parts for layer in part]
    return [(path, module)]


def _is_container(module: nn.Module) -> bool:
    kind = type(module)
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return kind.__module__ in CONTAINERS and kind not in EXCHANGED and not own


def _reason(layer: nn.Module) -> str | None:
    kind = parametrize.type_before_parametrizations(layer)
    if kind not in EXCHANGED and kind not in UNCHANGED:
        return f"is a {kind.__name__}, which cannot be trained in lanes"
    if layer._forward_hooks:  # noqa: SLF001  # torch names them nowhere else
        return f"is a {kind.__name__} with a forward hook, which lanes do not call"
    if isinstance(layer, nn.Conv2d):
        return _reason_of_conv(layer)
    if parametrize.is_parametrized(layer):
        return f"is a {kind.__name__} with a parametrization, which cannot be trained in lanes"
    if isinstance(layer, nn.GroupNorm) and not layer.affine:
        return "is a GroupNorm without scale and shift, which cannot be trained in lanes"
    return _reason_of_pool(layer)


def _reason_of_pool(layer: nn.Module) -> str | None:
    if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size not in (1, (1, 1)):
        return f"pools to {layer.output_size}: lanes can only average over all pixels"
    if isinstance(layer, nn.MaxPool2d) and not _is_max_pool2(layer):
        return "is a MaxPool2d, and lanes can only pool squares of 2x2 pixels"
    return None


def _reason_of_conv(conv: nn.Conv2d) -> str | None:
    if conv.groups != 1:
        return f"is a convolution with groups = {conv.groups}: lanes need groups = 1"
    if conv.dilation != (1, 1):
        return f"is a convolution with dilation = {conv.dilation}: lanes need dilation = 1"
    sizes = (conv.kernel_size, conv.stride, conv.padding)
    if conv.padding_mode != "zeros" or any(
        isinstance(size, str) or len(set(size)) > 1 for size in sizes
    ):
        return "is a convolution that is not square or not padded with zeros, as lanes need it"
    if parametrize.is_parametrized(conv) and not (_is_standardized(conv) or _is_normalized(conv)):
        return "is a convolution with an unknown parametrization, which lanes cannot compute"
    return None


def _first_parametrization(conv: nn.Conv2d) -> nn.Module | None:
    if not parametrize.is_parametrized(conv, "weight"):
        return None
    parts = conv.parametrizations["weight"]  # type: ignore[index]  # torch calls it a module
    assert isinstance(parts, parametrize.ParametrizationList)
    return parts[0] if len(parts) == 1 else None


def _is_standardized(conv: nn.Conv2d) -> bool:
    return type(_first_parametrization(conv)) is StandardizedWeight


def _is_normalized(conv: nn.Conv2d) -> bool:
    made = _first_parametrization(conv)
    return isinstance(made, parametrizations._WeightNorm) and made.dim == 0  # noqa: SLF001  # torch names it nowhere else


def _is_max_pool2(pool: nn.MaxPool2d) -> bool:
    plain = (pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices)
    same = {(2, 2) if size == 2 else size for size in (pool.kernel_size, pool.stride)}
    return same == {(2, 2)} and plain == (0, 1, False, False)

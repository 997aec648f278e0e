"""The exchange of a model's BatchNorm layers for those of a normalizer.

Layers are found by their exact type, because a subclass may compute something else. A new layer has
the path of the old one, so that weights and statistics have the names that they had.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from trainers.normalizers import norm_layers

Norm = Callable[[int], nn.Module]
"""Makes the normalization layer for so many channels."""


def exchange(model: nn.Module, norm: Norm, made: Collection[nn.Module] = ()) -> int:
    """Exchange each BatchNorm layer of a model, in place. Return their number.

    A new layer keeps the old one's eps, momentum and activation. `made` are layers that `norm` has
    made already, which stay.

    Raises:
        ValueError: a BatchNorm layer cannot be exchanged.

    """
    new: dict[nn.Module, nn.Module] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and layer not in made:
            if reason := _refusal(layer):
                raise ValueError(
                    f"its layer {path} {reason}, so that no normalizer can replace it: use a plain "
                    "BatchNorm2d, or choose another model"
                )
            new[layer] = _replacement(layer, norm)
    for parent in list(model.modules()):
        for name, child in list(_children(parent)):
            if child in new:
                setattr(parent, name, new[child])
    return len(new)


def check_normalized(model: nn.Module, normalizer: str, made: Collection[nn.Module]) -> None:
    """Refuse a model of which no layer is the normalizer's.

    A model without BatchNorm can be trained as `ln` if its own layers are LayerNorm, and as `none`
    if it has no normalization layers.

    Raises:
        ValueError: the normalizer would change nothing.

    """
    if made:
        return
    others = list(norm_layers(model))
    if normalizer == "none" and not others:
        return
    own = all(isinstance(layer, nn.LayerNorm) for layer in others)
    if normalizer == "ln" and others and own:
        return
    if not others:
        raise ValueError("it has no normalization layers: choose normalizer = none")
    kinds = ", ".join(sorted({type(layer).__name__ for layer in others}))
    remedy = "choose normalizer = ln, which keeps them" if own else "choose another model"
    raise ValueError(f"it has no BatchNorm layers, only {kinds}: {remedy}")


def _children(parent: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield each child with its name, and a child with two names twice."""
    return ((name, child) for name, child in parent._modules.items() if child is not None)  # noqa: SLF001  # named_children leaves out the second name


def _refusal(layer: _BatchNorm) -> str | None:
    kind = type(layer)
    if kind is not nn.BatchNorm2d and kind is not _timm_layer():
        return f"is a {kind.__name__}"
    if not layer.affine or not layer.track_running_stats or layer.momentum is None:
        return f"is a {kind.__name__} without scale and shift, or without an average of statistics"
    if kind is not nn.BatchNorm2d and not isinstance(getattr(layer, "drop", None), nn.Identity):
        return f"is a {kind.__name__} that drops values"
    return None


def _timm_layer() -> type | None:
    """Return timm's BatchNorm with an activation; None if timm is not imported."""
    return getattr(sys.modules.get("timm.layers"), "BatchNormAct2d", None)


def _replacement(old: _BatchNorm, norm: Norm) -> nn.Module:
    new = norm(old.num_features)
    if isinstance(new, (_BatchNorm, _InstanceNorm, nn.GroupNorm)):
        new.eps = old.eps
    if isinstance(new, _BatchNorm):
        new.momentum = old.momentum
    act = getattr(old, "act", None)
    if isinstance(act, nn.Module):
        new.add_module("act", act)
        new.register_forward_hook(_activate)
    return new


def _activate(layer: Any, _inputs: object, output: Tensor) -> Tensor:
    """Apply the activation that belongs to a layer. A wrapper would change the layer's path."""
    activated: Tensor = layer.act(output)
    return activated

"""A model as views of one flat vector: to send, average and keep it costs one operation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainers.normalizers import norm_layers, norm_parameters

ALIGN = 16
"""Every tensor starts at a multiple of 16 elements (64 bytes in float32), for vector loads."""


class Vector:
    """All of a model's floating-point state: [weights | scales and shifts | statistics].

    Whatever a phase leaves alone is a tail: weight decay, the optimiser and the average each work
    on a prefix. The gradient has the same layout, without the statistics. Gaps hold zeros.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        affine = norm_parameters(model)
        weights = [p for p in model.parameters() if p not in affine]
        scales = [p for p in model.parameters() if p in affine]
        # BN normalises by its statistics: they are state of the layer, found by the layer's type.
        statistics = [
            b for layer in norm_layers(model) for b in layer.buffers(False) if b.is_floating_point()
        ]
        self.model = model
        self.weights_end = _length(weights)
        self.parameters_end = self.weights_end + _length(scales)
        self.end = self.parameters_end + _length(statistics)
        self.elements = sum(t.numel() for t in [*weights, *scales, *statistics])
        """What travels: the tensors' elements, without gaps."""

        dtype = weights[0].dtype
        self.values = torch.zeros(self.end, dtype=dtype, device=device)
        self.gradient = torch.zeros(self.parameters_end, dtype=dtype, device=device)
        offset = 0
        for tensor in [*weights, *scales, *statistics]:
            view = _view(self.values, offset, tensor)
            view.copy_(tensor.detach())
            tensor.data = view
            if isinstance(tensor, nn.Parameter):
                tensor.grad = _view(self.gradient, offset, tensor)
            offset += _padded(tensor.numel())
        # In the model's own order, as torch clips: the norm of the norms depends on it.
        self.gradients = [p.grad for p in model.parameters() if p.grad is not None]


def _view(flat: Tensor, offset: int, like: Tensor) -> Tensor:
    """A window of `flat` shaped like a tensor; channels last where it has four dimensions."""
    window = flat[offset : offset + like.numel()]
    if like.dim() != 4:
        return window.view(like.shape)
    o, i, h, w = like.shape
    return window.view(o, h, w, i).permute(0, 3, 1, 2)


def _padded(elements: int) -> int:
    return math.ceil(elements / ALIGN) * ALIGN


def _length(tensors: list[Tensor] | list[nn.Parameter]) -> int:
    return sum(_padded(t.numel()) for t in tensors)

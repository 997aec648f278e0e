"""A model as views of one flat vector, so that sending, averaging or keeping it costs one
operation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainers.normalizers import norm_parameters

ALIGN = 16
"""Every tensor starts at a multiple of 16 elements (64 bytes in float32), for vector loads."""


class Vector:
    """All of a model's floating-point state: [weights | scales and shifts | statistics].

    A phase leaves only a tail unchanged: weight decay, the optimizer and the average each work on
    a prefix. The gradient has the same layout, without the statistics. Gaps hold zeros.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        affine = norm_parameters(model)
        named = dict(model.named_parameters())
        weights = {name: p for name, p in named.items() if p not in affine}
        scales = {name: p for name, p in named.items() if p in affine}
        buffers = dict(model.named_buffers())
        statistics = {name: b for name, b in buffers.items() if b.is_floating_point()}
        self.model = model
        self.integers = [(b, b.clone()) for b in buffers.values() if not b.is_floating_point()]
        self.weights_end = _length(weights)
        self.parameters_end = self.weights_end + _length(scales)
        self.end = self.parameters_end + _length(statistics)

        like = next(iter(named.values()))
        self.values = torch.zeros(self.end, dtype=like.dtype, device=device)
        self.gradient = self.values.new_zeros(self.parameters_end)
        self.places: dict[str, tuple[int, torch.Size]] = {}
        """Offset and shape of each tensor, by its name in the model."""
        offset = 0
        for name, tensor in {**weights, **scales, **statistics}.items():
            self.places[name] = (offset, tensor.shape)
            view = _view(self.values, offset, tensor.shape)
            view.copy_(tensor.detach())
            tensor.data = view
            if isinstance(tensor, nn.Parameter):
                tensor.grad = _view(self.gradient, offset, tensor.shape)
            offset += _padded(tensor.numel())
        # In the model's own order, as torch clips: the norm of the norms depends on it.
        self.parameters = list(model.parameters())
        self.begin_phase()

    def begin_phase(self) -> None:
        """Note which parameters are trained. The gradient of the others is zero from now on."""
        self.trained: list[Tensor] = [p for p in self.parameters if p.requires_grad]
        self.slopes = [p.grad for p in self.trained if p.grad is not None]
        """The views of the gradient, of each trained parameter."""
        self.gradient.zero_()

    def differentiate(self, loss: Tensor) -> None:
        """Write the gradient of a loss. It is zero for a parameter that the loss does not use."""
        gradients = torch.autograd.grad(loss, self.trained, allow_unused=True)
        if any(gradient is None for gradient in gradients):
            pairs = zip(gradients, self.trained, strict=True)
            gradients = tuple(torch.zeros_like(p) if g is None else g for g, p in pairs)
        torch._foreach_copy_(self.slopes, gradients)  # one kernel on a GPU; it has no public name

    def restart_integers(self) -> None:
        """Integer buffers are not averaged: every client begins with their first values."""
        for buffer, first in self.integers:
            buffer.copy_(first)

    def check_buffers(self) -> None:
        """Refuse a layer that put another tensor in the place of its buffer.

        Raises:
            ValueError: what it wrote is not in the vector.

        """
        views = self.named(self.values, self.parameters_end)
        for name, buffer in self.model.named_buffers():
            if name in views and buffer.data_ptr() != views[name].data_ptr():
                raise ValueError(f"the buffer {name} was replaced: a layer must write it in place")

    def positions(self, tensors: set[Tensor]) -> Tensor:
        """Return the places of all elements of some parameters in the vector, ascending."""
        ranges = [
            torch.arange(offset, offset + shape.numel())
            for name, (offset, shape) in self.places.items()
            if offset < self.parameters_end and self.model.get_parameter(name) in tensors
        ]
        return torch.cat(ranges or [torch.arange(0)]).to(self.values.device)

    def elements(self, end: int) -> int:
        """Return the number of elements before `end`, without gaps. These are sent."""
        return sum(shape.numel() for offset, shape in self.places.values() if offset < end)

    def named(self, values: Tensor, start: int = 0) -> dict[str, Tensor]:
        """Return the views, by name, of a vector laid out like this one, from `start` on."""
        return {
            name: _view(values, offset, shape)
            for name, (offset, shape) in self.places.items()
            if offset >= start
        }


def _view(flat: Tensor, offset: int, shape: torch.Size) -> Tensor:
    """Return a view of `flat` of this shape; channels last if it has four dimensions."""
    window = flat[offset : offset + shape.numel()]
    if len(shape) != 4:
        return window.view(shape)
    o, i, h, w = shape
    return window.view(o, h, w, i).permute(0, 3, 1, 2)


def _padded(elements: int) -> int:
    return math.ceil(elements / ALIGN) * ALIGN


def _length(tensors: dict[str, nn.Parameter] | dict[str, Tensor]) -> int:
    return sum(_padded(t.numel()) for t in tensors.values())

"""Operations of K lanes by our own kernels, and their gradients for torch.

Every sum of a step is a kernel's, because torch chooses the order of a sum by the number of its
results, on which K then would have an effect. What remains to torch treats each element by itself.

The kernels see images as [K, B, H, W, C], which is how lane-major channels-last batches lie in
memory, and weights as [K, Co, k, k, Ci].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from trainers.lane_operations import Lr, Weight, split_lanes

DOTS = {"float32": "ieee", "bfloat16": "bf16"}
"""The precision of products, by the type of the weights. It is part of the numerics."""

Context = Any
"""The record of a forward pass for the backward pass, which torch leaves without a type."""


class Kernels(Protocol):
    """The kernels that lanes need, as functions of tensors whose first axis is the lane."""

    def conv(self, x: Tensor, w: Tensor, stride: int, pad: int, *, dot: str) -> Tensor:
        """Convolve x [K, B, H, W, Ci] with w [K, Co, k, k, Ci]."""

    def conv_input_gradient(
        self, dy: Tensor, w: Tensor, stride: int, pad: int, size: tuple[int, int], *, dot: str
    ) -> Tensor:
        """Return the gradient [K, B, H, W, Ci] of x, with size = (H, W)."""

    def conv_weight_gradient(
        self, x: Tensor, dy: Tensor, taps: int, stride: int, pad: int, *, dot: str
    ) -> Tensor:
        """Return the gradient [K, Co, k, k, Ci] of w, with taps = k."""

    def normalize(
        self,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        active: Tensor,
        shortcut: Tensor | None,
        *,
        frozen: bool,
        relu: bool,
        momentum: float,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        """Apply BN over the rows of x [K, N, C], a shortcut's sum and ReLU.

        Update the running statistics of the active lanes in place. Also return what backward needs.
        """

    def normalize_backward(
        self,
        x: Tensor,
        z: Tensor,
        dz: Tensor,
        saved: Tensor,
        gamma: Tensor,
        *,
        frozen: bool,
        shortcut: bool,
        relu: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Return the gradients of x, of the shortcut, of gamma and of beta."""

    def group_normalize(
        self,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        shortcut: Tensor | None,
        *,
        groups: int,
        relu: bool,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        """Apply GN to the images of x [K, B, N, C], a shortcut's sum and ReLU."""

    def group_normalize_backward(
        self,
        x: Tensor,
        z: Tensor,
        dz: Tensor,
        saved: Tensor,
        gamma: Tensor,
        *,
        groups: int,
        shortcut: bool,
        relu: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Return the gradients of x, of the shortcut, of gamma and of beta."""

    def shift(self, x: Tensor, beta: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
        """Add beta [K, C] to the rows of x [K, N, C], then a shortcut, and apply ReLU."""

    def shift_backward(self, z: Tensor, dz: Tensor, *, relu: bool) -> tuple[Tensor, Tensor]:
        """Return the gradients of x, which is also the shortcut's, and of beta."""

    def standardize(self, w: Tensor, gain: Tensor) -> Tensor:
        """Standardize the rows of w [K, Co, F], with gain [K, Co]."""

    def standardize_backward(self, w: Tensor, gain: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of w and of gain."""

    def weight_norm(self, v: Tensor, g: Tensor) -> Tensor:
        """Return g v / |v| by row of v [K, Co, F], with g [K, Co]."""

    def weight_norm_backward(self, v: Tensor, g: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of v and of g."""

    def clip_rows(self, weight: Tensor, gradient: Tensor, bound: float) -> None:
        """Clip the rows of a gradient [K, Co, F] in place (`normalizers.clip_rows`)."""

    def mean_pool(self, x: Tensor) -> Tensor:
        """Return the means [K, B, C] over the rows of the images of x [K, B, N, C]."""

    def max_pool2(self, x: Tensor) -> Tensor:
        """Return the maximum of each square of 2x2 pixels of x [K, B, H, W, C]."""

    def max_pool2_backward(self, x: Tensor, z: Tensor, dz: Tensor) -> Tensor:
        """Return the gradient of x. The first of equal pixels gets it."""

    def linear(self, x: Tensor, w: Tensor, bias: Tensor | None, *, dot: str) -> Tensor:
        """Return x [K, B, F] times the transpose of w [K, O, F], plus bias [K, O]."""

    def linear_backward(
        self, x: Tensor, w: Tensor, dy: Tensor, *, dot: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of x, of w and of the bias."""

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean losses [K], and their gradients, of logits [K, B, O], labels [K, B]."""

    def clip(self, gradient: Tensor, bound: float) -> None:
        """Scale the rows of a gradient [K, T] that are longer than `bound`, in place."""

    def descend(
        self,
        values: Tensor,
        gradient: Tensor,
        velocity: Tensor | None,
        active: Tensor,
        lr: Lr,
        *,
        decay: float,
        decayed: int,
        momentum: float,
        trained: int,
    ) -> None:
        """Take the step of the active lanes in place; see `Operations.descend`."""


class Fused:
    """Operations of lanes by our own kernels, with a shortcut's sum and ReLU in the norm's pass."""

    casts = True

    def __init__(self, kernels: Kernels, dot: str) -> None:
        """Use kernels whose products have the precision `dot`: "ieee", "tf32x3" or "bf16"."""
        self.kernels = kernels
        self.dot = dot

    def conv(
        self, x: Tensor, weight: Weight, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        """Convolve all lanes in one kernel."""
        assert isinstance(weight, Tensor)
        y: Tensor = _Conv.apply(x, weight.to(x.dtype), stride, padding, self)
        return y if bias is None else self.affine(y, None, bias)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply all lanes in one kernel."""
        y: Tensor = _Linear.apply(x, weight, bias, self)
        return y

    def batch_norm(
        self,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor,
        variance: Tensor,
        active: Tensor,
        *,
        frozen: bool,
        momentum: float,
        eps: float,
        shortcut: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """Normalize, add the shortcut and apply ReLU in one pass."""
        how = {"frozen": frozen, "relu": relu, "momentum": momentum, "eps": eps}
        statistics = mean, variance, active
        z: Tensor = _BatchNorm.apply(x, scale, shift, shortcut, statistics, how, self.kernels)
        return z

    def group_norm(
        self,
        x: Tensor,
        groups: int,
        scale: Tensor,
        shift: Tensor,
        *,
        eps: float,
        shortcut: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """Normalize, add the shortcut and apply ReLU in one pass."""
        how = {"groups": groups, "relu": relu, "eps": eps}
        z: Tensor = _GroupNorm.apply(x, scale, shift, shortcut, how, self.kernels)
        return z

    def affine(
        self,
        x: Tensor,
        scale: Tensor | None,
        shift: Tensor,
        *,
        shortcut: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """Shift in one pass. With a scale it is BN of mean 0, variance 1 and eps 0."""
        if scale is not None:
            zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
            active = torch.zeros(len(scale), dtype=torch.bool, device=scale.device)
            return self.batch_norm(
                x, scale, shift, zeros, ones, active,
                frozen=True, momentum=0.0, eps=0.0, shortcut=shortcut, relu=relu,
            )  # fmt: skip
        z: Tensor = _Shift.apply(x, shift, shortcut, relu, self.kernels)
        return z

    def standardize(self, weight: Tensor, gain: Tensor) -> Weight:
        """Standardize all rows in one kernel."""
        y: Tensor = _Rows.apply(
            weight, gain, self.kernels.standardize, self.kernels.standardize_backward
        )
        return y

    def weight_norm(self, direction: Tensor, length: Tensor) -> Weight:
        """Normalize all rows in one kernel."""
        y: Tensor = _Rows.apply(
            direction, length, self.kernels.weight_norm, self.kernels.weight_norm_backward
        )
        return y

    def mean_pool(self, x: Tensor, lanes: int) -> Tensor:
        """Average in our own order."""
        y: Tensor = _MeanPool.apply(x, lanes, self.kernels)
        return y

    def max_pool(self, x: Tensor, lanes: int) -> Tensor:
        """Pool all images in one kernel."""
        y: Tensor = _MaxPool.apply(x, lanes, self.kernels)
        return y

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the losses. Their gradients are made in the same pass."""
        losses: Tensor = _CrossEntropy.apply(logits, labels, self.kernels)
        return losses

    def clip_rows(self, weight: Tensor, gradient: Tensor, bound: float) -> None:
        """Clip all rows in one kernel."""
        self.kernels.clip_rows(_rows(weight), _rows(gradient), bound)

    def clip(
        self,
        gradient: Tensor,
        parts: Sequence[Tensor],  # noqa: ARG002  # the interface
        bound: float,
    ) -> None:
        """Clip by the norm of each row, summed in our own order."""
        self.kernels.clip(gradient, bound)

    def descend(
        self,
        values: Tensor,
        gradient: Tensor,
        velocity: Tensor | None,
        active: Tensor,
        lr: Lr,
        *,
        decay: float,
        decayed: int,
        momentum: float,
        trained: int,
    ) -> None:
        """Add the decay, update the velocity and step in one pass."""
        self.kernels.descend(
            values, gradient, velocity, active, lr,
            decay=decay, decayed=decayed, momentum=momentum, trained=trained,
        )  # fmt: skip


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, x: Tensor, weight: Tensor, stride: int, pad: int, operations: Fused
    ) -> Tensor:
        images, taps = _images(x, len(weight)), weight.permute(0, 1, 3, 4, 2)
        ctx.save_for_backward(images, taps)
        ctx.how = stride, pad, operations
        y = operations.kernels.conv(images, taps, stride, pad, dot=operations.dot)
        return _batch(y)

    @staticmethod
    def backward(ctx: Context, dy: Tensor) -> Any:
        images, taps = ctx.saved_tensors
        stride, pad, operations = ctx.how
        kernels, dot = operations.kernels, operations.dot
        slopes = _images(dy, len(taps))
        dx = dw = None
        if ctx.needs_input_grad[0]:
            size = (images.shape[2], images.shape[3])
            dx = _batch(kernels.conv_input_gradient(slopes, taps, stride, pad, size, dot=dot))
        if ctx.needs_input_grad[1]:
            dw = kernels.conv_weight_gradient(images, slopes, taps.shape[2], stride, pad, dot=dot)
            dw = dw.permute(0, 1, 4, 2, 3)
        return dx, dw, None, None, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, x: Tensor, weight: Tensor, bias: Tensor | None, operations: Fused
    ) -> Tensor:
        rows = split_lanes(x.contiguous(), len(weight))
        ctx.save_for_backward(rows, weight)
        ctx.operations, ctx.has_bias = operations, bias is not None
        return operations.kernels.linear(rows, weight, bias, dot=operations.dot).flatten(0, 1)

    @staticmethod
    def backward(ctx: Context, dy: Tensor) -> Any:
        rows, weight = ctx.saved_tensors
        slopes = split_lanes(dy.contiguous(), len(weight))
        operations = ctx.operations
        dx, dw, db = operations.kernels.linear_backward(rows, weight, slopes, dot=operations.dot)
        return dx.flatten(0, 1), dw, db if ctx.has_bias else None, None


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        shortcut: Tensor | None,
        statistics: tuple[Tensor, Tensor, Tensor],
        how: dict[str, Any],
        kernels: Kernels,
    ) -> Tensor:
        images = _images(x, len(scale))
        rows, added = images.flatten(1, 3), _added(shortcut, len(scale))
        z, saved = kernels.normalize(rows, scale, shift, *statistics, added, **how)
        # Without ReLU the result is not needed, and the model may change it in place.
        ctx.save_for_backward(rows, z if how["relu"] else rows, saved, scale)
        ctx.how = kernels, how["frozen"], how["relu"], shortcut is not None
        return _batch(z.view(images.shape))

    @staticmethod
    def backward(ctx: Context, dz: Tensor) -> Any:
        rows, z, saved, scale = ctx.saved_tensors
        kernels, frozen, relu, shortcut = ctx.how
        slopes = _images(dz, len(scale))
        dx, added, dscale, dshift = kernels.normalize_backward(
            rows, z, slopes.flatten(1, 3), saved, scale, frozen=frozen, shortcut=shortcut, relu=relu
        )
        shape = slopes.shape
        dx = _batch(dx.view(shape))
        dshortcut = _batch(added.view(shape)) if shortcut else None
        return dx, dscale, dshift, dshortcut, None, None, None


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        shortcut: Tensor | None,
        how: dict[str, Any],
        kernels: Kernels,
    ) -> Tensor:
        images = _images(x, len(scale))
        maps = images.flatten(2, 3)
        added = None if shortcut is None else _images(shortcut, len(scale)).flatten(2, 3)
        z, saved = kernels.group_normalize(maps, scale, shift, added, **how)
        ctx.save_for_backward(maps, z if how["relu"] else maps, saved, scale)
        ctx.how = kernels, how["groups"], how["relu"], shortcut is not None
        return _batch(z.view(images.shape))

    @staticmethod
    def backward(ctx: Context, dz: Tensor) -> Any:
        maps, z, saved, scale = ctx.saved_tensors
        kernels, groups, relu, shortcut = ctx.how
        slopes = _images(dz, len(scale))
        dx, added, dscale, dshift = kernels.group_normalize_backward(
            maps, z, slopes.flatten(2, 3), saved, scale, groups=groups, shortcut=shortcut, relu=relu
        )
        shape = slopes.shape
        dshortcut = _batch(added.view(shape)) if shortcut else None
        return _batch(dx.view(shape)), dscale, dshift, dshortcut, None, None


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        shift: Tensor,
        shortcut: Tensor | None,
        relu: bool,
        kernels: Kernels,
    ) -> Tensor:
        images = _images(x, len(shift))
        added = _added(shortcut, len(shift))
        z = kernels.shift(images.flatten(1, 3), shift, added, relu=relu)
        ctx.save_for_backward(z)
        ctx.how = kernels, relu, shortcut is not None
        return _batch(z.view(images.shape))

    @staticmethod
    def backward(ctx: Context, dz: Tensor) -> Any:
        (z,) = ctx.saved_tensors
        kernels, relu, shortcut = ctx.how
        slopes = _images(dz, len(z))
        dx, dshift = kernels.shift_backward(z, slopes.flatten(1, 3), relu=relu)
        dx = _batch(dx.view(slopes.shape))
        return dx, dshift, dx if shortcut else None, None, None


class _Rows(torch.autograd.Function):
    """A weight whose rows are computed from rows w [K, Co, Ci, k, k] and factors [K, Co, 1, 1, 1].

    The kernels see the rows in the order of memory, [K, Co, k*k*Ci].
    """

    @staticmethod
    def forward(
        ctx: Context, weight: Tensor, factor: Tensor, forward: Any, backward: Any
    ) -> Tensor:
        ctx.save_for_backward(weight, factor)
        ctx.backward = backward
        return _as_weight(forward(_rows(weight), factor.flatten(1)), weight)

    @staticmethod
    def backward(ctx: Context, dy: Tensor) -> Any:
        weight, factor = ctx.saved_tensors
        slopes = dy.permute(0, 1, 3, 4, 2).flatten(2)
        dw, dfactor = ctx.backward(_rows(weight), factor.flatten(1), slopes)
        return _as_weight(dw, weight), dfactor.view(factor.shape), None, None


class _MeanPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, lanes: int, kernels: Kernels) -> Tensor:
        images = _images(x, lanes)
        ctx.shape = images.shape
        return kernels.mean_pool(images.flatten(2, 3)).flatten(0, 1)

    @staticmethod
    def backward(ctx: Context, dy: Tensor) -> Any:
        lanes, count, height, width, channels = ctx.shape
        each = (dy / (height * width)).view(lanes, count, 1, 1, channels)
        return _batch(each.expand(ctx.shape).contiguous()), None, None


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, lanes: int, kernels: Kernels) -> Tensor:
        images = _images(x, lanes)
        z = kernels.max_pool2(images)
        ctx.save_for_backward(images, z)
        ctx.kernels = kernels
        return _batch(z)

    @staticmethod
    def backward(ctx: Context, dz: Tensor) -> Any:
        images, z = ctx.saved_tensors
        dx = ctx.kernels.max_pool2_backward(images, z, _images(dz, len(z)))
        return _batch(dx), None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, logits: Tensor, labels: Tensor, kernels: Kernels) -> Tensor:
        rows = split_lanes(logits.contiguous(), len(labels))
        losses, slopes = kernels.cross_entropy(rows, labels)
        ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    def backward(ctx: Context, dlosses: Tensor) -> Any:
        (slopes,) = ctx.saved_tensors
        return (slopes * dlosses[:, None, None]).flatten(0, 1), None, None


def _images(x: Tensor, lanes: int) -> Tensor:
    """Return x [K*B, C, H, W] as [K, B, H, W, C], without a copy if it is channels last."""
    return split_lanes(x.permute(0, 2, 3, 1).contiguous(), lanes)


def _batch(images: Tensor) -> Tensor:
    """Return [K, B, H, W, C] as [K*B, C, H, W].

    The result is no view to torch, which would refuse to let a model change it in place.
    """
    return images.flatten(0, 1).permute(0, 3, 1, 2).data


def _added(shortcut: Tensor | None, lanes: int) -> Tensor | None:
    return None if shortcut is None else _images(shortcut, lanes).flatten(1, 3)


def _rows(weight: Tensor) -> Tensor:
    """Return a view [K, Co, k*k*Ci] of a window [K, Co, Ci, k, k]."""
    return weight.permute(0, 1, 3, 4, 2).view(*weight.shape[:2], -1)


def _as_weight(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows [K, Co, k*k*Ci] as a weight [K, Co, Ci, k, k]."""
    lanes, outputs, inputs, height, width = like.shape
    return rows.view(lanes, outputs, height, width, inputs).permute(0, 1, 4, 2, 3)

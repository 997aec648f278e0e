"""Operations of K lanes: the layers, the loss, the clipping and the step of K models at once.

A lane is one client's model. Images and activations are lane-major, [K*B, C, H, W], channels last:
the B images of lane 0 come first. Each parameter has a leading axis of K. No lane reads another
one, so that a lane that is not finite changes no other.

`Loop` calls torch's own operation for each lane. Its results are those of `seq`, bit for bit, and
it is the oracle of the others. `Batched` uses torch's batched operations, with im2col for
convolutions. `trainers.lane_kernels` calls our own kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from trainers.normalizers import clip_gradient_rows, row_norm, standardize

Lr = float | Tensor
"""A learning rate: a Python number, or a tensor without axes that a CUDA graph reads."""

Weight = Tensor | tuple[Tensor, ...]
"""The weights of K lanes: one tensor [K, ...], or K tensors whose memory layouts torch chose."""


class Operations(Protocol):
    """A backend of the lanes. Each result is a function of its own lane alone."""

    casts: bool
    """True if bfloat16 means a copy of the weights in bfloat16. Otherwise it means autocast."""

    def conv(
        self, x: Tensor, weight: Weight, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        """Convolve x [K*B, Ci, H, W] with weight [K, Co, Ci, k, k], and add bias [K, Co]."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x [K*B, F] times the transpose of weight [K, O, F], plus bias [K, O]."""

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
        """Normalize each lane by its own batch, or with the running statistics if frozen.

        scale, shift, mean and variance are [K, C]. The running mean and variance of the lanes that
        are active [K] are updated in place. Add the shortcut, and apply ReLU, if given.
        """

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
        """Normalize each image by groups of channels, with its lane's scale and shift [K, C]."""

    def affine(
        self,
        x: Tensor,
        scale: Tensor | None,
        shift: Tensor,
        *,
        shortcut: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """Return scale x + shift by channel, with the lane's scale and shift [K, C]."""

    def standardize(self, weight: Tensor, gain: Tensor) -> Weight:
        """Standardize the rows of weight [K, Co, Ci, k, k], with gain [K, Co, 1, 1, 1]."""

    def weight_norm(self, direction: Tensor, length: Tensor) -> Weight:
        """Return g v / |v| by row of v [K, Co, Ci, k, k], with g [K, Co, 1, 1, 1]."""

    def mean_pool(self, x: Tensor, lanes: int) -> Tensor:
        """Return the mean over the pixels: [K*B, C]."""

    def max_pool(self, x: Tensor, lanes: int) -> Tensor:
        """Return the maximum of each square of 2x2 pixels."""

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each lane's mean loss [K] of logits [K*B, O] and labels [K, B]."""

    def clip_rows(self, weight: Tensor, gradient: Tensor, bound: float) -> None:
        """Clip the gradient of a standardized weight in place (`normalizers.clip_rows`)."""

    def clip(self, gradient: Tensor, parts: Sequence[Tensor], bound: float) -> None:
        """Scale the rows of gradient [K, T] that are longer than `bound`, in place.

        `parts` are the trained parameters' windows of it, in the model's own order.
        """

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
        """Take the step of the active lanes along the first `trained` columns, in place.

        g <- g + decay w for the first `decayed` columns; v <- momentum v + g; w <- w - lr v. Lanes
        that are not active keep w and v. Without v, w <- w - lr g.
        """


def finish(y: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
    """Add a shortcut in place, then apply ReLU in place."""
    if shortcut is not None:
        y = y.add_(shortcut)
    return y.relu_() if relu else y


def stepped(values: Tensor, direction: Tensor, lr: Lr) -> Tensor:
    """Return values - lr direction, by the operation that `seq` uses for such an `lr`."""
    if isinstance(lr, Tensor):
        return torch.addcmul(values, direction, lr, value=-1)
    return values.add(direction, alpha=-lr)


class Loop:
    """Torch's own operation for each lane in turn, which `seq` calls too."""

    casts = False

    def conv(
        self, x: Tensor, weight: Weight, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        """Convolve lane by lane."""
        weights = weight.unbind() if isinstance(weight, Tensor) else weight

        def one(x: Tensor, lane: int) -> Tensor:
            own = None if bias is None else bias[lane]
            return functional.conv2d(x, weights[lane], own, stride, padding)

        return by_lane(one, x, len(weights))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply lane by lane."""
        weights = weight.unbind()

        def one(x: Tensor, lane: int) -> Tensor:
            return functional.linear(x, weights[lane], None if bias is None else bias[lane])

        return by_lane(one, x, len(weights))

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
        """Normalize lane by lane, on copies of the running statistics."""

        def one(x: Tensor, lane: int) -> Tensor:
            running = mean[lane].clone(), variance[lane].clone()
            y = functional.batch_norm(
                x, *running, scale[lane], shift[lane], not frozen, momentum, eps
            )
            if not frozen:
                for kept, new in zip((mean[lane], variance[lane]), running, strict=True):
                    kept.copy_(torch.where(active[lane], new, kept))
            return y

        return finish(by_lane(one, x, len(scale)), shortcut, relu)

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
        """Normalize lane by lane."""

        def one(x: Tensor, lane: int) -> Tensor:
            return functional.group_norm(x, groups, scale[lane], shift[lane], eps)

        return finish(by_lane(one, x, len(scale)), shortcut, relu)

    def affine(
        self,
        x: Tensor,
        scale: Tensor | None,
        shift: Tensor,
        *,
        shortcut: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """Scale and shift lane by lane."""

        def one(x: Tensor, lane: int) -> Tensor:
            scaled = x if scale is None else x * scale[lane][:, None, None]
            return scaled + shift[lane][:, None, None]

        return finish(by_lane(one, x, len(shift)), shortcut, relu)

    def standardize(self, weight: Tensor, gain: Tensor) -> Weight:
        """Standardize lane by lane."""
        pairs = zip(weight.unbind(), gain.unbind(), strict=True)
        return tuple(standardize(w, g) for w, g in pairs)

    def weight_norm(self, direction: Tensor, length: Tensor) -> Weight:
        """Normalize lane by lane, with the operation of torch's parametrization."""
        pairs = zip(direction.unbind(), length.unbind(), strict=True)
        return tuple(torch._weight_norm(v, g, 0) for v, g in pairs)  # noqa: SLF001

    def mean_pool(self, x: Tensor, lanes: int) -> Tensor:
        """Average lane by lane."""
        return by_lane(lambda x, _: x.mean((2, 3)), x, lanes)

    def max_pool(self, x: Tensor, lanes: int) -> Tensor:
        """Pool lane by lane."""
        return by_lane(lambda x, _: functional.max_pool2d(x, 2), x, lanes)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return torch's mean, lane by lane."""
        pairs = zip(logits.chunk(len(labels)), labels, strict=True)
        return torch.stack([functional.cross_entropy(x, y) for x, y in pairs])

    def clip_rows(self, weight: Tensor, gradient: Tensor, bound: float) -> None:
        """Clip lane by lane."""
        for w, g in zip(weight, gradient, strict=True):
            clip_gradient_rows(w, g, bound)

    def clip(self, gradient: Tensor, parts: Sequence[Tensor], bound: float) -> None:
        """Clip by the norm of the parameters' norms, as torch does."""
        for lane, row in enumerate(gradient):
            norm = torch.nn.utils.get_total_norm([part[lane] for part in parts])
            row.mul_(torch.clamp(bound / (norm + 1e-6), max=1.0))

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
        """Step lane by lane: the split of a row into vectors then is that of `seq`."""
        for lane, on in enumerate(active):
            kept = None if velocity is None else velocity[lane]
            _descend(
                values[lane], gradient[lane], kept, on, lr,
                decay=decay, decayed=decayed, momentum=momentum, trained=trained,
            )  # fmt: skip


class Batched:
    """Torch's batched operations. The order of a sum may be another one than that of `seq`."""

    casts = False

    def conv(
        self, x: Tensor, weight: Weight, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        """Multiply the columns of all taps (im2col) by the weights, in one product per lane."""
        assert isinstance(weight, Tensor)
        lanes, outputs, _, taps, _ = weight.shape
        height, width = ((n + 2 * padding - taps) // stride + 1 for n in x.shape[2:])
        columns = functional.unfold(x, taps, padding=padding, stride=stride)
        rows = columns.transpose(1, 2).reshape(lanes, -1, columns.shape[1])
        y = _product(rows, weight.flatten(2), bias)
        return y.view(-1, height, width, outputs).permute(0, 3, 1, 2)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Take one product per lane."""
        return _product(split_lanes(x, len(weight)), weight, bias).flatten(0, 1)

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
        """Take the statistics of all lanes at once, over the images and pixels of each."""
        split = split_lanes(x, len(scale))
        if frozen:
            used, spread = mean, variance
        else:
            spread, used = torch.var_mean(split, (1, 3, 4), correction=0)
            elements = split[0].numel() // split.shape[2]
            unbiased = spread.detach() * (elements / (elements - 1))
            for kept, new in ((mean, used.detach()), (variance, unbiased)):
                mixed = (1 - momentum) * kept + momentum * new
                kept.copy_(torch.where(active[:, None], mixed, kept))
        slope = scale * torch.rsqrt(spread + eps)
        return finish(_affine(x, slope, shift - used * slope), shortcut, relu)

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
        """Normalize all images at once, then scale and shift by lane."""
        y = functional.group_norm(x, groups, eps=eps)
        return finish(_affine(y, scale, shift), shortcut, relu)

    def affine(
        self,
        x: Tensor,
        scale: Tensor | None,
        shift: Tensor,
        *,
        shortcut: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """Scale and shift all lanes at once."""
        return finish(_affine(x, scale, shift), shortcut, relu)

    def standardize(self, weight: Tensor, gain: Tensor) -> Weight:
        """Standardize all rows at once."""
        return standardize(weight, gain)

    def weight_norm(self, direction: Tensor, length: Tensor) -> Weight:
        """Normalize all rows at once."""
        return direction * (length / row_norm(direction))

    def mean_pool(self, x: Tensor, lanes: int) -> Tensor:  # noqa: ARG002  # the interface
        """Average all images at once."""
        return x.mean((2, 3))

    def max_pool(self, x: Tensor, lanes: int) -> Tensor:  # noqa: ARG002  # the interface
        """Pool all images at once."""
        return functional.max_pool2d(x, 2)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Average the images' losses by lane."""
        each = functional.cross_entropy(logits, labels.flatten(), reduction="none")
        return each.view(labels.shape).mean(1)

    def clip_rows(self, weight: Tensor, gradient: Tensor, bound: float) -> None:
        """Clip all rows at once."""
        clip_gradient_rows(weight, gradient, bound)

    def clip(
        self,
        gradient: Tensor,
        parts: Sequence[Tensor],  # noqa: ARG002  # the interface
        bound: float,
    ) -> None:
        """Clip by the norm of each row."""
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        gradient.mul_(torch.clamp(bound / (norm + 1e-6), max=1.0))

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
        """Step all lanes at once."""
        _descend(
            values, gradient, velocity, active[:, None], lr,
            decay=decay, decayed=decayed, momentum=momentum, trained=trained,
        )  # fmt: skip


def split_lanes(x: Tensor, lanes: int) -> Tensor:
    """Return a view [K, B, ...] of x [K*B, ...]."""
    return x.view(lanes, -1, *x.shape[1:])


def by_lane(one: Callable[[Tensor, int], Tensor], x: Tensor, lanes: int) -> Tensor:
    """Apply a function to the images of each lane, and join the results."""
    return torch.cat([one(part, lane) for lane, part in enumerate(x.chunk(lanes))])


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x [K, N, F] times the transpose of weight [K, O, F], plus bias [K, O]."""
    if bias is None:
        return torch.bmm(x, weight.transpose(1, 2))
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))


def _affine(x: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
    split = split_lanes(x, len(shift))
    shift = shift[:, None, :, None, None]
    if scale is None:
        return (split + shift).flatten(0, 1)
    return torch.addcmul(shift, split, scale[:, None, :, None, None]).flatten(0, 1)


def _descend(
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
    if decay > 0:
        gradient[..., :decayed].add_(values[..., :decayed], alpha=decay)
    direction = gradient[..., :trained]
    if velocity is not None:
        kept = velocity[..., :trained]
        direction = kept.mul(momentum).add_(direction)
        kept.copy_(torch.where(active, direction, kept))
    old = values[..., :trained]
    old.copy_(torch.where(active, stepped(old, direction, lr), old))

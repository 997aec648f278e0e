"""Rows of weights, and the step of all lanes: standardizing, clipping, decay, momentum, descent.

A row of a weight is an output channel with its taps and channels, w [K, Co, F]. A sum of a row is
one program's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainers.kernels.tiles import STRIDES, WINDOWS, power_of_two
from trainers.normalizers import LEAST_GRADIENT, LEAST_SQUARE, LEAST_WEIGHT

TILE = 4096
"""Elements of a lane that a program of the clipping and of the step has."""


@triton.jit
def _centered(w, at, known, length: tl.constexpr):
    values = tl.load(w + at, mask=known, other=0.0).to(tl.float32)
    return tl.where(known, values - tl.sum(values, 0) / length, 0.0)


@triton.jit(do_not_specialize=STRIDES, do_not_specialize_on_alignment=WINDOWS)
def _standardize(
    w, gain, y, w_lane, gain_lane, least, rows: tl.constexpr, length: tl.constexpr,
    tile: tl.constexpr,
):  # fmt: skip
    """Write gain (w - mean) / sqrt(sum of squares) of one row."""
    lane = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0)
    i = tl.arange(0, tile)
    known = i < length
    apart = _centered(w, lane * w_lane + row * length + i, known, length)
    square = tl.sum(apart * apart, 0)
    square = tl.where(square < least, least, square)
    factor = tl.load(gain + lane * gain_lane + row) / tl.sqrt(square)
    tl.store(y + (lane * rows + row) * length + i, factor * apart, mask=known)


@triton.jit(do_not_specialize=STRIDES, do_not_specialize_on_alignment=WINDOWS)
def _standardize_gradient(
    w, gain, dy, dw, dgain, w_lane, gain_lane, least, rows: tl.constexpr, length: tl.constexpr,
    tile: tl.constexpr,
):  # fmt: skip
    """Write the gradients of one row and of its gain."""
    lane = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0)
    i = tl.arange(0, tile)
    known = i < length
    apart = _centered(w, lane * w_lane + row * length + i, known, length)
    out = (lane * rows + row) * length + i
    slope = tl.load(dy + out, mask=known, other=0.0).to(tl.float32)
    square = tl.sum(apart * apart, 0)
    kept = square < least
    root = 1.0 / tl.sqrt(tl.where(kept, least, square))
    along = tl.sum(slope * apart, 0)
    tl.store(dgain + lane * rows + row, along * root)
    scale = tl.load(gain + lane * gain_lane + row)
    inward = tl.where(kept, 0.0, along * root * root * root)
    inner = tl.where(known, scale * (root * slope - inward * apart), 0.0)
    inner -= tl.sum(inner, 0) / length
    tl.store(dw + out, inner, mask=known)


@triton.jit(do_not_specialize=STRIDES, do_not_specialize_on_alignment=WINDOWS)
def _weight_norm(
    v, g, y, v_lane, g_lane, rows: tl.constexpr, length: tl.constexpr, tile: tl.constexpr
):
    """Write g v / |v| of one row."""
    lane = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0)
    i = tl.arange(0, tile)
    known = i < length
    values = tl.load(v + lane * v_lane + row * length + i, mask=known, other=0.0)
    factor = tl.load(g + lane * g_lane + row) / tl.sqrt(tl.sum(values * values, 0))
    tl.store(y + (lane * rows + row) * length + i, factor * values, mask=known)


@triton.jit(do_not_specialize=STRIDES, do_not_specialize_on_alignment=WINDOWS)
def _weight_norm_gradient(
    v, g, dy, dv, dg, v_lane, g_lane, rows: tl.constexpr, length: tl.constexpr, tile: tl.constexpr
):
    """Write the gradients of one row and of its length."""
    lane = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0)
    i = tl.arange(0, tile)
    known = i < length
    values = tl.load(v + lane * v_lane + row * length + i, mask=known, other=0.0)
    out = (lane * rows + row) * length + i
    slope = tl.load(dy + out, mask=known, other=0.0).to(tl.float32)
    root = 1.0 / tl.sqrt(tl.sum(values * values, 0))
    along = tl.sum(slope * values, 0)
    tl.store(dg + lane * rows + row, along * root)
    scale = tl.load(g + lane * g_lane + row) * root
    tl.store(dv + out, scale * (slope - values * (along * root * root)), mask=known)


@triton.jit(do_not_specialize=STRIDES, do_not_specialize_on_alignment=WINDOWS)
def _clip_rows(
    w, gradient, w_lane, gradient_lane, bound, least_weight, least_gradient, length: tl.constexpr,
    tile: tl.constexpr,
):  # fmt: skip
    """Scale the gradient of one row that is longer than `bound` times the row."""
    lane = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0)
    i = tl.arange(0, tile)
    known = i < length
    values = tl.load(w + lane * w_lane + row * length + i, mask=known, other=0.0)
    at = gradient + lane * gradient_lane + row * length + i
    slope = tl.load(at, mask=known, other=0.0)
    size = tl.sqrt(tl.sum(values * values, 0))
    steep = tl.sqrt(tl.sum(slope * slope, 0))
    size = tl.where(size < least_weight, least_weight, size)
    steep = tl.where(steep < least_gradient, least_gradient, steep)
    scale = bound * size / steep
    tl.store(at, slope * tl.where(scale > 1.0, 1.0, scale), mask=known)


@triton.jit(do_not_specialize=STRIDES, do_not_specialize_on_alignment=WINDOWS)
def _squares(gradient, parts, size, gradient_lane, count: tl.constexpr, tile: tl.constexpr):
    """Write the sum of squares of one part of a lane's gradient."""
    lane = tl.program_id(1).to(tl.int64)
    part = tl.program_id(0)
    at = part * tile + tl.arange(0, tile)
    values = tl.load(gradient + lane * gradient_lane + at, mask=at < size, other=0.0)
    tl.store(parts + lane * count + part, tl.sum(values * values, 0))


@triton.jit
def _clip(
    gradient, parts, size, gradient_lane, bound, count: tl.constexpr, tile_p: tl.constexpr,
    tile: tl.constexpr,
):  # fmt: skip
    """Scale one part of a lane's gradient by min(1, bound / (norm + 1e-6))."""
    lane = tl.program_id(1).to(tl.int64)
    i = tl.arange(0, tile_p)
    squares = tl.load(parts + lane * count + i, mask=i < count, other=0.0)
    scale = bound / (tl.sqrt(tl.sum(squares, 0)) + 1e-6)
    scale = tl.where(scale > 1.0, 1.0, scale)
    at = tl.program_id(0) * tile + tl.arange(0, tile)
    values = tl.load(gradient + lane * gradient_lane + at, mask=at < size, other=0.0)
    tl.store(gradient + lane * gradient_lane + at, values * scale, mask=at < size)


@triton.jit
def _descend(
    values, gradient, velocity, active, lr, size, decayed, values_lane, gradient_lane,
    velocity_lane, decay, momentum, moves: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Take the step of one part of a lane, if the lane is active."""
    lane = tl.program_id(1).to(tl.int64)
    if tl.load(active + lane):
        at = tl.program_id(0) * tile + tl.arange(0, tile)
        known = at < size
        weights = tl.load(values + lane * values_lane + at, mask=known, other=0.0)
        direction = tl.load(gradient + lane * gradient_lane + at, mask=known, other=0.0)
        direction = tl.where(at < decayed, direction + decay * weights, direction)
        if moves:
            kept = velocity + lane * velocity_lane + at
            direction = momentum * tl.load(kept, mask=known, other=0.0) + direction
            tl.store(kept, direction, mask=known)
        weights -= tl.load(lr) * direction
        tl.store(values + lane * values_lane + at, weights, mask=known)


def standardize(w: Tensor, gain: Tensor) -> Tensor:
    """Standardize the rows of w [K, Co, F], with gain [K, Co]."""
    lanes, rows, length = w.shape
    y = w.new_empty(w.shape, dtype=torch.float32)
    _standardize[rows, lanes](
        w, gain, y, w.stride(0), gain.stride(0), LEAST_SQUARE, rows, length, power_of_two(length)
    )
    return y


def standardize_backward(w: Tensor, gain: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of w and of gain."""
    lanes, rows, length = w.shape
    dw = w.new_empty(w.shape, dtype=torch.float32)
    dgain = w.new_empty(lanes, rows, dtype=torch.float32)
    _standardize_gradient[rows, lanes](
        w, gain, dy.contiguous(), dw, dgain, w.stride(0), gain.stride(0), LEAST_SQUARE, rows,
        length, power_of_two(length),
    )  # fmt: skip
    return dw, dgain


def weight_norm(v: Tensor, g: Tensor) -> Tensor:
    """Return g v / |v| by row of v [K, Co, F], with g [K, Co]."""
    lanes, rows, length = v.shape
    y = v.new_empty(v.shape, dtype=torch.float32)
    _weight_norm[rows, lanes](v, g, y, v.stride(0), g.stride(0), rows, length, power_of_two(length))
    return y


def weight_norm_backward(v: Tensor, g: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of v and of g."""
    lanes, rows, length = v.shape
    dv = v.new_empty(v.shape, dtype=torch.float32)
    dg = v.new_empty(lanes, rows, dtype=torch.float32)
    _weight_norm_gradient[rows, lanes](
        v, g, dy.contiguous(), dv, dg, v.stride(0), g.stride(0), rows, length,
        power_of_two(length),
    )  # fmt: skip
    return dv, dg


def clip_rows(weight: Tensor, gradient: Tensor, bound: float) -> None:
    """Clip the rows of a gradient [K, Co, F] in place (`normalizers.clip_rows`)."""
    lanes, rows, length = weight.shape
    _clip_rows[rows, lanes](
        weight, gradient, weight.stride(0), gradient.stride(0), bound, LEAST_WEIGHT,
        LEAST_GRADIENT, length, power_of_two(length),
    )  # fmt: skip


def clip(gradient: Tensor, bound: float) -> None:
    """Scale the rows of a gradient [K, T] that are longer than `bound`, in place."""
    lanes, size = gradient.shape
    count = triton.cdiv(size, TILE)
    parts = gradient.new_empty(lanes, count)
    _squares[count, lanes](gradient, parts, size, gradient.stride(0), count, TILE)
    _clip[count, lanes](
        gradient, parts, size, gradient.stride(0), bound, count, power_of_two(count), TILE
    )


def descend(
    values: Tensor,
    gradient: Tensor,
    velocity: Tensor | None,
    active: Tensor,
    lr: float | Tensor,
    *,
    decay: float,
    decayed: int,
    momentum: float,
    trained: int,
) -> None:
    """Take the step of the active lanes in place; see `Operations.descend`.

    A learning rate that is a tensor may change between two replays of a graph.
    """
    rate = lr if isinstance(lr, Tensor) else values.new_tensor(lr)
    kept = values if velocity is None else velocity
    _descend[triton.cdiv(trained, TILE), len(values)](
        values, gradient, kept, active, rate, trained, decayed if decay > 0 else 0,
        values.stride(0), gradient.stride(0), kept.stride(0), decay, momentum,
        velocity is not None, TILE,
    )  # fmt: skip

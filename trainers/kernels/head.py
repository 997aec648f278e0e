"""The end of a model of K lanes: pooling, the linear layer, and the loss."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainers.kernels.tiles import power_of_two, precision

ELEMENTS = 4096
"""Elements of a tile."""


@triton.jit
def _mean_pool(x, y, size, channels: tl.constexpr, tile_c: tl.constexpr, tile_m: tl.constexpr):
    """Average the pixels of one image, by channel."""
    image = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, tile_c)
    total = tl.zeros((tile_c,), tl.float32)
    for start in range(0, size, tile_m):
        rows = start + tl.arange(0, tile_m)
        known = (rows[:, None] < size) & (c[None, :] < channels)
        at = (image * size + rows[:, None]) * channels + c[None, :]
        total += tl.sum(tl.load(x + at, mask=known, other=0.0).to(tl.float32), 0)
    mean = (total / size).to(y.dtype.element_ty)
    tl.store(y + image * channels + c, mean, mask=c < channels)


@triton.jit
def _corner(at, height, width, channels: tl.constexpr):
    """Return the place in x of the first pixel of the square of an element of the output."""
    across = width // 2
    down = height // 2
    c = at % channels
    column = at // channels % across
    row = at // (channels * across) % down
    image = at // (channels * across * down)
    return ((image * height + 2 * row) * width + 2 * column) * channels + c


@triton.jit
def _max_pool(x, z, elements, height, width, channels: tl.constexpr, tile: tl.constexpr):
    """Take the maximum of each square. NaN is larger than every number."""
    at = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    known = at < elements
    corner = x + _corner(at, height, width, channels)
    best = tl.load(corner, mask=known, other=0.0).to(tl.float32)
    for i in tl.static_range(1, 4):
        place = corner + ((i // 2) * width + i % 2) * channels
        value = tl.load(place, mask=known, other=0.0).to(tl.float32)
        best = tl.where((value > best) | (value != value), value, best)
    tl.store(z + at, best.to(z.dtype.element_ty), mask=known)


@triton.jit
def _max_pool_gradient(
    x, z, dz, dx, elements, height, width, channels: tl.constexpr, tile: tl.constexpr
):
    """Give the gradient of each square to the first pixel that has its maximum."""
    at = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    known = at < elements
    corner = _corner(at, height, width, channels)
    best = tl.load(z + at, mask=known, other=0.0).to(tl.float32)
    slope = tl.load(dz + at, mask=known, other=0.0)
    given = at < 0
    for i in tl.static_range(4):
        place = corner + ((i // 2) * width + i % 2) * channels
        value = tl.load(x + place, mask=known, other=0.0).to(tl.float32)
        takes = ((value == best) | (value != value)) & (given == 0)
        tl.store(dx + place, tl.where(takes, slope, 0.0), mask=known)
        given = given | takes


@triton.jit
def _product(
    a, b, bias, y, m_size, n_size, k_size, a_lane, b_lane, bias_lane, y_lane, a_row, a_column,
    b_row, b_column, tile_m: tl.constexpr, tile_n: tl.constexpr, tile_k: tl.constexpr,
    adds: tl.constexpr, dot: tl.constexpr,
):  # fmt: skip
    """Write a tile of a b + bias of one lane, with a [M, L], b [L, N] and y [M, N]."""
    lane = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * tile_m + tl.arange(0, tile_m)
    n = tl.program_id(1) * tile_n + tl.arange(0, tile_n)
    a += lane * a_lane
    b += lane * b_lane
    total = tl.zeros((tile_m, tile_n), tl.float32)
    for start in range(0, k_size, tile_k):
        k = start + tl.arange(0, tile_k)
        known = (m[:, None] < m_size) & (k[None, :] < k_size)
        left = tl.load(a + m[:, None] * a_row + k[None, :] * a_column, mask=known, other=0.0)
        known = (k[:, None] < k_size) & (n[None, :] < n_size)
        right = tl.load(b + k[:, None] * b_row + n[None, :] * b_column, mask=known, other=0.0)
        total = tl.dot(left.to(tl.float32), right.to(tl.float32), total, input_precision=dot)
    if adds:
        added = tl.load(bias + lane * bias_lane + n, mask=n < n_size, other=0.0)
        total += added.to(tl.float32)[None, :]
    known = (m[:, None] < m_size) & (n[None, :] < n_size)
    out = y + lane * y_lane + m[:, None] * n_size + n[None, :]
    tl.store(out, total.to(y.dtype.element_ty), mask=known)


@triton.jit
def _column_sums(x, y, rows, columns, tile_m: tl.constexpr, tile_n: tl.constexpr):
    """Add the rows of one lane's x [rows, columns]."""
    lane = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * tile_n + tl.arange(0, tile_n)
    total = tl.zeros((tile_n,), tl.float32)
    for start in range(0, rows, tile_m):
        m = start + tl.arange(0, tile_m)
        known = (m[:, None] < rows) & (n[None, :] < columns)
        at = (lane * rows + m[:, None]) * columns + n[None, :]
        total += tl.sum(tl.load(x + at, mask=known, other=0.0).to(tl.float32), 0)
    tl.store(y + lane * columns + n, total, mask=n < columns)


@triton.jit
def _cross_entropy(
    logits, labels, losses, slopes, rows, labels_lane, classes: tl.constexpr,
    tile_m: tl.constexpr, tile_c: tl.constexpr,
):  # fmt: skip
    """Write one lane's mean loss, and its gradient of the logits."""
    lane = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, tile_c)
    total = 0.0
    for start in range(0, rows, tile_m):
        m = start + tl.arange(0, tile_m)
        known = (m[:, None] < rows) & (c[None, :] < classes)
        at = (lane * rows + m[:, None]) * classes + c[None, :]
        values = tl.load(logits + at, mask=known, other=float("-inf")).to(tl.float32)
        label = tl.load(labels + lane * labels_lane + m, mask=m < rows, other=0)
        # Rows beyond the last one have logits of zero, so that they are finite.
        values = tl.where(m[:, None] < rows, values, 0.0)
        values -= tl.max(values, 1)[:, None]
        powers = tl.exp(values)
        sums = tl.sum(powers, 1)
        right = c[None, :] == label[:, None]
        own = tl.sum(tl.where(right, values, 0.0), 1)
        total += tl.sum(tl.where(m < rows, tl.log(sums) - own, 0.0), 0)
        slope = (powers / sums[:, None] - tl.where(right, 1.0, 0.0)) / rows
        tl.store(slopes + at, slope, mask=known)
    tl.store(losses + lane, total / rows)


def mean_pool(x: Tensor) -> Tensor:
    """Return the means [K, B, C] over the rows of the images of x [K, B, N, C]."""
    lanes, images, size, channels = x.shape
    y = x.new_empty(lanes, images, channels)
    tile_c = power_of_two(channels)
    _mean_pool[(lanes * images,)](x, y, size, channels, tile_c, max(16, ELEMENTS // tile_c))
    return y


def max_pool2(x: Tensor) -> Tensor:
    """Return the maximum of each square of 2x2 pixels of x [K, B, H, W, C]."""
    lanes, images, height, width, channels = x.shape
    z = x.new_empty(lanes, images, height // 2, width // 2, channels)
    _max_pool[(triton.cdiv(z.numel(), 1024),)](x, z, z.numel(), height, width, channels, 1024)
    return z


def max_pool2_backward(x: Tensor, z: Tensor, dz: Tensor) -> Tensor:
    """Return the gradient of x. The first of equal pixels gets it."""
    height, width, channels = x.shape[2:]
    dx = torch.zeros_like(x) if height % 2 or width % 2 else torch.empty_like(x)
    _max_pool_gradient[(triton.cdiv(z.numel(), 1024),)](
        x, z, dz, dx, z.numel(), height, width, channels, 1024
    )
    return dx


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None, dtype: torch.dtype, dot: str) -> Tensor:
    """Return a [K, M, L] times b [K, L, N], plus bias [K, N]."""
    lanes, rows, length = a.shape
    columns = b.shape[2]
    y = a.new_empty(lanes, rows, columns, dtype=dtype)
    tile_m, tile_n = min(64, power_of_two(rows)), min(64, power_of_two(columns))
    added = y if bias is None else bias
    _product[triton.cdiv(rows, tile_m), triton.cdiv(columns, tile_n), lanes](
        a, b, added, y, rows, columns, length, a.stride(0), b.stride(0), added.stride(0),
        y.stride(0), a.stride(1), a.stride(2), b.stride(1), b.stride(2), tile_m, tile_n, 32,
        bias is not None, precision(dot),
    )  # fmt: skip
    return y


def linear(x: Tensor, w: Tensor, bias: Tensor | None, *, dot: str) -> Tensor:
    """Return x [K, B, F] times the transpose of w [K, O, F], plus bias [K, O]."""
    return _multiply(x, w.transpose(1, 2), bias, x.dtype, dot)


def linear_backward(x: Tensor, w: Tensor, dy: Tensor, *, dot: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, of w and of the bias."""
    lanes, rows, columns = dy.shape
    dx = _multiply(dy, w, None, x.dtype, dot)
    dw = _multiply(dy.transpose(1, 2), x, None, torch.float32, dot)
    db = dy.new_empty(lanes, columns, dtype=torch.float32)
    tile = min(64, power_of_two(columns))
    _column_sums[triton.cdiv(columns, tile), lanes](dy.contiguous(), db, rows, columns, 16, tile)
    return dx, dw, db


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean losses [K], and their gradients, of logits [K, B, O], labels [K, B]."""
    lanes, rows, classes = logits.shape
    losses = logits.new_empty(lanes, dtype=torch.float32)
    slopes = logits.new_empty(logits.shape, dtype=torch.float32)
    _cross_entropy[(lanes,)](
        logits, labels, losses, slopes, rows, labels.stride(0), classes, 16, power_of_two(classes)
    )
    return losses, slopes

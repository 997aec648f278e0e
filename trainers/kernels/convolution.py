"""Convolutions of K lanes, as products of gathered pixels and weights.

x is [K, B, H, W, Ci], w [K, Co, k, k, Ci] and y [K, B, OH, OW, Co]. The inner axis of a product is
the taps and the channels of a tap. Pixels outside the image are zeros.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainers.kernels.tiles import check_size, inner, power_of_two, precision

PIXELS = 128
"""Pixels of a tile of the output."""

SUMMED_PIXELS = 32
"""Pixels of a tile of the sum in a weight's gradient.

With 64, kernels for sm_90 spill registers.
"""

SHARE = 2560
"""Pixels that a share of a weight's gradient has at least."""

MOST_SHARES = 16
"""Shares of a weight's gradient, at most. They are added in ascending order."""


@triton.jit
def _convolve(
    x, w, y, pixels, x_lane, w_lane, y_lane, height, width, out_height, out_width,
    ci: tl.constexpr, co: tl.constexpr, taps: tl.constexpr, stride: tl.constexpr,
    pad: tl.constexpr, back: tl.constexpr, tile_m: tl.constexpr, tile_n: tl.constexpr,
    tile_k: tl.constexpr, dot: tl.constexpr,
):  # fmt: skip
    """Compute a tile [pixels, co] of one lane's output.

    With `back`, x is the gradient of a convolution's output, and y that of its input: co is then
    its number of input channels, and ci that of its output channels.
    """
    lane = tl.program_id(2).to(tl.int64)
    x += lane * x_lane
    w += lane * w_lane
    y += lane * y_lane
    m = tl.program_id(0) * tile_m + tl.arange(0, tile_m)
    n = tl.program_id(1) * tile_n + tl.arange(0, tile_n)
    image = m // (out_height * out_width)
    row = m // out_width % out_height
    column = m % out_width
    length: tl.constexpr = taps * taps * ci
    total = tl.zeros((tile_m, tile_n), tl.float32)
    for start in range(0, length, tile_k):
        r = start + tl.arange(0, tile_k)
        channel = r % ci
        tap = r // ci
        down = tap // taps
        across = tap % taps
        if back:
            top = row[:, None] + pad - down[None, :]
            left = column[:, None] + pad - across[None, :]
            at_row = top // stride
            at_column = left // stride
            inside = (top >= 0) & (left >= 0) & (top % stride == 0) & (left % stride == 0)
            inside = inside & (at_row < height) & (at_column < width)
        else:
            at_row = row[:, None] * stride + down[None, :] - pad
            at_column = column[:, None] * stride + across[None, :] - pad
            inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        inside = inside & (m[:, None] < pixels) & (r[None, :] < length)
        place = ((image[:, None] * height + at_row) * width + at_column) * ci + channel[None, :]
        values = tl.load(x + place, mask=inside, other=0.0)
        known = (r[:, None] < length) & (n[None, :] < co)
        if back:
            place_w = (channel[:, None] * (taps * taps) + tap[:, None]) * co + n[None, :]
        else:
            place_w = n[None, :] * length + r[:, None]
        weights = tl.load(w + place_w, mask=known, other=0.0)
        total = tl.dot(values, weights, total, input_precision=dot)
    known = (m[:, None] < pixels) & (n[None, :] < co)
    tl.store(y + m[:, None] * co + n[None, :], total.to(y.dtype.element_ty), mask=known)


@triton.jit
def _weight_shares(
    x, dy, shares, pixels, x_lane, dy_lane, height, width, out_height, out_width,
    count: tl.constexpr, ci: tl.constexpr, co: tl.constexpr, taps: tl.constexpr,
    stride: tl.constexpr, pad: tl.constexpr, tile_o: tl.constexpr, tile_r: tl.constexpr,
    tile_m: tl.constexpr, dot: tl.constexpr,
):  # fmt: skip
    """Compute a tile [co, taps and channels] of a share of one lane's gradient.

    A share is the sum over a range of pixels.
    """
    lane = tl.program_id(2).to(tl.int64)
    share = tl.program_id(1)
    x += lane * x_lane
    dy += lane * dy_lane
    length: tl.constexpr = taps * taps * ci
    across_r: tl.constexpr = (length + tile_r - 1) // tile_r
    r = tl.program_id(0) % across_r * tile_r + tl.arange(0, tile_r)
    o = tl.program_id(0) // across_r * tile_o + tl.arange(0, tile_o)
    channel = r % ci
    tap = r // ci
    down = tap // taps
    across = tap % taps
    total = tl.zeros((tile_o, tile_r), tl.float32)
    each = tl.cdiv(tl.cdiv(pixels, count), tile_m) * tile_m
    for start in range(share * each, tl.minimum((share + 1) * each, pixels), tile_m):
        m = start + tl.arange(0, tile_m)
        image = m // (out_height * out_width)
        row = m // out_width % out_height
        column = m % out_width
        at_row = row[:, None] * stride + down[None, :] - pad
        at_column = column[:, None] * stride + across[None, :] - pad
        inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        inside = inside & (m[:, None] < pixels) & (r[None, :] < length)
        place = ((image[:, None] * height + at_row) * width + at_column) * ci + channel[None, :]
        values = tl.load(x + place, mask=inside, other=0.0)
        known = (m[None, :] < pixels) & (o[:, None] < co)
        slopes = tl.load(dy + m[None, :] * co + o[:, None], mask=known, other=0.0)
        total = tl.dot(slopes, values, total, input_precision=dot)
    out = shares + ((lane * count + share) * co + o[:, None]) * length + r[None, :]
    tl.store(out, total, mask=(o[:, None] < co) & (r[None, :] < length))


@triton.jit
def _fold(shares, total, size, count: tl.constexpr, tile: tl.constexpr):
    """Add the shares of one lane in ascending order."""
    lane = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * tile + tl.arange(0, tile)
    known = at < size
    folded = tl.zeros((tile,), tl.float32)
    for share in range(count):
        folded += tl.load(shares + (lane * count + share) * size + at, mask=known, other=0.0)
    tl.store(total + lane * size + at, folded, mask=known)


def conv(x: Tensor, w: Tensor, stride: int, pad: int, *, dot: str) -> Tensor:
    """Convolve x [K, B, H, W, Ci] with w [K, Co, k, k, Ci]: [K, B, OH, OW, Co]."""
    height, width = ((size + 2 * pad - w.shape[2]) // stride + 1 for size in x.shape[2:4])
    y = x.new_empty(*x.shape[:2], height, width, w.shape[1])
    _launch(inner(x), inner(w, like=x), y, stride, pad, dot, back=False)
    return y


def conv_input_gradient(
    dy: Tensor, w: Tensor, stride: int, pad: int, size: tuple[int, int], *, dot: str
) -> Tensor:
    """Return the gradient [K, B, H, W, Ci] of x, from dy [K, B, OH, OW, Co], with size = (H, W)."""
    dx = dy.new_empty(*dy.shape[:2], *size, w.shape[4])
    _launch(inner(dy), inner(w, like=dy), dx, stride, pad, dot, back=True)
    return dx


def _launch(
    x: Tensor, w: Tensor, y: Tensor, stride: int, pad: int, dot: str, *, back: bool
) -> None:
    lanes, images, height, width, ci = x.shape
    out_height, out_width, co = y.shape[2:]
    pixels = images * out_height * out_width
    check_size(pixels * co)
    tile_n, tile_k = min(64, power_of_two(co)), min(32, power_of_two(ci))
    grid = (triton.cdiv(pixels, PIXELS), triton.cdiv(co, tile_n), lanes)
    _convolve[grid](
        x, w, y, pixels, x.stride(0), w.stride(0), y.stride(0), height, width, out_height,
        out_width, ci, co, w.shape[2], stride, pad, back, PIXELS, tile_n, tile_k, precision(dot),
    )  # fmt: skip


def conv_weight_gradient(
    x: Tensor, dy: Tensor, taps: int, stride: int, pad: int, *, dot: str
) -> Tensor:
    """Return the gradient [K, Co, k, k, Ci] of w in float32, with taps = k."""
    x, dy = inner(x), inner(dy, like=x)
    lanes, images, height, width, ci = x.shape
    out_height, out_width, co = dy.shape[2:]
    pixels, length = images * out_height * out_width, taps * taps * ci
    count = max(1, min(MOST_SHARES, pixels // SHARE))
    tile_o, tile_r = min(64, power_of_two(co)), min(128, power_of_two(length))
    shares = x.new_empty(lanes, count, co, length, dtype=torch.float32)
    grid = (triton.cdiv(length, tile_r) * triton.cdiv(co, tile_o), count, lanes)
    _weight_shares[grid](
        x, dy, shares, pixels, x.stride(0), dy.stride(0), height, width, out_height, out_width,
        count, ci, co, taps, stride, pad, tile_o, tile_r, SUMMED_PIXELS,
        precision(dot),
    )  # fmt: skip
    dw = x.new_empty(lanes, co, taps, taps, ci, dtype=torch.float32)
    _fold[triton.cdiv(co * length, 1024), lanes](shares, dw, co * length, count, 1024)
    return dw

"""Normalization of K lanes, with a shortcut's sum and ReLU in the same pass.

BN sees a lane's activations as rows [N, C], N = B*H*W. GN sees each image as rows [N, C], N = H*W.
Statistics are joined from tiles by Chan's formula, and sums are folded, in ascending order. They
have float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainers.kernels.tiles import STRIDES, WINDOWS, check_size, power_of_two

ELEMENTS = 4096
"""Elements of a tile. With 8192, kernels for sm_90 spill registers."""

MOST_PARTS = 64
"""Parts of a lane's rows, at most. Each has a program of its own."""


@triton.jit
def _known(rows, last, c, channels: tl.constexpr):
    return (rows[:, None] < last) & (c[None, :] < channels)


@triton.jit
def _joined(mean, m2, n, tile_mean, tile_m2, tile_n):
    """Join two sets of values: means, sums of squared deviations, and counts."""
    apart = tile_mean - mean
    total = n + tile_n
    return (
        mean + apart * (tile_n / total),
        m2 + tile_m2 + apart * apart * (n * tile_n / total),
        total,
    )


@triton.jit
def _moments(x, first, last, c, channels: tl.constexpr, tile_c: tl.constexpr, tile_m: tl.constexpr):
    """Return mean and sum of squared deviations, by channel, of the rows from first to last."""
    mean = tl.zeros((tile_c,), tl.float32)
    m2 = tl.zeros((tile_c,), tl.float32)
    n = 0.0
    for start in range(first, last, tile_m):
        rows = start + tl.arange(0, tile_m)
        known = _known(rows, last, c, channels)
        values = tl.load(x + rows[:, None] * channels + c[None, :], mask=known, other=0.0)
        values = values.to(tl.float32)
        count = tl.minimum(last - start, tile_m).to(tl.float32)
        tile_mean = tl.sum(values, 0) / count
        apart = tl.where(known, values - tile_mean[None, :], 0.0)
        mean, m2, n = _joined(mean, m2, n, tile_mean, tl.sum(apart * apart, 0), count)
    return mean, m2


@triton.jit
def _slope(z, dz, at, known, relu: tl.constexpr):
    """Return the gradient before ReLU. As in torch, NaN passes it on."""
    g = tl.load(dz + at, mask=known, other=0.0).to(tl.float32)
    if relu:
        g = tl.where(tl.load(z + at, mask=known, other=0.0).to(tl.float32) <= 0, 0.0, g)
    return g


@triton.jit
def _slope_sums(
    x, z, dz, mean, rstd, first, last, c, channels: tl.constexpr, tile_c: tl.constexpr,
    tile_m: tl.constexpr, relu: tl.constexpr,
):  # fmt: skip
    """Return the sums over rows, by channel, of the gradient g and of g (x - mean) rstd."""
    total = tl.zeros((tile_c,), tl.float32)
    weighted = tl.zeros((tile_c,), tl.float32)
    for start in range(first, last, tile_m):
        rows = start + tl.arange(0, tile_m)
        known = _known(rows, last, c, channels)
        at = rows[:, None] * channels + c[None, :]
        g = _slope(z, dz, at, known, relu)
        values = tl.load(x + at, mask=known, other=0.0).to(tl.float32)
        unit = (values - mean[None, :]) * rstd[None, :]
        total += tl.sum(g, 0)
        weighted += tl.sum(g * unit, 0)
    return total, weighted


@triton.jit
def _finish(
    x, shortcut, z, scale, shift, first, last, c, channels: tl.constexpr, tile_m: tl.constexpr,
    adds: tl.constexpr, relu: tl.constexpr,
):  # fmt: skip
    """Write relu(scale x + shift + shortcut) for the rows from first to last."""
    for start in range(first, last, tile_m):
        rows = start + tl.arange(0, tile_m)
        known = _known(rows, last, c, channels)
        at = rows[:, None] * channels + c[None, :]
        values = tl.load(x + at, mask=known, other=0.0).to(tl.float32)
        values = values * scale[None, :] + shift[None, :]
        if adds:
            values += tl.load(shortcut + at, mask=known, other=0.0).to(tl.float32)
        if relu:
            # A maximum would turn NaN into zero, and hide that the lane diverges.
            values = tl.where(values < 0, 0.0, values)
        tl.store(z + at, values.to(z.dtype.element_ty), mask=known)


@triton.jit
def _batch_moments(
    x, parts, size, each, channels: tl.constexpr, tile_c: tl.constexpr, tile_m: tl.constexpr,
    count: tl.constexpr,
):  # fmt: skip
    """Write the moments of one part of a lane's rows."""
    lane = tl.program_id(1).to(tl.int64)
    part = tl.program_id(0)
    c = tl.arange(0, tile_c)
    first = part * each
    last = tl.minimum(first + each, size)
    x += lane * size * channels
    mean, m2 = _moments(x, first, last, c, channels, tile_c, tile_m)
    out = parts + (lane * count + part) * 2 * channels + c
    tl.store(out, mean, mask=c < channels)
    tl.store(out + channels, m2, mask=c < channels)


@triton.jit
def _batch_apply(
    x, parts, gamma, beta, running_mean, running_var, active, shortcut, z, saved, size, each,
    gamma_lane, beta_lane, mean_lane, var_lane, momentum, eps, channels: tl.constexpr,
    tile_c: tl.constexpr, tile_m: tl.constexpr, count: tl.constexpr, frozen: tl.constexpr,
    adds: tl.constexpr, relu: tl.constexpr,
):  # fmt: skip
    """Normalize one part of a lane's rows. The first part also writes the statistics."""
    lane = tl.program_id(1).to(tl.int64)
    part = tl.program_id(0)
    c = tl.arange(0, tile_c)
    known = c < channels
    first = part * each
    last = tl.minimum(first + each, size)
    running_mean += lane * mean_lane + c
    running_var += lane * var_lane + c
    if frozen:
        mean = tl.load(running_mean, mask=known, other=0.0)
        var = tl.load(running_var, mask=known, other=1.0)
    else:
        mean = tl.zeros((tile_c,), tl.float32)
        m2 = tl.zeros((tile_c,), tl.float32)
        n = 0.0
        for i in range(count):
            at = parts + (lane * count + i) * 2 * channels + c
            part_mean = tl.load(at, mask=known, other=0.0)
            part_m2 = tl.load(at + channels, mask=known, other=0.0)
            part_n = tl.minimum(size - i * each, each).to(tl.float32)
            mean, m2, n = _joined(mean, m2, n, part_mean, part_m2, part_n)
        var = m2 / size
    rstd = 1.0 / tl.sqrt(var + eps)
    if part == 0:
        out = saved + lane * 2 * channels + c
        tl.store(out, mean, mask=known)
        tl.store(out + channels, rstd, mask=known)
        if not frozen:
            on = tl.load(active + lane)
            old = tl.load(running_mean, mask=known, other=0.0)
            new = (1 - momentum) * old + momentum * mean
            tl.store(running_mean, tl.where(on, new, old), mask=known)
            old = tl.load(running_var, mask=known, other=0.0)
            new = (1 - momentum) * old + momentum * (var * (size / (size - 1.0)))
            tl.store(running_var, tl.where(on, new, old), mask=known)
    scale = tl.load(gamma + lane * gamma_lane + c, mask=known, other=0.0) * rstd
    shift = tl.load(beta + lane * beta_lane + c, mask=known, other=0.0) - mean * scale
    base = lane * size * channels
    _finish(
        x + base, shortcut + base, z + base, scale, shift, first, last, c, channels, tile_m, adds,
        relu,
    )  # fmt: skip


@triton.jit
def _batch_slope_sums(
    x, z, dz, saved, parts, size, each, channels: tl.constexpr, tile_c: tl.constexpr,
    tile_m: tl.constexpr, count: tl.constexpr, relu: tl.constexpr,
):  # fmt: skip
    """Write the sums of the gradient over one part of a lane's rows."""
    lane = tl.program_id(1).to(tl.int64)
    part = tl.program_id(0)
    c = tl.arange(0, tile_c)
    known = c < channels
    mean = tl.load(saved + lane * 2 * channels + c, mask=known, other=0.0)
    rstd = tl.load(saved + lane * 2 * channels + channels + c, mask=known, other=0.0)
    first = part * each
    base = lane * size * channels
    total, weighted = _slope_sums(
        x + base, z + base, dz + base, mean, rstd, first, tl.minimum(first + each, size), c,
        channels, tile_c, tile_m, relu,
    )  # fmt: skip
    out = parts + (lane * count + part) * 2 * channels + c
    tl.store(out, total, mask=known)
    tl.store(out + channels, weighted, mask=known)


@triton.jit
def _batch_gradient(
    x, z, dz, saved, parts, gamma, dgamma, dbeta, dx, dshortcut, size, each, gamma_lane,
    channels: tl.constexpr, tile_c: tl.constexpr, tile_m: tl.constexpr, count: tl.constexpr,
    frozen: tl.constexpr, adds: tl.constexpr, relu: tl.constexpr,
):  # fmt: skip
    """Write the gradients of one part of a lane's rows. The first part also writes the sums."""
    lane = tl.program_id(1).to(tl.int64)
    part = tl.program_id(0)
    c = tl.arange(0, tile_c)
    known_c = c < channels
    total = tl.zeros((tile_c,), tl.float32)
    weighted = tl.zeros((tile_c,), tl.float32)
    for i in range(count):
        at = parts + (lane * count + i) * 2 * channels + c
        total += tl.load(at, mask=known_c, other=0.0)
        weighted += tl.load(at + channels, mask=known_c, other=0.0)
    if part == 0:
        tl.store(dbeta + lane * channels + c, total, mask=known_c)
        tl.store(dgamma + lane * channels + c, weighted, mask=known_c)
    mean = tl.load(saved + lane * 2 * channels + c, mask=known_c, other=0.0)
    rstd = tl.load(saved + lane * 2 * channels + channels + c, mask=known_c, other=0.0)
    scale = tl.load(gamma + lane * gamma_lane + c, mask=known_c, other=0.0) * rstd
    first = part * each
    last = tl.minimum(first + each, size)
    base = lane * size * channels
    for start in range(first, last, tile_m):
        rows = start + tl.arange(0, tile_m)
        known = _known(rows, last, c, channels)
        at = base + rows[:, None] * channels + c[None, :]
        g = _slope(z, dz, at, known, relu)
        if adds:
            tl.store(dshortcut + at, g.to(dx.dtype.element_ty), mask=known)
        if not frozen:
            values = tl.load(x + at, mask=known, other=0.0).to(tl.float32)
            unit = (values - mean[None, :]) * rstd[None, :]
            g = g - (total / size)[None, :] - unit * (weighted / size)[None, :]
        tl.store(dx + at, (scale[None, :] * g).to(dx.dtype.element_ty), mask=known)


def _parts(rows: int, channels: int) -> tuple[int, int, int, int]:
    """Return channels and rows of a tile, the number of parts, and the rows of a part.

    Raises:
        ValueError: a lane is too large.

    """
    check_size(rows * channels)
    tile_c = power_of_two(channels)
    tile_m = max(16, ELEMENTS // tile_c)
    tiles = triton.cdiv(rows, tile_m)
    each = triton.cdiv(tiles, min(tiles, MOST_PARTS)) * tile_m
    return tile_c, tile_m, triton.cdiv(rows, each), each


def normalize(
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

    Also return the mean and the reciprocal deviation [K, 2, C]. The running statistics of the
    active lanes are updated in place, unless they are frozen.

    Raises:
        ValueError: N is 1, and the statistics are not frozen.

    """
    lanes, size, channels = x.shape
    if size == 1 and not frozen:
        raise ValueError("BN in training needs two values or more per channel, and has one")
    tile_c, tile_m, count, each = _parts(size, channels)
    parts = x.new_empty(lanes, count, 2, channels, dtype=torch.float32)
    saved = x.new_empty(lanes, 2, channels, dtype=torch.float32)
    z = torch.empty_like(x)
    if not frozen:
        _batch_moments[count, lanes](x, parts, size, each, channels, tile_c, tile_m, count)
    _batch_apply[count, lanes](
        x, parts, gamma, beta, running_mean, running_var, active, x if shortcut is None else
        shortcut, z, saved, size, each, gamma.stride(0), beta.stride(0), running_mean.stride(0),
        running_var.stride(0), momentum, eps, channels, tile_c, tile_m, count, frozen,
        shortcut is not None, relu,
    )  # fmt: skip
    return z, saved


def normalize_backward(
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
    lanes, size, channels = x.shape
    tile_c, tile_m, count, each = _parts(size, channels)
    parts = x.new_empty(lanes, count, 2, channels, dtype=torch.float32)
    dgamma, dbeta = (x.new_empty(lanes, channels, dtype=torch.float32) for _ in range(2))
    dx = torch.empty_like(x)
    dshortcut = torch.empty_like(x) if shortcut else None
    _batch_slope_sums[count, lanes](
        x, z, dz, saved, parts, size, each, channels, tile_c, tile_m, count, relu
    )
    _batch_gradient[count, lanes](
        x, z, dz, saved, parts, gamma, dgamma, dbeta, dx, dx if dshortcut is None else dshortcut,
        size, each, gamma.stride(0), channels, tile_c, tile_m, count, frozen, shortcut, relu,
    )  # fmt: skip
    return dx, dshortcut, dgamma, dbeta


@triton.jit
def _image_moments(
    x, moments, size, channels: tl.constexpr, tile_c: tl.constexpr, tile_m: tl.constexpr
):
    """Write mean and sum of squared deviations of one image, by channel."""
    image = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, tile_c)
    x += image * size * channels
    mean, m2 = _moments(x, 0, size, c, channels, tile_c, tile_m)
    out = moments + image * 2 * channels + c
    tl.store(out, mean, mask=c < channels)
    tl.store(out + channels, m2, mask=c < channels)


@triton.jit
def _group_moments(
    moments, saved, size, eps, channels: tl.constexpr, groups: tl.constexpr, tile: tl.constexpr
):
    """Write mean and reciprocal deviation of one group of channels of one image."""
    image = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    width: tl.constexpr = channels // groups
    i = tl.arange(0, tile)
    known = i < width
    at = moments + image * 2 * channels + group * width + i
    means = tl.load(at, mask=known, other=0.0)
    m2 = tl.load(at + channels, mask=known, other=0.0)
    mean = tl.sum(means, 0) / width
    apart = tl.where(known, means - mean, 0.0)
    var = (tl.sum(m2, 0) / size + tl.sum(apart * apart, 0)) / width
    out = saved + image * 2 * groups + group
    tl.store(out, mean)
    tl.store(out + groups, 1.0 / tl.sqrt(var + eps))


@triton.jit
def _group_apply(
    x, saved, gamma, beta, shortcut, z, size, images, gamma_lane, beta_lane,
    channels: tl.constexpr, groups: tl.constexpr, tile_c: tl.constexpr, tile_m: tl.constexpr,
    adds: tl.constexpr, relu: tl.constexpr,
):  # fmt: skip
    """Normalize one image."""
    image = tl.program_id(0).to(tl.int64)
    lane = image // images
    c = tl.arange(0, tile_c)
    known = c < channels
    of = saved + image * 2 * groups + c // (channels // groups)
    mean = tl.load(of, mask=known, other=0.0)
    rstd = tl.load(of + groups, mask=known, other=0.0)
    scale = tl.load(gamma + lane * gamma_lane + c, mask=known, other=0.0) * rstd
    shift = tl.load(beta + lane * beta_lane + c, mask=known, other=0.0) - mean * scale
    base = image * size * channels
    _finish(
        x + base, shortcut + base, z + base, scale, shift, 0, size, c, channels, tile_m, adds, relu
    )


@triton.jit
def _image_slope_sums(
    x, z, dz, saved, sums, size, channels: tl.constexpr, groups: tl.constexpr,
    tile_c: tl.constexpr, tile_m: tl.constexpr, relu: tl.constexpr,
):  # fmt: skip
    """Write the sums of the gradient over the pixels of one image, by channel."""
    image = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, tile_c)
    known = c < channels
    of = saved + image * 2 * groups + c // (channels // groups)
    mean = tl.load(of, mask=known, other=0.0)
    rstd = tl.load(of + groups, mask=known, other=0.0)
    base = image * size * channels
    total, weighted = _slope_sums(
        x + base, z + base, dz + base, mean, rstd, 0, size, c, channels, tile_c, tile_m, relu
    )
    out = sums + image * 2 * channels + c
    tl.store(out, total, mask=known)
    tl.store(out + channels, weighted, mask=known)


@triton.jit(do_not_specialize=STRIDES, do_not_specialize_on_alignment=WINDOWS)
def _group_slopes(
    sums, gamma, slopes, size, images, gamma_lane, channels: tl.constexpr, groups: tl.constexpr,
    tile: tl.constexpr,
):  # fmt: skip
    """Write the means of gamma g and of gamma g (x - mean) rstd of one group of one image."""
    image = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    lane = image // images
    width: tl.constexpr = channels // groups
    i = tl.arange(0, tile)
    known = i < width
    scale = tl.load(gamma + lane * gamma_lane + group * width + i, mask=known, other=0.0)
    at = sums + image * 2 * channels + group * width + i
    count = width * size
    out = slopes + image * 2 * groups + group
    tl.store(out, tl.sum(scale * tl.load(at, mask=known, other=0.0), 0) / count)
    weighted = tl.load(at + channels, mask=known, other=0.0)
    tl.store(out + groups, tl.sum(scale * weighted, 0) / count)


@triton.jit
def _group_gradient(
    x, z, dz, saved, slopes, gamma, dx, dshortcut, size, images, gamma_lane,
    channels: tl.constexpr, groups: tl.constexpr, tile_c: tl.constexpr, tile_m: tl.constexpr,
    adds: tl.constexpr, relu: tl.constexpr,
):  # fmt: skip
    """Write the gradients of one image."""
    image = tl.program_id(0).to(tl.int64)
    lane = image // images
    c = tl.arange(0, tile_c)
    known_c = c < channels
    group = image * 2 * groups + c // (channels // groups)
    mean = tl.load(saved + group, mask=known_c, other=0.0)
    rstd = tl.load(saved + group + groups, mask=known_c, other=0.0)
    flat = tl.load(slopes + group, mask=known_c, other=0.0)
    steep = tl.load(slopes + group + groups, mask=known_c, other=0.0)
    scale = tl.load(gamma + lane * gamma_lane + c, mask=known_c, other=0.0)
    base = image * size * channels
    for start in range(0, size, tile_m):
        rows = start + tl.arange(0, tile_m)
        known = _known(rows, size, c, channels)
        at = base + rows[:, None] * channels + c[None, :]
        g = _slope(z, dz, at, known, relu)
        if adds:
            tl.store(dshortcut + at, g.to(dx.dtype.element_ty), mask=known)
        values = tl.load(x + at, mask=known, other=0.0).to(tl.float32)
        unit = (values - mean[None, :]) * rstd[None, :]
        slope = g * scale[None, :] - flat[None, :] - unit * steep[None, :]
        tl.store(dx + at, (rstd[None, :] * slope).to(dx.dtype.element_ty), mask=known)


@triton.jit
def _fold_rows(
    sums, dgamma, dbeta, count, channels: tl.constexpr, tile_c: tl.constexpr, pairs: tl.constexpr
):
    """Add a lane's sums of `count` parts in ascending order: pairs of them, or the first alone."""
    lane = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, tile_c)
    known = c < channels
    step: tl.constexpr = 2 * channels if pairs else channels
    total = tl.zeros((tile_c,), tl.float32)
    weighted = tl.zeros((tile_c,), tl.float32)
    for i in range(count):
        at = sums + (lane * count + i) * step + c
        total += tl.load(at, mask=known, other=0.0)
        if pairs:
            weighted += tl.load(at + channels, mask=known, other=0.0)
    tl.store(dbeta + lane * channels + c, total, mask=known)
    if pairs:
        tl.store(dgamma + lane * channels + c, weighted, mask=known)


def group_normalize(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    shortcut: Tensor | None,
    *,
    groups: int,
    relu: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Apply GN to the images of x [K, B, N, C], a shortcut's sum and ReLU.

    Also return the mean and the reciprocal deviation of each group [K, B, 2, groups].
    """
    lanes, images, size, channels = x.shape
    tile_c, tile_m, _, _ = _parts(size, channels)
    moments = x.new_empty(lanes, images, 2, channels, dtype=torch.float32)
    saved = x.new_empty(lanes, images, 2, groups, dtype=torch.float32)
    z, count = torch.empty_like(x), lanes * images
    tile = power_of_two(channels // groups)
    _image_moments[(count,)](x, moments, size, channels, tile_c, tile_m)
    _group_moments[count, groups](moments, saved, size, eps, channels, groups, tile)
    _group_apply[(count,)](
        x, saved, gamma, beta, x if shortcut is None else shortcut, z, size, images,
        gamma.stride(0), beta.stride(0), channels, groups, tile_c, tile_m, shortcut is not None,
        relu,
    )  # fmt: skip
    return z, saved


def group_normalize_backward(
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
    lanes, images, size, channels = x.shape
    tile_c, tile_m, _, _ = _parts(size, channels)
    sums = x.new_empty(lanes, images, 2, channels, dtype=torch.float32)
    slopes = torch.empty_like(saved)
    dgamma, dbeta = (x.new_empty(lanes, channels, dtype=torch.float32) for _ in range(2))
    dx, count = torch.empty_like(x), lanes * images
    dshortcut = torch.empty_like(x) if shortcut else None
    tile = power_of_two(channels // groups)
    _image_slope_sums[(count,)](x, z, dz, saved, sums, size, channels, groups, tile_c, tile_m, relu)
    _group_slopes[count, groups](
        sums, gamma, slopes, size, images, gamma.stride(0), channels, groups, tile
    )
    _group_gradient[(count,)](
        x, z, dz, saved, slopes, gamma, dx, dx if dshortcut is None else dshortcut, size, images,
        gamma.stride(0), channels, groups, tile_c, tile_m, shortcut, relu,
    )  # fmt: skip
    _fold_rows[(lanes,)](sums, dgamma, dbeta, images, channels, tile_c, True)
    return dx, dshortcut, dgamma, dbeta


@triton.jit
def _shift_apply(
    x, beta, shortcut, z, size, each, beta_lane, channels: tl.constexpr, tile_c: tl.constexpr,
    tile_m: tl.constexpr, adds: tl.constexpr, relu: tl.constexpr,
):  # fmt: skip
    """Shift one part of a lane's rows."""
    lane = tl.program_id(1).to(tl.int64)
    c = tl.arange(0, tile_c)
    first = tl.program_id(0) * each
    last = tl.minimum(first + each, size)
    shift = tl.load(beta + lane * beta_lane + c, mask=c < channels, other=0.0)
    base = lane * size * channels
    _finish(
        x + base, shortcut + base, z + base, tl.full((tile_c,), 1.0, tl.float32), shift, first,
        last, c, channels, tile_m, adds, relu,
    )  # fmt: skip


@triton.jit
def _shift_gradient(
    z, dz, dx, parts, size, each, channels: tl.constexpr, tile_c: tl.constexpr,
    tile_m: tl.constexpr, count: tl.constexpr, relu: tl.constexpr,
):  # fmt: skip
    """Write the gradient of one part of a lane's rows, and its sum by channel."""
    lane = tl.program_id(1).to(tl.int64)
    part = tl.program_id(0)
    c = tl.arange(0, tile_c)
    first = part * each
    last = tl.minimum(first + each, size)
    base = lane * size * channels
    total = tl.zeros((tile_c,), tl.float32)
    for start in range(first, last, tile_m):
        rows = start + tl.arange(0, tile_m)
        known = _known(rows, last, c, channels)
        at = base + rows[:, None] * channels + c[None, :]
        g = _slope(z, dz, at, known, relu)
        tl.store(dx + at, g.to(dx.dtype.element_ty), mask=known)
        total += tl.sum(g, 0)
    tl.store(parts + (lane * count + part) * channels + c, total, mask=c < channels)


def shift(x: Tensor, beta: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
    """Add beta [K, C] to the rows of x [K, N, C], then a shortcut, and apply ReLU."""
    lanes, size, channels = x.shape
    tile_c, tile_m, count, each = _parts(size, channels)
    z = torch.empty_like(x)
    _shift_apply[count, lanes](
        x, beta, x if shortcut is None else shortcut, z, size, each, beta.stride(0), channels,
        tile_c, tile_m, shortcut is not None, relu,
    )  # fmt: skip
    return z


def shift_backward(z: Tensor, dz: Tensor, *, relu: bool) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, which is also the shortcut's, and of beta."""
    lanes, size, channels = z.shape
    tile_c, tile_m, count, each = _parts(size, channels)
    parts = z.new_empty(lanes, count, channels, dtype=torch.float32)
    dbeta = z.new_empty(lanes, channels, dtype=torch.float32)
    dx = torch.empty_like(z)
    _shift_gradient[count, lanes](
        z, dz, dx, parts, size, each, channels, tile_c, tile_m, count, relu
    )
    _fold_rows[(lanes,)](parts, dbeta, dbeta, count, channels, tile_c, False)
    return dx, dbeta

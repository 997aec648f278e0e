"""The kernels of lanes in plain torch: a slow, obvious twin with the same interface."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trainers.lane_operations import Batched, Lr
from trainers.normalizers import standardize as standardized


def _nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def conv(x: Tensor, w: Tensor, stride: int, pad: int, *, dot: str) -> Tensor:
    lanes = zip(x, w, strict=True)
    each = [functional.conv2d(_nchw(a), _nchw(b), None, stride, pad) for a, b in lanes]
    return torch.stack([y.permute(0, 2, 3, 1) for y in each])


def conv_input_gradient(
    dy: Tensor, w: Tensor, stride: int, pad: int, size: tuple[int, int], *, dot: str
) -> Tensor:
    x = dy.new_zeros(*dy.shape[:2], *size, w.shape[4]).requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(conv(x, w.detach(), stride, pad, dot=dot), x, dy)[0]


def conv_weight_gradient(
    x: Tensor, dy: Tensor, taps: int, stride: int, pad: int, *, dot: str
) -> Tensor:
    w = x.new_zeros(len(x), dy.shape[4], taps, taps, x.shape[4]).requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(conv(x.detach(), w, stride, pad, dot=dot), w, dy)[0]


def _finish(y: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
    y = y if shortcut is None else y + shortcut
    return y.relu() if relu else y


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
    mean, var = running_mean, running_var
    if not frozen:
        n = x.shape[1]
        var, mean = torch.var_mean(x, 1, correction=0)
        for kept, new in ((running_mean, mean), (running_var, var * (n / (n - 1)))):
            mixed = (1 - momentum) * kept + momentum * new
            kept.copy_(torch.where(active[:, None], mixed, kept))
    saved = torch.stack([mean, torch.rsqrt(var + eps)], 1)
    y = (x - saved[:, :1]) * saved[:, 1:] * gamma[:, None] + beta[:, None]
    return _finish(y, shortcut, relu).to(x.dtype), saved


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
    g = torch.where(z <= 0, 0, dz) if relu else dz
    unit = (x - saved[:, :1]) * saved[:, 1:]
    dgamma, dbeta = (g * unit).sum(1), g.sum(1)
    n = x.shape[1]
    inner = g if frozen else g - dbeta[:, None] / n - unit * dgamma[:, None] / n
    dx = gamma[:, None] * saved[:, 1:] * inner
    return dx.to(x.dtype), g if shortcut else None, dgamma, dbeta


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
    split = x.unflatten(3, (groups, -1))
    var, mean = torch.var_mean(split, (2, 4), correction=0, keepdim=True)
    saved = torch.stack([mean, torch.rsqrt(var + eps)])
    unit = ((split - saved[0]) * saved[1]).flatten(3)
    y = unit * gamma[:, None, None] + beta[:, None, None]
    return _finish(y, shortcut, relu).to(x.dtype), saved


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
    g = torch.where(z <= 0, 0, dz) if relu else dz
    unit = (x.unflatten(3, (groups, -1)) - saved[0]) * saved[1]
    inner = (g * gamma[:, None, None]).unflatten(3, (groups, -1))
    mean = inner.mean((2, 4), keepdim=True)
    slope = (inner * unit).mean((2, 4), keepdim=True)
    dx = (saved[1] * (inner - mean - unit * slope)).flatten(3)
    return dx.to(x.dtype), g if shortcut else None, (g * unit.flatten(3)).sum((1, 2)), g.sum((1, 2))


def shift(x: Tensor, beta: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
    return _finish(x + beta[:, None], shortcut, relu).to(x.dtype)


def shift_backward(z: Tensor, dz: Tensor, *, relu: bool) -> tuple[Tensor, Tensor]:
    g = torch.where(z <= 0, 0, dz) if relu else dz
    return g, g.sum(1)


def standardize(w: Tensor, gain: Tensor) -> Tensor:
    return standardized(w[..., None, None], gain[..., None, None, None])[..., 0, 0]


def standardize_backward(w: Tensor, gain: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in (w, gain)]
        dw, dgain = torch.autograd.grad(standardize(*inputs), inputs, dy)
    return dw, dgain


def weight_norm(v: Tensor, g: Tensor) -> Tensor:
    return v * (g[..., None] / torch.linalg.vector_norm(v, dim=2, keepdim=True))


def weight_norm_backward(v: Tensor, g: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in (v, g)]
        dv, dg = torch.autograd.grad(weight_norm(*inputs), inputs, dy)
    return dv, dg


def clip_rows(weight: Tensor, gradient: Tensor, bound: float) -> None:
    size = torch.linalg.vector_norm(weight, dim=2, keepdim=True).clamp(min=1e-3)
    slope = torch.linalg.vector_norm(gradient, dim=2, keepdim=True).clamp(min=1e-6)
    gradient.mul_((bound * size / slope).clamp(max=1.0))


def mean_pool(x: Tensor) -> Tensor:
    return x.mean(2)


def max_pool2(x: Tensor) -> Tensor:
    pooled = functional.max_pool2d(_nchw(x.flatten(0, 1)), 2)
    return pooled.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


def max_pool2_backward(x: Tensor, z: Tensor, dz: Tensor) -> Tensor:
    with torch.enable_grad():
        pixels = x.detach().requires_grad_()
        return torch.autograd.grad(max_pool2(pixels), pixels, dz)[0]


def linear(x: Tensor, w: Tensor, bias: Tensor | None, *, dot: str) -> Tensor:
    y = x @ w.transpose(1, 2)
    return y if bias is None else y + bias[:, None]


def linear_backward(x: Tensor, w: Tensor, dy: Tensor, *, dot: str) -> tuple[Tensor, Tensor, Tensor]:
    return dy @ w, dy.transpose(1, 2) @ x, dy.sum(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    target = labels[..., None] == torch.arange(logits.shape[2])
    losses = -torch.log_softmax(logits, 2).gather(2, labels[..., None]).mean((1, 2))
    return losses, (logits.softmax(2) - target.to(logits.dtype)) / labels.shape[1]


def clip(gradient: Tensor, bound: float) -> None:
    Batched().clip(gradient, [], bound)


def descend(
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
    Batched().descend(
        values, gradient, velocity, active, lr,
        decay=decay, decayed=decayed, momentum=momentum, trained=trained,
    )  # fmt: skip

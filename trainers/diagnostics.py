"""Diagnostics: three measures of how clients differ in a round, each without a unit.

x_m are the cohort's models after their local steps, w_m = n_m / N their weights in the average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

EPS = 1e-5
"""BN's own: a channel without variance divides by no less."""


def statistics_mismatch(
    clients: Sequence[Mapping[str, Tensor]], weights: Sequence[float]
) -> dict[str, float]:
    """Return the distance of the clients' running statistics from their average, for each BN layer.

    With the averages mu = sum w_m mu_m and s^2 = sum w_m s_m^2 of each channel, it is sqrt(mean
    over channels of sum w_m ((mu_m - mu)^2 + (s_m - s)^2) / (s^2 + eps)). This is the root mean
    square Wasserstein distance of the clients' Gaussians from the average's, in its standard
    deviations. `clients` hold each model's tensors by name.
    """
    layers = [n.removesuffix(".running_mean") for n in clients[0] if n.endswith(".running_mean")]
    w = torch.tensor(weights, dtype=torch.float64)[:, None]
    mismatch = {}
    for layer in layers:
        means, variances = (
            torch.stack([c[f"{layer}.{kind}"].double().cpu() for c in clients])
            for kind in ("running_mean", "running_var")
        )
        mean, variance = (w * means).sum(0), (w * variances).sum(0)
        apart = (means - mean).square() + (variances.sqrt() - variance.sqrt()).square()
        mismatch[layer] = math.sqrt(((w * apart).sum(0) / (variance + EPS)).mean())
    return mismatch


def client_drift(parameters: Sequence[Tensor], weights: Sequence[float]) -> float:
    """sqrt(sum w_m |x_m - x|^2) / |x| over the parameters [P], x their average."""
    stacked = torch.stack([p.double() for p in parameters])
    w = torch.tensor(weights, dtype=torch.float64, device=stacked.device)[:, None]
    mean = (w * stacked).sum(0)
    spread = (w * (stacked - mean).square()).sum()
    return float((spread.sqrt() / mean.norm()).item())


def gradient_deviation(averaged: Tensor, centralized: Tensor) -> float | None:
    """Return |g - g_c| / |g_c|, or None if g_c = 0.

    g = sum w_m g_m is the cohort's averaged local gradient. g_c is the gradient of sum w_m (mean
    loss of client m's batch) on all their batches in one pass. Both are computed at the round's
    start, on the clients' first batches. They are equal, except for rounding, if no layer mixes
    samples. BN's batch statistics make them differ. FedTAN takes its joint statistics in both, so
    that they are equal.
    """
    size = float(centralized.norm())
    return float((averaged - centralized).norm()) / size if size > 0 else None

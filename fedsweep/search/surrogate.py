"""The surrogate of the accuracy over T*: a Gaussian process on a few noisy means.

The kernel is Matern 5/2 over x = T*/T, with a constant mean. The noise of each point is known from
its seeds. The length scale and the variance are not fitted, because with four points the most
likely pair would be overconfident. They are averaged over a small grid, weighted by their marginal
likelihood. (Rasmussen and Williams 2006, chapters 2 and 5.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtr

Vector = NDArray[np.float64]

LENGTH_SCALES = (0.08, 0.15, 0.25, 0.4, 0.7, 1.2)
"""The grid of length scales, as fractions of T."""
SCALES = (0.5, 1.0, 2.0, 4.0)
"""The grid of the process's standard deviation, in units of that of the observed means."""
JITTER = 1e-10
"""Added to the noise variance, so that the Cholesky factorization succeeds."""


def matern52(one: Vector, other: Vector, length: float) -> Vector:
    """Return the correlations [n, m] of points x [n] and [m]."""
    scaled = np.sqrt(5.0) * np.abs(one[:, None] - other[None, :]) / length
    correlations: Vector = (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
    return correlations


@dataclass(frozen=True)
class Belief:
    """A mixture of posteriors over points [m]: weights [k], means [k, m], covariances [k, m, m]."""

    weights: Vector
    means: Vector
    covariances: Vector

    @property
    def mean(self) -> Vector:
        """The mixture's mean [m]."""
        mean: Vector = self.weights @ self.means
        return mean

    @property
    def std(self) -> Vector:
        """The mixture's standard deviation [m]."""
        second = self.weights @ (self._variances() + self.means**2)
        deviation: Vector = np.sqrt(np.maximum(second - self.mean**2, 0))
        return deviation

    def gain(self, best: float) -> Vector:
        """Return the expected improvement [m] on a value: E[max(0, f - best)]."""
        deviations = np.sqrt(self._variances())
        above = self.means - best
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(deviations > 0, above / deviations, 0.0)
        gains = above * ndtr(z) + deviations * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        gains = np.where(deviations > 0, gains, np.maximum(above, 0))
        expected: Vector = self.weights @ gains
        return expected

    def chance_of_any(self, level: float, count: int) -> float:
        """Return the probability that a point lies above a value. `count` functions are sampled."""
        if not self.means.shape[1]:
            return 0.0
        above = self.sample(count, seed=0).max(axis=1) > level
        return float(above.mean())

    def sample(self, count: int, seed: int) -> Vector:
        """Sample functions [count, m] from the mixture."""
        random = np.random.RandomState(seed)
        component = random.choice(len(self.weights), size=count, p=self.weights)
        normal = random.standard_normal((count, self.means.shape[1]))
        functions = np.empty_like(normal)
        for k in np.unique(component):
            values, vectors = np.linalg.eigh(self.covariances[k])
            root = vectors * np.sqrt(np.maximum(values, 0))
            functions[component == k] = self.means[k] + normal[component == k] @ root.T
        return functions

    def _variances(self) -> Vector:
        variances: Vector = np.maximum(np.diagonal(self.covariances, axis1=1, axis2=2), 0)
        return variances


def believe(
    x: Sequence[float], y: Sequence[float], noise: Sequence[float], at: Sequence[float]
) -> Belief:
    """Return the posterior at points [m].

    It follows from means `y` at `x` with variances `noise`, all [n] with n >= 1.
    """
    observed, values, points = (np.asarray(v, dtype=np.float64) for v in (x, y, at))
    center = float(values.mean())
    spread = float(values.std()) or float(np.sqrt(np.max(noise))) or 0.01
    known = np.diag(np.asarray(noise, dtype=np.float64) + JITTER)
    logs, means, covariances = [], [], []
    for length in LENGTH_SCALES:
        for scale in SCALES:
            variance = (scale * spread) ** 2
            factor = cho_factor(variance * matern52(observed, observed, length) + known, lower=True)
            across = variance * matern52(points, observed, length)
            weighted = cho_solve(factor, values - center)
            fit = -0.5 * (values - center) @ weighted - np.log(np.diag(factor[0])).sum()
            logs.append(fit)
            means.append(center + across @ weighted)
            prior = variance * matern52(points, points, length)
            covariances.append(prior - across @ cho_solve(factor, across.T))
    weights = np.exp(np.array(logs) - max(logs))
    return Belief(weights / weights.sum(), np.array(means), np.array(covariances))

"""The surrogate, compared with scikit-learn and with sampled functions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from fedsweep.search import surrogate
from fedsweep.search.surrogate import Belief, believe

X = [0.0, 0.3, 0.5, 1.0]
Y = [0.2, 0.5, 0.55, 0.4]
NOISE = [1e-4, 2e-4, 1e-4, 4e-4]
AT = [0.0, 0.1, 0.3, 0.77, 1.0]


def one(length: float = 0.25, scale: float = 2.0) -> Belief:
    """Return a belief of a single length scale and a single deviation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogate, "LENGTH_SCALES", (length,))
        patch.setattr(surrogate, "SCALES", (scale,))
        return believe(X, Y, NOISE, AT)


def test_a_posterior_equals_that_of_scikit_learn() -> None:
    """Mean and covariance are equal at given length and variance, except for rounding."""
    variance = (2.0 * np.std(Y)) ** 2
    kernel = ConstantKernel(variance, "fixed") * Matern(0.25, "fixed", nu=2.5)
    reference = GaussianProcessRegressor(kernel, alpha=np.array(NOISE) + surrogate.JITTER)
    reference.fit(np.array(X)[:, None], np.array(Y) - np.mean(Y))
    mean, covariance = reference.predict(np.array(AT)[:, None], return_cov=True)
    belief = one()
    np.testing.assert_allclose(belief.mean, mean + np.mean(Y), rtol=1e-9)
    np.testing.assert_allclose(belief.covariances[0], covariance, rtol=1e-6, atol=1e-12)


def test_length_and_scale_are_weighted_by_their_marginal_likelihood() -> None:
    """The likelihood of each pair of the grid is that of scikit-learn."""
    belief, logs = believe(X, Y, NOISE, AT), []
    for length in surrogate.LENGTH_SCALES:
        for scale in surrogate.SCALES:
            kernel = ConstantKernel((scale * np.std(Y)) ** 2, "fixed")
            kernel = kernel * Matern(length, "fixed", nu=2.5)
            reference = GaussianProcessRegressor(kernel, alpha=np.array(NOISE) + surrogate.JITTER)
            reference.fit(np.array(X)[:, None], np.array(Y) - np.mean(Y))
            logs.append(reference.log_marginal_likelihood_value_)
    expected = np.exp(np.array(logs) - max(logs))
    np.testing.assert_allclose(belief.weights, expected / expected.sum(), rtol=1e-6)


def test_gains_are_those_of_sampled_functions() -> None:
    """The closed form is within four standard errors of 200,000 sampled functions."""
    belief, best = believe(X, Y, NOISE, AT), 0.5
    functions = belief.sample(200_000, seed=0)
    above = np.maximum(functions - best, 0)
    error = above.std(axis=0) / len(functions) ** 0.5
    assert (np.abs(belief.gain(best) - above.mean(axis=0)) <= 4 * error + 1e-9).all()
    error = functions.std(axis=0) / len(functions) ** 0.5
    assert (np.abs(functions.mean(axis=0) - belief.mean) <= 4 * error).all()
    np.testing.assert_allclose(functions.std(axis=0), belief.std, rtol=0.02)


def test_the_chance_of_any_point_is_that_of_the_largest() -> None:
    """The chance of one point is the closed form. That of several is at least the largest."""
    belief, level, count = believe(X, Y, NOISE, AT), 0.5, 200_000
    each = []
    for place in range(len(AT)):
        one = Belief(
            belief.weights,
            belief.means[:, [place]],
            belief.covariances[:, place : place + 1, place : place + 1],
        )
        deviations = np.sqrt(one.covariances[:, 0, 0])
        exact = float(belief.weights @ ndtr((one.means[:, 0] - level) / deviations))
        error = (exact * (1 - exact) / count) ** 0.5
        assert abs(one.chance_of_any(level, count) - exact) <= 4 * error + 1e-4
        each.append(exact)
    chance = belief.chance_of_any(level, count)
    assert max(each) - 0.01 <= chance <= min(1.0, sum(each)) + 0.01
    assert believe(X, Y, NOISE, []).chance_of_any(level, count) == 0


def test_without_uncertainty_the_gain_is_the_difference() -> None:
    """A deviation of zero does not divide."""
    belief = Belief(np.ones(1), np.array([[0.3, 0.7]]), np.zeros((1, 2, 2)))
    np.testing.assert_allclose(belief.gain(0.5), [0.0, 0.2])
    assert [belief.chance_of_any(level, 100) for level in (0.5, 0.8)] == [1.0, 0.0]


def test_one_point_is_enough() -> None:
    """Its value is the mean everywhere, with less certainty far from it."""
    belief = believe([0.5], [0.6], [1e-4], [0.5, 0.6, 1.0])
    np.testing.assert_allclose(belief.mean, 0.6)
    assert belief.std[0] < belief.std[1] < belief.std[2]

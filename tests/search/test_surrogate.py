"""The surrogate, against scikit-learn's and against draws."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from fedsweep.search import surrogate
from fedsweep.search.surrogate import Belief, believe

X = [0.0, 0.3, 0.5, 1.0]
Y = [0.2, 0.5, 0.55, 0.4]
NOISE = [1e-4, 2e-4, 1e-4, 4e-4]
AT = [0.0, 0.1, 0.3, 0.77, 1.0]


def one(length: float = 0.25, scale: float = 2.0) -> Belief:
    """A belief of a single length and scale."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogate, "LENGTH_SCALES", (length,))
        patch.setattr(surrogate, "SCALES", (scale,))
        return believe(X, Y, NOISE, AT)


def test_one_posterior_is_scikit_learn_s() -> None:
    """Mean and covariance at given length and variance, to rounding."""
    variance = (2.0 * np.std(Y)) ** 2
    kernel = ConstantKernel(variance, "fixed") * Matern(0.25, "fixed", nu=2.5)
    theirs = GaussianProcessRegressor(kernel, alpha=np.array(NOISE) + surrogate.JITTER)
    theirs.fit(np.array(X)[:, None], np.array(Y) - np.mean(Y))
    mean, covariance = theirs.predict(np.array(AT)[:, None], return_cov=True)
    ours = one()
    np.testing.assert_allclose(ours.mean, mean + np.mean(Y), rtol=1e-9)
    np.testing.assert_allclose(ours.covariances[0], covariance, rtol=1e-6, atol=1e-12)


def test_lengths_and_scales_are_weighed_by_their_marginal_likelihood() -> None:
    """Scikit-learn's, of each pair of the grid."""
    ours, logs = believe(X, Y, NOISE, AT), []
    for length in surrogate.LENGTH_SCALES:
        for scale in surrogate.SCALES:
            kernel = ConstantKernel((scale * np.std(Y)) ** 2, "fixed")
            kernel = kernel * Matern(length, "fixed", nu=2.5)
            theirs = GaussianProcessRegressor(kernel, alpha=np.array(NOISE) + surrogate.JITTER)
            theirs.fit(np.array(X)[:, None], np.array(Y) - np.mean(Y))
            logs.append(theirs.log_marginal_likelihood_value_)
    wanted = np.exp(np.array(logs) - max(logs))
    np.testing.assert_allclose(ours.weights, wanted / wanted.sum(), rtol=1e-6)


def test_gains_and_chances_are_those_of_draws() -> None:
    """The closed forms of a mixture, within four standard errors of 200,000 draws."""
    belief, best = believe(X, Y, NOISE, AT), 0.5
    drawn = belief.sample(200_000, seed=0)
    above = np.maximum(drawn - best, 0)
    error = above.std(axis=0) / len(drawn) ** 0.5
    assert (np.abs(belief.gain(best) - above.mean(axis=0)) <= 4 * error + 1e-9).all()
    share = (drawn > best).mean(axis=0)
    error = np.sqrt(share * (1 - share) / len(drawn))
    assert (np.abs(belief.chance(best) - share) <= 4 * error + 1e-4).all()
    error = drawn.std(axis=0) / len(drawn) ** 0.5
    assert (np.abs(drawn.mean(axis=0) - belief.mean) <= 4 * error).all()
    np.testing.assert_allclose(drawn.std(axis=0), belief.std, rtol=0.02)


def test_where_nothing_is_uncertain_the_gain_is_the_difference() -> None:
    """Without a division by a deviation of zero."""
    belief = Belief(np.ones(1), np.array([[0.3, 0.7]]), np.zeros((1, 2, 2)))
    np.testing.assert_allclose(belief.gain(0.5), [0.0, 0.2])
    np.testing.assert_allclose(belief.chance(0.5), [0.0, 1.0])


def test_one_point_is_enough() -> None:
    """Its own value is expected everywhere, less surely far from it."""
    belief = believe([0.5], [0.6], [1e-4], [0.5, 0.6, 1.0])
    np.testing.assert_allclose(belief.mean, 0.6)
    assert belief.std[0] < belief.std[1] < belief.std[2]

"""Confidence intervals of differences between groups of runs, over images and training seeds.

The AP of a run varies with the evaluated images, which all runs share, and with the seed of its
training. With the covariance of the runs under resampling of images, the variance of the difference
of two group means is estimated without counting the images that only one seed sees differently
twice:

    variance = variance over images that the seeds share + variance between seeds / seeds

The first part is the mean covariance of two different seeds, the second is measured. A few seeds
give an uncertain variance, so the quantile is that of Student's t with the degrees of freedom of
Satterthwaite (Biometrics Bulletin 1946). With one run in a group, only the images are covered.

Shapes in this module:
    A, B: runs of the baseline and of the group that is compared with it
    N: runs of both, A + B
    R: resamples
    K: categories
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
FEW_IMAGES = 2
"""Number of images up to which the variance of a category comes from its neighbors. A category in a
single image has the same AP in every resample that has this image, whatever it would be in others."""

_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(60)
_MANY_DEGREES = 1e4


@dataclass(frozen=True)
class Interval:
    """Difference of two group means with its 95 % interval.

    Attributes:
        mean: Mean of the compared group minus that of the baseline.
        low: Lower end.
        high: Upper end.
        standard_error: Of the mean.
        degrees_of_freedom: Of Student's t; ``inf`` for the normal distribution.
        p_value: Of the hypothesis that there is no difference, two-sided.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    degrees_of_freedom: float
    p_value: float


def difference_interval(
    first: np.ndarray, second: np.ndarray, covariance: np.ndarray, *, paired: bool
) -> Interval:
    """Compute the interval of the difference of two groups of runs.

    Args:
        first: ``(A,)`` scores of the baseline's runs.
        second: ``(B,)`` scores of the other runs.
        covariance: ``(N, N)`` covariance of the scores over images, the baseline's runs first.
        paired: Whether run i of one group has the seed of run i of the other. Then A = B.
    """
    mean = float(second.mean() - first.mean())
    if min(len(first), len(second)) == 1:
        contrast = np.repeat([-1 / len(first), 1 / len(second)], [len(first), len(second)])
        return _interval(mean, [(float(contrast @ covariance @ contrast), math.inf)])
    seeds = len(first)
    if paired:
        differences = second - first
        contrasts = np.concatenate([-np.eye(seeds), np.eye(seeds)], axis=1)
        images = _mean_off_diagonal(contrasts @ covariance @ contrasts.T)
        parts = [(float(differences.var(ddof=1)) / seeds, seeds - 1)]
    else:
        images = (
            _mean_off_diagonal(covariance[:seeds, :seeds])
            + _mean_off_diagonal(covariance[seeds:, seeds:])
            - 2 * float(covariance[:seeds, seeds:].mean())
        )
        parts = [(float(x.var(ddof=1)) / len(x), len(x) - 1) for x in (first, second)]
    return _interval(mean, [(max(images, 0.0), math.inf), *parts])


def _mean_off_diagonal(matrix: np.ndarray) -> float:
    n = len(matrix)
    return float(matrix.sum() - np.trace(matrix)) / (n * (n - 1))


def _interval(mean: float, parts: Sequence[tuple[float, float]]) -> Interval:
    """Return the interval, given variances and their degrees of freedom."""
    variance = math.fsum(v for v, _ in parts)
    error = math.sqrt(variance)
    if not error:
        return Interval(mean, mean, mean, 0.0, math.inf, float(mean == 0))
    uncertain = math.fsum(v**2 / degrees for v, degrees in parts)
    degrees = variance**2 / uncertain if uncertain else math.inf
    half = error * t_quantile(degrees)
    p_value = t_tail(abs(mean) / error, degrees)
    return Interval(mean, mean - half, mean + half, error, degrees, p_value)


def image_covariance(ap: np.ndarray, resampled: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Estimate the covariance of the mean AP of runs over images.

    The mean is over categories. Its covariance is that of the resamples for categories in more than
    ``FEW_IMAGES`` images. Categories in fewer images are treated as a sample of their own: their
    covariance is that between them, which also contains how they differ and is thus rather too
    large (collapsed strata: Cochran, Sampling Techniques, 1977, section 5A.12).

    Args:
        ap: ``(N, K)`` AP of each run and category, all of them with objects.
        resampled: ``(R, N, K)`` the same in resamples; ``nan`` without objects.
        images: ``(K,)`` number of images with objects of each category.

    Returns:
        ``(N, N)``.
    """
    few = images <= FEW_IMAGES
    if few.sum() < 2:
        few[:] = False
    share = few.mean()
    covariance = np.zeros((len(ap), len(ap)))
    if share < 1:
        means = _mean_of_known(resampled[..., ~few])
        covariance += (1 - share) ** 2 * np.atleast_2d(np.cov(means.T))
    if share:
        covariance += share**2 * np.atleast_2d(np.cov(ap[:, few])) / few.sum()
    return covariance


def _mean_of_known(resampled: np.ndarray) -> np.ndarray:
    """Return the ``(R, N)`` means over categories with objects, of resamples that have any."""
    known = ~np.isnan(resampled[:, 0])
    numbers = known.sum(axis=1)
    some = numbers > 0
    return np.nansum(resampled[some], axis=2) / numbers[some, None]


def t_tail(value: float, degrees: float) -> float:
    """Return the probability that |t| exceeds ``value``, at least 0, of Student's t.

    Args:
        value: The statistic.
        degrees: Degrees of freedom, at least 1; ``inf`` for the normal distribution.
    """
    if degrees > _MANY_DEGREES:
        return 2 * NormalDist().cdf(-value)
    # With t = sqrt(degrees) tan(angle), the density is proportional to cos(angle) ** (degrees - 1).
    angle = math.atan(value / math.sqrt(degrees))
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(math.pi) / 2
    # Behind 40 / sqrt(degrees), nothing is left that a float could hold.
    end = min(math.pi / 2, angle + 40 / math.sqrt(degrees))
    half = (end - angle) / 2
    density = np.cos(angle + half * (1 + _NODES)).clip(min=0) ** (degrees - 1)
    return min(1.0, 2 * math.exp(log_scale) * half * float(_NODE_WEIGHTS @ density))


def t_quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """Return the value that |t| exceeds with probability ``1 - confidence``."""
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, degrees) > 1 - confidence else (low, middle)
    return (low + high) / 2


def benjamini_hochberg(p_values: Sequence[float], rate: float = 1 - CONFIDENCE) -> list[bool]:
    """Return which hypotheses are rejected with a false discovery rate of at most ``rate``.

    Of the rejected hypotheses, at most this share is expected to be true (Benjamini and Hochberg,
    Journal of the Royal Statistical Society B, 1995).
    """
    p = np.asarray(p_values, dtype=float)
    ascending = np.sort(p)
    below = np.flatnonzero(ascending <= rate * np.arange(1, len(p) + 1) / max(1, len(p)))
    return (p <= (ascending[below[-1]] if len(below) else -1.0)).tolist()

"""Confidence intervals of differences between groups of runs, over images and training seeds.

The AP of a run varies with the evaluated images, which all runs share, and with the seed of its
training. The covariance of the runs under resampling of images gives

    variance = variance over images that the seeds share + variance between seeds / seeds

The first part is the mean covariance of two different seeds. It leaves out how single seeds see
single images, which the second part contains: that one is measured between the runs. Few seeds and
few images give an uncertain variance, so the quantile is that of Student's t. That of the sum is
the mean of the quantiles of both parts, weighted by their variances (Cochran, Biometrics 1964). One
quantile with the degrees of freedom of Satterthwaite would be too small for three seeds: in
`benchmarks/interval_coverage.py`, its intervals excluded 0 in up to 8.5 % of the trials in which
nothing differed. With one run in a group, only images are covered.

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
"""Number of images up to which the variance of a category comes from similar ones. A category in a
single image has the same AP in every resample with this image, whatever it would be in others."""

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


@dataclass(frozen=True)
class ResampledRuns:
    """Scores of a group of runs on the images and on resamples of them.

    Attributes:
        ap: ``(A, K)`` AP of each run and category with objects.
        resampled: ``(R, A, K)`` the same in resamples; ``nan`` without objects.
    """

    ap: np.ndarray
    resampled: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """Return the ``(A,)`` means over the categories."""
        return self.ap.mean(axis=1)

    def of(self, categories: np.ndarray) -> ResampledRuns:
        """Return the scores of some categories."""
        return ResampledRuns(self.ap[:, categories], self.resampled[..., categories])


def difference_interval(
    first: ResampledRuns, second: ResampledRuns, images: np.ndarray, *, paired: bool
) -> Interval:
    """Compute the interval of the difference of the mean AP of two groups of runs.

    Args:
        first: A runs of the baseline.
        second: B runs of the other group, in the same resamples.
        images: ``(K,)`` number of images with objects of each category.
        paired: Whether run i of one group has the seed of run i of the other. Then A = B.
    """
    few = images <= FEW_IMAGES
    if few.sum() < 2:
        few = np.zeros_like(few)
    covariance = _image_covariance(first, second, few)
    degrees = _image_degrees(first, second, images, few)
    means = first.means, second.means
    mean = float(means[1].mean() - means[0].mean())
    A, B = map(len, means)
    if min(A, B) == 1:
        contrast = np.repeat([-1 / A, 1 / B], [A, B])
        return _interval(mean, (float(contrast @ covariance @ contrast), degrees), [])
    if paired:
        differences = means[1] - means[0]
        contrasts = np.concatenate([-np.eye(A), np.eye(A)], axis=1)
        shared = _mean_off_diagonal(contrasts @ covariance @ contrasts.T)
        parts = [(float(differences.var(ddof=1)) / A, A - 1)]
    else:
        shared = (
            _mean_off_diagonal(covariance[:A, :A])
            + _mean_off_diagonal(covariance[A:, A:])
            - 2 * float(covariance[:A, A:].mean())
        )
        parts = [(float(x.var(ddof=1)) / len(x), len(x) - 1) for x in means]
    return _interval(mean, (max(shared, 0.0), degrees), parts)


def _mean_off_diagonal(matrix: np.ndarray) -> float:
    n = len(matrix)
    return float(matrix.sum() - np.trace(matrix)) / (n * (n - 1))


def _interval(
    mean: float, images: tuple[float, float], seeds: Sequence[tuple[float, float]]
) -> Interval:
    """Return the interval, given the variances over images and seeds and their degrees of freedom.

    The variances of several groups of seeds are combined as in the test of Welch.
    """
    of_images = max(0.0, images[0])  # rounding may make 0 negative
    of_seeds = math.fsum(v for v, _ in seeds)
    error = math.sqrt(of_images + of_seeds)
    if not error:
        return Interval(mean, mean, mean, 0.0, math.inf, float(mean == 0))
    uncertain = math.fsum(v**2 / degrees for v, degrees in seeds)
    parts = [(of_images, images[1]), (of_seeds, of_seeds**2 / uncertain if uncertain else math.inf)]
    used = [(v, degrees) for v, degrees in parts if v > 0]
    quantile = math.fsum(v * t_quantile(degrees) for v, degrees in used) / (of_images + of_seeds)
    degrees = used[0][1] if len(used) == 1 else _degrees_with(quantile)
    half = error * quantile
    p_value = t_tail(abs(mean) / error, degrees)
    return Interval(mean, mean - half, mean + half, error, degrees, p_value)


def _degrees_with(quantile: float) -> float:
    """Return the degrees of freedom of Student's t with this quantile."""
    if quantile <= t_quantile(_MANY_DEGREES):
        return math.inf
    low, high = 0.0, math.log(_MANY_DEGREES)  # of the logarithm; the quantile falls
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_quantile(math.exp(middle)) > quantile else (low, middle)
    return math.exp(low)


def _image_covariance(first: ResampledRuns, second: ResampledRuns, few: np.ndarray) -> np.ndarray:
    """Estimate the ``(N, N)`` covariance of the mean AP of runs over images.

    It is that of the resamples for categories in more than ``FEW_IMAGES`` images. The ``few`` other
    ones are treated as a sample of their own: their covariance is that between them, which also
    contains how they really differ and is thus rather too large (collapsed strata: Cochran,
    Sampling Techniques, 1977, section 5A.12).
    """
    share = few.mean()
    runs = len(first.ap) + len(second.ap)
    covariance = np.zeros((runs, runs))
    if share < 1:
        means = np.concatenate([_mean_of_known(x.resampled[..., ~few]) for x in (first, second)], 1)
        covariance += (1 - share) ** 2 * np.cov(means.T)
    if share:
        ap = np.concatenate([first.ap[:, few], second.ap[:, few]])
        covariance += share**2 * np.cov(ap) / few.sum()
    return covariance


def _image_degrees(
    first: ResampledRuns, second: ResampledRuns, images: np.ndarray, few: np.ndarray
) -> float:
    """Return the degrees of freedom of the variance over images.

    A category in n images has n - 1. Categories are combined as if they were independent.
    """
    difference = second.resampled[..., ~few].mean(axis=1) - first.resampled[..., ~few].mean(axis=1)
    known = ~np.isnan(difference)
    numbers = known.sum(axis=0).clip(min=1)
    means = np.nansum(difference, axis=0) / numbers
    variances = np.nansum((difference - means) ** 2, axis=0) / numbers
    degrees = (images[~few] - 1).clip(min=1).astype(float)
    if few.any():
        between = (second.ap.mean(axis=0) - first.ap.mean(axis=0))[few].var(ddof=1)
        variances = np.append(variances, few.sum() * between)
        degrees = np.append(degrees, few.sum() - 1)
    uncertain = float((variances**2 / degrees).sum())
    return float(variances.sum()) ** 2 / uncertain if uncertain else math.inf


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
    # Behind 40 / sqrt(degrees), nothing is left that a float could hold.
    half = (min(math.pi / 2, angle + 40 / math.sqrt(degrees)) - angle) / 2
    density = np.cos(angle + half * (1 + _NODES)).clip(min=0) ** (degrees - 1)
    scale = math.exp(_log_scale(degrees)) * math.sqrt(degrees)
    return min(1.0, 2 * scale * half * float(_NODE_WEIGHTS @ density))


def t_quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """Return the value that |t| exceeds with probability ``1 - confidence``."""
    value = NormalDist().inv_cdf((1 + confidence) / 2)
    if degrees > _MANY_DEGREES:
        return value
    for _ in range(100):  # Newton's method rises to the quantile, because the tail is convex
        density = math.exp(_log_scale(degrees) - (degrees + 1) / 2 * math.log1p(value**2 / degrees))
        step = (t_tail(value, degrees) - (1 - confidence)) / (2 * density)
        value += step
        if abs(step) < 1e-12 * value:
            break
    return value


def _log_scale(degrees: float) -> float:
    """Return the logarithm of the density of Student's t at 0."""
    gammas = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    return gammas - math.log(math.pi * degrees) / 2


def benjamini_hochberg(p_values: Sequence[float], rate: float = 1 - CONFIDENCE) -> list[bool]:
    """Return which hypotheses are rejected with a false discovery rate of at most ``rate``.

    Of the rejected hypotheses, at most this share is expected to be true (Benjamini and Hochberg,
    Journal of the Royal Statistical Society B, 1995).
    """
    p = np.asarray(p_values, dtype=float)
    ascending = np.sort(p)
    below = np.flatnonzero(ascending <= rate * np.arange(1, len(p) + 1) / max(1, len(p)))
    return (p <= (ascending[below[-1]] if len(below) else -1.0)).tolist()

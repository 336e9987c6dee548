"""Intervals over images and seeds: closed forms, published examples, and simulation."""

import math

import numpy as np
import pytest

from d2_seesaw.evaluation.analysis.intervals import (
    ResampledRuns,
    benjamini_hochberg,
    difference_interval,
    t_quantile,
    t_tail,
)


def runs(means, deviations, *, categories=1):
    """Return runs whose categories have one mean, and resamples that deviate from it.

    Args:
        means: Score of each run.
        deviations: ``(R, runs)`` added in each resample.
    """
    ap = np.repeat(np.array(means, float)[:, None], categories, axis=1)
    return ResampledRuns(ap, ap + np.asarray(deviations, float)[..., None])


def test_quantiles_of_student_have_their_closed_forms():
    assert t_quantile(1) == pytest.approx(math.tan(0.475 * math.pi))
    assert t_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)))
    assert t_quantile(math.inf) == pytest.approx(1.959963985)
    assert t_quantile(9.9e3) == pytest.approx(1.95996, rel=1e-3)
    for degrees in (1, 1.5, 3, 40, 9e3, math.inf):
        assert t_tail(t_quantile(degrees), degrees) == pytest.approx(0.05)
        assert t_tail(0, degrees) == pytest.approx(1, abs=1e-6)
    assert t_tail(3, 1) == pytest.approx(1 - 2 / math.pi * math.atan(3))


def test_the_example_of_benjamini_and_hochberg_is_reproduced():
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p_values += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    assert benjamini_hochberg(p_values[::-1]) == 11 * [False] + 4 * [True]
    assert benjamini_hochberg([]) == []
    assert benjamini_hochberg([0.04, 0.05]) == [True, True]


def test_without_variance_over_images_few_seeds_give_the_paired_t_interval():
    none = np.zeros((50, 3))
    found = difference_interval(
        runs([10, 12, 14], none), runs([11, 15, 15], none), np.array([30]), paired=True
    )
    error = math.sqrt(np.var([1, 3, 1], ddof=1) / 3)
    assert found.mean == pytest.approx(5 / 3)
    assert found.degrees_of_freedom == pytest.approx(2)
    assert found.high - found.mean == pytest.approx(t_quantile(2) * error)
    assert found.p_value == pytest.approx(t_tail(5 / 3 / error, 2))


def test_without_pairs_it_is_the_interval_of_welch():
    first, second = [10, 12, 14, 13], [11, 20]
    found = difference_interval(
        runs(first, np.zeros((9, 4))), runs(second, np.zeros((9, 2))), np.array([30]), paired=False
    )
    a, b = np.var(first, ddof=1) / 4, np.var(second, ddof=1) / 2
    assert found.standard_error == pytest.approx(math.sqrt(a + b))
    assert found.degrees_of_freedom == pytest.approx((a + b) ** 2 / (a**2 / 3 + b**2))


def test_with_one_seed_the_variance_is_that_of_the_difference_over_images():
    deviations = np.random.default_rng(0).normal(0, 1, (400, 2))
    found = difference_interval(
        runs([1], deviations[:, :1]), runs([5], deviations[:, 1:]), np.array([41]), paired=True
    )
    assert found.standard_error == pytest.approx(np.std(deviations @ [-1, 1], ddof=1))
    assert found.degrees_of_freedom == pytest.approx(40)


def test_images_that_all_seeds_see_alike_are_added_and_others_counted_once():
    rng = np.random.default_rng(0)
    shared, own = rng.normal(0, 2, (20_000, 1)), rng.normal(0, 3, (20_000, 4))
    first = runs([10, 12, 14, 16], np.zeros((20_000, 4)))
    second = runs([13, 11, 18, 15], shared + own)
    between = np.var([3, -1, 4, -1], ddof=1) / 4
    for paired in (True, False):
        found = difference_interval(first, second, np.array([500]), paired=paired)
        expected = 4 + between
        if not paired:
            expected = 4 + (np.var([10, 12, 14, 16], ddof=1) + np.var([13, 11, 18, 15], ddof=1)) / 4
        assert found.standard_error**2 == pytest.approx(expected, rel=0.05)
    # What both methods see alike cancels.
    found = difference_interval(
        runs([10, 12, 14, 16], shared + np.zeros(4)),
        runs([13, 11, 18, 15], shared + np.zeros(4)),
        np.array([500]),
        paired=True,
    )
    assert found.standard_error**2 == pytest.approx(between)


def test_the_quantile_is_the_mean_of_those_of_images_and_seeds_weighted_by_variance():
    rng = np.random.default_rng(0)
    first = runs([10, 12, 14], np.zeros((500, 3)))
    second = runs([13, 11, 18], rng.normal(0, 2, (500, 1)) + np.zeros(3))
    found = difference_interval(first, second, np.array([41]), paired=True)
    of_seeds = np.var([3, -1, 4], ddof=1) / 3
    of_images = found.standard_error**2 - of_seeds
    expected = of_images * t_quantile(40) + of_seeds * t_quantile(2)
    assert found.high - found.mean == pytest.approx(expected / found.standard_error)
    assert t_quantile(found.degrees_of_freedom) == pytest.approx(expected / found.standard_error**2)


def test_categories_in_one_or_two_images_get_the_variance_between_them():
    ap = np.random.default_rng(0).normal(50, 20, (2, 30))
    resampled = np.repeat(ap[None], 100, axis=0)  # a category in one image never changes
    first, second = (ResampledRuns(ap[i : i + 1], resampled[:, i : i + 1]) for i in range(2))
    found = difference_interval(first, second, np.ones(30, int), paired=False)
    differences = ap[1] - ap[0]
    assert found.standard_error == pytest.approx(differences.std(ddof=1) / math.sqrt(30))
    assert found.degrees_of_freedom == pytest.approx(29)


@pytest.mark.parametrize(
    ("seeds", "paired"),
    [(1, True), (3, True), pytest.param(5, True, marks=pytest.mark.slow), (3, False)],
)
def test_where_nothing_differs_five_percent_of_the_intervals_exclude_zero(seeds, paired):
    """A linear model: a score is the mean over images of shared and own terms, plus the seed."""
    rng = np.random.default_rng(seeds)
    images, trials, excluded = 80, 250, 0
    seed_deviation = 0.1 if seeds > 1 else 0.0
    for _ in range(trials):
        values = rng.normal(0, 1, (images, 1)) + rng.normal(0, 0.8, (images, 2 * seeds))
        values[:, seeds:] += rng.normal(0, 0.4, (images, 1))  # how one method sees images
        scores = values.mean(axis=0) + rng.normal(0, seed_deviation, 2 * seeds)
        weights = rng.multinomial(images, np.full(images, 1 / images), 60) / images
        deviations = weights @ values - values.mean(axis=0)
        found = difference_interval(
            runs(scores[:seeds], deviations[:, :seeds]),
            runs(scores[seeds:], deviations[:, seeds:]),
            np.array([images]),
            paired=paired,
        )
        excluded += found.low > 0 or found.high < 0
    # Three binomial standard deviations around 3 to 7 %.
    assert 0.005 < excluded / trials < 0.11

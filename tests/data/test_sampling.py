import itertools
import logging
import math
from collections import Counter

import pytest
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler

from d2_seesaw.data import RandomSampling, RepeatFactorSampling


def image(*categories):
    return {"annotations": [{"category_id": c} for c in categories]}


# f(0) = 6/8, f(1) = 2/8, f(2) = 1/8
DATASET = [image(0), image(0), image(0), image(0), image(0, 1), image(0, 1), image(2), image()]
THRESHOLD = 0.5
FACTORS = [1, 1, 1, 1, math.sqrt(2), math.sqrt(2), 2, 1]


def shown(sampling, epochs_of):
    indices = itertools.islice(iter(sampling.sampler(DATASET, seed=1)), epochs_of)
    return Counter(indices)


def test_random_sampling_shows_every_image_once_an_epoch():
    sampling = RandomSampling(seed=1)
    assert shown(sampling, 3 * len(DATASET)) == dict.fromkeys(range(len(DATASET)), 3)
    assert sampling.images_per_epoch(DATASET) == len(DATASET)


def test_factors_follow_the_papers_formula():
    factors = RepeatFactorSampling(THRESHOLD).repeat_factors(DATASET)
    torch.testing.assert_close(factors, torch.tensor(FACTORS))


def test_stochastic_rounding_shows_images_by_their_factor_in_the_long_run():
    sampling = RepeatFactorSampling(THRESHOLD, seed=1)
    epochs = 400
    per_epoch = sampling.images_per_epoch(DATASET)
    assert per_epoch == pytest.approx(sum(FACTORS))
    counts = shown(sampling, int(epochs * per_epoch))
    for index, factor in enumerate(FACTORS):
        assert counts[index] / epochs == pytest.approx(factor, abs=0.08)


def test_ceil_shows_every_image_a_whole_number_of_times():
    sampling = RepeatFactorSampling(THRESHOLD, rounding="ceil", seed=1)
    expected = {i: math.ceil(f) for i, f in enumerate(FACTORS)}
    assert sampling.images_per_epoch(DATASET) == sum(expected.values())
    assert shown(sampling, sum(expected.values())) == expected


def test_a_category_at_the_threshold_is_not_repeated():
    assert RepeatFactorSampling(0.125).images_per_epoch(DATASET) == len(DATASET)


def test_equal_seeds_give_equal_orders_and_others_do_not():
    def order(seed):
        return list(itertools.islice(iter(RepeatFactorSampling(0.5).sampler(DATASET, seed)), 50))

    assert order(3) == order(3)
    assert order(3) != order(4)


def test_the_log_has_one_line_for_any_number_of_categories(caplog):
    caplog.set_level(logging.INFO)
    RepeatFactorSampling(THRESHOLD).repeat_factors([image(c) for c in range(300)])
    assert len(caplog.records) == 1
    assert "300 images" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, r"threshold must be in \(0, 1\], got 0"),
        ({"threshold": 2}, r"threshold must be in \(0, 1\], got 2"),
        ({"rounding": "floor"}, r"must be one of \('stochastic', 'ceil'\), got 'floor'"),
    ],
)
def test_options_out_of_range_are_reported(options, message):
    with pytest.raises(ValueError, match=message):
        RepeatFactorSampling(**options)


def test_epochs_equal_those_of_detectron2s_sampler():
    factors = 1 + 2 * torch.rand(50)
    sampling = RepeatFactorSampling(THRESHOLD)
    sampling.repeat_factors = lambda dataset: factors
    expected = RepeatFactorTrainingSampler(factors, seed=4)
    pairs = zip(expected, sampling.sampler(DATASET, seed=4), strict=False)
    assert all(a == b for a, b in itertools.islice(pairs, 500))

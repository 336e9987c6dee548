import itertools
import math
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate

from d2_seesaw.data import (
    RepeatFactorSampling,
    SemanticDatasetMapper,
    SemanticRepeatFactorSampling,
    build_train_loader,
)

# Pixels of classes 0 to 3 in each image; the rest is ignored. Class 3 is absent.
PIXELS = [(90, 0, 0, 0), (60, 30, 0, 0), (99, 1, 0, 0), (50, 0, 2, 0), (0, 0, 0, 0), (100, 0, 0, 0)]
C = 4


def formula(threshold, frequency):
    """Compute appendix B.2 of the LVIS paper, one image and one class at a time."""
    factors = []
    for image in PIXELS:
        factor = 1.0
        for c in range(C):
            if image[c] == 0:
                continue
            if frequency == "image":
                f = sum(1 for other in PIXELS if other[c] > 0) / len(PIXELS)
            else:
                f = sum(other[c] for other in PIXELS) / sum(sum(other) for other in PIXELS)
            factor = max(factor, max(1.0, math.sqrt(threshold / f)))
        factors.append(factor)
    return factors


@pytest.fixture
def dataset(tmp_path):
    records = []
    for index, pixels in enumerate(PIXELS):
        labels = np.repeat([*range(C), 255], [*pixels, 100 - sum(pixels)]).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), labels.reshape(10, 10))
        size = {"height": 10, "width": 10}
        path = str(tmp_path / f"{index}.png")  # serves as its own image
        records.append({"file_name": path, "sem_seg_file_name": path, **size})
    return records


@pytest.fixture
def options(tmp_path):
    return {"num_classes": C, "cache_folder": str(tmp_path / "cache")}


@pytest.mark.parametrize("frequency", ["image", "pixel"])
@pytest.mark.parametrize("threshold", [1.0, 0.5, 0.3, 0.05, 0.001])
def test_factors_follow_the_papers_formula(dataset, options, threshold, frequency):
    sampling = SemanticRepeatFactorSampling(threshold, frequency=frequency, **options)
    factors = sampling.repeat_factors(dataset)
    torch.testing.assert_close(factors, torch.tensor(formula(threshold, frequency)))


def test_pixel_and_image_frequencies_repeat_different_images(dataset, options):
    by_image = formula(0.3, "image")
    by_pixel = formula(0.3, "pixel")
    assert by_image[3] == pytest.approx(math.sqrt(0.3 * 6))
    assert by_image[1] == 1.0
    assert by_pixel[1] > 1.5


def test_image_frequency_equals_repeat_factor_sampling_on_visible_classes(dataset, options):
    shown = [
        {"annotations": [{"category_id": c} for c in range(C) if pixels[c]]} for pixels in PIXELS
    ]
    expected = RepeatFactorSampling(0.9).repeat_factors(shown)
    factors = SemanticRepeatFactorSampling(0.9, **options).repeat_factors(dataset)
    torch.testing.assert_close(factors, expected)


def test_rounding_and_order_equal_those_of_repeat_factor_sampling(dataset, options):
    sampling = SemanticRepeatFactorSampling(
        0.5, frequency="pixel", rounding="ceil", seed=3, **options
    )
    expected = {i: math.ceil(f) for i, f in enumerate(formula(0.5, "pixel"))}
    assert sampling.images_per_epoch(dataset) == sum(expected.values())
    indices = itertools.islice(iter(sampling.sampler(dataset, seed=1)), sum(expected.values()))
    assert Counter(indices) == expected


def test_images_without_any_class_are_shown_once(dataset, options):
    factors = SemanticRepeatFactorSampling(1.0, frequency="pixel", **options)
    only_ignored = [dataset[4]]
    assert factors.repeat_factors(only_ignored).tolist() == [1.0]


def test_images_with_every_class_are_shown_once_if_all_are_frequent(dataset, options):
    sampling = SemanticRepeatFactorSampling(0.5, **{**options, "num_classes": 2})
    assert sampling.repeat_factors([dataset[1]]).tolist() == [1.0]


def test_counts_are_cached_in_the_given_folder(dataset, options, tmp_path):
    SemanticRepeatFactorSampling(0.5, **options).repeat_factors(dataset)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_loader_accepts_the_sampling_from_a_config(dataset, options):
    node = LazyCall(build_train_loader)(
        dataset=dataset,
        mapper=LazyCall(SemanticDatasetMapper)(
            is_train=True, augmentations=[], image_format="BGR", num_classes=C
        ),
        sampling=LazyCall(SemanticRepeatFactorSampling)(threshold=0.5, seed=1, **options),
        total_batch_size=2,
        num_workers=0,
    )
    loader = instantiate(node)
    assert loader.images_per_epoch == pytest.approx(sum(formula(0.5, "image")))
    assert len(next(iter(loader))) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threshold": 0}, r"threshold must be in \(0, 1\], got 0"),
        ({"frequency": "object"}, r"must be one of \('image', 'pixel'\), got 'object'"),
        ({"rounding": "floor"}, r"must be one of \('stochastic', 'ceil'\), got 'floor'"),
    ],
)
def test_options_out_of_range_are_reported(wrong, message):
    with pytest.raises(ValueError, match=message):
        SemanticRepeatFactorSampling(**{"threshold": 0.5, "num_classes": C, **wrong})


def test_labels_that_are_not_classes_are_refused(dataset, options):
    sampling = SemanticRepeatFactorSampling(0.5, **{**options, "num_classes": 2})
    with pytest.raises(ValueError, match=r"3\.png contains 2; expected classes in \[0, 1\]"):
        sampling.repeat_factors(dataset)

import numpy as np
import pytest

from d2_seesaw.data.frequency import group_sizes
from d2_seesaw.synthetic.profile import (
    DEMO_PROFILE,
    LVIS_V1_PROFILE,
    LongTailProfile,
    assign_categories,
    flattened_counts,
)


def test_lvis_profile_has_the_official_groups():
    counts = LVIS_V1_PROFILE.image_counts(1203, 100_170)
    assert group_sizes(counts) == {"r": 337, "c": 461, "f": 405}


def test_lvis_profile_follows_the_published_counts():
    # Ranks 1, 101, 201, 301, 601, 1001 and 1203 of detectron2's LVIS_V1_CATEGORY_IMAGE_COUNT, and
    # its sum. On log-log axes the real counts are slightly curved, hence the tolerance.
    counts = LVIS_V1_PROFILE.image_counts(1203, 100_170)
    published = [1977, 1609, 595, 221, 38, 5, 1]
    ratios = counts[[0, 100, 200, 300, 600, 1000, 1202]] / published
    assert ratios[0] == ratios[-1] == 1
    assert (np.abs(np.log(ratios)) < np.log(1.35)).all()
    assert counts.sum() == pytest.approx(360_952, rel=0.05)


def test_fewer_images_shrink_every_count_in_proportion():
    full = LVIS_V1_PROFILE.image_counts(1203, 100_170)
    tenth = LVIS_V1_PROFILE.image_counts(1203, 10_017)
    np.testing.assert_allclose(tenth, np.maximum(full / 10, 1), atol=0.56)


@pytest.mark.parametrize("num_images", [300, 1000, 5000])
def test_demo_profile_keeps_its_groups_at_any_number_of_images(num_images):
    counts = DEMO_PROFILE.image_counts(20, num_images)
    assert group_sizes(counts) == {"r": 4, "c": 7, "f": 9}


@pytest.mark.parametrize("num_categories", [1, 2, 3, 7, 500])
@pytest.mark.parametrize("num_images", [1, 50, 2000])
def test_counts_fall_and_stay_within_the_images(num_categories, num_images):
    counts = DEMO_PROFILE.image_counts(num_categories, num_images)
    assert len(counts) == num_categories
    assert (np.diff(counts) <= 0).all()
    assert 1 <= counts.min() <= counts.max() <= num_images


def test_flattened_counts_lift_the_tail_and_keep_the_order():
    train = DEMO_PROFILE.image_counts(20, 1000)
    val = flattened_counts(train, 160, appearances=370, flatness=0.7, minimum=10)
    assert val.min() >= 10
    assert val.sum() <= 370
    assert (np.diff(val) <= 0).all()
    assert val.max() / val.min() < train.max() / train.min() / 10


def test_flatness_zero_keeps_the_long_tail():
    val = flattened_counts(np.array([1000, 100, 10]), 10_000, 1113, flatness=0.0, minimum=1)
    np.testing.assert_array_equal(val, [1001, 101, 11])


def test_every_category_gets_exactly_its_images():
    counts = np.array([3, 90, 40, 1, 17])
    shown = assign_categories(np.random.default_rng(0), counts, 100, (2, 5))
    assert [sum(c in image for image in shown) for c in range(5)] == counts.tolist()
    assert all(1 <= len(image) <= 5 for image in shown if image)


def test_images_with_too_few_categories_repeat_their_categories():
    shown = assign_categories(np.random.default_rng(0), np.array([10]), 10, (3, 3))
    assert shown == [[0, 0, 0]] * 10


def test_too_many_appearances_are_rejected_with_a_suggestion():
    with pytest.raises(
        ValueError, match=r"10 images of at most 2 objects .* raise objects_per_image"
    ):
        assign_categories(np.random.default_rng(0), np.full(3, 9), 10, (1, 2))


def test_impossible_profiles_are_rejected():
    with pytest.raises(ValueError, match=r"head_share .* got 1\.5"):
        LongTailProfile(rare=1, common=1, frequent=1, head_share=1.5)
    with pytest.raises(ValueError, match="not all 0, got 0, 0 and 0"):
        LongTailProfile(rare=0, common=0, frequent=0, head_share=0.5)

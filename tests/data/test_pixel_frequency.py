import numpy as np
import pytest

from d2_seesaw.data.frequency import check_group_bounds, check_pixel_counts, pixel_frequency_groups


def test_groups_follow_the_share_of_pixels_and_bounds_belong_to_the_upper_group():
    pixels = np.array([500, 100, 99, 10, 9, 0, 282])
    assert pixel_frequency_groups(pixels, (0.01, 0.1)) == list("ffccrrf")


def test_scaling_all_pixels_changes_no_group():
    pixels = np.array([5000, 300, 40, 3])
    bounds = check_group_bounds(None, 4)
    groups = pixel_frequency_groups(pixels, bounds)
    assert groups == list("fcrr")
    assert pixel_frequency_groups(pixels * 1000, bounds) == groups


def test_by_default_an_equal_share_is_frequent_and_less_than_a_tenth_of_it_rare():
    low, high = check_group_bounds(None, 20)
    assert (low, high) == pytest.approx((0.005, 0.05))
    assert set(pixel_frequency_groups(np.full(8, 7), check_group_bounds(None, 8))) == {"f"}


def test_without_any_pixel_every_class_is_rare():
    assert pixel_frequency_groups(np.zeros(3, dtype=np.int64), (0.1, 0.2)) == list("rrr")


def test_given_bounds_are_kept():
    assert check_group_bounds([0.01, 0.2], 5) == (0.01, 0.2)


@pytest.mark.parametrize("bounds", [(0.2, 0.1), (0.0, 0.1), (0.1, 1.0), (0.1,), (1, 10, 100)])
def test_bounds_that_are_not_shares_are_refused(bounds):
    with pytest.raises(ValueError, match="two ascending shares of all pixels"):
        check_group_bounds(bounds, 5)


def test_pixel_counts_may_be_a_list():
    counts = check_pixel_counts([1, 0, 2**40], 3)
    assert counts.dtype == np.int64
    assert counts.tolist() == [1, 0, 2**40]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1, 2], r"one number for each of the 3 classes, got shape \(2,\)"),
        ([[1, 2, 3]], r"got shape \(1, 3\)"),
        ([1, -2, 3], r"numbers of pixels, got \[1, -2, 3\]"),
        ([0, 0, 0], r"numbers of pixels, got \[0, 0, 0\]"),
    ],
)
def test_pixel_counts_that_do_not_fit_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        check_pixel_counts(counts, 3)

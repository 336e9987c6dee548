import itertools
import math

import pytest

from d2_seesaw.report.series import (
    OUTCOME_COLORS,
    OUTCOME_NAMES,
    calibration_means,
    group_title,
    outcome_counts,
    trend,
)
from tests.evaluation.analysis_data import NAN, analysis, calibration, category


def test_the_trend_is_the_mean_of_categories_with_similar_training_images():
    images, values = [4, 5, 20, 25], [10.0, 40.0, 7.0, 8.0]
    rows = [category(i, "c", n) for i, n in enumerate(images)]
    points = trend(rows, values)
    assert [p.mean for p in points] == [25.0, 7.5]
    assert [p.categories for p in points] == [2, 2]
    assert [p.train_images for p in points] == pytest.approx([math.sqrt(20), math.sqrt(500)])


@pytest.mark.parametrize("bound", [10, 100, 1000])
def test_bins_of_the_trend_end_where_groups_end(bound):
    rows = [category(i, "c", n) for i, n in enumerate((bound - 1, bound, bound + 1))]
    assert [p.mean for p in trend(rows, [1.0, 3.0, 9.0])] == [2.0, 9.0]


def test_a_decade_has_four_bins():
    rows = [category(i, "f", n) for i, n in enumerate(range(101, 1001))]
    points = trend(rows, [0.0] * 900)
    ends = [int(100 * 10 ** (k / 4) + 1e-9) for k in range(5)]
    assert [p.categories for p in points] == [b - a for a, b in itertools.pairwise(ends)]


def test_categories_without_images_or_value_are_not_in_the_trend():
    rows = [category(1, "r", 0), category(2, "n/a", None), category(3, "r", 5), category(4, "r", 5)]
    assert trend(rows, [1.0, 1.0, NAN, 3.0]) == [(pytest.approx(5), 3.0, 1)]
    assert trend([], []) == []


def test_outcomes_are_counted_for_present_groups():
    rows = [category(1, "r", 1), category(2, "r", 2), category(3, "f", 900)]
    found = outcome_counts(
        analysis(rows, [(1, 1, 5), (1, 2, 4), (1, 3, 3), (1, None, 2), (3, 1, 1)])
    )
    assert found == {
        "r": {"right": 5, "r": 4, "f": 3, "missed": 2},
        "f": {"right": 0, "r": 1, "f": 0, "missed": 0},
    }
    assert list(found["r"]) == ["right", "r", "f", "missed"]


def test_unknown_groups_have_outcomes_of_their_own():
    rows = [category(1, "n/a", None), category(2, "n/a", None)]
    found = outcome_counts(analysis(rows, [(1, 2, 5)]))
    assert found == {"n/a": {"right": 0, "n/a": 5, "missed": 0}}


def test_every_outcome_and_group_has_a_name_and_a_color_of_its_own():
    assert OUTCOME_NAMES.keys() == OUTCOME_COLORS.keys()
    assert len(set(OUTCOME_NAMES.values())) == len(set(OUTCOME_COLORS.values())) == 6
    assert [group_title(g) for g in ("all", "r", "n/a")] == ["all", "rare", "unknown"]


def test_means_of_a_calibration_weigh_bins_by_their_detections():
    means = calibration_means(calibration("r", (3, 0.2, 0.0), (0, NAN, NAN), (1, 0.6, 1.0)))
    assert means == (4, pytest.approx(0.3), pytest.approx(0.25))


@pytest.mark.parametrize("bins", [[], [(0, NAN, NAN)]])
def test_without_detections_there_are_no_means(bins):
    number, score, precision = calibration_means(calibration("r", *bins))
    assert number == 0
    assert math.isnan(score)
    assert math.isnan(precision)

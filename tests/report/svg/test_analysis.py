import math

import pytest

from d2_seesaw.report import GROUP_COLORS
from d2_seesaw.report.svg.analysis import (
    ap_chart,
    ap_difference_chart,
    outcome_chart,
    reliability_chart,
    reliability_charts,
)
from tests.evaluation.analysis_data import NAN, analysis, calibration, category
from tests.report.svg.drawing import circles, elements, place_of, polylines, texts

ROWS = [
    category(1, "r", 2, 10.0, objects=7),
    category(2, "c", 20, 30.0),
    category(3, "f", 200, 40.0),
    category(4, "f", 300, NAN),
]


def test_categories_lie_at_their_training_images_and_ap():
    svg = ap_chart(analysis(ROWS))
    places = list(circles(svg).values())[:3]
    expected = [64 + 922 * (0.03 + share) / 1.06 for share in (0, 0.5, 1)]
    assert [x for x, _ in places] == pytest.approx(expected, abs=0.1)
    ticks = [place_of(svg, written)[1] - 4 for written in ("30", "40")]
    assert [y for _, y in places[1:]] == pytest.approx(ticks, abs=0.1)


def test_a_tooltip_says_what_the_category_is():
    assert "class1: AP 10.0, 2 training images, 7 objects here" in circles(ap_chart(analysis(ROWS)))


def test_points_have_the_color_of_their_group_and_the_legend_has_the_groups_there_are():
    svg = ap_chart(analysis(ROWS[:2]))
    fills = [c.get("fill") for c in elements(svg, "circle") if c.get("fill-opacity")]
    assert fills == [GROUP_COLORS["r"], GROUP_COLORS["c"]]
    assert {"rare", "common"} <= set(texts(svg))
    assert "frequent" not in texts(svg)


def test_the_mean_along_the_tail_goes_through_its_points():
    rows = [category(1, "r", 2, 10.0), category(2, "r", 2, 30.0), category(3, "f", 200, 60.0)]
    svg = ap_chart(analysis(rows))
    places = circles(svg)
    first = places["mean of 2 categories of about 2 training images: 20.0"]
    top, bottom = (
        places[f"class{i}: AP {ap}, 2 training images, 20 objects here"]
        for i, ap in ((2, "30.0"), (1, "10.0"))
    )
    assert first == pytest.approx((top[0], (top[1] + bottom[1]) / 2), abs=0.2)
    assert polylines(svg)[0][0][0] == first


def test_unknown_training_images_lie_beside_the_axis():
    svg = ap_chart(analysis([category(1, "n/a", None, 10.0), category(2, "n/a", None, 20.0)]))
    assert "class1: AP 10.0, n/a training images, 20 objects here" in circles(svg)
    assert texts(svg).count("unknown") == 2  # of the legend, and of the axis
    assert not polylines(svg)


@pytest.mark.parametrize("rows", [[], [category(1, "r", 1)], [category(1, "n/a", None)]])
def test_a_chart_without_scores_says_so(rows):
    assert "no category has a score" in texts(ap_chart(analysis(rows)))


def test_differences_are_signed_and_may_lie_below_zero():
    svg = ap_difference_chart(ROWS[:2], [-5.0, 5.0])
    places = circles(svg)
    low = places["class1: difference of AP -5.0, 2 training images, 7 objects here"][1]
    high = places["class2: difference of AP +5.0, 20 training images, 20 objects here"][1]
    assert (low + high) / 2 == pytest.approx(place_of(svg, "0")[1] - 4, abs=0.1)
    assert low > high


def test_outcomes_of_one_run_are_a_bar_for_each_group():
    svg = outcome_chart({"": analysis(ROWS, [(1, 1, 1), (1, 3, 2), (1, None, 1), (2, 2, 8)])})
    titles = [t.text for t in elements(svg, "title")]
    assert titles == [
        "rare: named right, 1 of 4 (25.0%)",
        "rare: taken for another frequent category, 2 of 4 (50.0%)",
        "rare: missed, 1 of 4 (25.0%)",
        "common: named right, 8 of 8 (100.0%)",
    ]
    assert {"rare", "common", "frequent", "4 objects", "0 objects", "no objects"} <= set(texts(svg))


def test_outcomes_of_two_runs_stand_together_by_group():
    runs = {"<a>": analysis(ROWS, [(1, 1, 1)]), "b": analysis(ROWS, [(1, None, 1)])}
    svg = outcome_chart(runs)
    heights = {n: place_of(svg, n)[1] for n in ("rare, <a>", "rare, b", "common, <a>")}
    assert list(heights.values()) == sorted(heights.values())
    rare, other, common = heights.values()
    assert common - other > other - rare


def test_a_reliability_diagram_has_a_line_for_each_group_with_gaps():
    found = analysis(
        ROWS,
        calibrations=[
            calibration("all", (10, 0.1, 0.2), (5, 0.5, 0.5), (5, 0.9, 0.6)),
            calibration("r", (10, 0.1, 0.0), (0, NAN, NAN), (2, 0.9, 0.5)),
        ],
    )
    svg = reliability_chart(found)
    assert [len(points) for points, _ in polylines(svg)] == [3, 1, 1]
    assert polylines(svg)[1][1]["stroke"] == GROUP_COLORS["r"]
    x, y = circles(svg)["rare: 2 detections of mean score 0.90, 50% of them right"]
    assert x == pytest.approx(64 + 0.9 * 442, abs=0.1)
    assert y == pytest.approx(404 - 0.5 * 372, abs=0.1)


def test_reliability_of_two_runs_is_a_chart_for_each_group():
    runs = {
        "a": analysis(ROWS, calibrations=[calibration("all", (1, 0.5, 0.5)), calibration("r")]),
        "b": analysis(ROWS, calibrations=[calibration("all", (2, 0.4, 0.6))]),
    }
    charts = reliability_charts(runs)
    assert charts.keys() == {"all", "r"}
    first, second = polylines(charts["all"])
    assert "stroke-dasharray" in first[1]
    assert "stroke-dasharray" not in second[1]
    assert "no detections" in texts(charts["r"])


def test_nan_is_never_drawn():
    calibrations = [calibration("r", (0, NAN, NAN))]
    for svg in (
        ap_chart(analysis(ROWS)),
        ap_difference_chart(ROWS, [math.nan] * 4),
        reliability_chart(analysis(ROWS, calibrations=calibrations)),
    ):
        assert "nan" not in svg

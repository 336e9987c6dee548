import math
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from d2_seesaw.evaluation.analysis import Confusion, ConfusionMatrix
from d2_seesaw.evaluation.analysis.comparison import compare
from d2_seesaw.report import write_figures
from d2_seesaw.report.confusion_figure import confusion_heat_map
from d2_seesaw.report.figures import (
    ap_by_training_images,
    ap_difference_by_training_images,
    outcomes,
    reliability,
    reliability_of_runs,
)
from d2_seesaw.report.series import GROUP_COLORS
from tests.evaluation.analysis_data import NAN, analysis, calibration, category, lvis_like
from tests.report.charts import drawn, legend, points, svg, texts, titles

ROWS = [
    category(1, "r", 5, 10.0, objects=7),
    category(2, "f", 500, 40.0),
    category(3, "f", 500, NAN),
]
CONFUSIONS = [(1, 1, 1), (1, 2, 3), (2, 2, 5), (2, None, 5)]
CURVES = [
    calibration("all", (5, 0.1, 0.2), (0, NAN, NAN), (5, 0.9, 0.8)),
    calibration("c"),
    calibration("r", (10, 0.1, 0.0), (0, NAN, NAN), (2, 0.9, 0.5)),
]
both_formats = pytest.mark.parametrize("is_page", [True, False])


def test_files_are_named_after_their_chart_and_are_a_column_wide(tmp_path):
    one, two = lvis_like(60), lvis_like(60, seed=1)
    paths = write_figures(tmp_path / "new", one)
    paths += write_figures(tmp_path / "new", compare(one, two), formats=("png", "pdf"))
    assert [os.path.basename(path) for path in paths] == [
        "ap_by_training_images_segm.png",
        "outcomes_segm.png",
        "calibration_segm.png",
        *(f"ap_difference_by_training_images_segm.{s}" for s in ("png", "pdf")),
        *(f"outcomes_compared_segm.{s}" for s in ("png", "pdf")),
        *(f"calibration_compared_segm.{s}" for s in ("png", "pdf")),
    ]
    sizes = []
    for path in paths:
        if path.endswith("png"):
            with Image.open(path) as picture:
                sizes.append(picture.size)
    heights = [720, 591, 870, 720, 807, 870]  # 72 for each additional bar
    assert sizes == [(990, height) for height in heights]


@pytest.mark.parametrize("number", [4, 200])
def test_the_confusion_matrix_shows_shares_of_rows_sorted_by_frequency(number):
    rows = [category(i, "r" if i < 3 else "f", i) for i in range(1, number)]
    last = number - 1
    confusions = [(1, 1, 1), (1, last, 3), (last, last, 5), (2, None, 2)]
    found = [Confusion(*c) for c in confusions] + [Confusion(i, i, 1) for i in range(3, last)]
    matrix = ConfusionMatrix(found, [(last, 4)])
    canvas = drawn(confusion_heat_map(replace(analysis(rows), matrix=matrix)), is_page=False)
    shares = canvas.axes.images[0].get_array()
    assert shares.shape == (number, number)
    assert shares[0, 0] == 100  # the most frequent category comes first
    assert shares[-2, [0, -2]].tolist() == [75, 25]  # category 1
    assert shares[-3, -1] == 100  # category 2 is missed
    assert shares[-1].tolist() == [100] + [0] * (number - 1)  # the background
    ticks = [t.get_text() for t in canvas.axes.get_yticklabels()]
    named = ["class3", "class2", "class1", "background"]
    assert ticks == (named if number == 4 else ["frequent", "rare"])


# AP along the tail


def test_categories_are_drawn_at_their_training_images_and_ap():
    found = points(ap_by_training_images(analysis(ROWS)))
    assert found == {
        "class1: AP 10.0, 5 training images, 7 evaluated objects": (5, 10),
        "class2: AP 40.0, 500 training images, 20 evaluated objects": (500, 40),
        "mean of 1 categories with about 5 training images: 10.0": (pytest.approx(5), 10),
        "mean of 1 categories with about 500 training images: 40.0": (pytest.approx(500), 40),
    }


@both_formats
def test_groups_have_a_color_and_marker_and_those_present_are_in_the_legend(is_page):
    chart = ap_by_training_images(analysis(ROWS))
    axes = drawn(chart, is_page=is_page).axes
    rare, frequent = axes.collections
    shapes = [c.get_paths()[0].vertices for c in (rare, frequent)]
    assert not np.array_equal(*shapes)
    assert axes.get_xscale() == "log"
    assert axes.lines[1].get_ydata() == [0, 0]  # the zero line
    assert legend(chart, is_page=is_page)[:-1] == ["rare", "frequent"]
    styles = [use.get("style") for use in svg(chart).iter("use") if use.find("title") is not None]
    assert [GROUP_COLORS[g] in str(s) for g, s in zip("rf", styles, strict=False)] == [True, True]


def test_the_mean_goes_through_its_points():
    rows = [category(1, "r", 2, 10.0), category(2, "r", 2, 30.0), category(3, "f", 200, 60.0)]
    found = points(ap_by_training_images(analysis(rows)))
    text = "mean of 2 categories with about 2 training images: 20.0"
    assert found[text] == (pytest.approx(2), 20)


def test_unknown_training_images_are_beyond_the_known_ones():
    rows = [category(1, "n/a", None, 10.0), category(2, "n/a", None, 20.0)]
    chart = ap_by_training_images(analysis([*rows, *ROWS]))
    found = points(chart)
    first, second = (
        found[f"class{i}: AP {ap}, n/a training images, 20 evaluated objects"]
        for i, ap in ((1, "10.0"), (2, "20.0"))
    )
    axes = drawn(chart).axes
    assert 500 < first[0] < second[0] < axes.get_xlim()[1]
    assert (first[1], second[1]) == (10, 20)
    ticks = dict(
        zip([t.get_text() for t in axes.get_xticklabels()], axes.get_xticks(), strict=True)
    )
    assert first[0] < ticks["unknown"] < second[0]
    assert legend(ap_by_training_images(analysis(rows))) == ["unknown"]  # there is no mean


def test_zero_training_images_have_a_place_below_one():
    chart = ap_by_training_images(analysis([*ROWS, category(4, "r", 0, 20.0)]))
    assert points(chart)["class4: AP 20.0, 0 training images, 20 evaluated objects"] == (0, 20)
    axes = drawn(chart).axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "1", "10", "100"]
    zero, one, ten, hundred = (axes.transData.transform((x, 0))[0] for x in (0, 1, 10, 100))
    assert hundred - ten == pytest.approx(ten - one)
    assert (one - zero) / (ten - one) == pytest.approx(0.35, abs=0.05)
    assert axes.get_xlim()[0] < 0


@pytest.mark.parametrize(
    ("images", "ticks"),
    [([1, 1977], ["1", "10", "100", "1,000"]), ([4, 40], ["5", "10", "20"]), ([7], ["5", "10"])],
)
def test_ticks_are_round_numbers_within_the_axis(images, ticks):
    axes = drawn(ap_by_training_images(analysis([category(n, "c", n, 1.0) for n in images]))).axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ticks
    low, high = axes.get_xlim()
    assert low < min(images) <= max(images) < high


def test_differences_are_signed_and_the_second_minus_the_first():
    better = [category(c.category_id, c.frequency, c.train_images, c.AP - 2) for c in ROWS]
    comparison = compare(analysis(ROWS), analysis(better), names=("a", "$b$"))
    chart = ap_difference_by_training_images(comparison)
    found = points(chart)
    assert found["class1: difference of AP -2.0, 5 training images, 7 evaluated objects"] == (5, -2)
    assert drawn(chart).axes.get_ylabel() == "AP, $b$ − a"  # noqa: RUF001  a minus sign
    low, high = drawn(chart).axes.get_ylim()
    assert low <= -2 < 0 <= high


# Outcomes


def widths(chart, **options):
    """Return start and width of each bar, by the name in the legend."""
    entries = drawn(chart, **options).legend
    return {label: [(b.get_x(), b.get_width()) for b in bars] for bars, label in entries}


def test_bars_are_the_shares_of_the_outcomes():
    chart = outcomes({"": analysis(ROWS, CONFUSIONS)})
    expected = [[(0, 25), (0, 50)], [(25, 0), (50, 0)], [(25, 75), (50, 0)], [(100, 0), (50, 50)]]
    assert list(widths(chart).values()) == expected
    names = ["correct", "as rare", "as frequent", "missed"]
    assert widths(chart, is_page=False) == dict(zip(names, expected, strict=True))
    assert [label.get_text() for label in drawn(chart).axes.get_yticklabels()] == [
        "rare",
        "frequent",
    ]


def test_each_part_has_a_tooltip_and_its_share_where_there_is_room():
    rows = [*ROWS, category(4, "c", 20)]
    chart = outcomes({"": analysis(rows, [(1, 1, 985), (1, 2, 10), (1, None, 5), (2, None, 8)])})
    assert titles(svg(chart)) == [
        "rare: correct label, 985 of 1,000 (98.5%)",
        "rare: labeled as another frequent category, 10 of 1,000 (1.0%)",
        "rare: missed, 5 of 1,000 (0.5%)",
        "frequent: missed, 8 of 8 (100.0%)",
    ]
    written = texts(chart)
    assert {"98%", "100%", "1,000 objects", "8 objects", "0 objects", "no objects"} == set(written)
    colors = {t.get_text(): t.get_color() for t in drawn(chart).axes.texts if "%" in t.get_text()}
    assert colors == {"98%": "#ffffff", "100%": "#000000"}


def test_bars_of_two_runs_are_grouped_with_the_rare_ones_on_top():
    runs = {"a": analysis(ROWS, CONFUSIONS), "b" * 30 + "c" * 10: analysis(ROWS)}
    chart = outcomes(runs)
    axes = drawn(chart, is_page=False).axes
    short = "bbbbb…cccccc"
    names = ["rare, a", f"rare, {short}", "frequent, a", f"frequent, {short}"]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert all(bar[1] == 0 for bars in widths(chart).values() for bar in bars[1::2])
    places = axes.transData.transform([(0, y) for y in drawn(chart).axes.get_yticks()])[:, 1]
    steps = -np.diff(places)
    assert (steps > 0).all()
    assert steps[1] > steps[0]


def test_unknown_groups_are_reported():
    rows = [category(1, "n/a", None, 10.0), category(2, "n/a", None, 40.0)]
    chart = outcomes({"": analysis(rows, [(1, 2, 3)])})
    assert legend(chart, is_page=False) == ["correct", "as unknown", "missed"]


def test_segments_of_a_bar_have_different_hatches_in_print():
    entries = drawn(outcomes({"": analysis(ROWS, CONFUSIONS)}), is_page=False).legend
    hatches = [bars[0].get_hatch() for bars, label in entries if label.startswith("as ")]
    assert all(hatches)
    assert len(set(hatches)) == len(hatches)


# Calibration


def test_calibration_is_drawn_at_scores_and_precisions_with_gaps():
    chart = reliability(analysis(ROWS, calibrations=CURVES))
    axes = drawn(chart).axes
    np.testing.assert_equal(axes.lines[0].get_xdata(), [0.1, NAN, 0.9])
    np.testing.assert_equal(axes.lines[0].get_ydata(), [0.2, NAN, 0.8])
    assert axes.lines[-1].get_xydata().tolist() == [[0, 0], [1, 1]]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1), (0, 1))
    assert legend(chart) == ["all", "rare"]  # without the group that has no detections
    assert len({str(line.get_marker()) for line in axes.lines}) == 3
    assert axes.lines[1].get_color() == GROUP_COLORS["r"]
    text = "rare: 2 detections with mean score 0.90, 50% correct"
    assert points(chart)[text] == (0.9, 0.5)


def test_two_runs_differ_in_line_and_marker():
    curves = [calibration(g, (5, 0.1, 0.2)) for g in ("all", "r")]
    run = analysis(ROWS, calibrations=curves)
    chart = reliability_of_runs({"a": run, "b": run}, ("r", "c"))
    first, second, _ = drawn(chart, is_page=False).axes.lines
    assert legend(chart) == ["rare, a", "rare, b"]
    assert (first.get_linestyle(), second.get_linestyle()) == ("--", "-")
    assert first.get_markerfacecolor() == "white"
    assert second.get_markerfacecolor() != "white"
    assert legend(reliability_of_runs({"a": run, "_b": run}, ["all"])) == ["a", "_b"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows", [[], [category(1, "n/a", None)], [category(1, "r", 1)], [category(1, "r", 0)]]
)
def test_a_chart_without_data_says_so(rows, tmp_path, recwarn):
    empty = analysis(rows)
    assert texts(ap_by_training_images(empty)) == ["no category has a score"]
    assert texts(reliability(empty)) == ["no detections"]
    for shown in (empty, compare(empty, empty, names=("a", "b"))):
        for path in write_figures(tmp_path, shown):
            assert os.path.getsize(path)
    assert "nan" not in "".join(titles(svg(outcomes({"": empty}))))
    assert not [w for w in recwarn if "matplotlib" in str(w.filename)]


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("images", [1, 10, 1000, 0, None])
def test_one_point_is_inside_the_axes(images):
    axes = drawn(ap_by_training_images(analysis([category(1, "n/a", images, 4.0)]))).axes
    ((x, y),) = axes.collections[0].get_offsets().tolist()
    assert axes.get_xlim()[0] < x < axes.get_xlim()[1]
    assert math.isclose(y, 4)

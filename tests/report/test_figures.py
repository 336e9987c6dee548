import os
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from d2_seesaw.evaluation.analysis.comparison import compare
from d2_seesaw.report import figures
from d2_seesaw.report.figures import write_comparison_figures, write_figures
from tests.evaluation.analysis_data import NAN, analysis, calibration, category, lvis_like

ROWS = [category(1, "r", 5, 10.0), category(2, "f", 500, 40.0), category(3, "f", 500, NAN)]
CONFUSIONS = [(1, 1, 1), (1, 2, 3), (2, 2, 5), (2, None, 5)]
CALIBRATIONS = [calibration("all", (5, 0.1, 0.2), (0, NAN, NAN), (5, 0.9, 0.8)), calibration("r")]


def test_files_say_what_they_are_and_are_a_column_wide(tmp_path):
    one, two = lvis_like(60), lvis_like(60, seed=1)
    paths = write_figures(tmp_path / "new", one)
    paths += write_comparison_figures(tmp_path / "new", compare(one, two))
    assert [os.path.basename(path) for path in paths] == [
        "ap_by_training_images_segm.png",
        "outcomes_segm.png",
        "calibration_segm.png",
        "ap_difference_by_training_images_segm.png",
        "outcomes_compared_segm.png",
        "calibration_compared_segm.png",
    ]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.width == 990  # 3.3 inches of 300 dots
            assert round(picture.info["dpi"][0]) == 300
    heights = []
    for path in paths:
        with Image.open(path) as picture:
            heights.append(picture.height)
    assert heights == [720, 591, 870, 720, 807, 870]  # of bars, 72 for each more


def test_a_comparison_draws_the_second_minus_the_first(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_tail", lambda axes, *given: drawn.append(given))
    better = [category(c.category_id, c.frequency, c.train_images, c.AP + 2) for c in ROWS]
    comparison = compare(analysis(ROWS), analysis(better), names=("a", "b"))
    write_comparison_figures(tmp_path, comparison)
    ((_, differences, label),) = drawn
    assert differences == pytest.approx([2, 2, NAN], nan_ok=True)
    assert label == "AP, b − a"  # noqa: RUF001  a minus sign


@pytest.fixture
def axes():
    return Figure().add_subplot()


def test_points_are_drawn_at_their_values_with_a_marker_of_their_group(axes):
    figures._tail(axes, ROWS, [10.0, 40.0, NAN])
    rare, frequent = axes.collections
    assert rare.get_offsets().tolist() == [[5, 10]]
    assert frequent.get_offsets().tolist() == [[500, 40]]
    assert not np.array_equal(rare.get_paths()[0].vertices, frequent.get_paths()[0].vertices)
    assert axes.lines[0].get_xydata() == pytest.approx(np.array([[5, 10], [500, 40]]))
    assert axes.get_xscale() == "log"
    assert axes.lines[1].get_ydata() == [0, 0]  # the line of zero
    (legend,) = axes.figure.legends
    legend = [text.get_text() for text in legend.get_texts()]
    assert legend == ["rare", "frequent", "mean"]


@pytest.mark.parametrize("unplaced", [0, None])
def test_categories_without_a_place_on_the_logarithm_are_left_out(axes, unplaced):
    rows = [*ROWS, category(4, "r", unplaced, 20.0)]
    figures._tail(axes, rows, [10.0, 40.0, NAN, 20.0])
    assert axes.collections[0].get_offsets().tolist() == [[5, 10]]


def test_bars_stand_close_without_touching_the_rare_ones_on_top(axes):
    figures._outcomes(axes, {"": analysis(ROWS, CONFUSIONS)})
    rare, frequent = axes.containers[0]
    assert 0.5 < rare.get_height() < 1
    to_display = axes.transData.transform
    assert to_display((0, rare.get_y()))[1] > to_display((0, frequent.get_y()))[1]


def test_bars_are_the_shares_of_the_outcomes(axes):
    figures._outcomes(axes, {"": analysis(ROWS, CONFUSIONS)})
    bars = {c.get_label(): [(b.get_x(), b.get_width()) for b in c] for c in axes.containers}
    assert bars == {
        "right": [(0, 25), (0, 50)],
        "as rare": [(25, 0), (50, 0)],
        "as frequent": [(25, 75), (50, 0)],
        "missed": [(100, 0), (50, 50)],
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rare", "frequent"]


def test_bars_of_two_runs_stand_together(axes):
    runs = {"a": analysis(ROWS, CONFUSIONS), "b" * 30 + "c" * 10: analysis(ROWS)}
    figures._outcomes(axes, runs)
    names = [label.get_text() for label in axes.get_yticklabels()]
    short = "bbbbb…cccccc"
    assert names == ["rare, a", f"rare, {short}", "frequent, a", f"frequent, {short}"]
    assert all(bar.get_width() == 0 for c in axes.containers for bar in list(c)[1::2])


def test_unknown_groups_are_named(axes):
    rows = [category(1, "n/a", None, 10.0), category(2, "n/a", None, 40.0)]
    figures._outcomes(axes, {"": analysis(rows, [(1, 2, 3)])})
    assert [c.get_label() for c in axes.containers] == ["right", "as unknown", "missed"]


def test_neighbors_of_a_bar_differ_in_gray(axes):
    figures._outcomes(axes, {"": analysis(ROWS, CONFUSIONS)})
    hatches = [c[0].get_hatch() for c in axes.containers if c.get_label().startswith("as ")]
    assert all(hatches)
    assert len(set(hatches)) == len(hatches)


def test_calibration_is_drawn_at_scores_and_precisions_with_gaps(axes):
    figures._reliability_of_groups(axes, CALIBRATIONS)
    line = axes.lines[0]
    np.testing.assert_equal(line.get_xdata(), [0.1, NAN, 0.9])
    np.testing.assert_equal(line.get_ydata(), [0.2, NAN, 0.8])
    assert axes.lines[-1].get_xydata().tolist() == [[0, 0], [1, 1]]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1), (0, 1))
    assert len({line.get_marker() for line in axes.lines}) == 3


def test_two_runs_differ_in_line_and_marker(axes):
    calibrations = [calibration(g, (5, 0.1, 0.2)) for g in ("all", "r")]
    run = analysis(ROWS, calibrations=calibrations)
    figures._reliability_of_runs(axes, {"a": run, "b": run})
    first, second, _ = axes.lines
    assert (first.get_label(), second.get_label()) == ("rare, a", "rare, b")
    assert (first.get_linestyle(), second.get_linestyle()) == ("--", "-")
    assert first.get_markerfacecolor() == "white"
    assert second.get_markerfacecolor() != "white"


@pytest.mark.parametrize("rows", [[], [category(1, "n/a", None)], [category(1, "r", 0, 4.0)]])
def test_little_to_draw_is_drawn(rows, tmp_path, recwarn):
    empty = analysis(rows)
    write_figures(tmp_path, empty)
    write_comparison_figures(tmp_path, compare(empty, empty, names=("a", "b")))
    assert len(os.listdir(tmp_path)) == 6
    assert not [w for w in recwarn if "matplotlib" in str(w.filename)]


def test_neither_backend_nor_style_of_the_process_is_touched(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it is an error
    before = matplotlib.rcParams.copy()
    write_figures(tmp_path, lvis_like(20))
    assert matplotlib.rcParams.copy() == before

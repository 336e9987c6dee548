import math

import pytest

from d2_seesaw.report import Series, line_chart
from tests.report.svg.drawing import circles, elements, place_of, polylines, texts


def series(*values, **options):
    return Series("<a>", "#123456", [(x, y, f"{x}, {y}") for x, y in values], **options)


def test_points_of_a_reliability_diagram_lie_at_their_share_of_both_axes():
    svg = line_chart([series((0.25, 0.5), (0.5, 0.1))], x_label="x", y_label="y", diagonal=True)
    left, bottom = 64, 430 - 46 + 20  # the legend takes 20
    width, height = 520 - 64 - 14, 430 - 46 - 12
    places = circles(svg)
    assert places["0.25, 0.5"] == pytest.approx((left + width / 4, bottom - height / 2), abs=0.1)
    assert places["0.5, 0.1"] == pytest.approx((left + width / 2, bottom - height / 10), abs=0.1)
    (diagonal,) = [e for e in elements(svg, "line") if e.get("stroke-dasharray") == "2 3"]
    ends = [float(diagonal.get(k)) for k in ("x1", "y1", "x2", "y2")]
    assert ends == [left, bottom, left + width, bottom - height]


def test_without_a_diagonal_axes_fit_the_values():
    svg = line_chart([series((0, 0), (30, -40))], x_label="x", y_label="y")
    assert {"30", "-40"} <= set(texts(svg))
    assert not [e for e in elements(svg, "line") if e.get("stroke-dasharray") == "2 3"]
    assert circles(svg)["30, -40"][0] == pytest.approx(place_of(svg, "30")[0], abs=0.1)
    assert circles(svg)["30, -40"][1] == pytest.approx(place_of(svg, "-40")[1] - 4, abs=0.1)


def test_a_missing_value_is_a_gap():
    values = [(0.1, 0.1), (0.2, 0.2), (math.nan, math.nan), (0.4, math.nan), (0.5, 0.5)]
    svg = line_chart([series(*values)], x_label="x", y_label="y", diagonal=True)
    places = circles(svg)
    assert [points for points, _ in polylines(svg)] == [
        [places["0.1, 0.1"], places["0.2, 0.2"]],
        [places["0.5, 0.5"]],
    ]


def test_dashed_lines_are_dashed_with_hollow_points_and_a_dashed_key():
    values = ((0.1, 0.1), (0.2, 0.2))
    plain = line_chart([series(*values)], x_label="x", y_label="y")
    dashed = line_chart([series(*values, dashed=True)], x_label="x", y_label="y")
    assert polylines(dashed)[0][1]["stroke-dasharray"] == "5 3"
    assert "stroke-dasharray" not in polylines(plain)[0][1]
    fills = [{c.get("fill") for c in elements(svg, "circle")} for svg in (plain, dashed)]
    assert fills == [{"#123456"}, {"#fff"}]


@pytest.mark.parametrize("lines", [[], [series()], [series((math.nan, 1.0), (1.0, math.nan))]])
def test_nothing_to_draw_says_so(lines):
    svg = line_chart(lines, x_label="x", y_label="y", diagonal=True, nothing="no detection")
    assert "no detection" in texts(svg)
    assert not circles(svg)
    assert "nothing to show" not in texts(line_chart([series((1, 1))], x_label="x", y_label="y"))

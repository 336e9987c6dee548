import math

import pytest

from d2_seesaw.report import Key, Spot, scatter_chart
from tests.report.svg.drawing import circles, elements, place_of, polylines, texts


def chart(values, **options):
    spots = [Spot(x, y, "#123456", f"{x}, {y}") for x, y in values]
    return scatter_chart(spots, x_label="x", y_label="y", **options)


def test_points_lie_between_the_ticks_in_proportion():
    svg = chart([(0, -20), (10, 30), (4, 5), (5, 0)])
    places = circles(svg)
    top, bottom = place_of(svg, "30")[1] - 4, place_of(svg, "-20")[1] - 4
    assert places["4, 5"] == pytest.approx((64 + 0.4 * 922, (top + bottom) / 2), abs=0.2)
    assert places["0, -20"] == (64, bottom)
    assert places["10, 30"] == (986, top) == (986, 12)
    assert places["5, 0"][1] == pytest.approx(bottom - 0.4 * (bottom - top), abs=0.2)


def test_equal_ratios_are_equal_distances_on_a_logarithmic_axis():
    places = circles(chart([(3, 1), (30, 1), (300, 1)], log_x=True))
    x = [places[f"{v}, 1"][0] for v in (3, 30, 300)]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert x[1] - x[0] == pytest.approx(922 / 2 / 1.06, abs=0.2)  # 3 % is left free on each side


def test_an_unknown_x_lies_beside_the_axes_and_no_y_nowhere():
    svg = chart([(1, 10), (10, 20), (math.nan, 10), (math.nan, 20), (5, math.nan)], log_x=True)
    places = circles(svg)
    assert places.keys() == {"1, 10", "10, 20", "nan, 10", "nan, 20"}
    assert place_of(svg, "unknown")[0] > places["10, 20"][0]
    assert places["nan, 10"][1] == places["1, 10"][1]
    assert 896 < places["nan, 10"][0] < places["nan, 20"][0] < 986
    assert "unknown" not in texts(chart([(1, 10)]))


def test_the_line_joins_its_points_at_their_places():
    line = [Spot(2, 10, "#000", "first"), Spot(8, 30, "#000", "second")]
    svg = chart([(0, 0), (10, 40)], line=line)
    places = circles(svg)
    for points, _ in polylines(svg):
        assert points == [places["first"], places["second"]]
    assert places["first"] == pytest.approx((64 + 0.2 * 922, 12 + 0.75 * 302), abs=0.1)


def test_a_line_outside_the_points_widens_the_axes():
    svg = chart([(1, 1)], line=[Spot(40, 90, "#000", "far")])
    x, y = circles(svg)["far"]
    assert x <= 986
    assert y >= 12


def test_the_legend_is_above_the_points():
    svg = chart([(1, 1)], keys=[Key("<rare>", "#c0392b")])
    assert place_of(svg, "<rare>")[1] < min(y for _, y in circles(svg).values())
    height = float(elements(svg, "svg")[0].get("viewBox").split()[3])
    assert height == 380
    assert max(float(t.get("y")) for t in elements(svg, "text") if t.get("y")) < height


@pytest.mark.parametrize("log_x", [True, False])
@pytest.mark.parametrize("values", [[], [(1, math.nan)], [(math.nan, math.nan)]])
def test_nothing_to_draw_says_so(values, log_x):
    svg = chart(values, log_x=log_x, nothing="no <category>")
    assert "no <category>" in texts(svg)
    assert not circles(svg)
    assert "nothing to show" not in texts(chart([(1, 1)]))


@pytest.mark.parametrize("values", [[(0, 0)], [(math.nan, 3)], [(0, -1)]])
def test_one_point_is_inside_the_chart(values):
    ((x, y),) = circles(chart(values, log_x=True)).values()
    assert 64 < x < 986
    assert 12 <= y <= 314

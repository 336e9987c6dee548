import re

import pytest

from d2_seesaw.report import Point, bar_chart, rank_chart
from d2_seesaw.report.svg.charts import _ranks_shown


def heights(svg):
    return [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]


def points(*values):
    return [Point(value, "#123456", f"<{value}>") for value in values]


def test_decades_are_equally_far_apart():
    y = heights(rank_chart(points(1000, 100, 10, 1), x_label="x", y_label="y"))
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.2) == pytest.approx(y[3] - y[2], abs=0.2)
    assert y == sorted(y)


def test_zero_lies_below_one_and_is_marked():
    svg = rank_chart(points(100, 1, 0), x_label="x", y_label="y")
    y = heights(svg)
    assert y[2] > y[1]
    assert ">0</text>" in svg
    assert ">0</text>" not in rank_chart(points(100, 1), x_label="x", y_label="y")


def test_lines_lie_at_their_values_and_labels_are_escaped():
    svg = rank_chart(points(100, 10), x_label="<x>", y_label="<y>", lines={"<here>": 10})
    (line,) = re.findall(r'y1="([\d.]+)" y2="[\d.]+" stroke="#566573" stroke-dasharray', svg)
    assert float(line) == heights(svg)[1]
    for text in ("&lt;x&gt;", "&lt;y&gt;", "&lt;here&gt;", "&lt;10&gt;"):
        assert text in svg


def test_bars_are_as_high_as_their_values():
    svg = bar_chart(
        {"a": Point(10, "#fff", "a"), "b": Point(5, "#fff", "b"), "c": Point(0, "#fff", "c")},
        x_label="x",
        y_label="y",
    )
    first, second, third = (float(h) for h in re.findall(r'height="([\d.]+)" fill', svg))
    assert first == pytest.approx(2 * second, abs=0.2)
    assert third == 0


@pytest.mark.parametrize("chart", [lambda **o: rank_chart([], **o), lambda **o: bar_chart({}, **o)])
def test_nothing_to_draw_is_an_empty_chart(chart):
    assert chart(x_label="x", y_label="y").startswith("<svg")


@pytest.mark.parametrize("number", [0, 1, 2, 9, 20, 1203, 8142])
def test_about_ten_ranks_are_written(number):
    ranks = _ranks_shown(number)
    assert len(ranks) == min(number, len(ranks))
    assert len(ranks) <= 12
    assert ranks == sorted(set(ranks))
    assert all(1 <= rank <= number for rank in ranks)

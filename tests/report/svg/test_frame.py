import pytest

from d2_seesaw.report.svg.axes import linear_axis
from d2_seesaw.report.svg.frame import Frame
from tests.report.svg.drawing import elements, place_of, texts

FRAME = Frame(linear_axis([100.0]), linear_axis([-1.0, 1.0]), 50.0, 250.0, 20.0, 120.0)


def test_points_lie_where_the_axes_say():
    assert FRAME.at(0, -1) == (50, 120)
    assert FRAME.at(100, 1) == (250, 20)
    assert FRAME.at(25, 0) == (100, 70)


def grid():
    return f"<svg>{FRAME.grid('<x>', '<y>')}</svg>"


def test_ticks_are_written_where_points_of_their_value_lie():
    x, _ = place_of(grid(), "40")
    assert x == FRAME.at(40, 0)[0]
    _, y = place_of(grid(), "-0.5")
    assert y == pytest.approx(FRAME.at(0, -0.5)[1] + 4)


def test_zero_is_a_darker_line():
    lines = [e for e in elements(grid(), "line") if e.get("y1") == e.get("y2") == "70.0"]
    others = [e for e in elements(grid(), "line") if e.get("y1") == e.get("y2") != "70.0"]
    assert {e.get("stroke") for e in lines}.isdisjoint({e.get("stroke") for e in others})


def test_axes_are_named():
    assert texts(grid())[-2:] == ["<x>", "<y>"]
    assert place_of(grid(), "<x>")[0] == 150
    assert elements(grid(), "text")[-1].get("transform") == "translate(14 70.0) rotate(-90)"

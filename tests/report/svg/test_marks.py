from xml.etree import ElementTree

import pytest

from d2_seesaw.report.svg.marks import (
    Key,
    ink,
    legend,
    shortened,
    svg,
    text,
    text_width,
    titled,
    upright,
)
from tests.report.svg.drawing import elements, texts


def test_everything_written_is_escaped():
    bad = "<b>&\"'"
    chart = svg(
        [text(1, 2, bad, "end"), upright(1, 2, bad), titled("rect", "", bad)],
        width=10,
        height=10,
        label=bad,
    )
    root = ElementTree.fromstring(chart)
    assert root.get("aria-label") == bad
    assert [e.text for e in root.iter() if e.tag in ("text", "title")] == [bad] * 3


def test_what_is_too_long_ends_in_an_ellipsis():
    assert shortened("abc", text_width("abc")) == "abc"
    assert shortened("abcdef", text_width("abc")) == "a…f"
    assert shortened("abcdefgh", text_width("abcdef")) == "ab…fgh"


@pytest.mark.parametrize(
    ("ground", "color"),
    [
        ("#000000", "#ffffff"),
        ("#ffffff", "#000000"),
        ("#2471a3", "#ffffff"),
        ("#ff0000", "#000000"),
        ("#d00000", "#ffffff"),
    ],
)
def test_ink_stands_out_from_its_ground(ground, color):
    assert ink(ground) == color


def test_a_legend_takes_the_rows_it_needs_and_keys_do_not_overlap():
    keys = [Key(f"a key with the number {i}", "#123456", s) for i, s in enumerate(("dot", "box"))]
    one, height = legend(keys, 0, 1000, 0)
    rows, higher = legend(keys, 0, 250, 0)
    assert (height, higher) == (20, 40)
    first, second = elements(f"<svg>{one}</svg>", "text")
    assert float(second.get("x")) > float(first.get("x")) + text_width(first.text)
    assert first.get("y") == second.get("y")
    above, below = elements(f"<svg>{rows}</svg>", "text")
    assert above.get("x") == below.get("x")
    assert float(below.get("y")) - float(above.get("y")) == 20
    narrow, height = legend(keys, 0, 10, 0)  # no room, but nothing above the first either
    assert height == 40
    assert float(elements(f"<svg>{narrow}</svg>", "text")[0].get("y")) == float(first.get("y"))
    assert legend([], 0, 1000, 0) == ("", 0)


def test_keys_look_like_what_they_stand_for():
    shapes = ("dot", "box", "line", "dashed")
    drawn, _ = legend([Key(s, "#123456", s) for s in shapes], 0, 1000, 0)
    chart = f"<svg>{drawn}</svg>"
    assert texts(chart) == list(shapes)
    assert [len(elements(chart, tag)) for tag in ("circle", "rect", "line")] == [1, 1, 2]
    assert [e.get("stroke-dasharray") is None for e in elements(chart, "line")] == [True, False]


def test_a_small_chart_does_not_grow_beyond_its_width():
    assert "max-width:520px" in svg([], width=520, height=9, label="")
    assert "max-width" not in svg([], width=1000, height=9, label="")

"""Rendering of charts: as SVG in a page, and as a file for a paper."""

import re
import sys
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from d2_seesaw.report.drawing import (
    Chart,
    _legend_columns,
    contrast_color,
    elide_middle,
    render_svg,
    save_chart,
)
from tests.report.charts import svg, titles

BAD = "<b>&\"'$x$ url(#a)"


def draw(canvas):
    axes = canvas.axes
    for color, place in (("#c0392b", 1), ("#2471a3", 2)):
        points = axes.scatter([0.25, 0.5, 1], [place] * 3, color=color, clip_on=False)
        canvas.add_tooltips(points, [f"{color} {i}" for i in range(3)])
        canvas.legend.append((points, f"_{color}"))
    (line,) = axes.plot([0, float("nan"), 1], [3, 3, 3], color=canvas.ink, marker="o")
    canvas.add_tooltips(line, ["left", BAD])
    patch = axes.add_patch(Rectangle((0, 0), 1, 1, hatch="//", facecolor=canvas.surface))
    canvas.add_tooltips(patch, ["patch"])
    axes.set_xlabel(BAD)
    axes.set_xlim(0, 1)


CHART = Chart(BAD, draw, height=400)


def test_every_point_has_its_tooltip_in_order():
    root = svg(CHART)
    places = {
        u.find("title").text: u.attrib for u in root.iter("use") if u.find("title") is not None
    }
    assert list(places) == [
        *(f"{c} {i}" for c in ("#c0392b", "#2471a3") for i in range(3)),
        "left",
        BAD,
    ]
    x = [float(places[f"#c0392b {i}"]["x"]) for i in range(3)]
    assert (x[1] - x[0]) * 2 == pytest.approx(x[2] - x[1])
    assert (
        float(places["left"]["y"])
        < float(places["#2471a3 0"]["y"])
        < float(places["#c0392b 0"]["y"])
    )
    assert "patch" in titles(root)


def test_a_missing_tooltip_is_an_error():
    def draw(canvas):
        canvas.add_tooltips(canvas.axes.scatter([1, 2], [1, 2]), ["one"])

    with pytest.raises(ValueError, match="zip"):
        render_svg(Chart("", draw, height=200), "a-")


def test_text_stays_text_and_is_not_a_formula():
    root = svg(CHART)
    assert root.get("aria-label") == BAD
    written = [text.text for text in root.iter("text")]
    assert {BAD, "_#c0392b", "_#2471a3"} <= set(written)
    assert "<b>" not in render_svg(CHART, "a-")


def test_charts_of_one_page_share_no_id_and_refer_only_to_their_own():
    page = "".join(render_svg(CHART, prefix) for prefix in ("a-", "b-"))
    ids = [e.get("id") for e in ElementTree.fromstring(f"<p>{page}</p>").iter() if e.get("id")]
    assert len(ids) == len(set(ids)) > 4
    assert {i[:2] for i in ids} == {"a-", "b-"}
    used = re.findall(r'(?:href="#|="url\(#|: url\(#)([^")]*)', page)
    assert set(used) <= set(ids)


def test_a_chart_scales_and_does_not_affect_the_page():
    text = render_svg(CHART, "a-")
    root = ElementTree.fromstring(text)
    assert root.get("viewBox") == "0 0 1000 400"
    assert not {"width", "height"} & root.attrib.keys()
    assert "<style" not in text
    assert "http" not in text


def test_ink_and_background_follow_the_page_and_data_colors_are_kept():
    text = render_svg(CHART, "a-")
    assert {"#1c2833", "#e1e5e8", "#fdfdfd"}.isdisjoint(re.findall("#[0-9a-f]{6}", text))
    assert text.count("currentColor") > 5
    assert "var(--line)" in text
    assert "fill: #c0392b" in text


def test_the_same_chart_gives_the_same_bytes(tmp_path):
    assert render_svg(CHART, "a-") == render_svg(CHART, "a-")
    for suffix in ("png", "pdf", "svg"):
        files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
        for file in files:
            save_chart(CHART, file)
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_figure_of_a_paper_is_a_column_wide(tmp_path):
    save_chart(CHART, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.size == (990, 720)  # 3.3 x 2.4 inches at 300 dpi
        assert round(picture.info["dpi"][0]) == 300
        assert picture.getpixel((0, 0))[:3] == (255, 255, 255)
    save_chart(CHART, tmp_path / "a.pdf")
    assert b"/MediaBox [ 0 0 237.6 172.8 ]" in (tmp_path / "a.pdf").read_bytes()


def test_an_unknown_format_is_reported_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="'xyz' is not supported"):
        save_chart(CHART, tmp_path / "a.xyz")
    assert not list(tmp_path.iterdir())


def test_neither_backend_nor_style_of_the_process_changes(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it is an error
    before = matplotlib.rcParams.copy()
    render_svg(CHART, "a-")
    save_chart(CHART, tmp_path / "a.png")
    assert matplotlib.rcParams.copy() == before


def test_a_legend_has_as_many_columns_as_fit():
    labels = ["a" * 10] * 4
    assert _legend_columns(labels, 1000) == 4
    assert _legend_columns(labels, 26) == 3
    assert _legend_columns(["a" * 30, *labels], 29) == 2
    assert _legend_columns(labels, 1) == 1


@pytest.mark.parametrize(
    ("background", "color"),
    [
        ("#000000", "#ffffff"),
        ("#ffffff", "#000000"),
        ("#2471a3", "#ffffff"),
        ("#ff0000", "#000000"),
        ("#d00000", "#ffffff"),
    ],
)
def test_text_contrasts_with_its_background(background, color):
    assert contrast_color(background) == color


def test_long_names_keep_their_ends():
    assert elide_middle("abc", 3) == "abc"
    assert elide_middle("abcdef", 3) == "a…f"
    assert elide_middle("abcdefgh", 6) == "ab…fgh"

import pytest

from d2_seesaw.report import Share, ShareBar, share_bars
from d2_seesaw.report.svg.marks import text_width
from tests.report.svg.drawing import elements, place_of, texts

COLORS = {"right": "#1e8449", "missed": "#d5d8dc", "other": "#c0392b"}


def bar(name, *values, **options):
    names = zip(COLORS.items(), values, strict=False)
    return ShareBar(
        name, f"{sum(values)} objects", [Share(n, v, c) for (n, c), v in names], **options
    )


def rectangles(svg):
    """Left end, right end and top of each part, by what it says."""
    return {
        r.find("title").text: (
            float(r.get("x")),
            float(r.get("x")) + float(r.get("width")),
            float(r.get("y")),
        )
        for r in elements(svg, "rect")
        if r.find("title") is not None
    }


def test_parts_follow_each_other_and_fill_the_bar():
    svg = share_bars([bar("rare", 30, 60, 10)], label="outcomes")
    found = rectangles(svg)
    (a, b, _), (c, d, _), (e, f, _) = found.values()
    assert b == pytest.approx(c, abs=0.2)
    assert d == pytest.approx(e, abs=0.2)
    assert (b - a) / (f - a) == pytest.approx(0.3, abs=1e-3)
    assert (d - c) / (f - a) == pytest.approx(0.6, abs=1e-3)
    assert list(found) == [
        "rare: right, 30 of 100 (30.0%)",
        "rare: missed, 60 of 100 (60.0%)",
        "rare: other, 10 of 100 (10.0%)",
    ]


def test_ticks_stand_at_their_share():
    svg = share_bars([bar("rare", 40, 60)], label="outcomes")
    (_, end, _), *_ = rectangles(svg).values()
    tick = [t for t in elements(svg, "text") if t.text == "40%" and not t.get("pointer-events")]
    assert float(tick[0].get("x")) == pytest.approx(end, abs=0.1)


def test_shares_are_written_where_there_is_room():
    written = texts(share_bars([bar("rare", 985, 10, 5)], label="outcomes"))
    assert "98%" in written
    assert "1%" not in written
    assert "0%" in written  # of the axis


def test_shares_are_written_in_what_reads_on_their_color():
    svg = share_bars([bar("rare", 1, 1)], label="outcomes")
    inks = [t.get("fill") for t in elements(svg, "text") if t.get("pointer-events") == "none"]
    assert inks == ["#ffffff", "#000000"]


def test_names_and_notes_stand_beside_the_bars():
    svg = share_bars([bar("a longer name", 1, 1), bar("b", 2, 1)], label="outcomes")
    found = list(rectangles(svg).values())
    name, note = place_of(svg, "a longer name"), place_of(svg, "2 objects")
    assert name[0] < found[0][0]
    assert name[0] - text_width("a longer name") >= 0
    assert note[0] > found[1][1]
    assert note[0] + text_width("2 objects") <= 1000
    assert found[2][2] - found[0][2] == 34


def test_a_gap_moves_what_is_below():
    svg = share_bars([bar("a", 1), bar("b", 1, gap=True)], label="outcomes")
    (_, _, first), (_, _, second) = rectangles(svg).values()
    assert second - first == 34 + 12


def test_an_empty_bar_says_so_and_draws_no_part():
    svg = share_bars([bar("rare", 0, 0), bar("b", 1, 0)], label="outcomes", nothing="no <object>")
    assert texts(svg).count("no <object>") == 1
    assert list(rectangles(svg)) == ["b: right, 1 of 1 (100.0%)"]
    assert texts(share_bars([], label="outcomes", nothing="no group")) == ["no group"]


def test_the_legend_names_each_part_once():
    svg = share_bars([bar("a", 1, 1), bar("b", 1, 1, 1)], label="outcomes")
    assert [texts(svg).count(name) for name in COLORS] == [1, 1, 1]


def test_all_text_is_escaped():
    bad = "<b>&"
    svg = share_bars([ShareBar(bad, bad, [Share(bad, 1, "#000000")])], label=bad)
    assert "<b>" not in svg
    assert texts(svg).count(bad) == 3

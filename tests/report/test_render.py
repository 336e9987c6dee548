import base64

from d2_seesaw import report
from d2_seesaw.report.render import formatted


def test_all_text_is_escaped():
    bad = "<i>&\"'"
    parts = [
        report.section(bad, [report.paragraph(bad), report.cards({bad: bad})]),
        report.table([bad], [[bad]]),
        report.details(bad, []),
        report.picture_grid([(b"", bad)]),
        report.table(["a"], [[report.Tag(bad, "#000")]]),
        report.table(["a"], [[report.Numeral(bad)]]),
        report.heading(bad),
    ]
    text = report.page(bad, parts, subtitle=bad)
    assert "<i>" not in text
    assert text.count("&lt;i&gt;&amp;&quot;&#x27;") == 15


def test_columns_of_numbers_are_aligned_to_the_right():
    text = report.table(["name", "number"], [["a", 1234567]])
    assert "<td>a</td>" in text
    assert '<td class="number">1,234,567</td>' in text
    assert '<th class="number">number</th>' in text
    assert "<th>only a head</th>" in report.table(["only a head"], [])


def test_a_numeral_is_aligned_like_a_number_and_written_as_it_is():
    text = report.table(["a"], [[report.Numeral("n/a")], [report.Numeral("26.40")]])
    assert '<td class="number">n/a</td>' in text
    assert '<td class="number">26.40</td>' in text


def test_columns_hold_their_parts():
    assert report.columns(["<svg/>", "<p/>"]).count("<div><") == 2


def test_numbers_are_readable():
    given = (1234, 0.00123, 12345.6, True, None, "a", 2.0)
    assert [formatted(v) for v in given] == [
        *("1,234", "0.00123", "1.23e+04", "True", "None", "a", "2")
    ]


def test_pictures_are_inside_the_page():
    text = report.picture_grid([(b"jpeg", "a caption")])
    assert f"data:image/jpeg;base64,{base64.b64encode(b'jpeg').decode()}" in text
    assert 'alt="a caption"' in text


def test_captions_may_have_tags_among_their_words():
    words = ["<i>", report.Tag("rare & old", "#123456"), "0.5"]
    text = report.picture_grid([(b"jpeg", words)])
    tag = '<span class="tag" style="background:#123456">rare &amp; old</span>'
    assert f"<figcaption>&lt;i&gt; {tag} 0.5</figcaption>" in text
    assert 'alt="&lt;i&gt; rare &amp; old 0.5"' in text


def test_groups_have_their_name_and_color():
    text = report.table(["group"], [[report.group_tag(g)] for g in report.GROUP_NAMES])
    for group in ("r", "c", "f", "n/a"):
        assert f"background:{report.GROUP_COLORS[group]}" in text
        assert f">{report.GROUP_NAMES[group]}<" in text

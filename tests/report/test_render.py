import base64

import pytest
from jinja2 import UndefinedError

from d2_seesaw.data.frequency import GROUP_NAMES
from d2_seesaw.report.render import (
    _environment,
    change_text,
    count_text,
    group_tag,
    render,
    score_text,
    tag,
)
from d2_seesaw.report.series import GROUP_COLORS

NAN = float("nan")
BAD = "<i>&\"'"
PARTS = (
    '{% from "parts.html.j2" import cards, table, number, picture_grid %}'
    "{{ cards({bad: bad}) }}"
    '{% call(row) table([bad, "#" ~ bad, "#"], [bad]) %}'
    "<td>{{ row }}</td>{{ number(row) }}{% endcall %}"
    "{% call(picture) picture_grid([(jpeg, bad)]) %}{{ picture[1] }} {{ picture[1] | tag(bad) }}"
    "{% endcall %}"
)


def test_all_text_is_escaped():
    text = _environment().from_string(PARTS).render(bad=BAD, jpeg=b"jpeg")
    assert "<i>" not in text
    assert text.count("&lt;i&gt;&amp;&#34;&#39;") == 11
    assert "<i>" not in render("base", title=BAD, subtitle=BAD)


def test_columns_of_numbers_are_aligned_to_the_right():
    text = _environment().from_string(PARTS).render(bad="1", jpeg=b"")
    assert '<tr><th>1</th><th class="number">1</th><th class="number"></th></tr>' in text
    assert '<td>1</td><td class="number">1</td>' in text


def test_pictures_are_embedded_in_the_page_and_described():
    text = _environment().from_string(PARTS).render(bad="a", jpeg=b"jpeg")
    assert f"data:image/jpeg;base64,{base64.b64encode(b'jpeg').decode()}" in text
    assert 'alt="a a"' in text
    assert f"<figcaption>a {tag('a', 'a')}</figcaption>" in text


def test_a_page_has_both_color_schemes_and_needs_no_network():
    text = render("base", title="t", subtitle="")
    assert "prefers-color-scheme: dark" in text
    assert "url(" not in text
    assert "://" not in text
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in text


def test_a_missing_variable_is_an_error():
    with pytest.raises(UndefinedError, match="title"):
        render("base")


def test_groups_have_their_name_and_color():
    for group, name in GROUP_NAMES.items():
        assert f"background:{GROUP_COLORS[group]}" in group_tag(group)
        assert f">{name}<" in group_tag(group)


def test_numbers_are_written_as_in_papers():
    assert [score_text(v) for v in (26.44, 0.0, NAN)] == ["26.4", "0.0", "n/a"]
    assert [change_text(v) for v in (1.26, -0.31, 0.04, -0.04, NAN)] == [
        *("+1.3", "-0.3", "0.0", "0.0", "n/a")
    ]
    assert [count_text(v) for v in (0, 1977, None)] == ["0", "1,977", "n/a"]

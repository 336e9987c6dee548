import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2_seesaw.utils.text import did_you_mean, escape_formula, printable, unescape_formula


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("modle", {}, "; did you mean 'model'?"),
        ("xyz", {}, ""),
        ("tain", {"cutoff": 0.0}, "; did you mean 'train'?"),
        ("modle", {"shown": {"model": "cfg.model"}}, "; did you mean 'cfg.model'?"),
        (7, {}, ""),
    ],
)
def test_the_closest_name_is_suggested_if_similar_enough(name, options, hint):
    assert did_you_mean(name, ["model", "train"], **options) == hint


def test_without_choices_there_is_no_hint():
    assert did_you_mean("model", []) == ""


CELLS = st.text(st.sampled_from("'=+-@\t\r\n\uff1d1.5e a"), max_size=6)


@given(CELLS)
def test_no_cell_begins_like_a_formula_unless_it_is_a_number_and_every_text_comes_back(text):
    cell = escape_formula(text)
    assert unescape_formula(cell) == text
    if cell[:1] in tuple("=+-@\t\r\n\uff1d"):
        float(cell)


@pytest.mark.parametrize("text", ["-2.5", "+1", "-1e-3", "a=1", "'quoted'", "", "5"])
def test_numbers_and_other_text_are_cells_as_they_are(text):
    assert escape_formula(text) == text


@given(st.text() | st.binary().map(lambda name: name.decode(errors="surrogateescape")))
def test_printable_text_has_one_line_and_can_be_encoded(text):
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    if text.isprintable():
        assert shown == text
    elif "\\" not in text:  # escapes can be read back
        assert shown.encode("ascii", "backslashreplace").decode("unicode_escape") == text

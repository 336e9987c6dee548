"""Class names that are found, and names that are not because they could be several classes."""

import pytest

from d2_seesaw.checkpoint.class_matching import match_class_names


@pytest.mark.parametrize(
    ("own", "theirs", "expected"),
    [
        (["b", "a"], ["a", "b", "c"], [1, 0]),
        (["Stop_Sign", "DINING-table", "tv"], ["dining table", "stop sign"], [1, 0, None]),
        (["cup", "bat (animal)"], ["bat_(animal)", "cup_(drink)"], [1, 0]),
        (["tabby (cat)"], ["tabby"], [0]),
        # An equal name wins over a similar one, and a class is matched once.
        (["Cat", "cat"], ["cat"], [None, 0]),
        (["cat"], ["Cat", "cat"], [1]),
        (["mouse"], ["mouse_(animal)", "mouse_(device)"], [None]),
        (["top hat", "top_hat"], ["Top Hat"], [None, None]),
        (["a"], ["a", "a"], [None]),
        (["(x)"], ["(y)"], [None]),
        (["ß-ö"], ["SS Ö"], [0]),
    ],
)
def test_names_match_if_they_can_be_one_class_only(own, theirs, expected):
    matches = match_class_names(own, theirs)
    assert list(matches.sources) == expected
    assert len(matches.found()) + len(matches.new()) == len(own)
    assert set(matches.ambiguous) <= set(matches.new())


def test_a_name_that_could_be_several_classes_is_named_with_them():
    matches = match_class_names(["mouse", "cat"], ["mouse_(animal)", "cat", "mouse_(device)"])
    assert matches.ambiguous == {"mouse": "'mouse_(animal)', 'mouse_(device)'"}
    assert matches.found() == ["cat"]
    assert matches.new() == ["mouse"]


def test_an_alias_wins_and_may_be_used_by_several_classes():
    aliases = {"tabby": "cat", "kitten": "cat"}
    matches = match_class_names(["tabby", "kitten", "cat"], ["dog", "cat"], aliases)
    assert list(matches.sources) == [1, 1, 1]
    assert matches.found() == ["tabby ('cat')", "kitten ('cat')", "cat"]


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ({"tabby": "catt"}, "the checkpoint has no class 'catt'; did you mean 'cat'"),
        ({"taby": "cat"}, "the model has no class 'taby'; did you mean 'tabby'"),
        ({"tabby": "dog"}, "the checkpoint has several classes 'dog'"),
    ],
)
def test_an_alias_of_an_unknown_class_is_refused(aliases, message):
    with pytest.raises(ValueError, match=message):
        match_class_names(["tabby"], ["cat", "dog", "dog"], aliases)

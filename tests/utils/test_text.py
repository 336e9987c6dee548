import pytest

from d2_seesaw.utils.text import did_you_mean


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

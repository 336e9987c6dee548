import re

import pytest

from d2_seesaw.evaluation.analysis import ConfusionExample
from d2_seesaw.report.evaluation_page import evaluation_page
from d2_seesaw.report.series import GROUP_COLORS
from tests.evaluation.analysis_data import analysis, category
from tests.evaluation.html_text import section

pytestmark = pytest.mark.usefixtures("no_charts")

ROWS = [
    category(1, "r", 2, name="<b>mug</b>"),
    category(2, "c", 20, name="cup & saucer"),
    category(3, "f", 200, name="bowl"),
]
BOX = [0.0, 0.0, 9.0, 9.0]


def labeled(category_id, by, image_id=1, score=0.876):
    return ConfusionExample(category_id, by, image_id, BOX, BOX, score)


def missed(category_id, image_id=1):
    return ConfusionExample(category_id, None, image_id, BOX, None, None)


class FakePictures:
    """Fake with a picture of every image whose id is not negative."""

    def __init__(self):
        self.groups = []

    def draw(self, example, groups):
        self.groups.append(groups)
        return b"jpeg" if example.image_id >= 0 else None


def section_of(*examples, pictures=None):
    data = analysis(ROWS)
    data.examples.extend(examples)
    page = evaluation_page([data], pictures=pictures or FakePictures())
    return section(page, "pictures of .*?")


def captions(html):
    return re.findall("<figcaption>(.*?)</figcaption>", html)


def tag(group, name):
    return f'<span class="tag" style="background:{GROUP_COLORS[group]}">{name}</span>'


def test_captions_have_names_groups_and_the_score_and_are_escaped():
    text = section_of(labeled(1, 3), labeled(2, 3, score=None), missed(1))
    mug = "&lt;b&gt;mug&lt;/b&gt; " + tag("r", "rare")
    bowl = "bowl " + tag("f", "frequent")
    assert captions(text) == [
        f"{mug} labeled as {bowl} 0.88",
        f"cup &amp; saucer {tag('c', 'common')} labeled as {bowl}",
        f"{mug} missed",
    ]
    assert 'alt="&lt;b&gt;mug&lt;/b&gt; rare labeled as bowl frequent 0.88"' in text


def test_each_group_has_its_heading_and_missed_objects_are_last():
    text = section_of(labeled(1, 2), labeled(2, 3), missed(1))
    assert re.findall("<h3>(.*?)</h3>", text) == [
        "Objects of rare categories",
        "Objects of common categories",
        "Missed objects of rare categories",
    ]


@pytest.mark.parametrize(("number", "hidden"), [(12, 0), (13, 1), (48, 36)])
def test_three_rows_are_open(number, hidden):
    text = section_of(*[labeled(1, 3)] * number)
    assert len(captions(text)) == number
    assert len(captions(text.partition("<details>")[2])) == hidden
    assert (f"<summary>{hidden} more</summary>" in text) == bool(hidden)


def test_missing_images_are_counted_in_one_sentence():
    text = section_of(labeled(1, 3), labeled(1, 3, -1), missed(1, -1))
    assert "<p>2 of 3 images could not be read or drawn.</p>" in text
    assert len(captions(text)) == 1
    assert "Missed objects" not in text
    assert "could not" not in section_of(labeled(1, 3))
    assert "<p>1 of 1 images could not" in section_of(missed(1, -1))


def test_without_examples_the_section_says_so():
    text = section_of()
    assert "There is nothing to show" in text
    assert "<img" not in text
    assert "dashed" not in text


def test_the_pictures_get_the_groups():
    pictures = FakePictures()
    section_of(missed(1), pictures=pictures)
    assert pictures.groups == [{1: "r", 2: "c", 3: "f"}]


def test_the_text_says_that_a_confusion_may_be_correct():
    text = " ".join(section_of(missed(1)).split())
    assert "an apparent confusion may be correct" in text

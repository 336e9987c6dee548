import re
import time

import pytest

from d2_seesaw.evaluation.analysis import ConfusionExample
from d2_seesaw.report.evaluation_page import FEWEST_OBJECTS, analysis_page, write_report
from tests.evaluation.analysis_data import NAN, analysis, calibration, category, lvis_like
from tests.evaluation.html_text import cards, cells, section

ROWS = [
    category(1, "r", 2, 10.0, objects=12, name="<b>mug</b>"),
    category(2, "c", 20, NAN, objects=0),
    category(3, "f", 200, 50.0, objects=100),
    category(4, "f", 300, 40.0, objects=FEWEST_OBJECTS - 1),
]
CONFUSIONS = [(1, 1, 1), (1, 3, 8), (1, None, 3), (3, 3, 90), (3, 4, 6), (3, 1, 4)]
CALIBRATION = [
    calibration("all", (30, 0.1, 0.1), (10, 0.5, 0.9), error=10.0),
    calibration("r", (0, NAN, NAN)),
]


@pytest.fixture
def text():
    return analysis_page([analysis(ROWS, CONFUSIONS, CALIBRATION, metrics={"AP50": 61.24})])


def test_cards_have_the_metrics_and_how_many_categories_they_stand_on(text):
    found = cards(text)
    assert found["AP"] == "33.3"
    assert found["AP50"] == "61.2"
    assert found["APr, of 1 of 1 rare categories"] == "10.0"
    assert found["APc, of 0 of 1 common categories"] == "n/a"
    assert found["APf, of 2 of 2 frequent categories"] == "45.0"
    assert (found["images"], found["detections"], found["objects"]) == ("1,234", "56,789", "121")


def test_nothing_is_nan_and_names_are_escaped(text):
    assert "nan" not in text
    assert "<b>mug" not in text
    assert "&lt;b&gt;mug&lt;/b&gt;" in text


def test_the_chart_says_which_categories_it_leaves_out(text):
    assert "1 of 4 categories have no object" in section(text, "AP and training images")


def test_outcomes_are_counted_by_group(text):
    rows = cells(section(text, "what becomes of objects"))
    assert rows[0][:2] == ["objects", "named right"]
    assert rows[1:] == [
        ["rare", "1", "0", "0", "8", "3"],
        ["common", "0", "0", "0", "0", "0"],
        ["frequent", "90", "4", "0", "6", "0"],
    ]


def test_pairs_name_what_swallows_what(text):
    found = section(text, "what swallows the tail")
    (_, mug), (_, other) = (cells(t) for t in re.findall(r"<table>.*?</table>", found))
    name = "&lt;b&gt;mug&lt;/b&gt;"
    assert mug == [name, "rare", "2", "class3", "frequent", "200", "8 of 12", "67%"]
    assert other == ["class3", "frequent", "200", "class4", "frequent", "300", "6 of 100", "6%"]
    assert found.index("8 of 12") < found.index("<details>") < found.index("6 of 100")


def test_only_the_first_pairs_are_open_and_those_left_out_are_said():
    rows = [category(i, "r", 1, 1.0) for i in range(1, 401)] + [category(999, "f", 500, 1.0)]
    pairs = [(i, 999, 1000 - i) for i in range(1, 401)]
    found = section(analysis_page([analysis(rows, pairs)]), "what swallows the tail")
    before, after = found.split("<details>")
    assert len(cells(before)) == 1 + 30
    assert len(cells(after)) == 1 + 270
    assert "270 more pairs, without the last 100" in after


def test_as_many_objects_as_are_asked_for_are_enough():
    rows = [category(1, "r", 2, 10.0, objects=FEWEST_OBJECTS)]
    assert "class1" in section(analysis_page([analysis(rows)]), "best and worst categories")


def test_without_pairs_the_page_says_so():
    found = section(analysis_page([analysis(ROWS)]), "what swallows the tail")
    assert "No object is taken for one of a more frequent category." in found
    assert "<table>" not in found


def test_calibration_is_in_numbers_too(text):
    rows = cells(section(text, "calibration"))
    assert rows[1:] == [["all", "40", "20.0", "30.0", "10.0"], ["rare", "0", "n/a", "n/a", "n/a"]]


def test_best_and_worst_have_enough_objects_and_no_category_twice(text):
    found = section(text, "best and worst categories")
    rare, common, frequent = (cells(part) for part in found.split("<h3>")[1:])
    assert [row[0] for row in rare] == ["best", "&lt;b&gt;mug&lt;/b&gt;"]
    assert common == []
    assert frequent == [
        ["best", "training images", "objects here", "AP"],
        ["class3", "200", "100", "50.0"],
    ]


@pytest.mark.parametrize(("number", "best", "worst"), [(5, 3, 2), (16, 8, 8), (40, 8, 8)])
def test_best_and_worst_start_with_the_extremes(number, best, worst):
    rows = [category(i, "r", 5, float(i), objects=50) for i in range(1, number + 1)]
    found = section(analysis_page([analysis(rows)]), "best and worst categories")
    first, second = (cells(t)[1:] for t in re.findall(r"<table>.*?</table>", found))
    assert [row[3] for row in first] == [f"{number - i:.1f}" for i in range(best)]
    assert [row[3] for row in second] == [f"{1 + i:.1f}" for i in range(worst)]


def test_all_categories_are_listed_most_frequent_first(text):
    listed = [row for row in cells(text) if len(row) == 10][1:]
    assert [row[0] for row in listed][:3] == ["class4", "class3", "class2"]
    assert listed[1][1:] == [*("frequent", "200", "3", "3", "100", "90"), *("50.0", "60.0", "55.0")]
    assert listed[2][1:] == [*("common", "20", "2", "0", "0", "0"), *("n/a", "n/a", "n/a")]


class NoPictures:
    def draw(self, example, groups):
        return None


def test_with_pictures_each_task_shows_its_examples_after_the_pairs():
    found = [analysis(ROWS, CONFUSIONS, task=task) for task in ("segm", "bbox")]
    found[0].examples.append(ConfusionExample(1, None, 5, [0.0, 0.0, 9.0, 9.0], None, None))
    text = analysis_page(found, pictures=NoPictures())
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert len(titles) == 16
    place = titles.index("Masks: pictures of what is swallowed or missed")
    assert titles[place - 1] == "Masks: what swallows the tail"
    assert "1 of 1 images could not" in section(text, "Masks: pictures of what .*?")
    assert "There is nothing to show" in section(text, "Boxes: pictures of what .*?")


def test_each_task_has_its_sections():
    page = analysis_page([analysis(ROWS, task="segm"), analysis(ROWS)], title="<t>", subtitle="s")
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert [t.split(":")[0] for t in titles] == ["Masks"] * 7 + ["Boxes"] * 7
    assert "<h1>&lt;t&gt;</h1>" in page


def test_unknown_groups_and_training_images_are_shown_as_such():
    rows = [category(1, "n/a", None, 10.0), category(2, "n/a", None, 20.0)]
    found = analysis_page([analysis(rows, [(1, 2, 3), (2, None, 1)])])
    outcomes = cells(section(found, "what becomes of objects"))
    assert outcomes[1:] == [["unknown", "0", "3", "1"]]
    assert "APr, of 0 of 0 rare categories" in found
    assert "nan" not in found
    assert "None" not in found


def test_an_evaluation_of_nothing_has_a_page():
    page = analysis_page([analysis([])])
    assert "no category has a score" in page
    assert "no detections" in page


def test_the_report_is_written_into_the_folder_within_a_second(tmp_path):
    analyses = [lvis_like(task="segm"), lvis_like(task="bbox")]
    start = time.process_time()
    path = write_report(tmp_path, analyses)
    assert time.process_time() - start < 1.5  # half of it here; the rest is for slower machines
    assert path == str(tmp_path / "longtail.html")
    assert (tmp_path / "longtail.html").read_text(encoding="utf-8") == analysis_page(
        analyses, subtitle=str(tmp_path)
    )

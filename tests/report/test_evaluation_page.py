import re

import pytest

from d2_seesaw.evaluation.analysis import ConfusionExample
from d2_seesaw.evaluation.tables import CategoryResult, columns_of
from d2_seesaw.report import write_evaluation_report
from d2_seesaw.report.evaluation_page import FEWEST_OBJECTS, evaluation_page
from tests.evaluation.analysis_data import NAN, analysis, calibration, category, lvis_like
from tests.evaluation.html_text import cards, cells, section, tables, tooltips

ROWS = [
    category(1, "r", 2, 10.0, objects=12, name="<b>mug</b>"),
    category(2, "c", 20, NAN, objects=0),
    category(3, "f", 200, 50.0, objects=100),
    category(4, "f", 300, 40.0, objects=FEWEST_OBJECTS - 1),
]
CONFUSIONS = [(1, 1, 1), (1, 3, 8), (1, None, 3), (3, 3, 90), (3, 4, 6), (3, 1, 4)]
CONFUSION = "confusion with more frequent categories"
CALIBRATION = [
    calibration("all", (30, 0.1, 0.1), (10, 0.5, 0.9), error=10.0),
    calibration("r", (0, NAN, NAN)),
]


@pytest.fixture(scope="module")
def text():
    return evaluation_page([analysis(ROWS, CONFUSIONS, CALIBRATION, metrics={"AP50": 61.24})])


def test_cards_have_the_metrics_and_their_numbers_of_categories(text):
    found = cards(text)
    assert found["AP"] == "33.3"
    assert found["AP50"] == "61.2"
    assert found["APr, of 1 of 1 rare categories"] == "10.0"
    assert found["APc, of 0 of 1 common categories"] == "n/a"
    assert found["APf, of 2 of 2 frequent categories"] == "45.0"
    assert (found["images"], found["detections"], found["objects"]) == ("1,234", "56,789", "121")


def test_nothing_is_nan_and_names_are_escaped(text):
    assert not re.search(r"\bnan\b", text)
    assert "<b>mug" not in text
    assert "&lt;b&gt;mug&lt;/b&gt;" in text


def test_the_chart_says_which_categories_it_omits(text):
    found = " ".join(section(text, "AP and training images").split())
    assert "1 of 4 categories have no object" in found
    assert "not drawn" not in evaluation_page([analysis([ROWS[0], *ROWS[2:]])])


def test_outcomes_are_counted_by_group(text):
    rows = cells(section(text, "outcome per object"))
    assert rows[0][:2] == ["objects", "correct label"]
    assert rows[1:] == [
        ["rare", "1", "0", "0", "8", "3"],
        ["common", "0", "0", "0", "0", "0"],
        ["frequent", "90", "4", "0", "6", "0"],
    ]


def test_pairs_name_both_categories_and_their_share(text):
    found = section(text, CONFUSION)
    (_, mug), (_, other) = tables(found)
    name = "&lt;b&gt;mug&lt;/b&gt;"
    assert mug == [name, "rare", "2", "class3", "frequent", "200", "8 of 12", "67%"]
    assert other == ["class3", "frequent", "200", "class4", "frequent", "300", "6 of 100", "6%"]
    assert found.index("8 of 12") < found.index("<details>") < found.index("6 of 100")


@pytest.mark.usefixtures("no_charts")
def test_the_first_pairs_are_open_and_omitted_pairs_are_counted():
    rows = [category(i, "r", 1, 1.0) for i in range(1, 401)] + [category(999, "f", 500, 1.0)]
    pairs = [(i, 999, 1000 - i) for i in range(1, 401)]
    found = section(
        evaluation_page([analysis(rows, pairs)]), "confusion with more frequent categories"
    )
    before, after = found.split("<details>")
    assert len(cells(before)) == 1 + 30
    assert len(cells(after)) == 1 + 270
    assert "270 more pairs, without the last 100" in after


@pytest.mark.usefixtures("no_charts")
def test_the_required_number_of_objects_is_enough():
    rows = [category(1, "r", 2, 10.0, objects=FEWEST_OBJECTS)]
    assert "class1" in section(evaluation_page([analysis(rows)]), "best and worst categories")


@pytest.mark.usefixtures("no_charts")
def test_without_pairs_the_page_says_so():
    found = section(evaluation_page([analysis(ROWS)]), CONFUSION)
    assert "No object is labeled as a more frequent category." in found
    assert "<table>" not in found


def test_calibration_is_also_a_table(text):
    rows = cells(section(text, "calibration"))
    assert rows[1:] == [["all", "40", "20.0", "30.0", "10.0"], ["rare", "0", "n/a", "n/a", "n/a"]]


def test_best_and_worst_have_enough_objects_and_no_category_twice(text):
    found = section(text, "best and worst categories")
    rare, common, frequent = (cells(part) for part in found.split("<h3>")[1:])
    assert [row[0] for row in rare] == ["best", "&lt;b&gt;mug&lt;/b&gt;"]
    assert common == []
    assert frequent == [
        ["best", "training images", "evaluated objects", "AP"],
        ["class3", "200", "100", "50.0"],
    ]


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize(("number", "best", "worst"), [(5, 3, 2), (16, 8, 8), (40, 8, 8)])
def test_best_and_worst_start_with_the_extremes(number, best, worst):
    rows = [category(i, "r", 5, float(i), objects=50) for i in range(1, number + 1)]
    found = section(evaluation_page([analysis(rows)]), "best and worst categories")
    first, second = (rows[1:] for rows in tables(found))
    assert [row[3] for row in first] == [f"{number - i:.1f}" for i in range(best)]
    assert [row[3] for row in second] == [f"{1 + i:.1f}" for i in range(worst)]


def test_all_categories_are_listed_most_frequent_first(text):
    header, *listed = cells(section(text, ": categories"))
    columns = [column.title for column in columns_of(CategoryResult).values()]
    assert header == [*columns, "correct label"]
    assert [row[1] for row in listed][:3] == ["class4", "class3", "class2"]
    assert listed[1] == ["3", "class3", "frequent", "200", "3", "100", "50.0", "60.0", "55.0", "90"]
    assert listed[2][2:] == ["common", "20", "0", "0", "n/a", "n/a", "n/a", "0"]


class NoPictures:
    def draw(self, example, groups):
        return None


@pytest.mark.usefixtures("no_charts")
def test_with_pictures_each_task_shows_its_examples_after_the_pairs():
    found = [analysis(ROWS, CONFUSIONS, task=task) for task in ("segm", "bbox")]
    found[0].examples.append(ConfusionExample(1, None, 5, [0.0, 0.0, 9.0, 9.0], None, None))
    text = evaluation_page(found, pictures=NoPictures())
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert len(titles) == 16
    place = titles.index("Masks: pictures of confused and missed objects")
    assert titles[place - 1] == "Masks: confusion with more frequent categories"
    assert "1 of 1 images could not" in section(text, "Masks: pictures of .*?")
    assert "There is nothing to show" in section(text, "Boxes: pictures of .*?")


@pytest.mark.usefixtures("no_charts")
def test_each_task_has_its_sections():
    page = evaluation_page([analysis(ROWS, task="segm"), analysis(ROWS)], title="<t>", subtitle="s")
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert [t.split(":")[0] for t in titles] == ["Masks"] * 7 + ["Boxes"] * 7
    assert "<h1>&lt;t&gt;</h1>" in page


def test_unknown_groups_and_training_images_are_shown_as_such():
    rows = [category(1, "n/a", None, 10.0), category(2, "n/a", None, 20.0)]
    found = evaluation_page([analysis(rows, [(1, 2, 3), (2, None, 1)])])
    outcomes = cells(section(found, "outcome per object"))
    assert outcomes[1:] == [["unknown", "0", "3", "1"]]
    assert "APr, of 0 of 0 rare categories" in found
    assert not re.search(r"\bnan\b", found)
    assert "None" not in found


def test_an_empty_evaluation_has_a_page():
    page = evaluation_page([analysis([])])
    assert "no category has a score" in page
    assert "no detections" in page


def test_charts_have_tooltips_and_ids_of_their_own():
    page = evaluation_page(
        [analysis(ROWS, CONFUSIONS, CALIBRATION, task=t) for t in ("segm", "bbox")]
    )
    found = tooltips(page)
    assert (
        found.count("&lt;b&gt;mug&lt;/b&gt;: AP 10.0, 2 training images, 12 evaluated objects") == 2
    )
    assert found.count("frequent: correct label, 90 of 100 (90.0%)") == 2
    assert found.count("all: 30 detections with mean score 0.10, 10% correct") == 2
    ids = re.findall(r' id="(.*?)"', page)
    assert len(ids) == len(set(ids)) > 10
    assert set(re.findall(r'(?:href="|url\()#(.*?)[")]', page)) <= set(ids)


def test_the_page_is_one_file_that_needs_no_network():
    page = evaluation_page([analysis(ROWS, CONFUSIONS, CALIBRATION)])
    assert not re.search(r"""(src|href)=["'](?!data:|#)|@import|<script|<link|://""", page)


def test_the_report_is_written_into_a_new_folder(tmp_path):
    analyses = [lvis_like(40, task="segm"), lvis_like(40, task="bbox")]
    write_evaluation_report(tmp_path / "new" / "r.html", analyses)
    expected = evaluation_page(analyses, subtitle=str(tmp_path / "new"))
    assert (tmp_path / "new" / "r.html").read_text(encoding="utf-8") == expected

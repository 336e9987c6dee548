import re

import pytest

from d2_seesaw.evaluation.analysis.comparison import compare
from d2_seesaw.report.comparison_page import comparison_page
from d2_seesaw.report.evaluation_page import FEWEST_OBJECTS
from tests.evaluation.analysis_data import NAN, analysis, calibration, category, lvis_like
from tests.evaluation.html_text import cards, cells, section, tooltips

GROUPS = ("r", "r", "c", "f")
CONFUSION = "confusion with more frequent categories"


def run(aps, confusions=(), calibrations=(), *, objects=50, **options):
    rows = [
        category(i, group, 10**i, ap, objects=objects, name="<i>x</i>" if i == 1 else None)
        for i, (group, ap) in enumerate(zip(GROUPS, aps, strict=True), start=1)
    ]
    return analysis(rows, confusions, calibrations, **options)


def text_of(first, second, names=("<a>", "b")):
    return comparison_page([compare(first, second, names=names)])


@pytest.fixture(scope="module")
def page():
    first = run(
        [10.0, 20.0, 30.0, NAN],
        [(1, 4, 5), (1, 1, 3), (2, 4, 1)],
        [calibration("all", (10, 0.2, 0.1), error=10.0), calibration("r", (0, NAN, NAN))],
        metrics={"AP50": 50.0},
    )
    second = run(
        [15.0, 18.0, 30.0, NAN],
        [(1, 4, 1), (1, 1, 7), (2, 4, 3), (3, 4, 2)],
        [
            calibration("all", (20, 0.2, 0.15), error=5.0),
            calibration("r", (3, 0.5, 0.5), error=0.0),
        ],
        metrics={"AP50": NAN},
    )
    return text_of(first, second)


def test_metrics_are_side_by_side_with_their_difference(page):
    rows = {row[0]: row[1:] for row in cells(section(page, "metrics"))}
    assert rows[""] == ["&lt;a&gt;", "b", "difference", "95 % interval", "categories evaluated"]
    assert rows["AP"] == ["20.0", "21.0", "+1.0", "n/a", "3"]  # too few for an interval
    assert rows["AP50"] == ["50.0", "n/a", "n/a", "", ""]
    assert rows["APr"] == ["15.0", "16.5", "+1.5", "n/a", "2 of 2 rare"]
    assert rows["APc"] == ["30.0", "30.0", "0.0", "n/a", "1 of 1 common"]
    assert rows["APf"] == ["n/a", "n/a", "n/a", "n/a", "0 of 1 frequent"]


@pytest.mark.usefixtures("no_charts")
def test_many_categories_have_an_interval():
    page = text_of(lvis_like(200), lvis_like(200, seed=1))
    rows = {row[0]: row[1:] for row in cells(section(page, "metrics"))}
    assert re.fullmatch(r"[+-]?\d+\.\d to [+-]?\d+\.\d", rows["AP"][3])


def test_cards_have_the_differences(page):
    assert cards(page) == {
        "difference of AP": "+1.0",
        "difference of APr": "+1.5",
        "difference of APc": "0.0",
        "difference of APf": "n/a",
    }


def test_the_page_names_the_uncertainty_that_intervals_do_not_cover(page):
    text = " ".join(page.split())
    assert "paired bootstrap over categories" in text
    assert "do not cover the noise between trainings with different seeds" in text


def test_differences_are_drawn_by_training_images(page):
    found = tooltips(section(page, "difference of AP and training images"))
    name = "&lt;i&gt;x&lt;/i&gt;"
    assert f"{name}: difference of AP +5.0, 10 training images, 50 evaluated objects" in found
    assert "class2: difference of AP -2.0, 100 training images, 50 evaluated objects" in found


def test_outcomes_are_side_by_side(page):
    rows = cells(section(page, "outcome per object"))
    assert rows[1:4] == [
        ["rare, &lt;a&gt;", "3", "0", "0", "6", "0"],
        ["rare, b", "7", "0", "0", "4", "0"],
        ["common, &lt;a&gt;", "0", "0", "0", "0", "0"],
    ]


def test_pairs_are_listed_in_both_directions(page):
    found = section(page, CONFUSION)
    less, more = (cells(part)[1:] for part in found.split("<h3>")[1:])
    rare = ["rare", "10", "class4", "frequent", "10,000"]
    assert less == [["&lt;i&gt;x&lt;/i&gt;", *rare, "5", "1", "-4", "8"]]
    assert [row[0] for row in more] == ["class2", "class3"]
    assert [row[6:] for row in more] == [["1", "3", "+2", "3"], ["0", "2", "+2", "2"]]


@pytest.mark.usefixtures("no_charts")
def test_pairs_of_frequent_categories_are_collapsed():
    rows = [category(1, "f", 200, 1.0), category(2, "f", 300, 1.0), category(3, "r", 3, 1.0)]
    first = analysis(rows, [(1, 2, 90)])
    second = analysis(rows, [(3, 2, 1)])
    less, more = section(text_of(first, second), CONFUSION).split("<h3>")[1:]
    assert "No pair of rare or common categories." in less
    assert less.index("<details>") < less.index("-90")
    assert "<details>" not in more


@pytest.mark.usefixtures("no_charts")
def test_fifteen_pairs_of_each_group_are_listed():
    names = [*("r" * 20), *("c" * 20), *("f" * 20)]
    rows = [category(i, group, 10 * i, 1.0) for i, group in enumerate(names, start=1)]
    rows.append(category(99, "f", 9999, 1.0))
    second = analysis(rows, [(i, 99, 100 + i) for i in range(1, 61)])
    found = section(text_of(analysis(rows), second), CONFUSION).split("<h3>")[2]
    tail, frequent = (cells(part)[1:] for part in found.split("<details>"))
    assert [row[1] for row in tail] == ["rare"] * 15 + ["common"] * 15
    assert [row[8] for row in frequent] == [f"+{100 + i}" for i in range(60, 45, -1)]


def test_calibration_errors_are_side_by_side(page):
    rows = cells(section(page, "calibration"))
    assert rows[1:] == [
        ["all", "10", "10.0", "20", "5.0", "-5.0"],
        ["rare", "0", "n/a", "3", "0.0", "n/a"],
    ]


def test_gains_and_losses_are_of_categories_with_enough_objects(page):
    found = section(page, ": categories")
    gains, losses = (cells(part.split("<details>")[0])[1:] for part in found.split("<h3>")[1:])
    assert gains == [["&lt;i&gt;x&lt;/i&gt;", "rare", "10", "50", "10.0", "15.0", "+5.0"]]
    assert losses == [["class2", "rare", "100", "50", "20.0", "18.0", "-2.0"]]
    few = {"objects": FEWEST_OBJECTS - 1}
    scarce = section(text_of(run([1, 2, 3, 4], **few), run([5, 1, 3, 4], **few)), ": categories")
    assert scarce.count("No category.") == 2
    assert "All 4 with an AP in both" in scarce


@pytest.mark.usefixtures("no_charts")
def test_losses_start_with_the_greatest():
    text = text_of(run([40, 40, 40, 40]), run([30, 10, 20, 40]))
    losses = cells(section(text, ": categories").split("<h3>")[2].split("<details>")[0])[1:]
    assert [row[-1] for row in losses] == ["-30.0", "-20.0", "-10.0"]


def test_nothing_is_nan_and_names_are_escaped(page):
    assert not re.search(r"\bnan\b", page)
    assert "<a>" not in page
    assert "<i>" not in page


@pytest.mark.usefixtures("no_charts")
def test_each_task_has_its_sections():
    comparisons = [
        compare(lvis_like(30, task=t), lvis_like(30, seed=1, task=t)) for t in ("segm", "bbox")
    ]
    titles = re.findall(r"<h2>(.*?)</h2>", comparison_page(comparisons))
    assert [t.split(":")[0] for t in titles] == ["Masks"] * 6 + ["Boxes"] * 6

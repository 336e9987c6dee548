import csv
import json
import math

import numpy as np
import pytest

from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import LVISScores
from d2_seesaw.evaluation.tables import (
    category_results,
    group_counts,
    most_frequent_first,
    row_table,
    write_category_results,
)
from d2_seesaw.utils.text import unescape_formula
from tests.evaluation.lvis_data import add_object, dataset


@pytest.fixture
def data():
    data = dataset("rcf", image_ids=(1, 2, 3))
    for image_id, category_id in [(1, 1), (1, 1), (2, 1), (3, 3)]:
        add_object(data, image_id, category_id, [0, 0, 9, 9])
    return data


def table_of(data):
    return GroundTruthColumns.from_dataset(data).table


@pytest.fixture
def scores():
    ap, ap50 = np.array([1 / 3, math.nan, 40.0]), np.array([20.0, math.nan, 60.0])
    ar = np.array([30.0, math.nan, 70.0])
    return LVISScores({}, [1, 2, 3], category_ap=ap, category_ap50=ap50, category_ar=ar)


@pytest.fixture
def rows(data, scores):
    return category_results(table_of(data), scores, {})


def test_names_are_text(data, scores):
    data["categories"][0]["name"], data["categories"][1]["name"] = 12, None
    rows = category_results(table_of(data), scores, {})
    assert [row.name for row in rows[:2]] == ["12", "2"]


def test_a_row_describes_its_category(rows):
    row = rows[0]
    assert (row.category_id, row.name, row.frequency, row.train_images) == (1, "class1", "r", 10)


def test_a_row_counts_images_and_objects_of_the_split(rows):
    assert [row.gt_images for row in rows] == [2, 0, 1]
    assert [row.gt_instances for row in rows] == [3, 0, 1]


def test_ignored_objects_are_not_counted(data, scores):
    add_object(data, 2, 3, [0, 0, 9, 9])
    add_object(data, 1, 1, [0, 0, 9, 9])
    for crowd in data["annotations"][-2:]:
        crowd["ignore"] = 1
    rows = category_results(table_of(data), scores, {})
    assert [row.gt_images for row in rows] == [2, 0, 1]
    assert [row.gt_instances for row in rows] == [3, 0, 1]


def test_a_row_has_the_scores_of_its_category(rows):
    assert [row.AP for row in rows] == pytest.approx([1 / 3, math.nan, 40.0], nan_ok=True)
    assert [row.AP50 for row in rows] == pytest.approx([20.0, math.nan, 60.0], nan_ok=True)
    assert [row.AR for row in rows] == pytest.approx([30.0, math.nan, 70.0], nan_ok=True)


def test_training_images_may_come_from_the_metadata(data, scores):
    for category in data["categories"]:
        del category["image_count"]
    rows = category_results(table_of(data), scores, {1: 7, 3: 99})
    assert [row.train_images for row in rows] == [7, None, 99]


def test_a_category_without_a_name_is_named_by_its_id(data, scores):
    del data["categories"][1]["name"]
    assert category_results(table_of(data), scores, {})[1].name == "2"


def test_groups_count_scored_and_all_categories(rows):
    counts = group_counts(rows)
    assert [counts[f"evaluated-{g}"] for g in "rcf"] == [1.0, 0.0, 1.0]
    assert [counts[f"categories-{g}"] for g in "rcf"] == [1.0, 1.0, 1.0]


def test_csv_has_full_precision_and_empty_cells_for_absent_values(rows, tmp_path):
    write_category_results(rows, str(tmp_path), "bbox")
    with open(tmp_path / "per_category_bbox.csv") as file:
        written = list(csv.DictReader(file))
    assert [r["AP"] for r in written] == [repr(1 / 3), "", "40.0"]
    assert list(written[0]) == [
        *("category_id", "name", "frequency", "train_images"),
        *("gt_images", "gt_instances", "AP", "AP50", "AR"),
    ]


def test_json_is_strict_and_equals_the_csv(rows, tmp_path):
    write_category_results(rows, str(tmp_path), "segm")
    with open(tmp_path / "per_category_segm.csv") as file:
        table = list(csv.DictReader(file))
    text = (tmp_path / "per_category_segm.json").read_text()
    records = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    as_text = [{k: "" if v is None else str(v) for k, v in r.items()} for r in records]
    assert as_text == table


def test_the_table_has_the_columns_that_are_logged(rows):
    header = [cell.strip() for cell in row_table(rows).splitlines()[0].strip("|").split("|")]
    shown = ["category", "group", "training images", "evaluated objects", "AP", "AP50", "AR"]
    assert header == shown


def test_the_table_starts_with_the_most_frequent_category(rows):
    lines = row_table(most_frequent_first(rows)).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == ["class3", "class2", "class1"]
    assert [line.split("|")[5].strip() for line in lines] == ["40.000", "n/a", "0.333"]


@pytest.mark.parametrize(
    "name", ["=HYPERLINK(1)", "+1+cmd", "-2+3", "@SUM(A1)", "\ta", "\r=1", "'=1", "\uff1d1"]
)
def test_a_name_that_is_a_formula_is_text_in_the_csv_file(name, data, scores, tmp_path):
    data["categories"][0]["name"] = name
    rows = category_results(table_of(data), scores, {})
    write_category_results(rows, str(tmp_path), "bbox")
    with open(tmp_path / "per_category_bbox.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == [f"'{name}", "class2", "class3"]
    assert [unescape_formula(row["name"]) for row in table] == [name, "class2", "class3"]
    assert float(table[0]["AP"]) == pytest.approx(100 / 300)
    assert json.loads((tmp_path / "per_category_bbox.json").read_text())[0]["name"] == name

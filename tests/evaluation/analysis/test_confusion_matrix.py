"""The confusion matrix, compared with a loop over images, detections and objects."""

import csv
from collections import Counter

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from d2_seesaw.evaluation.analysis import Confusion, ConfusionMatrix
from d2_seesaw.evaluation.analysis.confusion import Assignment
from d2_seesaw.evaluation.analysis.confusion_matrix import (
    confusion_matrix,
    matrix_table,
    write_confusion_matrix,
)
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from tests.evaluation.analysis_data import analysis, category
from tests.evaluation.federated_cases import area, shape
from tests.evaluation.labeled_objects import confused_case, label_one_by_one


def background_one_by_one(data, results):
    """Count by category the false detections that overlap no object, as literally as possible."""
    known = {c["id"] for c in data["categories"]}
    found = Counter()
    for image in data["images"]:
        objects = [a for a in data["annotations"] if a["image_id"] == image["id"] and a["area"] > 0]
        present = {a["category_id"] for a in objects} | set(image["neg_category_ids"])
        verified = present - set(image["not_exhaustive_category_ids"])
        for r in results:
            if r["image_id"] != image["id"] or r["category_id"] not in known & verified:
                continue
            ious = [mask_utils.iou(shape(r, "bbox"), shape(a, "bbox"), [0])[0, 0] for a in objects]
            if area(r, "bbox") > 0 and not any(iou >= 0.5 for iou in ious):
                found[r["category_id"]] += 1
    return found


def test_equals_a_loop_and_its_rows_sum_to_the_objects_that_count():
    total = Counter()
    for seed in range(6):
        data, results = confused_case(seed)
        columns = GroundTruthColumns.from_dataset(data)
        rng = np.random.default_rng(seed)
        thresholds = rng.uniform(0.2, 0.6, len(columns.category_ids))
        of_id = dict(zip(columns.category_ids.tolist(), thresholds.tolist(), strict=True))
        kept = [r for r in results if r["score"] >= of_id.get(r["category_id"], 2)]
        limits = DetectionLimits(per_image=None)
        found = Detections.from_results(results)
        assignment = Assignment.of_detections(columns, found, "bbox", limits=limits)
        matrix = confusion_matrix(assignment, thresholds)
        names = label_one_by_one(data, kept, "score", "bbox", None)
        expected = Counter(
            (a["category_id"], (names[a["id"]] or {}).get("category_id"))
            for a in data["annotations"]
            if a["id"] in names
        )
        counts = {(c.category_id, c.predicted_id): c.objects for c in matrix.confusions}
        assert counts == expected
        assert dict(matrix.background) == background_one_by_one(data, kept)
        total["background"] += sum(n for _, n in matrix.background)
        total["confused"] += sum(n for (a, b), n in counts.items() if a != b)
        run = analysis([category(i, "r", i) for i in of_id])
        table = matrix_table(found_with(run, matrix))
        objects = Counter(
            a["category_id"] for a in data["annotations"] if a["area"] > 0 and not a.get("ignore")
        )
        sums = dict(zip(table.rows, table.counts.sum(axis=1).tolist(), strict=True))
        assert {c.category_id: n for c, n in sums.items() if c and n} == objects
        assert sums[None] == sum(n for _, n in matrix.background)
    assert min(total.values()) > 10, total


def found_with(found, matrix):
    return type(found)(**{**vars(found), "matrix": matrix})


@pytest.fixture
def run():
    rows = [
        category(1, "r", 2, name="=1+1"),
        category(2, "f", 200, name="cup"),
        category(3, "c", 20, name="urn"),
    ]
    matrix = ConfusionMatrix(
        [Confusion(1, 2, 3), Confusion(1, None, 1), Confusion(2, 2, 9)], [(2, 4)]
    )
    return found_with(analysis(rows), matrix)


def test_the_csv_file_has_all_categories_and_no_formula(run, tmp_path):
    write_confusion_matrix(tmp_path / "c.csv", run)
    with open(tmp_path / "c.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["category", "cup", "urn", "'=1+1", "(missed)"],
        ["cup", "9", "0", "0", "0"],
        ["urn", "0", "0", "0", "0"],
        ["'=1+1", "3", "0", "0", "1"],
        ["(background)", "4", "0", "0", "0"],
    ]


def test_categories_without_objects_and_detections_can_be_left_out(run):
    table = matrix_table(run, all_categories=False)
    assert [c and c.category_id for c in table.rows] == [2, 1, None]
    assert table.counts.tolist() == [[9, 0, 0], [3, 0, 1], [4, 0, 0]]


def test_an_analysis_of_an_earlier_version_says_how_to_get_a_matrix(run):
    with pytest.raises(ValueError, match=r"no confusion matrix.*d2-seesaw evaluate"):
        matrix_table(found_with(run, None))

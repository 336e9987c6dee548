import math

import numpy as np
import pytest

from d2_seesaw.evaluation.semantic_scores import (
    SegmentationScores,
    boundary_metrics,
    class_results,
    group_metrics,
    most_pixels_first,
)
from d2_seesaw.evaluation.tables import row_table

NAMES = ["road", "car", "train", "rider", "dog"]
NAN = math.nan


@pytest.fixture
def scores():
    return SegmentationScores(
        iou=np.array([90.0, 50.0, 1 / 3, 20.0, NAN]),
        recall=np.array([95.0, 60.0, 10.0, 30.0, NAN]),
        precision=np.array([94.0, 70.0, NAN, 40.0, NAN]),
        boundary_iou=np.array([70.0, 55.0, 0.0, 10.0, NAN]),
        gt_pixels=np.array([500, 400, 20, 80, 0]),
    )


@pytest.fixture
def rows(scores):
    return class_results(NAMES, scores, None, (0.05, 0.3))


def test_a_row_has_the_scores_of_its_class(rows):
    row = rows[2]
    assert (row.class_id, row.name, row.gt_pixels) == (2, "train", 20)
    assert (row.IoU, row.recall, row.BoundaryIoU) == (1 / 3, 10.0, 0.0)
    assert math.isnan(row.precision)


def test_without_training_pixels_the_groups_follow_the_ground_truth(rows):
    assert [row.frequency for row in rows] == list("ffrcr")
    assert {row.train_pixels for row in rows} == {None}


def test_training_pixels_determine_the_groups(scores):
    rows = class_results(NAMES, scores, np.array([1, 9, 50, 10, 30]), (0.05, 0.3))
    assert [row.frequency for row in rows] == list("rcfcf")
    assert [row.train_pixels for row in rows] == [1, 9, 50, 10, 30]


def test_a_group_has_the_mean_of_its_classes_with_ground_truth(rows):
    metrics = group_metrics(rows)
    assert [metrics[f"mIoU{g}"] for g in "rcf"] == [1 / 3, 20.0, 70.0]
    assert [metrics[f"mACC{g}"] for g in "rcf"] == [10.0, 30.0, 77.5]
    assert [metrics[f"evaluated-{g}"] for g in "rcf"] == [1.0, 1.0, 2.0]
    assert [metrics[f"categories-{g}"] for g in "rcf"] == [2.0, 1.0, 2.0]


def test_a_group_without_ground_truth_has_no_mean(scores):
    metrics = group_metrics(class_results(NAMES, scores, np.array([50, 50, 50, 50, 1]), (0.1, 0.9)))
    assert math.isnan(metrics["mIoUr"])
    assert math.isnan(metrics["mACCr"])
    assert math.isnan(metrics["mIoUf"])
    assert metrics["evaluated-r"] == metrics["categories-f"] == 0.0


def test_boundary_iou_has_a_mean_and_detectron2s_names(rows):
    metrics = boundary_metrics(rows)
    assert metrics["mBoundaryIoU"] == (70 + 55 + 0 + 10) / 4
    assert metrics["BoundaryIoU-car"] == 55.0
    assert metrics["min(IoU, B-Iou)-car"] == 50.0
    assert math.isnan(metrics["BoundaryIoU-dog"])
    assert math.isnan(metrics["min(IoU, B-Iou)-dog"])


def table_of(rows):
    text = row_table(most_pixels_first(rows))
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.split("\n")]


def test_the_table_starts_with_the_class_with_most_training_pixels(scores):
    lines = table_of(class_results(NAMES, scores, np.array([1, 9, 50, 10, 30]), (0.05, 0.3)))
    assert [line[0] for line in lines[2:]] == ["train", "dog", "rider", "car", "road"]
    assert lines[2] == ["train", "f", "50", "20", "0.333", "10.000", "n/a"]


def test_without_training_pixels_the_table_is_sorted_by_ground_truth(rows):
    lines = table_of(rows)
    assert [line[0] for line in lines[2:]] == ["road", "car", "rider", "train", "dog"]
    assert lines[2][2] == "n/a"

import math

import numpy as np
import pytest

from d2_seesaw.evaluation.semantic_scores import (
    boundary_confusion_matrix,
    confusion_matrix,
    segmentation_scores,
)
from tests.evaluation.sem_seg_data import C, blocks

IGNORED = C  # in the matrices


@pytest.fixture
def maps():
    rng = np.random.default_rng(3)
    size = (37, 52)
    predicted = blocks(rng, size, range(C))
    return predicted, np.where(rng.random(size) < 0.9, predicted, blocks(rng, size, range(C + 1)))


def literal_counts(predicted, labels, c):
    """Count correct, true and predicted pixels of class ``c`` one by one."""
    correct = true = claimed = 0
    for p, t in zip(predicted.flat, labels.flat, strict=True):
        if t != IGNORED:
            correct += p == c and t == c
            true += t == c
            claimed += p == c
    return correct, true, claimed


def literal_boundary(mask, distance):
    """Mark the pixels of ``mask`` near its complement or the image border."""
    height, width = mask.shape
    result = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        for v in range(y - distance, y + distance + 1):
            for u in range(x - distance, x + distance + 1):
                inside = 0 <= v < height and 0 <= u < width
                if not (inside and mask[v, u]):
                    result[y, x] = True
    return result


def scores_of(predicted, labels):
    return segmentation_scores(
        confusion_matrix(predicted, labels, C), boundary_confusion_matrix(predicted, labels, C)
    )


def test_scores_equal_a_loop_over_pixels(maps):
    scores = scores_of(*maps)
    for c in range(C):
        correct, true, claimed = literal_counts(*maps, c)
        assert scores.gt_pixels[c] == true
        assert scores.iou[c] == pytest.approx(100 * correct / (true + claimed - correct))
        assert scores.recall[c] == pytest.approx(100 * correct / true)
        assert scores.precision[c] == pytest.approx(100 * correct / claimed)


def test_the_matrix_has_predictions_in_rows(maps):
    predicted, labels = maps
    matrix = confusion_matrix(predicted, labels, C)
    for p in range(C + 1):
        for t in range(C + 1):
            assert matrix[p, t] == ((predicted == p) & (labels == t)).sum()


@pytest.mark.parametrize("distance", [1, 3])
def test_boundary_iou_equals_a_loop_over_the_mask_of_each_class(distance):
    rng = np.random.default_rng(distance)
    size = (24, 50) if distance == 1 else (96, 110)  # 2% of the diagonal: 1.1 and 2.9
    predicted = blocks(rng, size, range(C), cell=9)
    labels = np.where(rng.random(size) < 0.99, predicted, 0)
    scores = scores_of(predicted, labels)
    for c in range(C):
        found = literal_boundary(predicted == c, distance)
        true = literal_boundary(labels == c, distance)
        expected = 100 * (found & true).sum() / (found | true).sum()
        assert scores.boundary_iou[c] == pytest.approx(expected)
        assert expected < 99


def test_boundary_iou_does_not_depend_on_the_order_of_classes():
    rng = np.random.default_rng(7)
    predicted, labels = (blocks(rng, (60, 60), range(C)) for _ in range(2))
    order = np.array([2, 0, 3, 1])
    renamed = scores_of(order[predicted], order[labels])
    np.testing.assert_array_equal(
        renamed.boundary_iou[order], scores_of(predicted, labels).boundary_iou
    )


def test_predictions_at_ignored_pixels_do_not_matter(maps):
    predicted, labels = maps
    other = np.where(labels == IGNORED, (predicted + 1) % C, predicted)
    assert (other != predicted).any()
    for field in ("iou", "recall", "precision", "boundary_iou"):
        np.testing.assert_array_equal(
            getattr(scores_of(other, labels), field), getattr(scores_of(predicted, labels), field)
        )


def test_a_perfect_prediction_scores_100_beside_ignored_pixels(maps):
    _, labels = maps
    scores = scores_of(np.where(labels == IGNORED, 0, labels), labels)
    for field in ("iou", "recall", "precision", "boundary_iou"):
        np.testing.assert_array_equal(getattr(scores, field), 100.0)


def test_a_class_without_ground_truth_has_no_score_even_if_predicted():
    scores = scores_of(np.array([[0, 1, 1, 0]]), np.array([[0, 0, 0, 2]]))
    for field in ("iou", "recall", "precision", "boundary_iou"):
        assert math.isnan(getattr(scores, field)[1])
    # Class 2 is missed: it is never predicted, so its precision is undefined.
    assert scores.iou[2] == scores.recall[2] == 0
    assert math.isnan(scores.precision[2])


def test_without_boundary_counts_there_is_no_boundary_iou(maps):
    matrix = confusion_matrix(*maps, C)
    scores = segmentation_scores(matrix, np.zeros_like(matrix))
    assert np.isnan(scores.boundary_iou).all()
    assert not np.isnan(scores.iou).any()


def test_classes_beyond_a_byte_are_distinguished():
    labels = np.full((30, 30), 44)
    labels[:, 15:] = 300  # 44 + 256
    matrix = confusion_matrix(labels, labels, 301)
    boundaries = boundary_confusion_matrix(labels, labels, 301)
    assert matrix[300, 300] == matrix[44, 44] == 30 * 15
    inner = 28 * 13  # at this size the boundary is one pixel wide
    assert boundaries[300, 300] == boundaries[44, 44] == 30 * 15 - inner

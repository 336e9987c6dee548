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
    """Pixel by pixel: correct, true and predicted pixels of class ``c``."""
    correct = true = claimed = 0
    for p, t in zip(predicted.flat, labels.flat, strict=True):
        if t != IGNORED:
            correct += p == c and t == c
            true += t == c
            claimed += p == c
    return correct, true, claimed


def literal_boundary(mask, distance):
    """Pixels of ``mask`` near one that is not in it, or near the outside."""
    height, width = mask.shape
    result = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        for v in range(y - distance, y + distance + 1):
            for u in range(x - distance, x + distance + 1):
                inside = 0 <= v < height and 0 <= u < width
                if not (inside and mask[v, u]):
                    result[y, x] = True
    return result


def of(predicted, labels):
    return segmentation_scores(
        confusion_matrix(predicted, labels, C), boundary_confusion_matrix(predicted, labels, C)
    )


def test_scores_are_those_of_a_loop_over_pixels(maps):
    scores = of(*maps)
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
def test_boundary_iou_is_that_of_each_classs_own_mask(distance):
    rng = np.random.default_rng(distance)
    size = (24, 50) if distance == 1 else (96, 110)  # 2% of the diagonal: 1.1 and 2.9
    predicted = blocks(rng, size, range(C), cell=9)
    labels = np.where(rng.random(size) < 0.99, predicted, 0)
    scores = of(predicted, labels)
    for c in range(C):
        found = literal_boundary(predicted == c, distance)
        true = literal_boundary(labels == c, distance)
        expected = 100 * (found & true).sum() / (found | true).sum()
        assert scores.boundary_iou[c] == pytest.approx(expected)
        assert expected < 99


def test_boundaries_are_the_same_whatever_the_numbers_of_the_classes():
    rng = np.random.default_rng(7)
    predicted, labels = (blocks(rng, (60, 60), range(C)) for _ in range(2))
    order = np.array([2, 0, 3, 1])
    renamed = of(order[predicted], order[labels])
    np.testing.assert_array_equal(renamed.boundary_iou[order], of(predicted, labels).boundary_iou)


def test_what_is_predicted_where_nothing_counts_has_no_influence(maps):
    predicted, labels = maps
    other = np.where(labels == IGNORED, (predicted + 1) % C, predicted)
    assert (other != predicted).any()
    for field in ("iou", "recall", "precision", "boundary_iou"):
        np.testing.assert_array_equal(
            getattr(of(other, labels), field), getattr(of(predicted, labels), field)
        )


def test_a_perfect_prediction_scores_100_beside_ignored_pixels(maps):
    _, labels = maps
    scores = of(np.where(labels == IGNORED, 0, labels), labels)
    for field in ("iou", "recall", "precision", "boundary_iou"):
        np.testing.assert_array_equal(getattr(scores, field), 100.0)


def test_a_class_without_ground_truth_has_no_score_even_if_predicted():
    scores = of(np.array([[0, 1, 1, 0]]), np.array([[0, 0, 0, 2]]))
    for field in ("iou", "recall", "precision", "boundary_iou"):
        assert math.isnan(getattr(scores, field)[1])
    # Never predicted, but there: missed, with no precision to speak of.
    assert scores.iou[2] == scores.recall[2] == 0
    assert math.isnan(scores.precision[2])


def test_without_counts_of_boundaries_they_have_no_score(maps):
    matrix = confusion_matrix(*maps, C)
    scores = segmentation_scores(matrix, np.zeros_like(matrix))
    assert np.isnan(scores.boundary_iou).all()
    assert not np.isnan(scores.iou).any()


def test_classes_beyond_a_byte_are_told_apart():
    labels = np.full((30, 30), 44)
    labels[:, 15:] = 300  # 256 more
    matrix = confusion_matrix(labels, labels, 301)
    boundaries = boundary_confusion_matrix(labels, labels, 301)
    assert matrix[300, 300] == matrix[44, 44] == 30 * 15
    inner = 28 * 13  # at this size the boundary is one pixel wide
    assert boundaries[300, 300] == boundaries[44, 44] == 30 * 15 - inner

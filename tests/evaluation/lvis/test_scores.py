"""Scores of curves, compared with explicit means."""

import math

import numpy as np
import pytest

from d2_seesaw.evaluation.lvis.metrics import scores_of_curves
from d2_seesaw.evaluation.lvis.rules import METRICS


@pytest.fixture
def curves():
    """Return precision (T, R, K, A) and recall (T, K, A); the last of 3 categories is absent."""
    generator = np.random.RandomState(0)
    precision, recall = generator.rand(10, 101, 3, 4), generator.rand(10, 3, 4)
    precision[:, :, 2], recall[:, 2] = -1, -1
    precision[..., 3] = -1  # no large objects
    groups = {"r": np.array([0]), "c": np.array([1]), "f": np.array([2])}
    return precision, recall, groups


def test_metrics_are_means_over_present_values(curves):
    precision, recall, groups = curves
    metrics = scores_of_curves(precision, recall, [3, 5, 9], groups).metrics
    assert tuple(metrics) == METRICS
    expected = {
        "AP": precision[:, :, :2, 0],
        "AP50": precision[0, :, :2, 0],
        "AP75": precision[5, :, :2, 0],
        "APs": precision[:, :, :2, 1],
        "APm": precision[:, :, :2, 2],
        "APr": precision[:, :, 0, 0],
        "APc": precision[:, :, 1, 0],
        "AR": recall[:, :2, 0],
        "ARs": recall[:, :2, 1],
        "ARm": recall[:, :2, 2],
        "ARl": recall[:, :2, 3],
        "ARr": recall[:, 0, 0],
        "ARc": recall[:, 1, 0],
    }
    for name, values in expected.items():
        assert metrics[name] == pytest.approx(100 * values.mean(), abs=1e-10)
    assert math.isnan(metrics["APl"])
    assert math.isnan(metrics["APf"])
    assert math.isnan(metrics["ARf"])


def test_category_scores_are_means_over_their_own_curves(curves):
    precision, recall, groups = curves
    scores = scores_of_curves(precision, recall, [3, 5, 9], groups)
    assert scores.category_ids == [3, 5, 9]
    np.testing.assert_allclose(scores.category_ap[:2], 100 * precision[..., :2, 0].mean((0, 1)))
    np.testing.assert_allclose(scores.category_ap50[:2], 100 * precision[0, :, :2, 0].mean(0))
    np.testing.assert_allclose(scores.category_ar[:2], 100 * recall[:, :2, 0].mean(0))
    assert np.isnan([scores.category_ap[2], scores.category_ap50[2], scores.category_ar[2]]).all()


def test_class_agnostic_scores_have_no_categories(curves):
    precision, recall, _ = curves
    scores = scores_of_curves(precision[:, :, :1], recall[:, :1], [], {})
    assert scores.category_ids == []
    assert len(scores.category_ap) == 0
    assert math.isnan(scores.metrics["APr"])

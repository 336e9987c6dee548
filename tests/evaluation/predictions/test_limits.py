import numpy as np
import pytest

from d2_seesaw.evaluation.predictions.detections import EMPTY, Detections
from d2_seesaw.evaluation.predictions.limits import FIXED_AP_DETECTIONS, DetectionLimits


def columns(images, categories, scores, mask_scores=None):
    given = [np.array(x) for x in (images, categories, scores)]
    return Detections(*given, mask_scores=mask_scores and np.array(mask_scores))


def best(groups, scores, limit):
    """Select with Python's stable sort, group by group."""
    kept = []
    for group in set(groups):
        rows = [i for i, g in enumerate(groups) if g == group]
        kept += sorted(rows, key=lambda i: -scores[i])[:limit]
    return sorted(kept)


@pytest.mark.parametrize("limit", [1, 3, 8, 100])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_of_each_image_or_category_are_kept_and_the_first_of_ties(seed, limit):
    rng = np.random.default_rng(seed)
    images, categories = rng.integers(0, 6, (2, 60)).tolist()
    scores = rng.integers(0, 5, 60).tolist()
    detections = columns(images, categories, scores)
    of_image = DetectionLimits(per_image=limit).rows(detections, "bbox")
    assert of_image.tolist() == best(images, scores, limit)
    of_category = DetectionLimits(per_image=None, per_category=limit).rows(detections, "bbox")
    assert of_category.tolist() == best(categories, scores, limit)


def test_each_task_is_limited_by_its_own_score():
    detections = columns([1, 1], [1, 1], [0.9, 0.1], mask_scores=[0.2, 0.8])
    kept = [DetectionLimits(per_image=1).rows(detections, task) for task in ("bbox", "segm")]
    assert [rows.tolist() for rows in kept] == [[0], [1]]


def test_detections_that_any_task_keeps_are_kept():
    detections = columns([1] * 3, [1] * 3, [0.5, 0.9, 0.1], mask_scores=[0.5, 0.2, 0.8])
    assert DetectionLimits(per_image=1).rows_of_any_task(detections).tolist() == [1, 2]
    without = columns([1] * 3, [1] * 3, [0.5, 0.9, 0.1])
    assert DetectionLimits(per_image=1).rows_of_any_task(without).tolist() == [1]


def test_fixed_ap_keeps_ten_thousand_of_a_category_over_all_images():
    limits = DetectionLimits.of_fixed_ap()
    assert FIXED_AP_DETECTIONS == 10_000
    many = columns([1] * 10_001, [5] * 10_001, range(10_001))
    assert limits.rows(many, "bbox").tolist() == list(range(1, 10_001))


def test_no_detections_have_no_rows():
    assert DetectionLimits().rows(EMPTY, "segm").tolist() == []

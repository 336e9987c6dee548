from unittest import mock

import numpy as np
import pytest

from d2_seesaw.data.rle import MaskColumns
from d2_seesaw.evaluation.predictions.detections import EMPTY, Detections
from d2_seesaw.evaluation.predictions.gather import DetectionLog
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from tests.evaluation.federated_cases import federated_case
from tests.support.memory import MEGABYTE, added_at_peak


@pytest.fixture
def results():
    return federated_case(0, "real boxes")[1]


@pytest.mark.parametrize("images_per_block", [1, 3, 100])
def test_a_log_keeps_the_order_of_images(results, images_per_block):
    log = DetectionLog(images_per_block=images_per_block)
    for result in results:
        log.append(Detections.from_results([result]))
        log.append(EMPTY)
    assert list(log.columns().results()) == results
    assert len(log) == len(results)


def test_detections_can_be_added_after_reading_all(results):
    log = DetectionLog(images_per_block=2)
    for i, result in enumerate(results):
        log.append(Detections.from_results([result]))
        for _ in range(2):
            assert list(log.columns().results()) == results[: i + 1]


def test_an_empty_log_has_no_detections():
    assert len(DetectionLog().columns()) == 0
    assert len(DetectionLog(per_category=3).columns()) == 0


def images(seed, masks, mask_scores, number=40):
    """Yield detections with ties in score and with categories above the limit."""
    rng = np.random.default_rng(seed)
    for image_id in range(number):
        n = int(rng.integers(0, 9))
        rles = [{"size": [9, 9], "counts": b"x" * int(k)} for k in rng.integers(1, 9, n)]
        yield Detections(
            np.full(n, f"image {image_id}"),
            rng.choice([5, 6, 7, 900], n, p=[0.6, 0.2, 0.15, 0.05]),
            rng.integers(0, 5, n).astype(np.float32),
            boxes=rng.random((n, 4)).astype(np.float32),
            mask_scores=rng.integers(0, 5, n).astype(np.float32) if mask_scores else None,
            masks=MaskColumns.from_rles(rles) if masks else None,
        )


@pytest.mark.parametrize("images_per_block", [1, 4, 100])
@pytest.mark.parametrize(("masks", "mask_scores"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("seed", range(3))
def test_dropping_the_excess_early_does_not_change_the_result(
    seed, masks, mask_scores, images_per_block
):
    log = DetectionLog(per_category=6, images_per_block=images_per_block)
    longest = 0
    for found in images(seed, masks, mask_scores):
        log.append(found)
        longest = max(longest, len(log))
    everything = Detections.concatenate(list(images(seed, masks, mask_scores)))
    limits = DetectionLimits(per_image=None, per_category=6)
    rows = {r for task in ("bbox", "segm") for r in limits.rows(everything, task).tolist()}
    expected = [r for i, r in enumerate(everything.results()) if i in rows]
    assert list(log.columns().results()) == expected
    assert len(expected) < len(everything) // 2
    if images_per_block == 1:
        assert longest < len(everything)
        assert longest <= 2 * len(expected) + 8


def test_a_log_checks_for_excess_when_it_has_doubled(monkeypatch):
    look = mock.Mock(side_effect=DetectionLimits.rows_of_any_task, autospec=True)
    monkeypatch.setattr(DetectionLimits, "rows_of_any_task", lambda *args: look(*args))
    log = DetectionLog(per_category=1000, images_per_block=1)
    for _ in range(256):
        log.append(Detections(np.ones(1), np.ones(1), np.ones(1)))
    assert [len(call.args[1]) for call in look.call_args_list] == [2**i for i in range(9)]


def test_detections_within_the_limit_are_not_copied():
    log = DetectionLog(per_category=2)
    found = Detections(np.ones(2), np.ones(2), np.ones(2))
    log.append(found)
    assert log.columns() is found


def test_masks_without_scores_rank_by_the_scores_of_their_boxes():
    log = DetectionLog(per_category=1, images_per_block=1)
    for score, own in ((0.5, None), (0.4, 0.6), (0.3, None)):
        own_scores = None if own is None else np.array([own])
        log.append(
            Detections(np.array([1]), np.array([1]), np.array([score]), mask_scores=own_scores)
        )
    assert log.columns().scores.tolist() == [0.5, 0.4]


def test_a_log_without_a_limit_never_checks_for_excess(monkeypatch):
    look = mock.Mock(autospec=True)
    monkeypatch.setattr(DetectionLimits, "rows_of_any_task", look)
    log = DetectionLog(images_per_block=1)
    for found in images(0, False, False):
        log.append(found)
    assert len(log.columns()) == sum(len(found) for found in images(0, False, False))
    look.assert_not_called()


def test_a_log_takes_the_memory_of_its_detections_once():
    # After an array of this size was freed, smaller ones stay with the process when they are.
    freed = np.ones(30 * MEGABYTE, np.uint8)
    del freed
    size, number = MEGABYTE, 400
    log = DetectionLog(images_per_block=4)

    def fill():
        for _ in range(number):
            masks = MaskColumns(np.ones((1, 2)), np.array([size]), np.ones(size, np.uint8))
            log.append(Detections(np.ones(1), np.ones(1), np.ones(1), masks=masks))
        return log.columns()

    columns, added = added_at_peak(fill)
    assert columns.masks.counts.sum() == number * size
    assert added < 1.3 * number * size


def test_columns_do_not_change_when_detections_are_added():
    log = DetectionLog(images_per_block=1)
    for score in (0.1, 0.2, 0.3):
        log.append(Detections(np.ones(1), np.ones(1), np.array([score])))
    columns = log.columns()
    for score in (0.4, 0.5):
        log.append(Detections(np.ones(1), np.ones(1), np.array([score])))
    assert columns.scores.tolist() == [0.1, 0.2, 0.3]
    assert log.columns().scores.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_masks_get_the_scores_of_their_boxes_when_later_ones_have_their_own():
    log = DetectionLog(images_per_block=1)
    for score, own in ((0.5, None), (0.4, 0.6), (0.3, None)):
        own_scores = None if own is None else np.array([own])
        log.append(Detections(np.ones(1), np.ones(1), np.array([score]), mask_scores=own_scores))
    assert log.columns().mask_scores.tolist() == [0.5, 0.6, 0.3]


@pytest.mark.parametrize("ids", [(7, 2**40, "a"), ("a", "longer", "b"), (1, 2, 3)])
def test_ids_of_any_type_and_length_are_kept(ids):
    log = DetectionLog(images_per_block=1)
    for image_id in ids:
        log.append(Detections(np.array([image_id]), np.ones(1), np.ones(1)))
    assert log.columns().image_ids.tolist() == np.concatenate([[i] for i in ids]).tolist()


def test_mixed_detections_are_refused_and_not_lost(results):
    log = DetectionLog()
    log.append(Detections.from_results(results))
    boxes = [{k: v for k, v in results[0].items() if k != "segmentation"}]
    log.append(Detections.from_results(boxes))
    for _ in range(2):
        with pytest.raises(ValueError, match="Only some of the detections have boxes, masks"):
            log.columns()

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from d2_seesaw.data.rle import MaskColumns, columns


@pytest.mark.parametrize("block", [1, 2, 100])
def test_masks_can_be_taken_in_any_order_and_more_than_once(block, monkeypatch):
    monkeypatch.setattr(columns, "_MASKS_PER_BLOCK", block)
    lengths = [3, 0, 7, 1]
    rles = [{"size": [i, 9], "counts": bytes(range(n))} for i, n in enumerate(lengths)]
    masks = MaskColumns.from_rles(rles)
    for rows in ([2, 0, 0, 1, 3], [1], [], [1, 1], [0, 1, 2, 3]):
        taken = masks.take(np.array(rows, dtype=int))
        expected = MaskColumns.from_rles([rles[i] for i in rows])
        for name in ("sizes", "lengths", "counts"):
            np.testing.assert_array_equal(getattr(taken, name), getattr(expected, name))
            assert getattr(taken, name).dtype == getattr(expected, name).dtype


@pytest.mark.parametrize("rows", [[2, 0, 1], [99, 0], [50, 50, 3], []], ids=str)
def test_texts_are_those_of_the_rows_close_together_or_far_apart(rows):
    rng = np.random.default_rng(0)
    masks = [rng.random((7, 9)) < 0.5 for _ in range(100)]
    rles = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    texts = MaskColumns.from_rles(rles).texts(np.array(rows, int))
    assert texts == [rles[row]["counts"] for row in rows]


def test_uncompressed_runs_are_compressed():
    runs = {"size": [4, 3], "counts": [2, 5, 5]}
    masks = MaskColumns.from_rles([runs, runs])
    expected = np.zeros(12, dtype=np.uint8)
    expected[2:7] = 1
    for encoded in masks.rles(slice(None)):
        np.testing.assert_array_equal(coco_mask.decode(encoded).reshape(-1, order="F"), expected)


def test_a_polygon_is_refused():
    with pytest.raises(ValueError, match=r"must be a run-length encoding.*got \[\[0, 0"):
        MaskColumns.from_rles([[[0, 0, 5, 0, 5, 5]]])

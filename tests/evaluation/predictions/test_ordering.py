import numpy as np
import pytest

from d2_seesaw.evaluation.predictions.ordering import descending_keys, rank_in_runs, stable_order

SPECIAL = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 0.1, 0.3]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_keys_sort_like_negative_scores_with_ties_and_nan(dtype):
    rng = np.random.default_rng(0)
    values = rng.choice(SPECIAL if np.dtype(dtype).kind == "f" else [-3, 0, 7], 3000)
    scores = np.concatenate([values, rng.normal(size=500)]).astype(dtype)
    expected = np.argsort(-scores, kind="stable")
    np.testing.assert_array_equal(stable_order(descending_keys(scores)), expected)


def test_unsigned_scores_descend():
    scores = np.array([3, 0, 200, 3], dtype=np.uint8)
    assert stable_order(descending_keys(scores)).tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize("highest", [0, 9, 2**16, 2**40])
def test_the_order_of_several_keys_is_that_of_lexsort(highest):
    rng = np.random.default_rng(1)
    keys = rng.integers(0, highest + 1, (3, 2000)), rng.integers(0, 4, 2000)
    expected = np.lexsort((*keys[0], keys[1]))
    np.testing.assert_array_equal(stable_order(*keys[0], keys[1]), expected)


def test_the_order_of_nothing_is_empty():
    assert stable_order(np.zeros(0, np.int64)).tolist() == []


def test_ranks_start_again_with_every_run():
    assert rank_in_runs(np.array([7, 7, 4, 7, 7, 7])).tolist() == [0, 1, 0, 0, 1, 2]
    assert rank_in_runs(np.array([])).tolist() == []

import numpy as np
import pytest

from d2_seesaw.evaluation.lvis.matching import match
from d2_seesaw.evaluation.lvis.overlaps import Edges
from d2_seesaw.evaluation.lvis.rules import IOU_THRESHOLDS


def edges_of(ious, pairs, object_pairs):
    """Build sorted ``Edges`` from a ``(detections, objects)`` table of IoUs."""
    rows = [
        (d, ious[d, g], g)
        for d in range(len(pairs))
        for g in range(len(object_pairs))
        if pairs[d] == object_pairs[g] and ious[d, g] >= IOU_THRESHOLDS[0]
    ]
    rows.sort()
    detections, values, objects = zip(*rows, strict=True) if rows else ([], [], [])
    return Edges(np.array(detections, int), np.array(objects, int), np.array(values, float))


def one_pair(ious, ignored):
    """Match one pair; return found and ignored of all detections, ``(D, T, A)``."""
    ious, ignored = np.array(ious), np.array(ignored)
    pairs = np.zeros(len(ious), int)
    matches = match(edges_of(ious, pairs, np.zeros(ious.shape[1], int)), pairs, ignored)
    return as_table(matches, len(ious))


def as_table(matches, number):
    found, ignored = np.zeros((2, number, *matches.found.shape[1:]), bool)
    found[matches.detections], ignored[matches.detections] = matches.found, matches.ignored
    return found, ignored


def choose_one_by_one(ious, ignored, threshold):
    """Match one pair by lvis-api's rule: +1 found, -1 ignored, 0 unmatched."""
    free, outcome = set(range(ious.shape[1])), []
    for row in ious:
        possible = [g for g in free if row[g] >= threshold]
        counting = [g for g in possible if not ignored[g]]
        best = max(counting or possible, key=lambda g: (row[g], g), default=None)
        free.discard(best)
        outcome.append(0 if best is None else -1 if ignored[best] else 1)
    return np.array(outcome)


@pytest.mark.parametrize("levels", [5, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_equals_a_loop_over_pairs_thresholds_area_ranges_and_detections(seed, levels):
    rng = np.random.default_rng(seed)
    pairs = np.sort(rng.integers(0, 6, 40))
    object_pairs = rng.integers(0, 6, 25)
    ious = rng.integers(0, levels + 1, (40, 25)) / levels
    ignored = rng.random((25, 3)) < 0.3
    found, is_ignored = as_table(match(edges_of(ious, pairs, object_pairs), pairs, ignored), 40)
    for pair in range(6):
        ds, gs = np.flatnonzero(pairs == pair), np.flatnonzero(object_pairs == pair)
        for t, threshold in enumerate(IOU_THRESHOLDS):
            for a in range(3):
                expected = choose_one_by_one(ious[np.ix_(ds, gs)], ignored[gs, a], threshold)
                np.testing.assert_array_equal(found[ds, t, a], expected == 1)
                np.testing.assert_array_equal(is_ignored[ds, t, a], expected == -1)
    assert found.any()
    assert is_ignored.any()


def test_an_object_is_taken_once_by_the_highest_score_even_if_a_later_one_fits_better():
    found, ignored = one_pair([[0.6], [0.9]], [[False]])
    at = {0.5: 0, 0.9: 8}
    assert found[:, at[0.5], 0].tolist() == [True, False]
    assert found[:, at[0.9], 0].tolist() == [False, True]
    assert not ignored.any()


def test_an_object_that_counts_is_preferred_to_an_ignored_one_that_fits_better():
    found, ignored = one_pair([[0.95, 0.55], [0.95, 0.55]], [[True], [False]])
    assert found[:, 0, 0].tolist() == [True, False]
    assert ignored[:, 0, 0].tolist() == [False, True]
    assert ignored[:, 2, 0].tolist() == [True, False], "only the ignored one reaches 0.6"


def test_among_equal_ious_the_later_object_is_taken():
    # The second detection overlaps only the later object, which is already taken.
    found, _ = one_pair([[0.8, 0.8], [0.0, 0.8]], [[False], [False]])
    assert found[:, 0, 0].tolist() == [True, False]
    found, _ = one_pair([[0.8, 0.8], [0.8, 0.0]], [[False], [False]])
    assert found[:, 0, 0].tolist() == [True, True]


def test_an_iou_equal_to_a_threshold_is_enough():
    found, _ = one_pair(np.diag(IOU_THRESHOLDS), np.zeros((10, 1), bool))
    np.testing.assert_array_equal(found[:, :, 0], np.tril(np.ones((10, 10), bool)))


def test_area_ranges_are_matched_independently():
    # The first object is ignored in the second range, so the first detection skips it there.
    found, ignored = one_pair([[0.9, 0.8], [0.9, 0.0]], [[False, True], [False, False]])
    assert found[:, 0].tolist() == [[True, True], [False, False]]
    assert ignored[:, 0].tolist() == [[False, False], [False, True]]


def test_without_overlaps_nothing_is_matched():
    matches = match(edges_of(np.zeros((2, 1)), [0, 0], [0]), np.zeros(2, int), np.zeros((1, 4)) > 0)
    assert matches.found.shape == matches.ignored.shape == (0, len(IOU_THRESHOLDS), 4)
    assert matches.detections.tolist() == []

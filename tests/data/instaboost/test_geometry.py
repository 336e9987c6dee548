import itertools

import cv2
import numpy as np
import pytest

from d2_seesaw.data.instaboost.geometry import (
    Jitter,
    Similarity,
    draw_similarity,
    overlapping_groups,
    transform_points,
    warp_window,
)

STANDARD = Jitter(scale=(0.8, 1.2), shift=1 / 15, angle=1, border=10)
SIZE = (480, 640)
INSIDE = np.array([200.0, 150.0, 350.0, 240.0])  # 150 x 90


def groups_by_merging(boxes):
    """Start with one group per instance and merge groups while any of their boxes overlap."""
    groups = [{i} for i in range(len(boxes))]
    merged = True
    while merged:
        merged = False
        for a, b in itertools.combinations(groups, 2):
            for i, j in itertools.product(a, b):
                (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = boxes[i], boxes[j]
                if min(ax1, bx1) > max(ax0, bx0) and min(ay1, by1) > max(ay0, by0):
                    merged = True
            if merged:
                groups.remove(b)
                a |= b
                break
    return sorted(sorted(group) for group in groups)


@pytest.mark.parametrize("count", [1, 5, 20, 40])
def test_groups_are_the_connected_components_of_overlapping_boxes(count):
    sizes = set()
    for _ in range(10):
        corners = np.random.randint(0, 100, (count, 2))
        boxes = np.hstack([corners, corners + np.random.randint(1, 20, (count, 2))]).astype(float)
        groups = overlapping_groups(boxes)
        assert groups == groups_by_merging(boxes.tolist())
        sizes |= {len(group) for group in groups}
    assert count < 20 or len(sizes) > 2


def test_boxes_that_only_touch_are_separate_groups():
    assert overlapping_groups(np.array([[0, 0, 5, 5], [5, 0, 9, 5], [0, 5, 5, 9]])) == [
        [0],
        [1],
        [2],
    ]


def test_a_chain_of_thousands_is_one_group():
    starts = np.arange(3000.0)
    boxes = np.column_stack([starts, starts * 0, starts + 1.5, starts * 0 + 1])
    assert overlapping_groups(boxes) == [list(range(3000))]


def test_no_boxes_give_no_groups():
    assert overlapping_groups(np.zeros((0, 4))) == []


def test_a_similarity_rotates_and_scales_about_its_center_then_shifts():
    matrix = Similarity((10.0, 20.0), scale=2.0, angle=90.0, shift=(1.0, -3.0)).matrix()
    points = np.array([[10.0, 20.0], [11.0, 20.0], [10.0, 21.0]])
    expected = [[11, 17], [11, 19], [9, 17]]  # y points down: +x turns to +y
    np.testing.assert_allclose(transform_points(matrix, points), expected, atol=1e-12)


def draws(box, jitter=STANDARD, number=2000):
    rng = np.random.default_rng(0)
    return [draw_similarity(np.asarray(box, float), SIZE, jitter, rng) for _ in range(number)]


def test_jitter_is_uniform_and_shifts_scale_with_the_group():
    drawn = draws(INSIDE)
    scales = np.array([s.scale for s in drawn])
    assert 0.8 <= scales.min() < 0.803
    assert 1.197 < scales.max() <= 1.2
    assert scales.mean() == pytest.approx(1.0, abs=0.01)
    shifts = np.array([s.shift for s in drawn])
    assert set(shifts[:, 0]) == set(range(-10, 11))  # 150 / 15
    assert set(shifts[:, 1]) == set(range(-6, 7))  # 90 / 15
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.06
    angles, counts = np.unique([s.angle for s in drawn], return_counts=True)
    assert angles.tolist() == [-1, 0, 1]
    assert counts.min() > 0.28 * len(drawn)
    assert {s.center for s in drawn} == {(275.0, 195.0)}


@pytest.mark.parametrize(
    ("box", "x_signs", "y_signs"),
    [
        ((9, 100, 159, 200), {-1, 0}, {-1, 0, 1}),
        ((481, 100, 631, 200), {0, 1}, {-1, 0, 1}),
        ((100, 9, 250, 109), {-1, 0, 1}, {-1, 0}),
        ((100, 371, 250, 471), {-1, 0, 1}, {0, 1}),
        ((9, 9, 159, 109), {-1, 0}, {-1, 0}),
        ((5, 100, 635, 200), {0}, {-1, 0, 1}),
    ],
)
def test_at_a_border_groups_only_grow_and_only_move_outward(box, x_signs, y_signs):
    drawn = draws(box)
    assert {np.sign(s.shift[0]) for s in drawn} == x_signs
    assert {np.sign(s.shift[1]) for s in drawn} == y_signs
    assert {s.angle for s in drawn} == {0}
    scales = np.array([s.scale for s in drawn])
    assert scales.min() == 1.0
    assert (scales == 1.0).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("box", [(10, 10, 160, 110), (480, 370, 630, 470)])
def test_groups_ten_pixels_from_the_border_move_freely(box):
    drawn = draws(box)
    assert min(s.scale for s in drawn) < 0.81
    assert {np.sign(s.shift[0]) for s in drawn} == {-1, 0, 1}
    assert {s.angle for s in drawn} == {-1, 0, 1}


def test_small_groups_stay_in_place():
    assert {s.shift for s in draws((100, 100, 114.9, 114.9), number=50)} == {(0.0, 0.0)}


@pytest.mark.parametrize("interpolation", [cv2.INTER_NEAREST, cv2.INTER_CUBIC])
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_whole_pixels_are_copied(shape, interpolation):
    image = np.random.randint(0, 256, shape, dtype=np.uint8)
    matrix = Similarity((25.0, 20.0), shift=(4.0, -3.0)).matrix()
    window = np.ascontiguousarray(image[5:35, 10:40])
    warped = warp_window(window, matrix, (10, 5), (14, 2, 44, 32), interpolation=interpolation)
    np.testing.assert_array_equal(warped, window)


def test_warping_a_window_matches_warping_the_whole_image():
    image = cv2.GaussianBlur(np.random.randint(0, 256, (90, 120, 3), dtype=np.uint8), (0, 0), 3)
    matrix = Similarity((60.0, 45.0), scale=1.1, angle=3.0, shift=(2.0, -4.0)).matrix()
    whole = warp_window(image, matrix, (0, 0), (0, 0, 120, 90), interpolation=cv2.INTER_CUBIC)
    part = warp_window(
        image[10:80, 20:100], matrix, (20, 10), (40, 25, 80, 65), interpolation=cv2.INTER_CUBIC
    )
    difference = np.abs(part.astype(int) - whole[25:65, 40:80])
    assert difference.max() <= 1  # OpenCV rounds coordinates to 1/32 pixel


def test_masks_and_points_are_warped_alike():
    mask = np.zeros((60, 60), np.uint8)
    mask[20:30, 10:40] = 1
    matrix = Similarity((25.0, 25.0), scale=1.5, shift=(3.0, 2.0)).matrix()
    warped = warp_window(mask, matrix, (0, 0), (0, 0, 60, 60), interpolation=cv2.INTER_NEAREST)
    (x0, y0), (x1, y1) = transform_points(matrix, np.array([[10.0, 20.0], [40.0, 30.0]]))
    expected = np.zeros_like(mask)
    for y, x in np.ndindex(60, 60):
        expected[y, x] = x0 < x + 0.5 < x1 and y0 < y + 0.5 < y1
    difference = warped != expected
    rows, columns = np.flatnonzero(expected.any(1)), np.flatnonzero(expected.any(0))
    difference[[rows[0], rows[-1]]] = False  # edges at half a pixel may round either way
    difference[:, [columns[0] - 1, columns[0], columns[-1], columns[-1] + 1]] = False
    difference[[rows[0] - 1, rows[-1] + 1]] = False
    assert not difference.any()

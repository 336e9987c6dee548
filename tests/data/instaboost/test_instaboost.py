import copy
import time

import cv2
import numpy as np
import pytest
from detectron2.structures import BoxMode
from pycocotools import mask as mask_utils

from d2_seesaw.data import InstaBoost

SIZE = (240, 320)


def noise(size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def ellipse(x, y, a, b, number=24):
    angles = np.linspace(0, 2 * np.pi, number, endpoint=False)
    points = np.column_stack([x + a * np.cos(angles), y + b * np.sin(angles)])
    return points.reshape(-1).tolist()


def instance(*polygons, rle=False, size=SIZE, **more):
    points = np.concatenate([np.reshape(p, (-1, 2)) for p in polygons])
    box = [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
    segmentation = list(polygons)
    if rle:
        segmentation = mask_utils.merge(mask_utils.frPyObjects(segmentation, *size))
    return {
        "bbox": box,
        "bbox_mode": BoxMode.XYXY_ABS,
        "segmentation": segmentation,
        "category_id": 1,
        **more,
    }


def scene():
    """Build two overlapping instances, one in two parts and one at the border."""
    return [
        instance(ellipse(80, 70, 30, 25), category_id=5, id=11),
        instance(ellipse(105, 85, 22, 30), rle=True, category_id=6, id=12),
        instance(ellipse(220, 60, 15, 20), ellipse(255, 70, 12, 25), category_id=7, id=13),
        instance(ellipse(160, 180, 40, 30), rle=True, category_id=8, id=14),
        instance([0.0, 200.0, 40.0, 190.0, 50.0, 238.0, 0.0, 239.0], category_id=9, id=15),
    ]


def mask_of(annotation, size=SIZE):
    """Decode the mask on the whole canvas, with the COCO tools alone."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = mask_utils.merge(mask_utils.frPyObjects(segmentation, *size))
    return mask_utils.decode(segmentation).astype(bool)


def union(annotations, size=SIZE):
    return np.any([np.zeros(size, bool), *(mask_of(a, size) for a in annotations)], axis=0)


def grown(mask, by):
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1,) * 2)).astype(bool)


def moving(**options):
    """Build an InstaBoost that always moves, keeps the colors and has no margin by default."""
    standard = {"probability": 1, "color_probability": 0, "inpaint_margin": 0}
    return InstaBoost(**{**standard, **options})


STILL = {"scale": (1, 1), "shift": 0, "angle": 0}


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_identity_changes_neither_picture_nor_annotations():
    image, annotations = noise(), scene()
    new_image, new = moving(**STILL)(image, annotations, rng())
    np.testing.assert_array_equal(new_image, image)
    assert [a["id"] for a in new] == [11, 12, 13, 14, 15]
    for a, b in zip(annotations, new, strict=True):
        np.testing.assert_array_equal(mask_of(a), mask_of(b))
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=1)


@pytest.mark.parametrize("seed", range(5))
def test_only_pixels_of_the_old_and_new_masks_change(seed):
    image, annotations = noise(), scene()[:-1]  # without the one at the border, which may stay
    new_image, new = moving()(image, annotations, rng(seed))
    changed = (new_image != image).any(axis=2)
    expected = union(annotations) | union(new)
    assert not changed[~expected].any()
    assert changed[expected].mean() > 0.97  # noise may keep its value by chance
    # The inpainted background is smooth; instances are noise, so they can be located.
    rough = np.abs(np.diff(new_image.astype(int), axis=1)).mean(axis=2) > 25
    inside = union(new)[:, 1:] & union(new)[:, :-1]
    gone = union(annotations) & ~union(new)
    between = gone[:, 1:] & gone[:, :-1]
    assert rough[inside].mean() > 0.85
    assert rough[between].mean() < 0.5


def test_instances_take_their_own_pixels_along():
    # The color of an instance identifies it.
    annotations = scene()
    image = np.full((*SIZE, 3), 128, np.uint8)
    for i, annotation in enumerate(annotations):
        image[grown(mask_of(annotation), 1)] = 0
        image[mask_of(annotation)] = (10 * i, 50, 250)
    for seed in range(5):
        new_image, new = moving()(image, annotations, rng(seed))
        for i, annotation in enumerate(new):
            others = [a for j, a in enumerate(new) if j != i]
            seen = mask_of(annotation) & ~grown(~mask_of(annotation), 2) & ~grown(union(others), 3)
            seen[:2] = seen[-2:] = seen[:, :2] = seen[:, -2:] = False
            assert seen.sum() > 100
            assert np.abs(new_image[seen].astype(int) - (10 * i, 50, 250)).max() <= 2


def test_a_group_moves_as_one_and_independently_of_others():
    annotations = [
        instance(ellipse(100, 80, 30, 25)),
        instance(ellipse(130, 95, 22, 30)),
        instance(ellipse(240, 140, 30, 35)),
    ]

    def motion(before, after):
        old, new = (np.reshape(a["segmentation"][0], (-1, 2)) for a in (before, after))
        return np.linalg.lstsq(np.column_stack([old, np.ones(len(old))]), new, rcond=None)[0]

    _, new = moving()(noise(), annotations, rng())
    first, second, third = (motion(a, b) for a, b in zip(annotations, new, strict=True))
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert abs(first - third)[:2].max() > 1e-3


def test_equal_seeds_give_equal_results_and_others_do_not():
    boost = InstaBoost(probability=1, color_probability=0.5)
    image, annotations = noise(), scene()
    results = [boost(image, annotations, rng(seed)) for seed in (4, 4, 5)]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert str(results[0][1]) == str(results[1][1])
    assert (results[0][0] != results[2][0]).any()
    assert str(results[0][1]) != str(results[2][1])


def test_the_inputs_are_not_modified():
    image, annotations = noise(), scene()
    before = image.copy(), copy.deepcopy(annotations)
    InstaBoost(probability=1, color_probability=1)(image, annotations, rng())
    np.testing.assert_array_equal(image, before[0])
    assert str(annotations) == str(before[1])


def test_moves_and_colors_change_with_the_given_probabilities():
    image = noise((30, 30))
    annotations = [instance(ellipse(15, 15, 4, 4), size=(30, 30))]
    moved = recolored = 0
    boost = InstaBoost(probability=0.3, color_probability=0.6)
    generator = rng()
    for _ in range(600):
        new_image, new = boost(image, annotations, generator)
        moved += new[0] is not annotations[0]
        recolored += (new_image[:5] != image[:5]).any()
    assert moved / 600 == pytest.approx(0.3, abs=0.06)
    assert recolored / moved == pytest.approx(0.6, abs=0.11)


def test_colors_follow_the_format_of_the_image():
    image = noise((20, 20))
    boosts = [
        InstaBoost(probability=1, color_probability=1, image_format=f) for f in ("BGR", "RGB")
    ]
    first, second = (boost(image, [], rng(1))[0] for boost in boosts)
    mirrored, _ = boosts[1](image[:, :, ::-1], [], rng(1))
    np.testing.assert_array_equal(first, mirrored[:, :, ::-1])
    assert (first != second).any()


@pytest.mark.parametrize("rle", [False, True])
def test_every_one_of_600_instances_is_removed(rle):
    size = (300, 400)
    corners = [(x, y) for y in range(12, 282, 9) for x in range(12, 372, 18)]
    squares = [[x, y, x + 6, y, x + 6, y + 6, x, y + 6] for x, y in corners]
    annotations = [instance([float(v) for v in s], rle=rle, size=size) for s in squares]
    assert len(annotations) == 600
    image = np.full((*size, 3), 100, np.uint8)
    image[union(annotations, size)] = 255
    # Each instance shrinks and leaves a margin, which must show the background.
    new_image, new = moving(scale=(0.6, 0.6), shift=0, angle=0)(image, annotations, rng())
    assert len(new) == 600
    for i in (0, 254, 255, 256, 511, 512, 599):
        left = mask_of(annotations[i], size) & ~mask_of(new[i], size)
        assert left.sum() >= 16
        assert (new_image[left] == 100).all()
        assert (new_image[mask_of(new[i], size)] > 200).all()
    np.testing.assert_array_equal((new_image == 255).all(axis=2), union(new, size))


def test_only_visible_pixels_are_inpainted_at_full_resolution(monkeypatch):
    areas = []
    opencvs = cv2.inpaint

    def counting(image, mask, *options):
        areas.append(int((mask > 0).sum()))
        return opencvs(image, mask, *options)

    monkeypatch.setattr(cv2, "inpaint", counting)
    annotations = scene()
    _, new = moving()(noise(), annotations, rng())
    coarse, full = areas
    assert full == (union(annotations) & ~union(new)).sum()
    assert full < 0.5 * union(annotations).sum()
    assert coarse == pytest.approx(union(annotations).sum() / 16, rel=0.1)


def test_without_annotations_only_colors_may_change():
    image = noise()
    new_image, new = moving()(image, [], rng())
    assert new == []
    np.testing.assert_array_equal(new_image, image)


def test_a_crowd_and_groups_that_overlap_it_stay():
    crowd = instance(ellipse(90, 80, 60, 50), rle=True, iscrowd=1, id=1)
    on_it = instance(ellipse(140, 80, 20, 20), id=2)
    with_that = instance(ellipse(165, 80, 15, 15), id=3)  # overlaps the one before, not the crowd
    alone = instance(ellipse(250, 180, 40, 30), id=4)
    image = noise()
    for seed in range(5):
        new_image, new = moving(inpaint_margin=3)(
            image, [alone, crowd, on_it, with_that], rng(seed)
        )
        assert new[1:] == [crowd, on_it, with_that]
        assert new[0]["segmentation"] != alone["segmentation"]
        stays = union([crowd, on_it, with_that]) & ~mask_of(new[0])
        np.testing.assert_array_equal(new_image[stays], image[stays])


def test_an_instance_moves_if_only_its_box_overlaps_a_crowd():
    crowd = instance([20.0, 20.0, 200.0, 20.0, 20.0, 200.0], iscrowd=1)
    beside = instance(ellipse(170, 170, 28, 28))
    for seed in range(5):
        _, new = moving()(noise(), [crowd, beside], rng(seed))
        assert new[0] == crowd
        assert new[1]["segmentation"] != beside["segmentation"]


def test_the_margin_is_inpainted_but_never_a_crowd():
    removed = instance(ellipse(100, 100, 30, 30))
    neighbor = instance(ellipse(166, 100, 34, 34), iscrowd=1)
    image = noise()
    new_image, _ = moving(inpaint_margin=4, **STILL)(image, [removed, neighbor], rng())
    changed = (new_image != image).any(axis=2)
    expected = grown(mask_of(removed), 4)
    assert (expected & mask_of(neighbor)).any()
    expected &= ~mask_of(removed) & ~mask_of(neighbor)
    assert not changed[~expected].any()
    assert changed[expected].mean() > 0.97


def test_a_margin_keeps_an_inexact_mask_from_shading_the_background():
    image = np.full((*SIZE, 3), 60, np.uint8)
    annotation = instance(ellipse(150, 120, 40, 40))
    image[grown(mask_of(annotation), 1)] = 250
    left = []
    for margin in (0, 2):
        boost = moving(scale=(0.5, 0.5), shift=0, angle=0, inpaint_margin=margin)
        new_image, new = boost(image, [annotation], rng())
        left.append(new_image[mask_of(annotation) & ~mask_of(new[0])].mean())
    assert left[0] > 100
    assert left[1] == pytest.approx(60, abs=3)


def test_instances_that_leave_are_dropped_and_the_others_keep_their_order():
    first = instance(ellipse(60, 60, 20, 20), id=1)
    leaves = instance([0.0, 100.0, 8.0, 100.0, 8.0, 140.0, 0.0, 140.0], id=2)
    last = instance(ellipse(200, 150, 20, 20), rle=True, id=3)
    left_out = 0
    for seed in range(20):
        boost = moving(shift=3, scale=(1, 1), angle=0)
        image = np.full((*SIZE, 3), 100, np.uint8)
        image[mask_of(leaves)] = 255
        new_image, new = boost(image, [first, leaves, last], rng(seed))
        ids = [a["id"] for a in new]
        assert ids in ([1, 2, 3], [1, 3], [2, 3], [1, 2], [3], [1], [2], [])
        if 2 not in ids:
            left_out += 1
            assert (new_image == 100).all()
    assert left_out > 5


def test_a_mask_without_pixels_is_left_alone():
    empty = mask_utils.encode(np.zeros(SIZE, np.uint8, order="F"))
    annotation = {**instance(ellipse(50, 50, 9, 9)), "segmentation": empty}
    image = noise()
    new_image, new = moving()(image, [annotation], rng())
    assert new == [annotation]
    np.testing.assert_array_equal(new_image, image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.5}, "probability must be between 0 and 1, got 1.5"),
        ({"scale": (1.2, 0.8)}, r"0 < smallest <= largest, got \(1.2, 0.8\)"),
        ({"scale": (0, 1)}, "0 < smallest"),
        ({"shift": -0.1}, "shift must be at least 0, got -0.1"),
        ({"angle": 0.5}, "angle must be a whole number of degrees, got 0.5"),
        ({"color_probability": -1}, "color_probability must be between 0 and 1"),
        ({"border": -1}, "border must be at least 0"),
        ({"inpaint_margin": -1}, "inpaint_margin must be at least 0"),
        ({"image_format": "L"}, "image_format must be 'BGR' or 'RGB', got 'L'"),
    ],
)
def test_bad_arguments_are_reported(options, message):
    with pytest.raises(ValueError, match=message):
        InstaBoost(**options)


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((4, 4), np.uint8), r"\(4, 4\) uint8"),
        (np.zeros((4, 4, 1), np.uint8), r"\(4, 4, 1\) uint8"),
        (np.zeros((4, 4, 3), np.float32), r"\(4, 4, 3\) float32"),
    ],
)
def test_another_kind_of_image_is_refused(image, got):
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8, got " + got):
        InstaBoost()(image, [], rng())


def test_time_grows_with_the_instances_not_with_their_square_or_the_canvas():
    # Hundreds of small instances, as LVIS has them: a canvas for each would take seconds.
    size = (960, 1280)
    annotations = [
        instance(ellipse(20 + x, 20 + y, 8, 6), size=size)
        for y in range(0, 900, 45)
        for x in range(0, 1200, 60)
    ]
    assert len(annotations) == 400
    start = time.process_time()
    moving()(noise(size), annotations, rng())
    assert time.process_time() - start < 2.0

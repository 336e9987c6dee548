import json

import numpy as np
import pytest
from detectron2.structures import BoxMode
from pycocotools import mask as mask_utils

from d2_seesaw.data.instaboost.geometry import Similarity, transform_points
from d2_seesaw.data.instaboost.instances import (
    MaskWindow,
    annotation_box,
    mask_of,
    move_annotation,
    union_window,
)

SIZE = (60, 80)
TRIANGLE = [20.0, 15.0, 50.0, 20.0, 30.5, 45.0]
SQUARE = [60.0, 10.0, 70.0, 10.0, 70.0, 20.0, 60.0, 20.0]
IDENTITY = Similarity((30.0, 30.0)).matrix()


def decoded(segmentation, size=SIZE):
    """Decode a mask with the COCO tools alone."""
    if isinstance(segmentation, list):
        segmentation = mask_utils.merge(mask_utils.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_utils.frPyObjects(segmentation, *size)
    return mask_utils.decode(segmentation)


def uncompressed(mask):
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": counts if flat[0] == 0 else [0, *counts]}


def in_formats(polygons):
    """Return the same mask in all formats."""
    mask = decoded(polygons)
    rle = mask_utils.encode(np.asfortranarray(mask))
    as_text = {**rle, "counts": rle["counts"].decode()}
    return {
        "polygons": polygons,
        "arrays": [np.array(polygon) for polygon in polygons],
        "rle": rle,
        "rle text": as_text,
        "uncompressed": uncompressed(mask),
    }


FORMATS = in_formats([TRIANGLE, SQUARE])
every_format = pytest.mark.parametrize("segmentation", FORMATS.values(), ids=FORMATS.keys())


def instance(segmentation, **more):
    box = [20.0, 10.0, 50.0, 35.0]
    return {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "segmentation": segmentation, **more}


def on_canvas(window, size=SIZE):
    canvas = np.zeros(size, np.uint8)
    window.part_of(canvas)[:] = window.mask
    return canvas


def moved(annotation, matrix, size=SIZE):
    result = move_annotation(annotation, mask_of(annotation, size), matrix, size)
    assert result is not None
    return result


def is_dropped(annotation, matrix):
    return move_annotation(annotation, mask_of(annotation, SIZE), matrix, SIZE) is None


@every_format
def test_the_mask_equals_that_of_the_coco_tools(segmentation):
    window = mask_of(instance(segmentation), SIZE)
    assert window.mask.size < 0.7 * SIZE[0] * SIZE[1]
    np.testing.assert_array_equal(on_canvas(window), decoded([TRIANGLE, SQUARE]))


def test_the_mask_of_any_polygon_equals_that_of_the_coco_tools():
    rng = np.random.default_rng(0)
    for _ in range(200):
        center, radius = rng.uniform((0, 0), (80, 60)), rng.uniform(1, 30)
        points = np.clip(center + rng.uniform(-radius, radius, (5, 2)), 0, (80, 60))
        segmentation = [points.reshape(-1).tolist()]
        window = mask_of(instance(segmentation), SIZE)
        np.testing.assert_array_equal(on_canvas(window), decoded(segmentation))


@every_format
def test_the_identity_changes_nothing(segmentation):
    annotation = instance(segmentation)
    new, window = moved(annotation, IDENTITY)
    np.testing.assert_array_equal(decoded(new["segmentation"]), decoded([TRIANGLE, SQUARE]))
    np.testing.assert_array_equal(on_canvas(window), decoded([TRIANGLE, SQUARE]))
    np.testing.assert_allclose(new["bbox"], annotation["bbox"], atol=0.5)


@every_format
def test_the_format_is_kept_and_the_mask_matches_the_annotation(segmentation):
    matrix = Similarity((40.0, 30.0), scale=0.9, angle=3.0, shift=(4.0, 2.0)).matrix()
    new, window = moved(instance(segmentation), matrix)
    if isinstance(segmentation, list):
        assert [len(polygon) for polygon in new["segmentation"]] == [6, 8]
        json.dumps(new["segmentation"])
    else:
        text = isinstance(segmentation["counts"], str)
        assert isinstance(new["segmentation"]["counts"], str if text else bytes)
        assert tuple(new["segmentation"]["size"]) == SIZE
    np.testing.assert_array_equal(on_canvas(window), decoded(new["segmentation"]))


def test_corners_of_polygons_move_as_points():
    matrix = Similarity((40.0, 30.0), scale=1.1, angle=-2.0, shift=(-3.0, 2.0)).matrix()
    new, _ = moved(instance([TRIANGLE, SQUARE]), matrix)
    for old, polygon in zip([TRIANGLE, SQUARE], new["segmentation"], strict=True):
        expected = transform_points(matrix, np.array(old).reshape(-1, 2))
        np.testing.assert_allclose(np.reshape(polygon, (-1, 2)), expected)


@pytest.mark.parametrize("name", ["polygons", "rle"])
@pytest.mark.parametrize("scale", [0.8, 1.2])
def test_area_scales_with_the_square_of_the_scale(name, scale):
    size = (400, 400)
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = [(200 + 120 * np.column_stack([np.cos(angles), np.sin(angles)])).ravel().tolist()]
    segmentation = (
        circle
        if name == "polygons"
        else mask_utils.encode(np.asfortranarray(decoded(circle, size)))
    )
    matrix = Similarity((200.0, 200.0), scale=scale, angle=1.0, shift=(5.0, -7.0)).matrix()
    _, window = moved(instance(segmentation), matrix, size)
    ratio = window.mask.sum() / decoded(circle, size).sum()
    assert ratio == pytest.approx(scale**2, rel=0.01)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("mode", [BoxMode.XYXY_ABS, BoxMode.XYWH_ABS])
@pytest.mark.parametrize("shift", [(2.0, 3.0), (-30.0, -20.0), (25.0, 30.0)])
def test_the_box_is_the_tight_one_in_its_mode(name, mode, shift):
    annotation = instance(FORMATS[name])
    annotation["bbox"] = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], mode)
    annotation["bbox_mode"] = mode
    new, _ = moved(annotation, Similarity((40.0, 30.0), 1.1, 4.0, shift).matrix())
    assert new["bbox_mode"] == mode
    if mode == BoxMode.XYXY_ABS:
        np.testing.assert_allclose(new["bbox"], annotation_box(new))
    mask = decoded(new["segmentation"])
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    # The corners of a polygon may be up to half a pixel outside the pixels that it marks.
    tolerance = 1.0 if isinstance(FORMATS[name], list) else 0.0
    np.testing.assert_allclose(annotation_box(new), tight, atol=tolerance)
    assert min(annotation_box(new)) >= 0
    assert (np.array(annotation_box(new)) <= [80, 60, 80, 60]).all()


def test_parts_outside_the_image_are_cut_off_or_dropped():
    matrix = Similarity((40.0, 30.0), shift=(15.0, 0.0)).matrix()
    new, _ = moved(instance([TRIANGLE, SQUARE]), matrix)
    first, second = (np.reshape(p, (-1, 2)) for p in new["segmentation"])
    assert len(first) == 3
    assert (second.min(), second[:, 0].min(), second[:, 0].max()) == (10, 75, 80)
    new, _ = moved(instance([TRIANGLE, SQUARE]), Similarity((0.0, 0.0), shift=(25.0, 0.0)).matrix())
    assert len(new["segmentation"]) == 1


@every_format
@pytest.mark.parametrize("shift", [(90.0, 0.0), (-90.0, 0.0), (0.0, 70.0), (0.0, -70.0)])
def test_an_instance_outside_the_image_is_dropped(segmentation, shift):
    assert is_dropped(instance(segmentation), Similarity((0.0, 0.0), shift=shift).matrix())


@every_format
def test_an_instance_without_pixels_is_dropped(segmentation):
    assert is_dropped(instance(segmentation), Similarity((40.5, 40.5), scale=1e-3).matrix())


def test_key_points_move_and_keep_their_visibility():
    annotation = instance([TRIANGLE], keypoints=[20.0, 15.0, 2, 30.0, 30.0, 1])
    new, _ = moved(annotation, Similarity((30.0, 30.0), scale=2.0, shift=(1.0, 2.0)).matrix())
    assert new["keypoints"] == [11.0, 2.0, 2.0, 31.0, 32.0, 1.0]


def test_other_fields_stay_and_the_given_annotation_is_not_modified():
    annotation = instance([TRIANGLE], category_id=3, id=77, iscrowd=0)
    before = json.dumps(annotation)
    new, _ = moved(annotation, Similarity((30.0, 30.0), shift=(1.0, 2.0)).matrix())
    assert json.dumps(annotation) == before
    assert {k: new[k] for k in ("category_id", "id", "iscrowd")} == {
        "category_id": 3,
        "id": 77,
        "iscrowd": 0,
    }


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "list of polygons or an RLE dict, got NoneType"),
        (np.zeros(SIZE), "got ndarray"),
        ({"size": [60, 81], "counts": [10, 20]}, r"size \(60, 81\), but its image has \(60, 80\)"),
    ],
)
def test_invalid_segmentations_are_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        mask_of(instance(segmentation), SIZE)


def test_a_union_holds_every_mask_and_no_more():
    windows = [
        MaskWindow(3, 4, np.array([[1, 0], [0, 1]], np.uint8)),
        MaskWindow(4, 5, np.array([[0, 1], [1, 0]], np.uint8)),
        MaskWindow(10, 0, np.ones((2, 1), np.uint8)),
    ]
    union = union_window(windows)
    assert union.bounds == (3, 0, 11, 7)
    np.testing.assert_array_equal(on_canvas(union), sum(on_canvas(window) for window in windows))


def test_an_empty_mask_has_an_empty_window():
    rle = mask_utils.encode(np.zeros(SIZE, np.uint8, order="F"))
    assert not mask_of(instance(rle), SIZE).mask.any()
    assert is_dropped(instance(rle), IDENTITY)

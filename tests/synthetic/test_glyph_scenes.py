import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils

from d2_seesaw.synthetic.glyph_scenes import SceneStyle, layout_scene, render_scene

SHAPE = (96, 144)


def crowded_scene(seed, style=None):
    rng = np.random.default_rng(seed)
    categories = rng.integers(0, 60, size=8).tolist()
    return layout_scene(rng, categories, SHAPE, style or SceneStyle())


def rasterized(polygons):
    encoded = mask_utils.merge(mask_utils.frPyObjects(polygons, *SHAPE))
    return mask_utils.decode(encoded).astype(bool)


@pytest.fixture(scope="module")
def scenes():
    return [crowded_scene(seed) for seed in range(60)]


def test_polygons_match_the_visible_masks_exactly(scenes):
    for scene in scenes:
        for index in range(len(scene.objects)):
            mask = scene.visible_mask(index)
            np.testing.assert_array_equal(rasterized(scene.visible_polygons(index)), mask)


def test_no_two_polygons_overlap(scenes):
    for scene in scenes:
        masks = [rasterized(scene.visible_polygons(i)) for i in range(len(scene.objects))]
        assert np.sum(masks, axis=0).max() == 1


def test_masks_match_painting_in_order(scenes):
    for scene in scenes:
        canvas = np.full(SHAPE, -1, np.int32)
        for index, placed in enumerate(scene.objects):
            cv2.fillPoly(canvas, [placed.corners], index, cv2.LINE_8, 4)
        np.testing.assert_array_equal(scene.owner, canvas)


def test_some_objects_are_occluded_but_none_too_much(scenes):
    shares = []
    for scene in scenes:
        for index, placed in enumerate(scene.objects):
            visible = scene.visible_mask(index).sum()
            whole = cv2.contourArea(placed.corners.astype(np.float32)) / 16**2
            assert visible == placed.visible_pixels
            assert visible >= SceneStyle().min_visible_pixels
            shares.append(visible / whole)
    assert 0.39 < min(shares) < 0.7


def test_no_object_is_lost_in_a_crowded_scene(scenes):
    assert all(len(scene.objects) == 8 for scene in scenes)


def test_object_sizes_follow_the_style():
    small = crowded_scene(0, SceneStyle(object_sizes=((0.15, 0.2),)))
    large = crowded_scene(0, SceneStyle(object_sizes=((0.4, 0.5),)))
    assert 3 * (small.owner >= 0).sum() < (large.owner >= 0).sum()


def test_rendered_objects_are_where_their_masks_are():
    style = SceneStyle(object_sizes=((0.5, 0.6),), background_contrast=0.0)
    scene = layout_scene(np.random.default_rng(0), [0], SHAPE, style)  # a red star on gray
    picture = render_scene(np.random.default_rng(1), scene, style).astype(int)
    redness = picture[:, :, 2] - picture[:, :, 0]
    mask = scene.visible_mask(0)
    inside = cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0
    outside = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) == 0
    assert redness[inside].min() > 30
    assert redness[outside].mean() < 5


@pytest.mark.parametrize("seed", range(6))
def test_textures_move_with_their_object(seed):
    style = SceneStyle(object_sizes=((0.6, 0.7),))
    scene = layout_scene(np.random.default_rng(seed), [4], SHAPE, style)  # teal with a pink center
    x, y, w = scene.objects[0].homography[:, 2]
    picture = render_scene(np.random.default_rng(seed), scene, style)
    _, green, red = picture[round(y / w), round(x / w)].astype(int)
    assert red > green + 20
    _, green, red = picture[scene.visible_mask(0)].mean(axis=0)
    assert red < green + 20


def test_drawing_does_not_change_the_layout():
    scene, other = crowded_scene(3), crowded_scene(3)
    render_scene(np.random.default_rng(0), scene, SceneStyle())
    np.testing.assert_array_equal(scene.owner, other.owner)

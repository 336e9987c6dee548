"""Composition: exact polygons, occlusion, edges and light."""

from dataclasses import replace

import numpy as np
import pytest
from detectron2.structures.masks import polygons_to_bitmask
from pycocotools import mask as mask_utils

from d2_seesaw.synthetic.cutouts.scenes import (
    compose,
    crop_background,
    develop,
    layout_cutouts,
    mask_polygons,
    transform_cutout,
)
from d2_seesaw.synthetic.cutouts.spec import CutoutStyle
from tests.synthetic.cutouts.conftest import FLAT, ellipse

SHAPE = (60, 80)


def shoelace(polygon):
    x, y = np.array(polygon, float).reshape(-1, 2).T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@pytest.mark.parametrize("density", [0.3, 0.5, 0.8, 0.97])
def test_polygons_restore_masks_with_holes_islands_and_touching_corners(density):
    rng = np.random.default_rng(int(100 * density))
    for _ in range(20):
        mask = (rng.random(rng.integers(1, 24, 2)) < density).astype(np.uint8)
        canvas = np.pad(mask, ((3, 2), (5, 1)))
        polygons = mask_polygons(mask, 5, 3)
        if not mask.any():
            assert polygons == []
            continue
        decoded = mask_utils.decode(
            mask_utils.merge(mask_utils.frPyObjects(polygons, *canvas.shape))
        )
        np.testing.assert_array_equal(decoded, canvas)
        np.testing.assert_array_equal(polygons_to_bitmask(polygons, *canvas.shape), canvas > 0)
        assert sum(map(shoelace, polygons)) == mask.sum()


def layout(seed, style=FLAT, number=5):
    rng = np.random.default_rng(seed)
    colors = rng.integers(30, 220, (number, 3))
    pictures = [ellipse(color, (50, 30), hole=i % 2 == 0) for i, color in enumerate(colors)]
    return layout_cutouts(rng, list(range(number)), pictures, SHAPE, style), colors


def painted_slowly(scene, background):
    """Compose pixel by pixel with real numbers; the last opaque object owns a pixel."""
    picture = background.astype(float)
    owner = np.full(background.shape[:2], -1)
    for index, placed in enumerate(scene.objects):
        height, width = placed.patch.shape[:2]
        for row in range(height):
            for column in range(width):
                *color, alpha = placed.patch[row, column].astype(float)
                y, x = placed.top + row, placed.left + column
                picture[y, x] = color + picture[y, x] * (1 - alpha / 255)
                if alpha >= 127.5:
                    owner[y, x] = index
    return picture, owner


@pytest.mark.parametrize("seed", range(3))
def test_picture_and_visible_masks_equal_a_slow_recomposition(seed):
    scene, _ = layout(seed)
    background = np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
    picture, owner = painted_slowly(scene, background)
    assert len(scene.objects) > 2
    assert np.abs(compose(background, scene) - picture).max() < 2
    for index, placed in enumerate(scene.objects):
        encoded = mask_utils.merge(mask_utils.frPyObjects(scene.visible_polygons(index), *SHAPE))
        np.testing.assert_array_equal(mask_utils.decode(encoded), owner == index)
        assert placed.visible_pixels == np.count_nonzero(owner == index)


def test_objects_keep_the_smallest_visible_share():
    style = replace(FLAT, min_visible_share=0.7)
    lost = 0
    for seed in range(12):
        scene, _ = layout(seed, style)
        for placed in scene.objects:
            whole = np.count_nonzero(placed.mask)
            assert placed.visible_pixels >= 0.7 * whole
            lost += whole - placed.visible_pixels
    assert lost > 0


def test_visible_pixels_show_the_color_of_their_object():
    scene, colors = layout(4, replace(FLAT, max_rotation=0))
    picture = compose(np.zeros((*SHAPE, 3), np.uint8), scene)
    for index, placed in enumerate(scene.objects):
        full = np.zeros(SHAPE, bool)
        full[placed.window] = placed.patch[..., 3] == 255
        covered = np.zeros(SHAPE, int)
        for above in scene.objects[index + 1 :]:
            covered[above.window] += above.patch[..., 3]
        shown = picture[full & (covered == 0)].astype(int)
        color = colors[placed.category]
        np.testing.assert_allclose(np.median(shown, axis=0), color, atol=1)
        # Cubic interpolation sharpens edges: there, colors are up to an eighth brighter.
        assert (np.abs(shown - color) <= 0.125 * color + 1).all()


def test_edges_have_no_halo_of_hidden_colors():
    # Transparent pixels are black, the object and the background white.
    pixels = ellipse((255, 255, 255), (61, 47))
    for degrees, blur, factor in [(0, 0, 0.37), (33, 0, 0.5), (10, 1.2, 1.7)]:
        patch = transform_cutout(pixels, factor, flip=True, degrees=degrees, blur=blur)
        alpha = patch[..., 3:].astype(int)
        over_white = patch[..., :3] + (255 * (255 - alpha) + 127) // 255
        assert ((alpha > 0) & (alpha < 255)).any()
        assert over_white.min() >= 253


def test_turning_and_mirroring_keep_the_area_and_move_the_notch():
    pixels = ellipse((9, 9, 9), (80, 60))
    area = np.count_nonzero(pixels[..., 3])

    def left_heavy(patch):
        columns = np.flatnonzero((patch[..., 3] >= 128).any(0))
        half = (columns[0] + columns[-1] + 1) // 2
        counts = (patch[..., 3] >= 128).sum(0)
        return counts[:half].sum() > counts[half:].sum()

    straight = transform_cutout(pixels, 1, flip=False, degrees=0, blur=0)
    mirrored = transform_cutout(pixels, 1, flip=True, degrees=0, blur=0)
    turned = transform_cutout(pixels, 1, flip=False, degrees=180, blur=0)
    assert not left_heavy(straight)
    assert left_heavy(mirrored)
    assert left_heavy(turned)
    for degrees, factor in [(25, 1), (0, 0.5), (-70, 2)]:
        patch = transform_cutout(pixels, factor, flip=False, degrees=degrees, blur=0)
        pixels_left = np.count_nonzero(patch[..., 3] >= 128)
        assert pixels_left == pytest.approx(area * factor**2, rel=0.03)


def test_sizes_stay_in_the_range_and_below_the_largest_enlargement():
    style = CutoutStyle(scale=(0.3, 0.5), max_rotation=0, blur=0, min_visible_share=0.99)
    small = ellipse((9, 9, 9), (12, 12))
    sizes = {"large": [], "small": []}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for name, picture in (("large", ellipse((9, 9, 9), (200, 200))), ("small", small)):
            scene = layout_cutouts(rng, [0], [picture], (200, 200), style)
            mask = scene.visible_mask(0)
            rows, columns = mask.any(1).sum(), mask.any(0).sum()
            sizes[name].append(np.sqrt(rows * columns))
    assert 58 <= min(sizes["large"]) < 75
    assert 85 < max(sizes["large"]) <= 102
    assert max(sizes["small"]) <= 2 * 12 + 1


def test_light_is_off_at_strength_zero_and_changes_brightness_otherwise():
    picture = np.full((8, 8, 3), 120, np.uint8)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(develop(rng, picture, FLAT), picture)
    levels = [develop(rng, picture, replace(FLAT, light=1)).mean() for _ in range(50)]
    assert min(levels) < 105
    assert max(levels) > 135


def test_crops_cover_the_scene_and_come_from_everywhere():
    rng = np.random.default_rng(0)
    picture = np.zeros((90, 300, 3), np.uint8)
    picture[..., 0] = np.arange(300) * 255 // 299
    crops = [crop_background(rng, picture, (30, 40), flip=False) for _ in range(60)]
    assert {crop.shape for crop in crops} == {(30, 40, 3)}
    assert min(crop[..., 0].min() for crop in crops) < 20
    assert max(crop[..., 0].max() for crop in crops) > 235
    assert crop_background(rng, picture[:10, :10], (30, 40), flip=True).shape == (30, 40, 3)

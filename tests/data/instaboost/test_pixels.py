import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from d2_seesaw.data.instaboost.geometry import Similarity
from d2_seesaw.data.instaboost.instances import MaskWindow
from d2_seesaw.data.instaboost.pixels import inpaint, jitter_colors, paste


@pytest.fixture
def image():
    noise = np.random.randint(0, 256, (120, 160, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def disc(radius, center=(80, 60)):
    mask = np.zeros((120, 160), np.uint8)
    return cv2.circle(mask, center, radius, 1, -1).astype(bool)


def test_fully_visible_pixels_are_inpainted_by_opencv(image):
    removed = disc(20)
    expected = cv2.inpaint(image, removed.astype(np.uint8), 5, cv2.INPAINT_NS)
    np.testing.assert_array_equal(inpaint(image, removed, removed), expected)


def test_neither_the_outside_nor_the_given_image_changes(image):
    before = image.copy()
    removed = disc(30)
    result = inpaint(image, removed, removed & ~disc(25))
    np.testing.assert_array_equal(result[~removed], image[~removed])
    np.testing.assert_array_equal(image, before)
    assert (result != image)[removed & ~disc(25)].mean() > 0.9


def test_removed_pixels_do_not_influence_visible_ones(image):
    removed = disc(30)
    visible = removed & ~disc(26, (84, 60))
    other = image.copy()
    other[removed] = 255 - other[removed]
    first, second = inpaint(image, removed, visible), inpaint(other, removed, visible)
    np.testing.assert_array_equal(first[visible], second[visible])


def test_hidden_pixels_hardly_influence_visible_ones():
    # A smooth background, which the estimate at full resolution continues well.
    y, x = np.mgrid[:120, :160]
    image = np.dstack([x, y, 60 + (x + y) // 3]).astype(np.uint8)
    removed = disc(40)
    visible = removed & ~disc(34, (83, 62))
    image[removed] = (255, 0, 255)
    exact = inpaint(image, removed, removed).astype(int)
    restricted = inpaint(image, removed, visible)
    assert np.abs(exact - restricted)[visible].mean() < 3


def test_a_pasted_group_is_copied_by_its_mask_alone(image):
    canvas = np.zeros_like(image)
    source = MaskWindow(30, 40, np.ones((20, 25), np.uint8))
    holes = np.random.randint(0, 2, (20, 25), dtype=np.uint8)
    matrix = Similarity((40.0, 50.0), shift=(50.0, -10.0)).matrix()
    paste(canvas, image, source, MaskWindow(80, 30, holes), matrix)
    expected = np.zeros_like(image)
    expected[30:50, 80:105] = image[40:60, 30:55] * holes[..., None]
    np.testing.assert_array_equal(canvas, expected)


def test_interpolation_is_cubic_and_sees_the_surroundings():
    noise = np.random.randint(0, 256, (120, 160, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 0.7)
    matrix = Similarity((40.0, 50.0), scale=1.3, angle=5.0).matrix()
    source = MaskWindow(30, 40, np.ones((20, 20), np.uint8))
    target = MaskWindow(27, 37, np.ones((26, 26), np.uint8))
    canvas = image.copy()
    paste(canvas, image, source, target, matrix)
    # OpenCV counts coordinates from the center of the first pixel, not from its corner.
    indices = np.column_stack([matrix[:, :2], matrix @ [0.5, 0.5, 1] - 0.5])
    cubic = cv2.warpAffine(image, indices, (160, 120), flags=cv2.INTER_CUBIC)
    linear = cv2.warpAffine(image, indices, (160, 120), flags=cv2.INTER_LINEAR)
    ours = target.part_of(canvas).astype(int)
    assert np.abs(ours - target.part_of(cubic)).max() <= 2
    assert np.abs(ours - target.part_of(linear)).max() > 4


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_colors_are_jittered_by_pillow_in_the_right_order(image, image_format):
    draws = np.random.default_rng(3)
    factors = [draws.integers(a, b + 1) / 10 for a, b in ((0, 30), (10, 20), (10, 20), (0, 30))]
    picture = Image.fromarray(image if image_format == "RGB" else image[:, :, ::-1].copy())
    for name, factor in zip(("Color", "Brightness", "Contrast", "Sharpness"), factors, strict=True):
        picture = getattr(ImageEnhance, name)(picture).enhance(factor)
    expected = np.asarray(picture)
    result = jitter_colors(image, np.random.default_rng(3), image_format=image_format)
    assert result.flags.c_contiguous
    if image_format == "BGR":
        result = result[:, :, ::-1]
    np.testing.assert_array_equal(result, expected)


def test_color_factors_are_within_their_ranges(image, monkeypatch):
    seen = {}
    for name in ("Color", "Brightness", "Contrast", "Sharpness"):
        seen[name] = []

        def enhance(self, factor, name=name):
            seen[name].append(factor)
            return self.image

        monkeypatch.setattr(getattr(ImageEnhance, name), "enhance", enhance)
    rng = np.random.default_rng(0)
    for _ in range(400):
        jitter_colors(image[:2, :2], rng)
    ranges = {name: (min(f), max(f)) for name, f in seen.items()}
    assert ranges == {
        "Color": (0, 3),
        "Brightness": (1, 2),
        "Contrast": (1, 2),
        "Sharpness": (0, 3),
    }

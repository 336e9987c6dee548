"""Example pictures: window, boxes and colors, and reasons for missing pictures."""

import math
import re

import cv2
import numpy as np
import pytest

from d2_seesaw.data.image_files import ImageFolder
from d2_seesaw.evaluation.analysis import ConfusionExample
from d2_seesaw.report.pictures import LONG_SIDE, ExamplePictures, draw_example, window
from d2_seesaw.report.series import GROUP_COLORS

GROUPS = {1: "r", 2: "c", 3: "f", 4: "r"}
RED, ORANGE, BLUE = (GROUP_COLORS[g] for g in "rcf")
BLACK = "#1c2833"


def example(box, predicted_box=None, predicted_id=3, *, image_id=1):
    if predicted_box is None:
        return ConfusionExample(1, None, image_id, box, None, None)
    return ConfusionExample(1, predicted_id, image_id, box, predicted_box, 0.5)


def decoded(jpeg):
    """Decode a JPEG to ``(H, W, 3)`` RGB."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)


def is_color(pixels, color):
    """Mark the pixels that have about the color, because JPEG blurs thin lines."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (abs(pixels - np.array(rgb)) < 50).all(axis=-1)


def share_of_frame(picture, color, edges):
    """Return the share of points in the color on each side of a box in a picture."""
    left, top, right, bottom = (round(edge) for edge in edges)
    on = is_color(picture, color)
    xs, ys = slice(left + 4, right - 4), slice(top + 4, bottom - 4)
    # Lines are centered on the edge, so one of the two adjacent pixels has their color.
    sides = [(on[ys, left - 1 : left + 1], 1), (on[ys, right - 1 : right + 1], 1)]
    sides += [(on[top - 1 : top + 1, xs], 0), (on[bottom - 1 : bottom + 1, xs], 0)]
    return [side.any(axis=axis).mean() for side, axis in sides]


@pytest.mark.parametrize(
    ("box", "predicted", "shape", "expected"),
    [
        # Padded by 50, half the longer side of the union of the boxes.
        ([200, 150, 100, 50], None, (400, 600), (150, 100, 350, 250)),
        ([200, 150, 60, 50], [210, 140, 90, 40], (400, 600), (150, 90, 350, 250)),
        ([200, 150, 50, 100], [195, 140, 50, 90], (400, 600), (140, 85, 305, 305)),
        # Padded by at least 32, to whole pixels.
        ([200.5, 150.25, 10, 5], None, (400, 600), (168, 118, 243, 188)),
        # Clipped to the image.
        ([0, 0, 600, 400], None, (400, 600), (0, 0, 600, 400)),
        ([590, 390, 50, 50], None, (400, 600), (558, 358, 600, 400)),
        ([5, 6, 100, 20], None, (400, 600), (0, 0, 155, 76)),
    ],
)
def test_the_window_is_the_union_of_the_boxes_padded_by_half_its_longer_side(
    box, predicted, shape, expected
):
    found = window(example(box, predicted), shape)
    assert found == expected
    assert all(isinstance(edge, int) for edge in found)


@pytest.mark.parametrize("shape", [(300, 500), (500, 300)])
@pytest.mark.parametrize(
    ("box", "predicted"),
    [
        ([100, 110, 60, 50], [104, 90, 70, 60]),  # enlarged
        ([20, 30, 250, 200], [40, 60, 240, 230]),  # reduced
        ([12, 14, 12, 14], [16, 12, 13, 14]),  # at a corner
    ],
)
def test_boxes_are_drawn_at_their_place(box, predicted, shape):
    image = np.full((*shape, 3), 128, np.uint8)
    shown = example(box, predicted)
    picture = decoded(draw_example(image, shown, GROUPS))
    left, top, right, bottom = window(shown, shape)
    assert max(picture.shape[:2]) == LONG_SIDE == 320
    scale = LONG_SIDE / max(right - left, bottom - top)
    assert picture.shape[:2] == (round((bottom - top) * scale), round((right - left) * scale))
    (x, y, w, h), (px, py, pw, ph) = box, predicted
    there = [(x - left) * scale, (y - top) * scale, (x + w - left) * scale, (y + h - top) * scale]
    found = [(px - left) * scale, (py - top) * scale]
    found += [(px + pw - left) * scale, (py + ph - top) * scale]
    dashes = share_of_frame(picture, RED, there)
    assert all(0.5 < share < 0.95 for share in dashes), dashes
    plain = share_of_frame(picture, BLUE, found)
    assert all(share > 0.85 for share in plain), plain  # hidden where the dashed line crosses
    # No other pixels are colored.
    height, width = picture.shape[:2]
    ys, xs = np.mgrid[:height, :width] + 0.5
    near = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in (there, found):
        outside = (abs(np.clip(xs, x0, x1) - xs) > 4) | (abs(np.clip(ys, y0, y1) - ys) > 4)
        inside = (xs > x0 + 4) & (xs < x1 - 4) & (ys > y0 + 4) & (ys < y1 - 4)
        near |= ~outside & ~inside
    drawn = is_color(picture, RED) | is_color(picture, BLUE) | (picture.min(axis=2) > 200)
    assert not (drawn & ~near).any()
    assert abs(picture[~near] - 128).max() < 40  # JPEG's ringing


@pytest.mark.parametrize(
    ("predicted_id", "color"), [(2, ORANGE), (3, BLUE), (4, BLACK), (1, BLACK)]
)
def test_the_detection_has_the_color_of_its_group_or_is_black(predicted_id, color):
    image = np.full((200, 200, 3), 230, np.uint8)
    shown = example([50, 50, 80, 80], [60, 60, 80, 80], predicted_id)
    picture = decoded(draw_example(image, shown, GROUPS))
    colors = {c for c in (RED, ORANGE, BLUE, BLACK) if is_color(picture, c).sum() > 200}
    assert colors == {RED, color}


def test_both_lines_are_visible_where_they_coincide():
    image = np.full((200, 200, 3), 128, np.uint8)
    picture = decoded(draw_example(image, example([50, 50, 80, 80], [50, 50, 80, 80]), GROUPS))
    counts = [is_color(picture, color).sum() for color in (RED, BLUE)]
    assert min(counts) > 400, counts


def test_lines_have_a_white_outline_on_dark_images():
    image = np.zeros((200, 200, 3), np.uint8)
    picture = decoded(draw_example(image, example([50, 50, 80, 80]), GROUPS))
    assert (picture[100:220].min(axis=2) > 180).any(axis=1).all()  # on the sides, in every row


def test_the_picture_shows_the_window_in_the_colors_of_the_image():
    ys, xs = np.mgrid[:200, :300]
    image = np.stack([xs * 255 // 300, ys * 255 // 200, 255 - xs * 255 // 300], -1).astype(np.uint8)
    shown = example([180, 60, 64, 64])
    left, top, right, bottom = window(shown, image.shape[:2])
    picture = decoded(draw_example(image, shown, GROUPS))
    size = picture.shape[1], picture.shape[0]
    expected = cv2.resize(image[top:bottom, left:right], size).astype(int)
    differences = abs(picture - expected).max(axis=2)
    assert np.median(differences) < 5
    assert (differences > 30).mean() < 0.1  # the lines


def test_a_reduced_image_has_no_moire():
    checked = np.indices((640, 640)).sum(axis=0) % 2 * 255
    image = np.repeat(checked[:, :, None], 3, axis=2).astype(np.uint8)
    picture = decoded(draw_example(image, example([0, 0, 640, 640]), GROUPS))
    assert abs(picture[20:-20, 20:-20] - 127).max() < 9


def test_thin_lines_keep_their_color():
    image = np.full((200, 200, 3), 128, np.uint8)
    picture = decoded(draw_example(image, example([50, 50, 80, 80], [60, 60, 80, 80]), GROUPS))
    blue = np.array([int(BLUE[i : i + 2], 16) for i in (1, 3, 5)])
    distances = abs(picture - blue).max(axis=2)
    assert (distances < 12).sum() > 1000


def test_an_image_of_one_row_has_a_picture():
    image = np.full((1, 1000, 3), 128, np.uint8)
    assert decoded(draw_example(image, example([0, 0, 1000, 1]), GROUPS)).shape == (1, 320, 3)


@pytest.fixture
def folder(tmp_path):
    """Write one image in LVIS's layout; return the folder and its entry in the annotations."""
    (tmp_path / "val2017").mkdir()
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, :, 2] = 200  # red: OpenCV has it last
    cv2.imwrite(str(tmp_path / "val2017" / "7.png"), image)
    return tmp_path, {"id": 7, "coco_url": "http://images.cocodataset.org/val2017/7.png"}


@pytest.mark.parametrize("name", ["coco_url", "file_name"])
def test_images_are_found_by_file_name_or_coco_url(name, folder):
    root, record = folder
    if name == "file_name":
        record = {"id": 7, "file_name": "val2017/7.png"}
    pictures = ExamplePictures([record], ImageFolder(root))
    picture = decoded(pictures.draw(example([20, 20, 30, 30], image_id=7), GROUPS))
    assert pictures.failures == []
    assert np.median(picture.reshape(-1, 3), axis=0).tolist() == pytest.approx([200, 0, 0], abs=9)


def test_image_ids_may_be_texts_or_numbers(folder):
    root, record = folder
    pictures = ExamplePictures([record | {"id": "7"}], ImageFolder(root))
    assert pictures.draw(example([20, 20, 30, 30], image_id="7"), GROUPS)
    assert pictures.draw(example([20, 20, 30, 30], image_id=7), GROUPS) is None


@pytest.mark.parametrize(
    ("record", "box", "reason"),
    [
        ({"id": 7, "file_name": "missing.png"}, [0, 0, 9, 9], r"missing\.png: FileNotFoundError"),
        ({"id": 7, "file_name": "broken.png"}, [0, 0, 9, 9], r"broken\.png: UnidentifiedImage"),
        ({"id": 7, "file_name": 3}, [0, 0, 9, 9], "image 7: TypeError"),
        ({"id": 7}, [0, 0, 9, 9], "image 7: StopIteration"),
        ({"id": 8, "file_name": "broken.png"}, [0, 0, 9, 9], "image 7: KeyError"),
        ({"id": 7, "file_name": "val2017/7.png"}, [200, 0, 9, 9], "outside the image of 80 x"),
        ({"id": 7, "file_name": "val2017/7.png"}, [0, 99, 9, 9], "outside the image of 80 x 60"),
        ({"id": 7, "file_name": "val2017/7.png"}, [0, 0, math.nan, 9], "must be finite numbers"),
    ],
)
def test_a_picture_that_cannot_be_drawn_has_a_reason_and_is_not_an_error(
    record, box, reason, folder
):
    root, _ = folder
    (root / "broken.png").write_bytes(b"no picture")
    pictures = ExamplePictures([record], ImageFolder(root))
    assert pictures.draw(example(box, image_id=7), GROUPS) is None
    (failure,) = pictures.failures
    assert re.search(reason, failure), failure


@pytest.mark.parametrize("how", ["../secret.png", "absolute", "link.png", "linked/secret.png"])
def test_a_file_outside_of_the_folder_is_not_drawn(how, tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    secret = tmp_path / "secret.png"
    cv2.imwrite(str(secret), np.zeros((100, 100, 3), np.uint8))
    (root / "link.png").symlink_to(secret)
    (root / "linked").symlink_to(tmp_path)
    cv2.imwrite(str(root / "inside.png"), np.zeros((100, 100, 3), np.uint8))
    link_to_root = tmp_path / "other"
    link_to_root.symlink_to(root)
    name = str(secret) if how == "absolute" else how
    images = [{"id": 1, "file_name": name}, {"id": 2, "file_name": "inside.png"}]
    pictures = ExamplePictures(images, ImageFolder(link_to_root))
    box = [10, 10, 30, 30]
    assert pictures.draw(example(box), GROUPS) is None
    assert "whose images alone are shown" in pictures.failures[0]
    following = ExamplePictures(images, ImageFolder(link_to_root, follow_links=True))
    assert (following.draw(example(box), GROUPS) is not None) == ("link" in how)
    assert pictures.draw(example(box, image_id=2), GROUPS) is not None

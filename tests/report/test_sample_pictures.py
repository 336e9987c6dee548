from dataclasses import replace

import cv2
import numpy as np
import pytest

from d2_seesaw.data.image_files import ImageFolder
from d2_seesaw.report.pictures import sample_pictures
from tests.data import own_data


@pytest.fixture
def gray(tmp_path):
    """Write the small dataset with gray images; return its table and the paths by entry."""
    data = own_data.content()
    own_data.write(tmp_path, data)
    for image in data["images"]:
        path = tmp_path / "images" / image["file_name"]
        cv2.imwrite(str(path), np.full((own_data.H, own_data.W, 3), 128, np.uint8))
    return own_data.table(data), lambda image: str(tmp_path / "images" / image["file_name"])


def redness(jpeg):
    """Compute red minus blue for each pixel."""
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).astype(int)
    return picture[:, :, 2] - picture[:, :, 0]


def test_the_mask_of_the_category_is_drawn_in_the_color(gray):
    pictures = sample_pictures(
        *gray[:1], [2], gray[1], folder=ImageFolder("/"), color="#ff0000", long_side=320
    )
    red = redness(pictures[2])
    assert red.shape == (240, 320)
    inside, outside = red[140:200, 220:280], red[:100, :180]  # the box is 20, 12 to 30, 22
    assert inside.mean() > 60
    assert abs(outside).mean() < 5


def test_an_unreadable_image_is_replaced_by_the_next(gray):
    columns, path_of = gray
    with open(path_of({"file_name": "part/5.png"}), "wb"):
        pass
    assert list(
        sample_pictures(columns, [1], path_of, folder=ImageFolder("/"), color="#ff0000")
    ) == [1]
    with open(path_of({"file_name": "part/12.png"}), "wb"):
        pass
    assert sample_pictures(columns, [1], path_of, folder=ImageFolder("/"), color="#ff0000") == {}


def test_the_image_of_the_largest_object_is_drawn_and_no_other(gray):
    columns, path_of = gray
    seen = []

    def recorded_path(image):
        seen.append(image["id"])
        return path_of(image)

    sample_pictures(columns, [1, 2], recorded_path, folder=ImageFolder("/"), color="#ff0000")
    assert seen == [5, 90]  # the sides of category 40 are 12 and 5


def test_boxes_without_masks_are_drawn_at_their_place(gray):
    data = own_data.content()
    for annotation in data["annotations"]:
        annotation["segmentation"] = None
    columns = own_data.table(data)
    pictures = sample_pictures(
        columns, [2], gray[1], folder=ImageFolder("/"), color="#ff0000", long_side=320
    )
    red = redness(pictures[2])  # the edge of the box is at 20 to 30, 12 to 22
    assert red[115:226, 195:306].mean() > 10
    assert abs(red[:100, :180]).mean() < 5


def test_crowds_do_not_determine_the_image(gray):
    columns, path_of = gray
    crowd = columns.crowd | (columns.image == 1)  # image 5
    seen = []

    def recorded_path(image):
        seen.append(image["id"])
        return path_of(image)

    sample_pictures(
        replace(columns, crowd=crowd), [1], recorded_path, folder=ImageFolder("/"), color="#ff0000"
    )
    assert seen == [12]


def test_a_category_with_only_crowds_has_no_picture():
    data = own_data.content()
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 1
    columns = own_data.table(data)
    assert sample_pictures(columns, [0, 1, 2], str, folder=ImageFolder("/"), color="#ff0000") == {}


def test_after_five_unreadable_images_a_category_has_no_picture(tmp_path):
    size = {"height": own_data.H, "width": own_data.W}
    images = [{"id": i, "file_name": f"{i}.png", **size} for i in range(6)]
    annotations = [own_data.annotation(i + 1, i, 7, side=12 - i) for i in range(6)]
    category = {"id": 7, "name": "kerb"}
    data = {"images": images, "annotations": annotations, "categories": [category]}
    own_data.write(tmp_path, data)
    columns = own_data.table(data)
    for broken, shown in ((4, [0]), (5, [])):
        for i in range(broken):
            (tmp_path / f"images/{i}.png").write_bytes(b"")
        found = sample_pictures(
            columns,
            [0],
            lambda image: str(tmp_path / "images" / image["file_name"]),
            folder=ImageFolder("/"),
            color="#ff0000",
        )
        assert list(found) == shown


@pytest.mark.parametrize("way", ["name", "absolute", "link"])
def test_a_file_outside_of_the_folder_is_not_shown(tmp_path, way):
    root = tmp_path / "images"
    root.mkdir()
    secret = tmp_path / "secret.png"
    cv2.imwrite(str(secret), np.full((own_data.H, own_data.W, 3), 128, np.uint8))
    name = {"name": "../secret.png", "absolute": str(secret), "link": "link.png"}[way]
    if way == "link":
        (root / name).symlink_to(secret)
    path = str(root / name)
    with pytest.raises(ValueError, match="outside"):
        ImageFolder(root).read(path)
    columns = own_data.table()
    found = sample_pictures(columns, [0], lambda _: path, folder=ImageFolder(root), color="#ff0000")
    assert found == {}
    shown = sample_pictures(
        columns, [0], lambda _: path, folder=ImageFolder(tmp_path), color="#ff0000"
    )
    assert list(shown) == [0]

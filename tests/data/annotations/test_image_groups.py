"""Groups of images by their file names."""

import pytest

from d2_seesaw.data.annotations.image_groups import group_images


def named(*names):
    return [{"file_name": name} for name in names]


def test_images_with_the_same_match_are_one_group_and_others_are_alone():
    images = named("b/0.jpg", "a/0.jpg", "b/1.jpg", "2.jpg", "3.jpg", "a/1.jpg")
    assert group_images(images, "^[^/]+(?=/)").tolist() == [0, 1, 0, 2, 3, 1]


def test_the_parentheses_of_the_expression_name_the_images():
    images = named("x_tile1.png", "x_tile2.png", "y_tile1.png")
    assert group_images(images, r"(.*)_tile\d").tolist() == [0, 0, 1]
    assert group_images([{"coco_url": "http://h/val/1.jpg"}], "val/").tolist() == [0]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("[", "'\\[' is not a regular expression"), ("z+", "'z\\+' finds nothing .* such as 'a.jpg'")],
)
def test_an_expression_that_cannot_group_is_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        group_images(named("a.jpg", "b.jpg"), pattern)

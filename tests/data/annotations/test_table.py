from dataclasses import replace

import numpy as np
import pytest

from tests.data import own_data


@pytest.fixture
def table():
    data = own_data.content()
    data["annotations"][4]["iscrowd"] = 1
    return own_data.table(data)


def test_image_counts_count_an_image_once(table):
    np.testing.assert_array_equal(table.image_counts(), [3, 2, 1])


def test_image_counts_include_categories_without_images(table):
    unseen = [*table.categories, {"id": 1001, "name": "bollard"}]
    np.testing.assert_array_equal(replace(table, categories=unseen).image_counts(), [3, 2, 1, 0])


def test_counting_does_not_overflow_32_bits_with_many_categories(table):
    many = [{"id": i, "name": str(i)} for i in range(5000)]
    image, category = np.zeros(7, np.int32), np.zeros(7, np.int32)
    image[1:3], category[:2] = 2**20, 4999
    counts = replace(table, categories=many, image=image, category=category).image_counts()
    assert (counts[4999], counts[0], counts.sum()) == (2, 2, 4)


def test_annotations_of_selects_an_image_and_a_category(table):
    assert [a["bbox"][0] for a in table.annotations_of(0, 0)] == [4, 16]
    assert table.annotations_of(0, 1) == []


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_annotations_without_masks_are_left_out_of_training_unless_all_are(nothing):
    data = own_data.content()
    for annotation in data["annotations"][1:]:
        annotation["segmentation"] = nothing
    table = own_data.table(data)
    assert table.usable.tolist() == [True] + [False] * 6
    assert table.image_counts().tolist() == [1, 0, 0]
    data["annotations"][0]["segmentation"] = nothing
    table = own_data.table(data)
    assert table.usable.all()


def test_polygons_of_fewer_than_three_points_are_left_out():
    data, valid = own_data.content(), own_data.square(1, 1, 3)
    polygons = ([valid, [1, 1, 2, 2]], [[1, 1, 2, 2], [1, 2]], [[]], [[], valid])
    for annotation, given in zip(data["annotations"], polygons, strict=False):
        annotation["segmentation"] = given
    found = own_data.parsed(data)
    assert [(p.kind, p.annotation_id, p.message) for p in found.problems] == [
        ("invalid_polygon", 1, "polygon 1 has 2 points"),
        ("invalid_polygon", 2, "polygon 0 has 2 points"),
        ("invalid_polygon", 2, "polygon 1 has 1 points"),
        ("invalid_polygon", 3, "polygon 0 has 0 points"),
        ("invalid_polygon", 4, "polygon 0 has 0 points"),
    ]
    table = found.table
    expected = [[valid], None, None, [valid]]
    assert [table.segmentation(row) for row in range(4)] == expected
    assert [a.get("segmentation") for a in table.annotations(np.arange(4))] == expected
    assert table.usable.tolist() == [True, False, False, True, True, True, True]


@pytest.mark.parametrize("box", [[4, 4, 0, 8], [4, 4, 8, 0]])
def test_boxes_without_an_area_are_left_out_of_training(box):
    data = own_data.content()
    data["annotations"][0]["bbox"] = box
    assert own_data.table(data).usable.tolist() == [False] + [True] * 6

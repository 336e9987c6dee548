import gc
from dataclasses import replace

import numpy as np
import pytest

from d2_seesaw.data.annotations.schema import columns_from_json
from d2_seesaw.data.annotations.table import collection_paused
from tests.data import own_data


@pytest.fixture
def columns():
    data = own_data.content()
    data["annotations"][0]["segmentation"] = [[1, 1, 5, 1, 5, 5], [6.5, 6, 9, 6, 9, 9.25, 6, 9]]
    data["annotations"][4]["iscrowd"] = 1
    return columns_from_json(data)[0]


def test_image_counts_count_an_image_once(columns):
    np.testing.assert_array_equal(columns.image_counts(), [3, 2, 1])


def test_records_hold_every_annotation_in_the_order_of_the_file(columns):
    records = columns.records(lambda image: f"root/{image['file_name']}")
    assert [r["file_name"] for r in records] == [f"root/part/{i}.png" for i in (3, 5, 12, 90)]
    first, second = records[0]["annotations"]
    assert first["segmentation"] == [[1, 1, 5, 1, 5, 5], [6.5, 6, 9, 6, 9, 9.25, 6, 9]]
    assert second["segmentation"] == [own_data.square(16, 4, 8)]
    rle, polygon = (a["segmentation"] for a in records[1]["annotations"])
    assert rle == own_data.compressed(own_data.mask_of(4, 4, 8))
    assert polygon == [own_data.square(10, 2, 12)]
    assert [a.get("iscrowd", 0) for r in records for a in r["annotations"]] == [0, 0, 0, 1, 0, 0, 0]


def test_values_are_plain_python(columns):
    annotation = columns.records(str)[0]["annotations"][0]
    assert type(annotation["segmentation"][0][0]) is float
    assert type(annotation["category_id"]) is int
    assert type(annotation["bbox"]) is list


def test_annotations_of_one_category_in_one_image(columns):
    assert [a["bbox"][0] for a in columns.annotations_of(0, 0)] == [4, 16]
    assert columns.annotations_of(0, 1) == []


def test_collection_goes_on_even_after_an_error():
    with pytest.raises(ZeroDivisionError), collection_paused():
        _ = 1 / int(gc.isenabled())
    assert gc.isenabled()


def test_many_annotations_of_an_image_keep_the_order_of_the_file():
    data, rng = own_data.content(), np.random.default_rng(0)
    of_image = rng.choice([3, 5, 12], 400).tolist()
    data["annotations"] = [
        own_data.annotation(i, image, 7) | {"bbox": [i, 0, 1, 1]}
        for i, image in enumerate(of_image)
    ]
    records = columns_from_json(data)[0].records(str)
    for record in records:
        expected = [i for i, image in enumerate(of_image) if image == record["image_id"]]
        assert [a["bbox"][0] for a in record["annotations"]] == expected


def test_without_masks_there_is_no_segmentation():
    data = own_data.content()
    for annotation in data["annotations"]:
        annotation["segmentation"] = None
    records = columns_from_json(data)[0].records(str)
    keys = [set(a) for record in records for a in record["annotations"]]
    assert keys == [{"bbox", "bbox_mode", "category_id"}] * 7


def test_collection_stays_off_where_it_was():
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_images_of_many_categories_are_counted_beyond_32_bits():
    images = np.array([0, 2**20, 2**20], np.int32)
    columns, _ = columns_from_json(own_data.content())
    many = [{"id": i, "name": str(i)} for i in range(5000)]
    category = np.array([4999, 4999, 0], np.int32)
    counts = replace(columns, categories=many, image=images, category=category).image_counts()
    assert (counts[4999], counts[0], counts.sum()) == (2, 1, 3)


def test_image_counts_are_of_all_categories_those_in_no_image_included(columns):
    unseen = [*columns.categories, {"id": 1001, "name": "bollard"}]
    np.testing.assert_array_equal(replace(columns, categories=unseen).image_counts(), [3, 2, 1, 0])

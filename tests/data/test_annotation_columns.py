import gc

import numpy as np
import pytest

from d2_seesaw.data.annotation_columns import collection_paused
from d2_seesaw.data.annotation_reader import columns_from_json
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

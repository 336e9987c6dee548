"""COCO's annotations with the fields that LVIS's rules need."""

import json

import pytest

from d2_seesaw.evaluation.lvis.annotations import (
    UNKNOWN_FREQUENCY,
    complete_coco_fields,
    is_federated,
    read_train_image_counts,
)


@pytest.fixture
def coco():
    return {
        "categories": [{"id": 7}, {"id": 40}, {"id": 1000}],
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 40, "iscrowd": 1},
            {"id": 2, "image_id": 1, "category_id": 7, "iscrowd": 0},
            {"id": 3, "image_id": 2, "category_id": 7},
            {"id": 4, "image_id": 2, "category_id": 7},
        ],
    }


def test_every_category_was_looked_for_in_every_image(coco):
    assert not is_federated(coco)
    complete_coco_fields(coco)
    assert is_federated(coco)
    assert [image["neg_category_ids"] for image in coco["images"]] == [[7, 40, 1000]] * 2


def test_a_crowd_is_ignored_and_leaves_its_category_open_in_its_image(coco):
    complete_coco_fields(coco)
    assert [bool(a.get("ignore")) for a in coco["annotations"]] == [True, False, False, False]
    assert [i["not_exhaustive_category_ids"] for i in coco["images"]] == [[40], []]


def test_groups_follow_from_the_training_counts_by_the_bounds_of_lvis(coco):
    complete_coco_fields(coco, {7: 10, 40: 101})
    assert [c["frequency"] for c in coco["categories"]] == ["r", "f", "r"]
    assert [c["image_count"] for c in coco["categories"]] == [10, 101, 0]


def test_without_counts_groups_are_unknown(coco):
    complete_coco_fields(coco)
    assert {c["frequency"] for c in coco["categories"]} == {UNKNOWN_FREQUENCY}


def test_federated_sets_and_groups_of_a_file_stay(coco):
    coco["images"][0] |= {"neg_category_ids": [40], "not_exhaustive_category_ids": []}
    for category in coco["categories"]:
        category["frequency"] = "c"
    complete_coco_fields(coco)
    assert coco["images"][0]["neg_category_ids"] == [40]
    assert "neg_category_ids" not in coco["images"][1]
    assert {c["frequency"] for c in coco["categories"]} == {"c"}


def test_counts_are_images_not_objects(coco, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(coco))
    assert read_train_image_counts(tmp_path / "train.json") == {7: 2, 40: 1}
    assert read_train_image_counts({7: 3}) == {7: 3}
    assert read_train_image_counts(None) is None


def test_a_file_without_annotations_is_named(tmp_path):
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(ValueError, match=r"train\.json has no 'annotations'"):
        read_train_image_counts(tmp_path / "train.json")

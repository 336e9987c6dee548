"""COCO annotations, completed with the fields that LVIS's rules need."""

import numpy as np
import pytest

from d2_seesaw.evaluation.lvis.annotations import (
    complete_coco_fields,
    read_evaluation_table,
    read_train_image_counts,
)
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from tests.evaluation.lvis_data import add_object, dataset, write_json

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


@pytest.fixture
def coco():
    """Return COCO data: 7 is in both images, 40 in one as a crowd, 1000 in none."""
    data = dataset("rcf", image_ids=(1, 2))
    for category, category_id in zip(data["categories"], (7, 40, 1000), strict=True):
        category["id"] = category_id
        del category["frequency"], category["image_count"]
    for image in data["images"]:
        for field in FEDERATED:
            del image[field]
    add_object(data, 1, 40, [0, 0, 9, 9], iscrowd=1)
    add_object(data, 1, 7, [0, 0, 9, 9], iscrowd=0)
    for _ in range(2):
        add_object(data, 2, 7, [0, 0, 9, 9])
    return data


def completed(data, counts=None):
    return complete_coco_fields(GroundTruthColumns.from_dataset(data).table, counts)


def test_every_category_counts_as_verified_in_every_image(coco):
    table = completed(coco)
    assert [image["neg_category_ids"] for image in table.images] == [[7, 40, 1000]] * 2
    assert GroundTruthColumns.from_table(table).exhaustive.all()


def test_a_crowd_is_ignored_and_makes_its_category_not_exhaustive_in_its_image(coco):
    table = completed(coco)
    np.testing.assert_array_equal(table.ignored, [True, False, False, False])
    assert [i["not_exhaustive_category_ids"] for i in table.images] == [[40], []]


def test_groups_follow_the_training_counts_with_the_bounds_of_lvis(coco):
    categories = completed(coco, {7: 10, 40: 101}).categories
    assert [c["frequency"] for c in categories] == ["r", "f", "r"]
    assert [c["image_count"] for c in categories] == [10, 101, 0]


def test_federated_sets_and_groups_of_a_file_are_kept(coco):
    coco["images"][0] |= {"neg_category_ids": [40], "not_exhaustive_category_ids": []}
    for category in coco["categories"]:
        category["frequency"] = "c"
    table = completed(coco)
    assert table.images[0]["neg_category_ids"] == [40]
    assert table.images[1]["neg_category_ids"] == []
    assert {c["frequency"] for c in table.categories} == {"c"}


def test_counts_are_images_not_objects(coco, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    json_file = write_json(tmp_path / "train.json", coco)
    evaluated = [{"id": i, "name": f"class{n}"} for n, i in enumerate((7, 40, 1000), start=1)]
    against = evaluated, "val.json"
    assert read_train_image_counts(json_file, *against) == {7: 2, 40: 1, 1000: 0}
    assert read_train_image_counts({7: 3}, *against) == {7: 3}
    assert read_train_image_counts(None, *against) is None
    coco["annotations"] = []
    with pytest.raises(ValueError, match=r"empty\.json has no 'annotations'"):
        read_train_image_counts(write_json(tmp_path / "empty.json", coco), *against)


def test_groups_come_from_given_counts_then_the_file_then_registered_counts(coco, tmp_path):
    json_file = str(write_json(tmp_path / "a.json", coco))

    def groups(**counts):
        table = read_evaluation_table(json_file, with_masks=False, **counts)
        return [category["frequency"] for category in table.categories]

    registered, given = {7: 5, 40: 50, 1000: 500}, {7: 500, 40: 50, 1000: 5}
    assert groups() == ["n/a"] * 3
    assert groups(registered_counts=registered) == ["r", "c", "f"]
    assert groups(registered_counts=registered, train_image_counts=given) == ["f", "c", "r"]
    for category in coco["categories"]:
        category["frequency"] = "c"
    write_json(tmp_path / "a.json", coco)
    assert groups(registered_counts=registered) == ["c"] * 3
    assert groups(train_image_counts=given) == ["f", "c", "r"]

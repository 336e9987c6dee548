"""Annotations that are loaded and completed before anything is scored against them."""

import json

import pytest

from d2_seesaw.evaluation.lvis.annotations import load_annotations, prepare_annotations
from d2_seesaw.evaluation.lvis.official import lvis_from_dict
from tests.evaluation.lvis_data import add_object, dataset

FILE = "annotations.json"


@pytest.mark.parametrize("content", ['{"images": []}', "[1]", "no JSON"])
def test_a_file_of_another_kind_is_named(content, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json is no LVIS or COCO file"):
        load_annotations(str(tmp_path / "a.json"))


def coco(groups="rcf"):
    """Three categories, all in one image, in COCO's format."""
    data = dataset(groups, image_ids=(1,))
    for category_id in (1, 2, 3):
        add_object(data, 1, category_id, [0, 0, 9, 9])
    for field in ("neg_category_ids", "not_exhaustive_category_ids"):
        del data["images"][0][field]
    for category in data["categories"]:
        del category["frequency"]
    return data


def groups_after(data, **counts):
    """The groups of the categories once the annotations are prepared."""
    counts = {"train_image_counts": None, "registered_counts": None} | counts
    prepare_annotations(lvis_from_dict(data), FILE, with_masks=False, **counts)
    return [category["frequency"] for category in data["categories"]]


def test_counts_that_are_given_go_before_registered_ones_and_these_before_none(tmp_path):
    registered = {1: 5, 2: 50, 3: 500}
    assert groups_after(coco()) == ["n/a"] * 3
    assert groups_after(coco(), registered_counts=registered) == ["r", "c", "f"]
    given = {1: 500, 2: 50, 3: 5}
    both = {"train_image_counts": given, "registered_counts": registered}
    assert groups_after(coco(), **both) == ["f", "c", "r"]
    (tmp_path / "train.json").write_text(json.dumps(coco()))
    assert groups_after(coco(), train_image_counts=tmp_path / "train.json") == ["r"] * 3


def test_groups_of_the_file_go_before_registered_counts():
    data = dataset("fcr", image_ids=(1,))
    add_object(data, 1, 1, [0, 0, 9, 9])
    assert groups_after(data, registered_counts={1: 1, 2: 1, 3: 1}) == ["f", "c", "r"]


def test_what_is_still_missing_is_named_with_the_file():
    data = coco()
    del data["annotations"][0]["area"]
    with pytest.raises(ValueError, match=f"{FILE} cannot be evaluated .*have no 'area'"):
        groups_after(data)

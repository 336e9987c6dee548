import json

import numpy as np
import pytest

from d2_seesaw.synthetic.glyph_scenes import SceneStyle, layout_scene
from d2_seesaw.synthetic.lvis_files import (
    ImageRecord,
    annotate_scene,
    category_entries,
    glyph_categories,
    write_json,
)


def annotated(categories, probability=0.0, negatives=3, seed=0):
    rng = np.random.default_rng(seed)
    scene = layout_scene(rng, categories, (128, 128), SceneStyle())
    return annotate_scene(
        rng,
        scene,
        image_id=7,
        path="train/000007.jpg",
        num_categories=10,
        negatives=negatives,
        not_exhaustive_probability=probability,
    )


def test_exhaustive_images_annotate_every_object():
    record = annotated([4, 2, 4])
    assert record.category_ids == [5, 3, 5]
    assert record.image["not_exhaustive_category_ids"] == []


@pytest.mark.parametrize("seed", range(5))
def test_a_non_exhaustive_category_lacks_some_but_not_all_objects(seed):
    record = annotated([4, 2, 4, 4], probability=1.0, seed=seed)
    assert record.image["not_exhaustive_category_ids"] == [5]
    assert record.category_ids.count(3) == 1
    assert 1 <= record.category_ids.count(5) <= 2


def test_categories_that_appear_once_are_always_exhaustive():
    record = annotated([4, 2], probability=1.0)
    assert record.category_ids == [5, 3]
    assert record.image["not_exhaustive_category_ids"] == []


def test_negatives_are_absent_categories_in_the_requested_number():
    negative = annotated([4, 2, 4], probability=1.0, negatives=3).image["neg_category_ids"]
    assert len(set(negative)) == 3
    assert not {5, 3} & set(negative)


def test_negatives_are_limited_by_the_absent_categories():
    negative = annotated([4, 2], negatives=50).image["neg_category_ids"]
    assert negative == [1, 2, 4, 6, 7, 8, 9, 10]


def test_category_statistics_count_images_and_instances():
    records = [ImageRecord({}, [1, 1, 2], [], 3) for _ in range(11)] + [
        ImageRecord({}, [2], [], 1)
    ] * 90
    first, second, third = category_entries(glyph_categories(3), records)
    assert (first["image_count"], first["instance_count"], first["frequency"]) == (11, 22, "c")
    assert (second["image_count"], second["instance_count"], second["frequency"]) == (101, 101, "f")
    assert (third["image_count"], third["frequency"]) == (0, "r")


def test_annotation_ids_are_consecutive_over_all_images(tmp_path):
    records = [annotated([1, 2]), annotated([3])]
    write_json(tmp_path / "a.json", category_entries(glyph_categories(10), records), records)
    content = json.loads((tmp_path / "a.json").read_text())
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3]
    assert [a["category_id"] for a in content["annotations"]] == [2, 3, 4]
    assert [c["id"] for c in content["categories"]] == list(range(1, 11))

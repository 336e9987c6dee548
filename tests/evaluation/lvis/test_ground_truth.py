import copy
import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from d2_seesaw.data.rle import compressed_rle
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns, index_of
from tests.evaluation.federated_cases import federated_case
from tests.evaluation.lvis_data import SIZE, add_object, dataset, mask_of, outline

TRAITS = ("real boxes", "other area field", "not exhaustive", "ignored", "override ids", "rle")


def keys_as_ids(columns, keys):
    """Return (image id, category id) of each pair key."""
    categories, images = np.divmod(keys, len(columns.image_ids))
    images, categories = columns.image_ids[images], columns.category_ids[categories]
    return list(zip(images.tolist(), categories.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_each_object_keeps_the_fields_of_its_dict(seed):
    data, _ = federated_case(seed, *TRAITS)
    columns, objects = GroundTruthColumns.from_dataset(data), data["annotations"]
    assert columns.image_ids.tolist() == sorted(i["id"] for i in data["images"])
    assert columns.category_ids.tolist() == sorted(c["id"] for c in data["categories"])
    assert columns.image_ids[columns.images].tolist() == [o["image_id"] for o in objects]
    assert columns.category_ids[columns.categories].tolist() == [o["category_id"] for o in objects]
    assert columns.boxes.tolist() == [o["bbox"] for o in objects]
    assert columns.areas.tolist() == [o["area"] for o in objects]
    assert columns.ignored.tolist() == ["ignore" in o for o in objects]
    given = [o["segmentation"] for o in objects]
    assert columns.rows.tolist() == [*range(len(objects))]
    assert [columns.table.segmentation(row) for row in columns.rows.tolist()] == [
        compressed_rle(s) if isinstance(s, dict) else s for s in given
    ]
    assert 0 < columns.ignored.sum() < len(objects)


@pytest.mark.parametrize("seed", range(3))
def test_verified_pairs_follow_the_federated_sets(seed):
    data, _ = federated_case(seed, "not exhaustive", "override ids")
    columns = GroundTruthColumns.from_dataset(data)
    present = {(o["image_id"], o["category_id"]) for o in data["annotations"]}
    absent = {(i["id"], c) for i in data["images"] for c in i["neg_category_ids"]}
    loose = {(i["id"], c) for i in data["images"] for c in i["not_exhaustive_category_ids"]}
    verified = keys_as_ids(columns, columns.verified_pairs)
    assert set(verified) == present | absent
    assert len(verified) == len(set(verified))
    assert set(keys_as_ids(columns, columns.open_pairs)) == loose
    assert not columns.exhaustive.any()


def test_only_an_image_with_all_categories_as_negatives_is_exhaustive():
    data = dataset("rcf", image_ids=(1, 2, 3, 4))
    every = [3, 1, 2]
    negatives = [every, [1, 2, 9], [2], every]
    for image, ids in zip(data["images"], negatives, strict=True):
        image["neg_category_ids"] = ids
    columns = GroundTruthColumns.from_dataset(data)
    assert columns.exhaustive.tolist() == [True, False, False, True]
    # The exhaustive images need no pairs, and category 9 does not exist.
    verified = set(keys_as_ids(columns, columns.verified_pairs))
    assert verified == {(2, 1), (2, 2), (3, 2)}


@pytest.mark.parametrize(
    "override",
    [{"area": 0}, {"area": -1}, {"image_id": 8}, {"category_id": 8}],
)
def test_objects_without_area_or_with_unknown_ids_do_not_count(override):
    data = dataset("rf")
    add_object(data, 1, 2, [0, 0, 10, 20])
    add_object(data, 1, 1, [5, 5, 30, 40]).update(override)
    add_object(data, 1, 2, [1, 2, 3, 4])
    columns = GroundTruthColumns.from_dataset(data)
    assert columns.boxes.tolist() == [[0, 0, 10, 20], [1, 2, 3, 4]]
    assert keys_as_ids(columns, columns.verified_pairs) == [(1, 2)]


def test_polygons_and_both_encodings_are_the_same_mask():
    data, bbox = dataset("f"), [10, 20, 40, 60]
    mask = mask_of(bbox)
    compressed = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    flat = mask.reshape(-1, order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    runs = np.diff([0, *edges, flat.size]).tolist()
    for segmentation in (
        [outline(bbox)],
        {"size": [SIZE, SIZE], "counts": compressed["counts"].decode()},
        {"size": [SIZE, SIZE], "counts": runs},
    ):
        add_object(data, 1, 1, bbox, segmentation=segmentation)
    columns = GroundTruthColumns.from_dataset(data)
    for row in range(3):
        np.testing.assert_array_equal(mask_utils.decode(columns.rle(row)), mask)


def test_a_mask_of_several_polygons_has_the_size_of_its_image():
    data = dataset("f", image_ids=(1, 2))
    data["images"][1].update(height=50, width=70)
    parts = [[2, 3, 12, 3, 12, 13, 2, 13], [40, 20, 60, 20, 60, 30, 40, 30]]
    add_object(data, 2, 1, [2, 3, 58, 27], segmentation=parts)
    expected = np.zeros((50, 70), dtype=np.uint8)
    expected[3:13, 2:12] = expected[20:30, 40:60] = 1
    mask = mask_utils.decode(GroundTruthColumns.from_dataset(data).rle(0))
    np.testing.assert_array_equal(mask, expected)


def test_groups_hold_the_categories_of_each_frequency():
    columns = GroundTruthColumns.from_dataset(dataset("fcfrc"))
    groups = {group: indices.tolist() for group, indices in columns.groups.items()}
    assert groups == {"r": [3], "c": [1, 4], "f": [0, 2]}


def test_index_of_is_the_position_or_minus_one():
    ids = [2, 5, 9]
    values = [9, 1, 5, 10, 2, 6]
    expected = [ids.index(v) if v in ids else -1 for v in values]
    assert index_of(np.array(values), np.array(ids)).tolist() == expected
    assert index_of(np.array(["5"]), np.array(ids)).tolist() == [-1]
    assert index_of(np.array([5]), np.array([])).tolist() == [-1]


@pytest.mark.parametrize("ids", [[-7, -6, 3], [2, 2**62], [-(2**63), -(2**63) + 1], [5]])
def test_index_of_finds_ids_at_the_ends_of_their_type(ids):
    values = [*ids, 2**63 - 1, -(2**63), 0, -1, 4]
    expected = [ids.index(v) if v in ids else -1 for v in values]
    assert index_of(np.array(values), np.array(ids)).tolist() == expected


def fingerprint(data):
    return GroundTruthColumns.from_dataset(data).fingerprint()


def test_the_fingerprint_is_the_same_on_every_machine():
    data = dataset("rcf", image_ids=(1, 2))
    add_object(data, 1, 2, [0.5, 0, 20, 20], ignore=1)
    add_object(data, 2, 3, [4, 5, 60, 70])
    data["images"][0] |= {"neg_category_ids": [1], "not_exhaustive_category_ids": [3]}
    assert fingerprint(data) == "177d0ed311d1d3be"


@pytest.mark.parametrize("seed", range(2))
def test_the_fingerprint_ignores_order_names_and_annotation_ids(seed):
    data, _ = federated_case(seed, *TRAITS)
    twin = next(o for o in data["annotations"] if o["category_id"] != data["categories"][0]["id"])
    data["annotations"].append(twin | {"id": 999, "category_id": data["categories"][0]["id"]})
    other = copy.deepcopy(data)
    rng = np.random.default_rng(seed)
    for section in ("annotations", "images", "categories"):
        other[section] = [other[section][i] for i in rng.permutation(len(other[section])).tolist()]
    other["annotations"].sort(key=lambda o: o["id"] != 999)
    for image in other["images"]:
        image["neg_category_ids"] = image["neg_category_ids"][::-1]
        image["not_exhaustive_category_ids"] = image["not_exhaustive_category_ids"][::-1] * 2
        image["coco_url"] = "elsewhere"
    for number, annotation in enumerate(other["annotations"]):
        annotation |= {"id": 1000 + number, "iscrowd": 0, "segmentation": None}
        annotation["bbox"] = [float(v) if v else -0.0 for v in annotation["bbox"]]
    for category in other["categories"]:
        category |= {"name": "other", "frequency": "f", "image_count": 5}
    other = json.loads(json.dumps({"info": {"year": 2026}, **other}, sort_keys=True))
    assert fingerprint(other) == fingerprint(data)


def with_another_object(data):
    data["annotations"].append(data["annotations"][0] | {"id": 99})


def in_another_image(data):
    found = data["annotations"][0]
    found["image_id"] = next(i["id"] for i in data["images"] if i["id"] != found["image_id"])


CHANGES = {
    "image id": lambda d: d["images"].append(d["images"][0] | {"id": 1000}),
    "category id": lambda d: d["categories"].append({"id": 1000, "frequency": "f"}),
    "object": with_another_object,
    "image of an object": in_another_image,
    "category of an object": lambda d: d["annotations"][0].update(category_id=3),
    "left": lambda d: d["annotations"][0]["bbox"].__setitem__(0, 50.25),
    "height": lambda d: d["annotations"][0]["bbox"].__setitem__(3, 50.25),
    "area": lambda d: d["annotations"][0].update(area=50.25),
    "ignored": lambda d: d["annotations"][0].update(ignore=1),
    "absent": lambda d: d["images"][0].update(neg_category_ids=[]),
    "all absent": lambda d: d["images"][0].update(neg_category_ids=[1, 2, 3, 4, 5]),
    "not exhaustive": lambda d: d["images"][0].update(not_exhaustive_category_ids=[2]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_with_what_is_scored(change):
    data, _ = federated_case(1)
    data["annotations"][0]["category_id"] = 1
    changed = copy.deepcopy(data)
    CHANGES[change](changed)
    assert len(fingerprint(changed)) == 16
    assert fingerprint(changed) != fingerprint(data)

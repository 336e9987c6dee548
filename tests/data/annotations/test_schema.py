"""Annotation schema, with one rule broken at a time, and run-length encodings."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from d2_seesaw.data.annotations import reader
from d2_seesaw.data.rle import compressed_rle
from tests.data import own_data


@pytest.fixture
def data():
    return own_data.content()


def problems_of(data):
    return [str(problem) for problem in own_data.parsed(data).problems]


def test_annotations_that_cannot_be_used_are_named(data):
    bad = {
        1: ({"category_id": 8}, "the category id 8 is not in 'categories'"),
        2: ({"image_id": 4}, "the image id 4 is not in 'images'"),
        3: ({"bbox": [1, 2, 10**400, 4]}, "number 2 of the box [1, 2, 1000"),
        4: ({"segmentation": [[1, 1, 2, 1e301, 5, 5]]}, "number 3 of polygon 0 is 1e+301"),
        5: ({"segmentation": {"size": [9, 9], "counts": [3, 4]}}, "the run-length encoding"),
        6: ({"bbox": [1, 2, 3]}, "'bbox' must be four numbers, got [1, 2, 3]"),
        7: ({"segmentation": 5}, "'segmentation' must be a list of polygons, each a list of numb"),
    }
    for annotation in data["annotations"]:
        annotation.update(bad[annotation["id"]][0])
    found = own_data.parsed(data)
    for problem, (name, (_, message)) in zip(found.problems, bad.items(), strict=True):
        assert str(problem).startswith(f"annotation {name}: {message}")
        assert problem.is_error
    # Their boxes, images and categories are valid, so box evaluation can use them.
    assert found.table.annotation_id.tolist() == [4, 5, 7]
    assert not found.table.has_segmentation.any()


def test_annotation_ids_that_are_repeated_absent_or_neither_number_nor_text_are_named(data):
    data["annotations"][1]["id"] = 1
    del data["annotations"][2]["id"]
    data["annotations"][3]["id"] = [2]
    assert problems_of(data) == [
        "image 5: annotations[2] has no 'id'",
        "image 12: annotations[3] has the id [2], not an integer of 64 bits or text",
        "annotation 1: two annotations have the id 1",
    ]


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("images", {"id": 3}, "image 3: two images have the id 3"),
        ("categories", {"id": 7}, "category 7: two categories have the id 7"),
        ("images", {"height": None}, "image 12: it has no height"),
        ("images", {"height": "24"}, "image 12: the height is '24', not a number"),
        ("images", {"height": True}, "image 12: the height is True, not a number"),
        ("images", {"height": 0}, "image 12: the height is 0, not a positive whole number"),
        ("images", {"width": 31.5}, "image 12: the width is 31.5, not a positive whole number"),
        ("images", {"width": 10**400}, "image 12: the width is 10000"),
        ("images", {"width": 2**31}, "image 12: 2147483648 x 24 pixels are too many"),
        ("images", {"file_name": None}, "image 12: it has neither a 'file_name' nor a 'coco_url'"),
        ("images", {"file_name": 5}, "image 12: the file_name is 5, not text"),
        ("images", {"file_name": "a\ud800"}, "image 12: the file_name is 'a\\ud800'"),
        ("images", {"file_name": "a\0"}, "image 12: the file_name is 'a\\x00'"),
        ("images", {"coco_url": ["x"]}, "image 12: the coco_url is ['x'], not text"),
        ("images", {"neg_category_ids": 7}, "image 12: the neg_category_ids are 7, not a list"),
        ("images", {"neg_category_ids": [7, None]}, "image 12: the neg_category_ids have None"),
        ("images", {"id": None}, "images[0] has no 'id'"),
        ("images", {"id": [1]}, "images[0] has the id [1], not an integer of 64 bits or text"),
        ("images", {"id": 1.5}, "images[0] has the id 1.5"),
        ("images", {"id": True}, "images[0] has the id True"),
        ("images", {"id": 2**63}, "images[0] has the id 9223372036854775808"),
        ("images", {"id": "12"}, "ids of 'images' are text and numbers, such as '12' and 3"),
        ("categories", {"id": None}, "categories[0] has no 'id'"),
        ("categories", {"id": {}}, "categories[0] has the id {}"),
        ("categories", {"name": ["x"]}, "category 1000: the name is ['x'], not text or a number"),
        ("categories", {"name": "\udc00"}, "category 1000: the name is '\\udc00'"),
        ("categories", {"image_count": "9"}, "category 1000: the image_count is '9', not a number"),
        ("categories", {"image_count": -1}, "category 1000: the image_count is -1"),
        ("categories", {"frequency": 1}, "category 1000: the frequency is 1, not in"),
        ("categories", {"frequency": "r"}, "category 7: 2 of 3 categories have no 'frequency'"),
    ],
)
def test_images_and_categories_that_break_a_rule_are_named_and_refused(
    data, tmp_path, section, change, message
):
    data["annotations"] = data["annotations"][4:5]  # of the second entries
    data[section][0].update(change)
    json_file = own_data.write(tmp_path)
    absent = [key for key, value in change.items() if value is None]
    for remove in (False, True):  # null counts as missing
        for key in absent if remove else ():
            del data[section][0][key]
        (problem,) = problems_of(data)
        assert problem.startswith(message)
        json_file.write_text(json.dumps(data))
        with pytest.raises(ValueError, match=r"train\.json cannot be used: 1 problem: "):
            reader.read_annotations(json_file)


def test_sizes_of_images_may_be_whole_floats_and_federated_fields_null(data):
    data["images"][0] |= {"height": 24.0, "neg_category_ids": None}
    data["images"][1]["id"] = data["annotations"][0]["image_id"] = 3.0
    found = own_data.parsed(data)
    assert found.problems == []
    assert repr([found.table.images[2]["height"], found.table.images[0]["id"]]) == "[24, 3]"
    assert "neg_category_ids" not in found.table.images[2]


def test_names_are_converted_to_text(data):
    data["categories"] = [{"id": 7}, {"id": 40, "name": 12}, {"id": 1000, "name": None}]
    found = own_data.parsed(data)
    names = {category["id"]: category["name"] for category in found.table.categories}
    assert names == {7: "7", 40: "12", 1000: "1000"}
    assert [(p.kind, p.is_error) for p in found.problems] == [("missing_name", False)] * 2


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
@pytest.mark.parametrize("entry", [None, 5, "a.png", [1]])
def test_an_entry_that_is_not_an_object_is_named(data, section, entry):
    data["annotations"] = data["annotations"][:2]
    data[section].insert(1, entry)
    assert problems_of(data) == [f"{section}[1] is {entry!r}, not an object"]


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_a_missing_section_is_named(data, section):
    for value in ({}, None, 5):
        data[section] = value
        assert problems_of(data)[0] == f"the file has no list of {section!r}"
    del data[section]
    assert problems_of(data)[0] == f"the file has no list of {section!r}"


def test_a_file_without_categories_cannot_be_used(data):
    data.update(categories=[], annotations=[])
    assert problems_of(data) == ["the file lists no categories"]


def test_crowds_are_0_or_1(data):
    for annotation, crowd in zip(data["annotations"], (0, 1, None, True, 2, "1", []), strict=True):
        annotation["iscrowd"] = crowd
    found = own_data.parsed(data)
    assert found.table.crowd.tolist() == [False, True, False, True, False, False, False]
    assert list(map(str, found.problems)) == [
        f"annotation {name}: 'iscrowd' must be 0 or 1, got {crowd!r}"
        for name, crowd in zip((5, 6, 7), (2, "1", []), strict=True)
    ]


@pytest.mark.parametrize("box", [[1, 2, 3, 4, 5], [1e301, 0, 1, 1], [[1], 2, 3, 4], "1234", None])
def test_boxes_are_four_finite_numbers(data, box):
    data["annotations"][0]["bbox"] = box
    found = own_data.parsed(data)
    assert [problem.field for problem in found.problems] == ["bbox"]
    assert len(found.table.image) == 6
    assert np.isnan(own_data.parsed(data, keep_all=True).table.box[0]).all()


def test_an_uncompressed_encoding_is_compressed():
    mask = own_data.mask_of(5, 3, 7)
    assert compressed_rle(own_data.uncompressed(mask)) == own_data.compressed(mask)
    with pytest.raises(ValueError, match=r"must add up to 2 x 2, got 5"):
        compressed_rle({"size": [2, 2], "counts": [5]})


def random_masks(number):
    """Yield masks of many sizes and densities, with runs of one to thousands of pixels."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        size = rng.integers(1, 80, 2)
        yield (rng.random(size) < rng.choice([0, 0.01, 0.5, 0.99, 1])).astype(np.uint8)


def test_encodings_of_pycocotools_are_kept_unchanged():
    for mask in random_masks(100):
        rle = mask_utils.encode(np.asfortranarray(mask))
        given = {"size": [*mask.shape], "counts": rle["counts"].decode()}
        assert compressed_rle(given) == given


def test_encodings_whose_runs_do_not_add_up_to_the_image_are_refused():
    """Refuse what pycocotools accepts silently: runs that are too short or too long."""
    for mask in random_masks(40):
        size = [*mask.shape]
        counts = mask_utils.encode(np.asfortranarray(mask))["counts"].decode()
        # From the third run on, a count is relative to the run two before; "0" repeats that run.
        wrong = [counts[:i] for i in range(len(counts))] + [counts + "1", counts + "o"]
        for text in wrong:
            with pytest.raises(ValueError, match=r"must (add up|be compressed)"):
                compressed_rle({"size": size, "counts": text})
        for other in ([size[0] + 1, size[1]], [size[0], size[1] - 1]):
            with pytest.raises(ValueError, match="must add up"):
                compressed_rle({"size": other, "counts": counts})


@pytest.mark.parametrize("text", ["garbage!!", "~", "ü", "/4", "oooooooooo4"])
def test_text_that_is_not_an_encoding_is_refused(text):
    with pytest.raises(ValueError, match=r"compressed run lengths, got|ascii"):
        compressed_rle({"size": [2, 2], "counts": text})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": 5}, "counts must be a list or text, got 5"),
        ({"counts": None}, "counts must be a list or text, got None"),
        ({"size": ["2", "2"]}, "size must be two whole numbers"),
        ({"size": [2.0, 2.0]}, "size must be two whole numbers"),
        ({"size": None}, "size must be two whole numbers, got None"),
        ({"size": [2, True]}, "size must be two whole numbers"),
        ({"counts": [1.5, 2.5]}, "counts must be whole numbers, got 1.5"),
        ({"counts": [True, 3]}, "counts must be whole numbers, got True"),
    ],
)
def test_sizes_and_counts_of_other_types_are_refused(change, message):
    with pytest.raises(TypeError, match=message):
        compressed_rle({"size": [2, 2], "counts": [4], **change})


def test_runs_of_negative_length_are_refused():
    with pytest.raises(ValueError, match="must add up"):
        compressed_rle({"size": [2, 2], "counts": [5, -1]})

import copy
import re

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from d2_seesaw.data.annotation_reader import columns_from_json, compressed_rle
from tests.data import own_data


@pytest.fixture
def data():
    return own_data.content()


def test_annotations_that_cannot_be_used_are_told_apart(data):
    bad = {
        1: {"category_id": 8},
        2: {"image_id": 4},
        3: {"bbox": [1, 2, float("nan"), 4]},
        4: {"segmentation": [[1, 1, float("inf"), 1, 5, 5]]},
        5: {"segmentation": {"size": [own_data.H, own_data.W], "counts": [3, 4]}},
        6: {"bbox": [1, 2, 3]},
        7: {"segmentation": 5},
    }
    for annotation in data["annotations"]:
        annotation.update(bad.get(annotation["id"], {}))
    columns, complaints = columns_from_json(data)
    assert [complaint.split()[1] for complaint in complaints] == [f"{i}" for i in bad]
    for complaint, words in zip(
        complaints,
        (
            "unknown category 8",
            "unknown image 4",
            "bbox",
            "polygon",
            "run-length",
            "bbox",
            "segmentation 5",
        ),
        strict=True,
    ):
        assert words in complaint
    assert len(columns.image) == len(columns.rle_size) == len(columns.rle) == 0


def test_repeated_and_absent_annotation_ids_are_told(data):
    data["annotations"][1]["id"] = 1
    del data["annotations"][2]["id"]
    _, complaints = columns_from_json(data)
    assert complaints == [
        "annotations[1] shares the id 1 with another",
        "annotations[2] has no 'id'",
    ]


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("images", {"id": 3}, "images share the id 3"),
        ("categories", {"id": 7}, "categories share the id 7"),
        ("categories", {"name": "kerb"}, "categories share the name 'kerb'"),
        ("images", {"height": None}, r"images\[0\] has no 'height'"),
        ("images", {"file_name": None}, "image 12 has neither a 'file_name' nor a 'coco_url'"),
        ("categories", {"id": None}, r"categories\[0\] has no 'id'"),
        (
            "categories",
            {"name": ["x"]},
            r"category 1000 has the name \['x'\], not text or a number",
        ),
        ("images", {"file_name": 5}, "image 12 has the name 5, not text"),
        ("images", {"coco_url": ["x"]}, r"image 12 has the name \['x'\], not text"),
        ("images", {"id": [1]}, r"images\[0\] has the id \[1\], not a number or text"),
        ("categories", {"id": {}}, r"categories\[0\] has the id {}, not a number or text"),
    ],
)
def test_a_file_that_is_not_in_the_format_is_refused(data, section, change, message):
    entry = data[section][0]
    entry.update(change)
    absent = [key for key, value in change.items() if value is None]
    with pytest.raises(ValueError, match=message):
        columns_from_json(copy.deepcopy(data))  # null is as good as nothing
    for key in absent:
        del entry[key]
    with pytest.raises(ValueError, match=message):
        columns_from_json(data)


def test_names_are_text_whatever_the_file_has(data):
    data["categories"] = [{"id": 7}, {"id": 40, "name": 12}, {"id": 1000, "name": None}]
    columns, _ = columns_from_json(data)
    assert columns.categories == [
        {"id": 7, "name": "7"},
        {"id": 40, "name": "12"},
        {"id": 1000, "name": "1000"},
    ]


@pytest.mark.parametrize("section", ["images", "categories"])
@pytest.mark.parametrize("entry", [None, 5, "a.png", [1]])
def test_an_entry_that_is_no_object_is_named(data, section, entry):
    data[section][1] = entry
    with pytest.raises(ValueError, match=rf"{section}\[1\] is {re.escape(repr(entry))}, not an o"):
        columns_from_json(data)


def test_a_file_without_categories_is_refused(data):
    data.update(categories=[], annotations=[])
    with pytest.raises(ValueError, match="it lists no categories"):
        columns_from_json(data)


def test_annotations_that_are_no_objects_or_have_no_proper_ids_are_told_apart(data):
    data["annotations"][:5] = [
        None,
        5,
        own_data.annotation([2], 3, 7),
        own_data.annotation(3, [3], 7),
        own_data.annotation(4, 3, {"id": 7}),
    ]
    columns, complaints = columns_from_json(data)
    assert complaints == [
        "annotations[0] is None, not an object",
        "annotations[1] is 5, not an object",
        "annotations[2] has the id [2], not a number or text",
        "annotation 3 is of the unknown image [3]",
        "annotation 4 is of the unknown category {'id': 7}",
    ]
    assert len(columns.image) == 2


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_a_missing_section_is_named(data, section):
    del data[section]
    with pytest.raises(ValueError, match=f"no list of '{section}'"):
        columns_from_json(data)


def test_an_uncompressed_encoding_is_the_compressed_one():
    mask = own_data.mask_of(5, 3, 7)
    assert compressed_rle(own_data.uncompressed(mask)) == own_data.compressed(mask)
    with pytest.raises(ValueError, match=r"must add up to 2 x 2, got 5"):
        compressed_rle({"size": [2, 2], "counts": [5]})


def random_masks(number):
    """Of all sizes and densities, some empty or full: runs of one to thousands of pixels."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        size = rng.integers(1, 80, 2)
        yield (rng.random(size) < rng.choice([0, 0.01, 0.5, 0.99, 1])).astype(np.uint8)


def test_every_encoding_of_pycocotools_is_taken_as_it_is():
    for mask in random_masks(100):
        rle = mask_utils.encode(np.asfortranarray(mask))
        given = {"size": [*mask.shape], "counts": rle["counts"].decode()}
        assert compressed_rle(given) == given


def test_no_encoding_is_taken_whose_runs_do_not_add_up_to_the_image():
    """pycocotools has no word for runs that end early, and reads beyond what ends late."""
    for mask in random_masks(40):
        size = [*mask.shape]
        counts = mask_utils.encode(np.asfortranarray(mask))["counts"].decode()
        # From the third run on, a number is a difference, and 0 repeats the run before the last.
        wrong = [counts[:i] for i in range(len(counts))] + [counts + "1", counts + "o"]
        for text in wrong:
            with pytest.raises(ValueError, match=r"must (add up|be compressed)"):
                compressed_rle({"size": size, "counts": text})
        for other in ([size[0] + 1, size[1]], [size[0], size[1] - 1]):
            with pytest.raises(ValueError, match="must add up"):
                compressed_rle({"size": other, "counts": counts})


@pytest.mark.parametrize("text", ["garbage!!", "~", "ü", "/4", "oooooooooo4"])
def test_text_that_is_no_encoding_is_refused(text):
    with pytest.raises(ValueError, match=r"compressed run lengths, got|ascii"):
        compressed_rle({"size": [2, 2], "counts": text})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": 5}, "counts must be a list or text, got 5"),
        ({"counts": None}, "counts must be a list or text, got None"),
        ({"size": ["2", "2"]}, "size must be two whole numbers"),
        ({"size": [2.0, 2.0]}, "size must be two whole numbers"),
        ({"size": None}, "NoneType"),
    ],
)
def test_sizes_and_counts_of_other_types_are_refused(change, message):
    with pytest.raises(TypeError, match=message):
        compressed_rle({"size": [2, 2], "counts": [4], **change})


def test_ids_may_be_text(data):
    for image in data["images"]:
        image["id"] = f"i{image['id']:02d}"
    for annotation in data["annotations"]:
        annotation["image_id"] = f"i{annotation['image_id']:02d}"
    columns, complaints = columns_from_json(data)
    assert complaints == []
    assert [image["id"] for image in columns.images] == ["i03", "i05", "i12", "i90"]

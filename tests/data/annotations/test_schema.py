import copy
import re

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from d2_seesaw.data.annotations.schema import columns_from_json
from d2_seesaw.data.rle import compressed_rle
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


def test_columns_are_what_the_annotations_say_one_by_one(data):
    """As many of each kind as there are, read literally."""
    one, two = own_data.square(1, 1, 3), [5, 5, 9, 5, 9, 9]
    rle = own_data.compressed(own_data.mask_of(4, 4, 8))
    data["annotations"] = [
        own_data.annotation(1, 3, 40, x=2, segmentation=[one, two]),
        own_data.annotation(2, 90, 7, segmentation=rle) | {"iscrowd": 1},
        own_data.annotation(3, 5, 1000, segmentation=[two, [1, 1, 5, 5], [1, 1, 5, 1, 5, 5, 2]]),
        own_data.annotation(4, 5, 7, segmentation=own_data.uncompressed(own_data.mask_of(4, 4, 8))),
    ]
    del data["annotations"][0]["iscrowd"]
    columns, complaints = columns_from_json(data)
    assert (complaints, columns.left_out) == ([], {})
    assert [c["id"] for c in columns.categories] == [7, 40, 1000]
    assert [i["id"] for i in columns.images] == [3, 5, 12, 90]
    assert columns.image.tolist() == [0, 3, 1, 1]
    assert columns.category.tolist() == [1, 0, 2, 0]
    assert columns.crowd.tolist() == [0, 1, 0, 0]
    assert columns.box[0].tolist() == [2, 4, 8, 8]
    assert columns.polygons_end.tolist() == [2, 2, 3, 3]
    assert columns.polygon_end.tolist() == [8, 14, 20]
    assert columns.coordinates.tolist() == [*one, *two, *two]
    text, size = rle["counts"].encode(), [own_data.H, own_data.W]
    assert columns.rle.tobytes() == text + text
    assert columns.rle_end.tolist() == [0, len(text), len(text), 2 * len(text)]
    assert columns.rle_size.tolist() == [[0, 0], size, [0, 0], size]


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_annotations_without_masks_are_left_out_unless_all_are(data, nothing):
    for annotation in data["annotations"][1:]:
        annotation["segmentation"] = nothing
    columns, complaints = columns_from_json(copy.deepcopy(data))
    assert (len(columns.image), complaints) == (1, [])
    assert columns.left_out == {"without a segmentation": 6}
    data["annotations"][0]["segmentation"] = nothing
    columns, complaints = columns_from_json(data)
    assert (len(columns.image), complaints, columns.left_out) == (7, [], {})


@pytest.mark.parametrize(
    "box", [[-np.inf, 2, 3, 4], [1, 2, 3, 4, 5], [1e301, 0, 1, 1], [[1], 2, 3, 4], "1234", None]
)
def test_boxes_are_four_finite_numbers(data, box):
    data["annotations"][0]["bbox"] = box
    columns, (complaint,) = columns_from_json(data)
    assert complaint.startswith("annotation 1 has the bbox")
    assert len(columns.image) == 6


def test_runs_of_negative_length_are_refused():
    with pytest.raises(ValueError, match="must add up"):
        compressed_rle({"size": [2, 2], "counts": [5, -1]})


def test_numbers_go_before_text_among_ids(data):
    for image, name in zip(data["images"], ("b", 10, 9.5, "a"), strict=True):
        image["id"] = name
    data["annotations"] = []
    assert [i["id"] for i in columns_from_json(data)[0].images] == [9.5, 10, "a", "b"]

"""Tests of check_annotations, one fault at a time. test_images.py covers image files."""

import pytest

from d2_seesaw.data.check.annotations import check_annotations
from tests.data import own_data

H, W = own_data.H, own_data.W
NAN, INF = float("nan"), float("inf")
RLE = own_data.compressed(own_data.mask_of(4, 4, 8))


@pytest.fixture
def data():
    return own_data.content()


def found(data):
    return check_annotations(own_data.parsed(data, keep_all=True))


def test_valid_annotations_have_no_issues(data):
    assert found(data) == []


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"category_id": 8}, "unknown_category", "category id 8"),
        ({"image_id": 4}, "unknown_image", "image id 4"),
        ({"bbox": [4, 4, 0, 8]}, "zero_area_box", "0 x 8"),
        ({"bbox": [4, 4, 8, -1]}, "negative_box", "negative size"),
        ({"bbox": [W, 4, 8, 8]}, "box_outside_image", f"outside of {W} x {H}"),
        ({"bbox": [-8, 4, 8, 8]}, "box_outside_image", "outside"),
        ({"bbox": [4, H + 3, 8, 8]}, "box_outside_image", "outside"),
        ({"bbox": [4, H, 8, 8]}, "box_outside_image", "outside"),
        ({"bbox": [4, -8, 8, 8]}, "box_outside_image", "outside"),
        ({"bbox": [4, 4, W, 8]}, "box_beyond_image", "beyond"),
        ({"bbox": [-2, 4, 8, 8]}, "box_beyond_image", "beyond"),
        ({"bbox": [NAN, 4, 8, 8]}, "not_finite", "nan"),
        ({"bbox": [4, 4, INF, 8]}, "not_finite", "inf"),
        ({"bbox": [4, 4, None, 8]}, "invalid_type", "None"),
        ({"bbox": [4, 4, 8]}, "invalid_type", "four numbers"),
        ({"bbox": None}, "missing_field", "no 'bbox'"),
        ({"segmentation": [[1, 1, 5, 5]]}, "invalid_polygon", "2 points"),
        ({"segmentation": [own_data.square(1, 1, 3), [1, 1]]}, "invalid_polygon", "polygon 1"),
        ({"segmentation": [[1, 1, 5, 1, 5, 5, 2]]}, "odd_polygon", "3.5 points"),
        ({"segmentation": [[1, NAN, 5, 1, 5, 5]]}, "not_finite", "number 1 of polygon 0 is nan"),
        ({"segmentation": [1, 1, 5, 1, 5, 5]}, "invalid_segmentation", "list of polygons"),
        ({"segmentation": []}, "empty_segmentation", "while other annotations have one"),
        ({"segmentation": None}, "empty_segmentation", "no segmentation"),
        ({"segmentation": {"size": [H, W], "counts": [H * W]}}, "empty_mask", "no pixel"),
        ({"segmentation": {"size": [W, H], "counts": [9, W * H - 9]}}, "invalid_rle", "swapped"),
        ({"segmentation": {"size": [H, W], "counts": [5]}}, "invalid_rle", "add up"),
        ({"segmentation": {"counts": [5]}}, "invalid_rle", "size"),
        ({"segmentation": {"size": [H, W], "counts": 5}}, "invalid_rle", "list or text"),
        ({"segmentation": {"size": [H, W], "counts": "garbage!!"}}, "invalid_rle", "garbage!!"),
        ({"segmentation": {"size": [H, W], "counts": "ü"}}, "invalid_rle", "ascii"),
        ({"segmentation": RLE | {"counts": RLE["counts"][:-1]}}, "invalid_rle", "compressed"),
        ({"segmentation": RLE | {"counts": RLE["counts"] + "8"}}, "invalid_rle", "add up"),
        ({"segmentation": 5}, "invalid_segmentation", "list of polygons"),
        ({"bbox": [4, 4, 10**400, 8]}, "not_finite", "the box [4, 4"),
        ({"area": None}, "missing_area", "no area"),
        ({"area": NAN}, "not_finite", "nan"),
        ({"iscrowd": 1}, "crowd", "polygons"),
        ({"iscrowd": 1, "segmentation": own_data.compressed(own_data.mask_of(1, 1, 4))},
         "crowd", "run-length"),
    ],
)  # fmt: skip
def test_a_fault_is_reported_with_file_image_and_annotation(data, change, kind, words):
    data["annotations"][0].update(change)
    (issue,) = found(data)
    assert (issue.kind, issue.annotation_id) == (kind, 1)
    assert issue.image_id == data["annotations"][0]["image_id"]
    assert issue.file_name == (None if kind == "unknown_image" else "part/3.png")
    assert words in issue.message


@pytest.mark.parametrize("box", [[0, 0, W, H], [-1, -1, W + 2, H + 2], [-0.5, 0, 3, 3]])
def test_a_box_may_touch_the_border_or_cross_it_by_rounding(data, box):
    data["annotations"][0]["bbox"] = box
    assert found(data) == []


def test_every_broken_rule_of_the_format_is_an_issue(data):
    data["images"][0]["height"] = data["categories"][1]["id"] = None
    data["annotations"] = [None, {"id": 9, "image_id": 12}]
    parsed = own_data.parsed(data, keep_all=True)
    expected = [(p.kind, p.message, p.image_id, p.annotation_id) for p in parsed.problems]
    issues = [(i.kind, i.message, i.image_id, i.annotation_id) for i in found(data)]
    assert issues[: len(expected)] == expected
    assert len(expected) == 6


def test_files_with_boxes_only_need_no_segmentation(data):
    for annotation in data["annotations"]:
        annotation["segmentation"] = []
    assert found(data) == []


def test_repeated_ids_and_names_are_reported(data):
    data["images"].append(dict(data["images"][0]))
    data["annotations"].append(dict(data["annotations"][0]))
    data["categories"].append(dict(data["categories"][0]))
    data["categories"].append({"id": 50, "name": "kerb"})
    data["annotations"][3]["category_id"] = 50
    issues = [(i.kind, i.image_id, i.annotation_id, i.category_id) for i in found(data)]
    assert issues == [
        ("duplicate_id", 12, None, None),
        ("duplicate_id", None, None, 1000),
        ("duplicate_id", 3, 1, None),
        ("duplicate_name", None, None, 50),
    ]


def test_categories_without_images_and_images_without_annotations_are_reported(data):
    del data["annotations"][-1]
    issues = found(data)
    assert [(i.kind, i.severity, i.category_id, i.image_id) for i in issues] == [
        ("category_without_images", "warning", 1000, None),
        ("image_without_annotations", "information", None, 90),
    ]


def test_a_category_without_a_name_is_not_an_unknown_category(data):
    data["categories"][0]["name"] = None
    (issue,) = found(data)
    assert (issue.kind, issue.category_id) == ("missing_name", 1000)


@pytest.mark.parametrize("key", ["image_id", "category_id"])
@pytest.mark.parametrize("value", [[3], {"id": 3}, None, "3", "7"])
def test_ids_of_other_types_are_unknown(data, key, value):
    data["annotations"][0][key] = value
    (issue,) = found(data)
    assert (issue.kind, issue.annotation_id) == (f"unknown_{key[:-3]}", 1)
    assert repr(value) in issue.message


def test_crowd_flags_are_0_or_1(data):
    data["annotations"][0]["iscrowd"] = "0"
    data["annotations"][1]["iscrowd"] = False
    data["annotations"][2]["iscrowd"] = None
    assert [(i.kind, i.annotation_id, i.message) for i in found(data)] == [
        ("invalid_type", 1, "'iscrowd' must be 0 or 1, got '0'"),
    ]


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ("images", "unknown_image"),
        ("annotations", "nothing_to_train_on"),
        ("categories", "missing_section"),
    ],
)
def test_empty_sections_are_errors(data, section, kind):
    data[section] = []
    assert kind in [i.kind for i in found(data) if i.severity == "error"]


def test_a_category_without_a_name_is_a_warning_and_one_with_a_number_for_a_name_is_fine(data):
    data["categories"][0]["name"] = 12
    del data["categories"][1]["name"]
    assert [(i.kind, i.severity, i.category_id) for i in found(data)] == [
        ("missing_name", "warning", 40)
    ]


def test_names_that_are_equal_as_text_are_duplicates(data):
    data["categories"][0]["name"], data["categories"][1]["name"] = 12, "12"
    assert [i.kind for i in found(data)] == ["duplicate_name"]

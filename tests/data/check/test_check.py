import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from d2_seesaw.data import check_dataset
from d2_seesaw.data.annotations.rules import RULES
from tests.data import own_data
from tests.data.own_data import H, W, annotation

# Planted faults and the kind of issue that each must become.
TWELVE = {
    "missing image": "missing_image",
    "truncated image": "truncated_image",
    "wrong size": "wrong_size",
    "CMYK": "cmyk_image",
    "16 bit": "sixteen_bit_image",
    "zero-area box": "zero_area_box",
    "box outside the image": "box_outside_image",
    "two-point polygon": "invalid_polygon",
    "NaN coordinate": "not_finite",
    "empty segmentation": "empty_segmentation",
    "crowd": "crowd",
    "unknown category": "unknown_category",
}


def break_image(path, fault):
    if fault == "missing image":
        path.unlink()
    elif fault == "truncated image":
        path.write_bytes(path.read_bytes()[:-900])
    elif fault == "wrong size":
        Image.new("RGB", (W + 1, H)).save(path)
    elif fault == "CMYK":
        Image.new("CMYK", (W, H)).save(path, "JPEG")
    else:
        Image.fromarray(np.full((H, W), 4000, np.uint16)).save(path)


def break_annotation(entry, fault):
    entry.update(
        {
            "zero-area box": {"bbox": [4, 4, 0, 0]},
            "box outside the image": {"bbox": [W + 4, 4, 8, 8]},
            "two-point polygon": {"segmentation": [[1, 1, 5, 5]]},
            "NaN coordinate": {"segmentation": [[1, float("nan"), 5, 1, 5, 5]]},
            "empty segmentation": {"segmentation": []},
            "crowd": {
                "iscrowd": 1,
                "segmentation": own_data.uncompressed(own_data.mask_of(2, 2, 9)),
            },
            "unknown category": {"category_id": 8},
        }[fault]
    )


def planted(folder, faults):
    """Write a dataset in which image and annotation 100 + i have the i-th fault."""
    data = own_data.content()
    places = {}
    for number, fault in enumerate(faults, start=100):
        name = f"part/{number}.png"
        data["images"].append({"id": number, "file_name": name, "height": H, "width": W})
        data["annotations"].append(annotation(number, number, 7))
        places[fault] = (name, number)
    of_images = list(TWELVE)[:5]
    for fault, (_, number) in places.items():
        if fault not in of_images:
            break_annotation(data["annotations"][number - 100 - len(faults)], fault)
    json_file = own_data.write(folder, data)
    for fault, (name, _) in places.items():
        if fault in of_images:
            break_image(folder / "images" / name, fault)
    return json_file, places


def check(json_file, **options):
    return check_dataset(json_file, json_file.parent / "images", progress=False, **options)


@pytest.mark.parametrize("fault", TWELVE)
def test_each_fault_is_named_with_its_place(tmp_path, fault):
    json_file, places = planted(tmp_path, [fault])
    found = check(json_file)
    (issue,) = found.issues
    name, number = places[fault]
    assert (issue.kind, issue.file_name, issue.image_id) == (TWELVE[fault], name, number)
    assert issue.annotation_id == (None if fault in list(TWELVE)[:5] else number)
    assert str(issue) in found.text()
    assert found.number_of_errors == (RULES[issue.kind].severity == "error")


def test_all_twelve_at_once_are_all_named(tmp_path):
    json_file, places = planted(tmp_path, TWELVE)
    found = {(i.kind, i.file_name, i.image_id) for i in check(json_file, workers=2).issues}
    assert found == {(TWELVE[fault], *place) for fault, place in places.items()}


def test_issues_come_in_the_order_of_the_kinds_up_to_the_limit(tmp_path):
    json_file, _ = planted(tmp_path, TWELVE)
    found = check(json_file)
    kinds = [issue.kind for issue in found.issues]
    assert kinds == sorted(kinds, key=list(RULES).index)
    assert len(set(kinds)) == 12
    data = own_data.content()
    data["annotations"] = [annotation(i, 3, 8) for i in range(1, 5)]
    json_file = own_data.write(tmp_path, data, "four.json")
    assert "... and" not in check(json_file).text(limit=4)
    assert "... and 1 more" in check(json_file).text(limit=3)


def test_file_names_must_be_text_and_folders_are_not_images(tmp_path):
    data = own_data.content()
    json_file = own_data.write(tmp_path, data)
    data["images"][0]["file_name"], data["images"][1]["file_name"] = 5, "part"
    json_file.write_text(json.dumps(data))
    issues = [(i.kind, i.image_id) for i in check(json_file, read_images=False).issues]
    assert issues == [("invalid_type", 12), ("missing_image", 3)]


def test_a_valid_dataset_has_no_issues(tmp_path):
    found = check(own_data.write(tmp_path))
    assert found.issues == []
    assert found.text().splitlines() == [
        f"{tmp_path}/train.json: 4 images, 7 annotations, 3 categories",
        "  repeat factor sampling on this split:",
        *(
            f"    threshold {t}: 0 of 4 images repeated, mean repeat factor 1.00"
            for t in (0.001, 0.003, 0.01, 0.03, 0.1)
        ),
        "  found: nothing wrong",
    ]


def test_issues_beyond_the_printed_ones_are_counted_and_saved(tmp_path):
    data = own_data.content()
    data["annotations"] = [annotation(i, 3, 8) for i in range(1, 501)]
    found = check(own_data.write(tmp_path, data))
    text = found.text(limit=3)
    assert text.count("category id 8") == 3
    assert "... and 497 more" in text
    content = found.to_json()
    assert content["by_kind"]["unknown_category"] == 500
    assert content["by_severity"]["error"] == found.number_of_errors == 500
    ids = [i["annotation_id"] for i in content["issues"] if i["kind"] == "unknown_category"]
    assert ids == list(range(1, 501))
    json.dumps(content)


def test_missing_folders_come_with_the_number_of_their_images(tmp_path):
    data = own_data.content()
    data["images"][0]["file_name"] = "val2017/12.png"
    json_file = own_data.write(tmp_path, data)
    shutil.rmtree(tmp_path / "images" / "part")
    found = check(json_file)
    folder = os.path.join(tmp_path, "images", "part")
    assert found.missing_folders == {folder: 3}
    assert f"folder {folder} is missing: 3 images" in found.text()
    assert [i.image_id for i in found.issues] == [3, 5, 90]


def test_missing_images_are_reported_even_if_images_are_not_read(tmp_path):
    json_file, _ = planted(tmp_path, ["missing image", "truncated image"])
    found = check(json_file, read_images=False)
    assert [i.kind for i in found.issues] == ["missing_image"]
    assert "the images were not read" in found.text()


def test_two_images_that_share_a_file_are_named(tmp_path):
    data = own_data.content()
    data["images"][1]["file_name"] = data["images"][0]["file_name"]
    (issue,) = check(own_data.write(tmp_path, data)).issues
    assert (issue.kind, issue.image_id) == ("shared_file", 12)
    assert "also image 3" in issue.message


def test_a_file_without_sections_has_an_issue_for_each(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    found = check_dataset(tmp_path / "a.json", tmp_path)
    assert [i.kind for i in found.issues] == ["missing_section"] * 3

"""A mended copy has none of the faults that can be mended, and everything else of the file."""

import copy
import json

import numpy as np
import pytest

from d2_seesaw.data import check_dataset
from d2_seesaw.data.check.repair import mend, repair_file
from tests.data import own_data
from tests.data.check.test_plausibility import boxes_as, centers, corners, every, shares, sound
from tests.data.own_data import H, W


def kept(data):
    """Sound annotations with unknown fields, in an unusual order."""
    data["info"] = {"note": "é", "version": None}
    data["images"][0]["captured"] = None
    data["annotations"][0] = {"score": 0.5, **data["annotations"][0], "attributes": {"a": [1]}}
    return data


def no_category_in_use(data):
    data["categories"].append({"id": 2, "name": "kerb"})


def beyond(data):
    data["annotations"][0] |= {"bbox": [24.5, 15, 9, 9], "area": 80}
    data["annotations"][0]["segmentation"] = [own_data.square(24.5, 15, 8)]


def ids_as_text(data):
    for a in data["annotations"]:
        a["image_id"], a["category_id"] = str(a["image_id"]), str(a["category_id"])


def size_as_text(data):
    for image in data["images"]:
        image["height"], image["width"] = str(H), f" {W}"


def null_sets(data):
    for image in data["images"]:
        image |= {"neg_category_ids": None, "coco_url": None}


def coordinates_as_text(data):
    entry = data["annotations"][2]
    entry["segmentation"] = [[str(v) for v in entry["segmentation"][0]]]
    entry["bbox"] = [str(v) for v in entry["bbox"]]


def flat_list(data):
    data["annotations"][1]["segmentation"] = data["annotations"][1]["segmentation"][0]


def without(key):
    def change(data):
        for a in data["annotations"][::3]:
            del a[key]

    return change


# Fault and number of changes.
FAULTS = {
    "areas of 1": (every(area=1), 30),
    "no area": (without("area"), 10),
    "area true": (every(area=True), 30),
    "area as text": (lambda data: [a.update(area=str(a["area"])) for a in data["annotations"]], 30),
    "area null": (every(area=None), 60),  # the null, then the area
    "area nan": (every(area=float("nan")), 30),
    "no box": (without("bbox"), 10),
    "corners": (boxes_as(corners), 30),
    "centers": (boxes_as(centers), 30),
    "shares": (boxes_as(shares), 30),
    "crowds as text": (every(iscrowd="0"), 30),
    "crowds as booleans": (every(iscrowd=False), 30),
    "crowds null": (every(iscrowd=None), 30),
    "ids as text": (ids_as_text, 60),
    "sizes as text": (size_as_text, 8),
    "null sets": (null_sets, 8),
    "coordinates as text": (coordinates_as_text, 2),
    "a polygon that is not in a list": (flat_list, 1),
    "an unused category of the same name": (no_category_in_use, 1),
    "beyond the image": (beyond, 1),
}


def checked(json_file):
    return check_dataset(json_file, json_file.parent / "images", progress=False).issues


@pytest.mark.parametrize("fault", FAULTS)
def test_the_mended_copy_passes_the_check_and_is_the_sound_file(tmp_path, fault):
    change, number = FAULTS[fault]
    data, broken = kept(sound()), kept(sound())
    change(broken)
    given, mended = own_data.write(tmp_path, broken), tmp_path / "mended.json"
    content = given.read_bytes()
    changes = repair_file(given, mended).changes
    assert checked(mended) == []
    assert len(changes) == number
    assert given.read_bytes() == content
    if fault in ("no area", "area true", "area null", "no box", "null sets", "beyond the image"):
        return  # the order of the fields or the box differ
    assert json.loads(mended.read_text()) == data
    assert next(iter(json.loads(mended.read_text())["annotations"][0])) == "score"


def test_a_sound_file_is_not_changed(tmp_path):
    data = kept(sound())
    repair = repair_file(own_data.write(tmp_path, data), tmp_path / "mended.json")
    assert repair.changes == []
    assert list(json.loads((tmp_path / "mended.json").read_text()).items()) == list(data.items())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_become_utf_8(tmp_path, encoding):
    given, mended = tmp_path / "a.json", tmp_path / "b.json"
    given.write_text(json.dumps(kept(sound()), ensure_ascii=False), encoding=encoding)
    (change,) = repair_file(given, mended).changes
    assert (change.section, change.field, change.new) == ("file", "encoding", "utf-8")
    assert json.loads(mended.read_bytes().decode("utf-8")) == kept(sound())


def test_half_of_a_surrogate_pair_is_kept_as_an_escape(tmp_path):
    given = tmp_path / "a.json"
    given.write_text('{"images": [], "info": "\\ud800"}')
    repair_file(given, tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == json.loads(given.read_text())


def test_masks_as_shares_and_boxes_far_beyond_the_image_change_nothing():
    data = sound()
    for a in data["annotations"]:
        a["segmentation"] = [[v / W for v in a["segmentation"][0]]]
    assert mend(copy.deepcopy(data)) == []
    data = sound()
    every(segmentation=[])(data)
    data["annotations"][0]["bbox"] = [10, 5, 2 * W, 10]
    data["annotations"][0]["area"] = 20 * W
    assert mend(data) == []


def test_a_box_that_is_clipped_is_in_the_image():
    data = sound()
    data["annotations"][0] |= {"bbox": [-2, 3, 34, 12], "area": 34 * 12, "segmentation": None}
    changes = [c for c in mend(data) if c.field == "bbox"]
    assert [c.new for c in changes] == [[0, 3, 32, 12]]


def test_the_area_of_a_polygon_is_that_of_its_pixels():
    """A triangle with legs of 8 has an area of 32; the pixels on its long edge may count or not."""
    from pycocotools import mask as mask_utils

    data = sound()
    triangle = [[5.0, 5.0, 13.0, 5.0, 5.0, 13.0]]
    data["annotations"][0] |= {"bbox": [5, 5, 8, 8], "area": 9999, "segmentation": triangle}
    (change,) = mend(data)
    drawn = int(mask_utils.area(mask_utils.merge(mask_utils.frPyObjects(triangle, H, W))))
    assert change.new == drawn
    assert abs(drawn - 32) <= 5


def test_a_mask_of_another_size_than_the_image_changes_nothing():
    data = sound()
    data["annotations"][0]["segmentation"] = {"size": [W, H], "counts": [0, W * H]}
    assert mend(data) == []
    data["annotations"][0]["segmentation"] = {"size": 5, "counts": [0, W * H]}
    assert mend(data) == []


def test_text_in_federated_sets_becomes_the_ids_of_the_categories():
    data = sound()
    known = data["categories"][0]["id"]
    data["images"][0]["neg_category_ids"] = [str(known), known, "x", [known]]
    (change,) = mend(data)
    assert (change.field, change.new) == ("neg_category_ids", [known, known, "x", [known]])


def test_a_number_of_more_digits_than_python_reads_is_mended_as_an_area(tmp_path):
    given = own_data.write(tmp_path, data := sound())
    area = json.dumps(data["annotations"][0]["area"])
    text = given.read_text().replace(f'"area": {area}', '"area": ' + "9" * 6000, 1)
    given.write_text(text)
    (change,) = repair_file(given, tmp_path / "mended.json").changes
    assert change.new == data["annotations"][0]["area"]


def test_changes_are_counted_and_listed(tmp_path):
    data = sound()
    every(area=1, iscrowd="0")(data)
    repair = repair_file(own_data.write(tmp_path, data), tmp_path / "mended.json")
    text = repair.text(limit=2)
    assert "60 changes" in text
    assert "30 x areas far off" in text
    assert "annotations 0, iscrowd: '0' -> 0" in text
    assert "... and 28 more" in text
    assert len(repair.to_json()["changes"]) == 60
    json.dumps(repair.to_json())


def test_the_given_file_is_never_overwritten(tmp_path):
    given = own_data.write(tmp_path, sound())
    link = tmp_path / "link.json"
    link.symlink_to(given)
    for target in (given, link):
        with pytest.raises(ValueError, match="another file"):
            repair_file(given, target)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff\xff", b"\x1f\x8b", b"[" * 100_000])
def test_what_is_no_json_object_is_one_error(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"a\.json"):
        repair_file(tmp_path / "a.json", tmp_path / "b.json")
    assert not (tmp_path / "b.json").exists()


def test_values_of_any_type_are_left_as_they_are_or_mended():
    """Every field of every entry is replaced by every value: nothing raises."""
    values = [
        None,
        True,
        "7",
        "x",
        -1,
        1.5,
        10**400,
        float("nan"),
        [],
        {},
        [[]],
        [None],
        [[1, "2"]],
    ]
    for section in ("images", "annotations", "categories"):
        for key in sound()[section][0]:
            for value in values:
                data = sound(4)
                data[section][0][key] = value
                mend(data)
                json.dumps(data)
    for value in values:
        data = {"images": value, "annotations": [value, {}], "categories": [{"id": value}]}
        mend(data)
    assert np.isfinite(sound(4)["annotations"][0]["area"])

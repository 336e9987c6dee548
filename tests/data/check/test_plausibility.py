"""One fault at a time in a dataset in which nothing else is wrong."""

import copy
import json
import os

import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from PIL import Image

from d2_seesaw.data import check_dataset
from d2_seesaw.data.annotations.mask_geometry import mask_geometry
from d2_seesaw.data.annotations.rules import IMAGES, PLAUSIBILITY, RULES
from d2_seesaw.data.check.names import check_names
from d2_seesaw.data.check.plausibility import check_plausibility
from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
from tests.data import own_data
from tests.data.own_data import H, W

EXIF_ORIENTATION = 0x0112


def sound(number=30):
    """Squares at random places, away from the left and upper edge."""
    rng = np.random.default_rng(0)
    data = own_data.content()
    images = [image["id"] for image in data["images"]]
    data["annotations"] = []
    for i in range(number):
        side = int(rng.integers(4, 9))
        x, y = int(rng.integers(5, W - side)), int(rng.integers(5, H - side))
        entry = own_data.annotation(i, images[i % 4], own_data.IDS[i % 3], x, y, side)
        data["annotations"].append(entry)
    return data


def boxes_as(layout, *, masks=True):
    def change(data):
        for a in data["annotations"]:
            a["bbox"] = [float(v) for v in layout(*a["bbox"])]
            if not masks:
                del a["segmentation"]

    return change


def corners(x, y, w, h):
    return x, y, x + w, y + h


def centers(x, y, w, h):
    return x + w / 2, y + h / 2, w, h


def shares(x, y, w, h):
    return x / W, y / H, w / W, h / H


FORMATS = {
    "x1, y1, x2, y2": corners,
    "center x, center y, width, height": centers,
    "y, x, height, width": lambda x, y, w, h: (y, x, h, w),
    "y1, x1, y2, x2": lambda x, y, w, h: (y, x, y + h, x + w),
    "x, y, width, height, as shares of the image from 0 to 1": shares,
    "x1, y1, x2, y2, as shares of the image from 0 to 1": lambda *b: corners(*shares(*b)),
    "center x, center y, width, height, as shares of the image from 0 to 1": lambda *b: centers(
        *shares(*b)
    ),
    "x, y, width, height, in percent of the image": lambda *b: [100 * v for v in shares(*b)],
}
WITHOUT_MASKS = list(FORMATS)[:2] + list(FORMATS)[4:7]


def shift(data):
    boxes = [a["bbox"] for a in data["annotations"]]
    for a, box in zip(data["annotations"], boxes[-1:] + boxes[:-1], strict=True):
        a["bbox"] = box


def every(**fields):
    return lambda data: [a.update(fields) for a in data["annotations"]]


def first(**fields):
    return lambda data: data["annotations"][0].update(fields)


def names(*values):
    return lambda data: [c.update(name=n) for c, n in zip(data["categories"], values, strict=False)]


def area_of_box(data):
    for a in data["annotations"]:
        x, y, side, _ = a["bbox"]
        a["segmentation"] = [[x, y, x + side, y, x, y + 1.5, x, y + side]]  # much of it is empty


def without_object_in_an_image(data):
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] != 90]


FAULTS = {
    "boxes as corners": ("box_format", boxes_as(corners)),
    "boxes of other objects": ("boxes_unlike_masks", shift),
    "a box of another object": ("box_unlike_mask", first(bbox=[20, 12, 4, 4])),
    "all areas 1": ("areas_unlike_masks", every(area=1)),
    "an area of twenty objects": ("area_unlike_mask", first(area=20 * 64)),
    "an area of nearly nothing": ("area_unlike_mask", first(area=0.01)),
    "areas of boxes": ("area_of_box", area_of_box),
    "a thin box": (
        "tiny_box",
        first(bbox=[5, 5, 0.4, 6], area=1.2, segmentation=[[5, 5, 5.4, 5, 5.4, 11]]),
    ),
    "a mask of a third of a pixel": (
        "tiny_mask",
        first(bbox=[5, 5, 1, 1], area=0.3, segmentation=[[5, 5, 6, 5, 5.5, 5.6]]),
    ),
    "names that differ in case": ("similar_names", names("Fire truck", "fire_truck")),
    "singular and plural": ("similar_names", names("berry", "berries")),
    "a space behind the name": ("name_with_spaces", names("curb ")),
    "a name of spaces": ("name_with_spaces", names(" ")),
    "a number as a name": ("numeric_name", names("17")),
    "a category without images": (
        "category_without_images",
        lambda data: data["categories"].append({"id": 1, "name": "bollard"}),
    ),
    "an image without objects": ("image_without_annotations", without_object_in_an_image),
}


BESIDES = {
    "boxes as corners": {"box_beyond_image"},
    "boxes of other objects": {"box_unlike_mask"},
}


def oriented(path, value, size=(W, H)):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = value
    Image.new("RGB", size).save(path, exif=exif)


def outside(folder, data):
    data["images"][0]["file_name"] = "../outside.png"
    Image.new("RGB", (W, H)).save(folder / "outside.png")


def copied(folder, _):
    os.remove(folder / "images/part/3.png")
    (folder / "images/part/3.png").write_bytes((folder / "images/part/12.png").read_bytes())


def of_file(action):
    return lambda folder, _: action(folder / "images/part/12.png")


IMAGE_FAULTS = {
    "no file": ("missing_image", of_file(os.remove)),
    "no bytes": ("unreadable_image", of_file(lambda path: path.write_bytes(b""))),
    "text": ("unreadable_image", of_file(lambda path: path.write_bytes(b"no image"))),
    "half a file": (
        "truncated_image",
        of_file(lambda path: path.write_bytes(path.read_bytes()[:-900])),
    ),
    "another size": ("wrong_size", of_file(lambda p: Image.new("RGB", (W + 1, H)).save(p))),
    "turned by EXIF": ("wrong_size", of_file(lambda p: oriented(p, 6))),
    "turned to the size": ("exif_orientation", of_file(lambda p: oriented(p, 6, (H, W)))),
    "upside down": ("exif_orientation", of_file(lambda p: oriented(p, 3))),
    "16 bits": (
        "sixteen_bit_image",
        of_file(lambda p: Image.fromarray(np.full((H, W), 4000, np.uint16)).save(p)),
    ),
    "CMYK": ("cmyk_image", of_file(lambda p: Image.new("CMYK", (W, H)).save(p, "JPEG"))),
    "two frames": (
        "animated_image",
        of_file(
            lambda p: Image.new("RGB", (W, H)).save(
                p, "GIF", save_all=True, append_images=[Image.new("RGB", (W, H), "red")]
            )
        ),
    ),
    "one file for two images": (
        "shared_file",
        lambda _, data: data["images"][1].update(file_name=data["images"][0]["file_name"]),
    ),
    "beside the folder": ("file_outside_folder", outside),
    "one image twice": ("duplicate_image", copied),
}


def check(folder, data=None, **options):
    json_file = own_data.write(folder, sound() if data is None else data)
    return check_dataset(json_file, folder / "images", progress=False, **options)


def found(data):
    parsed = own_data.parsed(data, keep_all=True)
    return check_plausibility(parsed) + check_names(parsed)


def test_nothing_is_found_in_a_sound_dataset(tmp_path):
    json_file = own_data.write(tmp_path, sound())
    twice = (json_file, tmp_path / "other")
    assert check(tmp_path, duplicates=twice).issues == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_annotations_breaks_its_rule_and_no_other(tmp_path, fault):
    kind, change = FAULTS[fault]
    data = sound()
    change(data)
    issues = check(tmp_path, data).issues
    assert {issue.kind for issue in issues} == {kind} | BESIDES.get(fault, set())
    assert sum(issue.kind == kind for issue in issues) == 1


@pytest.mark.parametrize("fault", IMAGE_FAULTS)
def test_a_fault_of_an_image_breaks_its_rule_and_no_other(tmp_path, fault):
    kind, change = IMAGE_FAULTS[fault]
    data = sound()
    own_data.write(tmp_path, data)
    change(tmp_path, data)
    json_file = tmp_path / "train.json"
    json_file.write_text(json.dumps(data))
    nothing = tmp_path / "nothing.json"
    nothing.write_text(json.dumps({**data, "images": [], "annotations": []}))
    issues = check_dataset(
        json_file, tmp_path / "images", duplicates=(nothing, tmp_path), progress=False
    ).issues
    assert [issue.kind for issue in issues] == [kind]


def test_an_image_above_the_limit_of_pillow_is_huge(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", W * H - 1)
    issues = check(tmp_path, read_images=True).issues
    assert {issue.kind for issue in issues} == {"huge_image"}
    assert f"{W} x {H} pixels" in issues[0].message


def test_every_rule_of_a_check_is_broken_by_a_fault():
    tested = {kind for kind, _ in [*FAULTS.values(), *IMAGE_FAULTS.values()]} | {"huge_image"}
    assert tested == {n for n, rule in RULES.items() if rule.applies_to in (PLAUSIBILITY, IMAGES)}


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_of_boxes_is_named_by_their_masks(name):
    data = sound()
    boxes_as(FORMATS[name])(data)
    (issue,) = [i for i in found(data) if i.kind != "areas_unlike_masks"]
    assert issue.severity == "error"
    assert f"boxes look like {name}: " in issue.message


@pytest.mark.parametrize("name", WITHOUT_MASKS)
def test_the_format_of_boxes_is_named_by_the_images(name):
    data = sound()
    boxes_as(FORMATS[name], masks=False)(data)
    (issue,) = found(data)
    assert f"30 of 30 boxes look like {name}: " in issue.message


def test_encoded_masks_tell_the_format_as_well():
    data = sound()
    for a in data["annotations"]:
        x, y, side, _ = a["bbox"]
        a["segmentation"] = own_data.compressed(own_data.mask_of(x, y, side))
    assert found(data) == []
    boxes_as(corners)(data)
    assert [i.kind for i in found(data)] == ["box_format"]


def test_a_single_box_is_named_with_the_format_in_which_it_fits():
    data = sound()
    box = data["annotations"][0]["bbox"]
    data["annotations"][0]["bbox"] = list(corners(*box))
    (issue,) = found(data)
    assert (issue.kind, issue.severity, issue.annotation_id) == ("box_unlike_mask", "warning", 0)
    assert f"not that of its mask, {[float(v) for v in box]}" in issue.message
    assert issue.message.endswith("as x1, y1, x2, y2")


def test_masks_as_shares_are_named():
    data = sound()
    for a in data["annotations"]:
        a["segmentation"] = [[v / W for v in a["segmentation"][0]]]
    kinds = {i.kind: i.message for i in found(data)}
    assert "the masks look like shares of the image" in kinds["boxes_unlike_masks"]


def test_crowds_are_not_judged():
    data = sound()
    for change in (shift, every(area=1), every(iscrowd=1)):
        change(data)
    assert found(data) == []


def test_extents_and_areas_are_those_of_pycocotools_and_of_closed_forms():
    """Squares, a triangle and squares with a hole: w h, w h / 2; a box from 2 to 9."""
    data = sound(5)
    data["annotations"][1]["segmentation"] = [[2, 3, 8, 3, 2, 7]]
    data["annotations"][2]["segmentation"] = [own_data.square(2, 2, 3), own_data.square(5, 7, 2)]
    data["annotations"][3]["segmentation"] = own_data.compressed(own_data.mask_of(3, 4, 5))
    data["annotations"][4]["segmentation"] = []
    geometry = mask_geometry(own_data.table(data))
    x, y, side, _ = data["annotations"][0]["bbox"]
    expected = [[x, y, x + side, y + side], [2, 3, 8, 7], [2, 2, 7, 9], [3, 4, 8, 9]]
    assert geometry.extent[:4].tolist() == expected
    assert geometry.area[:4].tolist() == [side**2, 12, 13, 25]
    assert np.isnan(geometry.extent[4]).all()
    assert np.isnan(geometry.area[4])


@pytest.mark.parametrize("rounded", [np.floor, np.ceil, np.round, lambda b: b - [0, 0, 1, 1]])
def test_generated_data_and_rounded_boxes_raise_nothing(generated, rounded):
    data = copy.deepcopy(generated)
    for a in data["annotations"]:
        a["bbox"] = rounded(np.array(a["bbox"])).tolist()
        a["area"] = float(np.round(a["area"]))
    assert found(data) == []


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    spec = LongTailSpec(
        num_categories=5,
        num_train_images=40,
        num_val_images=10,
        image_size=(96, 128),
        objects_per_image=(3, 8),
        write_images=False,
    )
    made = generate_longtail_dataset(tmp_path_factory.mktemp("data"), spec, processes=1)
    with open(made.train_json) as file:
        return json.load(file)


@pytest.mark.parametrize("names", [LVIS_CATEGORIES, COCO_CATEGORIES], ids=["LVIS", "COCO"])
def test_the_names_of_coco_are_fine_and_few_of_lvis_are_alike(names):
    data = own_data.content()
    data["annotations"] = []
    data["categories"] = [{"id": c["id"], "name": c["name"]} for c in names]
    assert [str(i) for i in found(data)] == []

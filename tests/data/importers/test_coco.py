"""COCO exports of CVAT, Roboflow and Label Studio, in the structure that these tools write."""

import copy

import numpy as np
import pytest

from d2_seesaw.data.importers import ImportOptions, import_coco
from tests.data.importers.sources import (
    H,
    W,
    add_images,
    decoded,
    flat,
    mask_with_hole,
    names,
    objects,
    square,
    write_json,
    written,
)
from tests.data.own_data import uncompressed

PARTS = [flat(square(10, 55, 10)), flat(square(40, 55, 10))]


def rle(mask):
    return {**uncompressed(mask), "size": [H, W]}


def annotation(number, category, segmentation=(), box=(10, 10, 20, 20), **fields):
    return {
        "id": number,
        "image_id": 1,
        "category_id": category,
        "segmentation": copy.deepcopy(segmentation) or [],
        "area": float(box[2] * box[3]),
        "bbox": list(box),
        "iscrowd": 0,
        **fields,
    }


def of_cvat(number, category, segmentation=(), box=(10, 10, 20, 20), rotation=0.0, **fields):
    attributes = {"occluded": False, "rotation": rotation}
    return annotation(number, category, segmentation, box, attributes=attributes, **fields)


@pytest.fixture
def cvat(tmp_path):
    """Write CVAT's "COCO 1.0"."""

    def write(*annotations, file_name="part/x.jpg"):
        add_images(tmp_path, "images/default/part/x.jpg")
        image = {"id": 1, "width": W, "height": H, "file_name": file_name, "license": 0}
        content = {
            "licenses": [{"name": "", "id": 0, "url": ""}],
            "info": {"contributor": "", "date_created": ""},
            "categories": [
                {"id": i, "name": name, "supercategory": ""} for i, name in ((1, "cat"), (2, "dog"))
            ],
            "images": [{**image, "flickr_url": "", "coco_url": "", "date_captured": 0}],
            "annotations": list(annotations),
        }
        write_json(tmp_path / "annotations/instances_default.json", content)
        return tmp_path

    return write


def test_masks_of_cvat_are_objects_with_their_holes_and_parts(cvat, tmp_path):
    mask = mask_with_hole()
    folder = cvat(
        of_cvat(1, 1, rle(mask), (10, 20, 50, 40), iscrowd=1),
        of_cvat(2, 2, PARTS, (10, 55, 40, 10)),
    )
    dataset = written(import_coco(folder), tmp_path)
    assert dataset.image_root == folder / "images/default"
    assert names(dataset) == [(1, "cat"), (2, "dog")]
    assert objects(dataset)["part/x.jpg"] == [
        ("cat", [10, 20, 50, 40], 1900),
        ("dog", [10, 55, 40, 10], 200),
    ]
    cat, dog = dataset.content["annotations"]
    np.testing.assert_array_equal(decoded(cat), mask)
    assert dog["segmentation"] == PARTS
    assert cat["iscrowd"] == 0
    assert "1 objects marked as crowds imported as single objects" in dataset.summary()
    kept = import_coco(folder, crowds="keep")
    assert [a["iscrowd"] for a in kept.content["annotations"]] == [1, 0]


def test_crowds_of_others_stay_crowds(cvat):
    folder = cvat(annotation(1, 1, rle(mask_with_hole()), iscrowd=1), annotation(2, 1, PARTS))
    dataset = import_coco(folder)
    assert [a["iscrowd"] for a in dataset.content["annotations"]] == [1, 0]
    assert "1 crowds kept, which are not trained on" in dataset.summary()
    objects = import_coco(folder, crowds="objects").content["annotations"]
    assert [a["iscrowd"] for a in objects] == [0, 0]


def test_rotated_boxes_of_cvat_are_refused_or_enclosed(cvat, tmp_path):
    upright = of_cvat(3, 1, box=(1, 2, 3, 4))
    folder = cvat(of_cvat(7, 2, box=(40, 30, 20, 10), rotation=30.0), upright)
    with pytest.raises(ValueError, match=r"annotation 7: a rotated box.*--enclose-rotated"):
        import_coco(folder)
    dataset = written(import_coco(folder, options=ImportOptions(enclose_rotated=True)), tmp_path)
    c, s = np.sqrt(3) / 2, 0.5
    w, h = 20 * c + 10 * s, 20 * s + 10 * c
    turned, other = objects(dataset)["part/x.jpg"]
    assert turned[1] == pytest.approx([50 - w / 2, 35 - h / 2, w, h])
    assert other == ("cat", [1, 2, 3, 4], 12)


def roboflow(folder, categories, *annotations):
    add_images(folder, "x_jpg.rf.0123456789abcdef.jpg")
    image = {"id": 0, "license": 1, "file_name": "x_jpg.rf.0123456789abcdef.jpg"}
    extra = {"height": H, "width": W, "date_captured": "2026-01-01", "extra": {"name": "x.jpg"}}
    content = {
        "info": {"year": "2026", "contributor": "", "description": "Exported from roboflow"},
        "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}],
        "categories": [
            {"id": i, "name": name, "supercategory": group}
            for i, (name, group) in enumerate(categories)
        ],
        "images": [{**image, **extra}],
        "annotations": [{**a, "image_id": 0} for a in annotations],
    }
    write_json(folder / "_annotations.coco.json", content)
    return folder


@pytest.mark.parametrize("project", ["animals", "cat"])
def test_the_category_of_a_roboflow_project_is_left_out_and_said(tmp_path, project):
    categories = [(project, "none"), ("cat", project), ("dog", project)]
    # The second class has no object in this split, and stays.
    folder = roboflow(tmp_path, categories, annotation(0, 2, PARTS, (10, 55, 40, 10)))
    dataset = written(import_coco(folder), tmp_path)
    assert names(dataset) == [(1, "cat"), (2, "dog")]
    assert objects(dataset)["x_jpg.rf.0123456789abcdef.jpg"] == [("dog", [10, 55, 40, 10], 200)]
    assert dataset.content["annotations"][0]["id"] == 1
    assert f"left out, first: {project!r}" in dataset.summary()


@pytest.mark.parametrize("group", ["none", "cat"])
def test_categories_without_objects_stay_if_they_are_no_group(tmp_path, group):
    categories = [("cat", group), ("dog", group), ("fox", group)]
    dataset = import_coco(roboflow(tmp_path, categories, annotation(0, 1, PARTS)))
    assert [name for _, name in names(dataset)] == ["cat", "dog", "fox"]


def test_two_categories_of_one_name_that_have_objects_are_refused(tmp_path):
    used = (annotation(0, 0, PARTS), annotation(1, 1, PARTS))
    with pytest.raises(ValueError, match=r"two categories of .* are called 'cat'"):
        import_coco(roboflow(tmp_path, [("cat", "none"), ("cat", "none")], *used))


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("images/3f2a1b4c-x.jpg", "3f2a1b4c-x.jpg"),
        ("images\\3f2a1b4c-x.jpg", "3f2a1b4c-x.jpg"),
        ("../../data/media/upload/1/3f2a1b4c-x.jpg", "3f2a1b4c-x.jpg"),
        ("images/3f2a1b4c-x.jpg", "x.jpg"),
        ("/data/local-files/?d=part/my%20x.jpg", "part/my x.jpg"),
        ("https://example.org/a/b/x.jpg", "b/x.jpg"),
    ],
)
def test_file_names_of_label_studio_lead_to_the_images(tmp_path, given, file):
    add_images(tmp_path, f"images/{file}")
    content = {
        "images": [{"width": None, "height": None, "id": 0, "file_name": given}],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": [annotation(0, 0, [flat(square(5, 5, 20))], ignore=0, image_id=0)],
        "info": {"year": 2026, "contributor": "Label Studio"},
    }
    write_json(tmp_path / "result.json", content)
    dataset = written(import_coco(tmp_path, images=tmp_path / "images"), tmp_path)
    assert objects(dataset) == {file: [("cat", [5, 5, 20, 20], 400)]}
    assert [c["id"] for c in dataset.content["categories"]] == [0, 1]
    assert "1 images whose size was read from their file" in dataset.summary()


def test_a_flat_polygon_and_a_wrong_area_are_mended(cvat, tmp_path):
    folder = cvat(annotation(1, 1, flat(square(5, 5, 20)), area=1, bbox=[0, 0, 1, 1]))
    dataset = written(import_coco(folder), tmp_path)
    assert objects(dataset)["part/x.jpg"] == [("cat", [5, 5, 20, 20], 400)]


def test_two_entries_of_one_file_are_refused(cvat, tmp_path):
    folder = cvat(annotation(1, 1, PARTS))
    file = folder / "annotations/instances_default.json"
    text = file.read_text().replace('"images": [', '"images": [{"id": 2, "file_name": "x.jpg"}, ')
    add_images(tmp_path, "images/default/x.jpg")
    file.write_text(text.replace("part/x.jpg", "else/x.jpg"))
    with pytest.raises(ValueError, match=r"x\.jpg was already named by .* image 2"):
        import_coco(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon needs three points"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "a polygon needs three points"),
        ({"segmentation": [[1, 2, 3, float("nan"), 5, 6]]}, "must be finite numbers"),
        ({"segmentation": [[1, 2, 3, "4", 5, 6]]}, "must be finite numbers"),
        ({"segmentation": [[1, 2, 3, 1e300, 5, 6]]}, "must be finite numbers"),
        ({"segmentation": "mask"}, "must be polygons or a run-length encoding"),
        ({"segmentation": {"size": [H, W], "counts": [5, 5]}}, "run-length encoding is invalid"),
        ({"segmentation": {"size": [H, W], "counts": [[5, 5]]}}, "encoding is invalid"),
        ({"segmentation": {"size": [W, H], "counts": [W * H]}}, "is of 80 x 100, its image"),
        ({"bbox": [1, 2, -3, 4]}, "has a negative size"),
        ({"bbox": [1, 2, float("inf"), 4]}, "'bbox' must be four finite numbers"),
        ({"bbox": None}, "'bbox' must be four finite numbers"),
        ({"category_id": 3}, "the category_id 3 is not listed"),
        ({"category_id": "1"}, "the category_id '1' is not listed"),
        ({"image_id": None}, "the image_id None is not listed"),
        ({"iscrowd": "0"}, "'iscrowd' must be 0 or 1, got '0'"),
        ({"attributes": {"rotation": "x"}}, "the rotation must be a finite number"),
    ],
)
def test_a_wrong_annotation_is_named(cvat, fields, message):
    with pytest.raises(ValueError, match=r"instances_default\.json: annotation 5: ") as error:
        import_coco(cvat(annotation(1, 1), annotation(5, 1) | fields))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no list of 'images'"),
        ({"images": [], "annotations": []}, "no list of 'categories'"),
        ({"images": [5], "annotations": [], "categories": []}, "is 5, not an object"),
        ({"images": [{"id": "a"}], "annotations": [], "categories": []}, "the id 'a', not a whole"),
        (
            {"images": [{"id": 1}] * 2, "annotations": [], "categories": []},
            "two images have the id",
        ),
        ({"images": [{"id": 1}], "annotations": [], "categories": []}, "the file_name None"),
        ({"images": [], "annotations": [], "categories": [{"id": 1}]}, "the name None, not text"),
        ({"images": [], "annotations": [], "categories": []}, "no objects that can be imported"),
    ],
)
def test_a_wrong_file_is_one_error(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        import_coco(write_json(tmp_path / "x.json", content))


def test_a_missing_file_is_named_with_a_hint(cvat):
    with pytest.raises(ValueError, match=r"image 1: its file 'y\.jpg' was not found"):
        import_coco(cvat(annotation(1, 1), file_name="y.jpg"))
    with pytest.raises(FileNotFoundError, match="there is no JSON file"):
        import_coco(cvat() / "images")

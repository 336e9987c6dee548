"""Labelme: shapes, groups, masks with holes, paths of images, and shapes that are refused."""

import json

import numpy as np
import pytest

from d2_seesaw.data.importers import ImportOptions, import_labelme
from tests.data.importers.sources import (
    H,
    W,
    add_images,
    decoded,
    flat,
    mask_with_hole,
    names,
    objects,
    png_base64,
    square,
    write_json,
    written,
)


def shape(label, points, shape_type="polygon", group_id=None, **fields):
    return {
        "label": label,
        "points": points,
        "group_id": group_id,
        "description": "",
        "shape_type": shape_type,
        "flags": {},
        "mask": None,
        **fields,
    }


def mask_shape(label, mask, **fields):
    """The bitmap of the bounding box, placed by its first and last pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, y1, x0, x1 = rows[0], rows[-1], columns[0], columns[-1]
    part = png_base64(mask[y0 : y1 + 1, x0 : x1 + 1])
    points = [[float(x0), float(y0)], [float(x1), float(y1)]]
    return shape(label, points, "mask", mask=part, **fields)


@pytest.fixture
def write(tmp_path):
    def write(*shapes, name="a", image="a.jpg", **fields):
        add_images(tmp_path, "a.jpg")
        content = {
            "version": "5.8.1",
            "flags": {},
            "shapes": list(shapes),
            "imagePath": image,
            "imageData": None,
            "imageHeight": H,
            "imageWidth": W,
            **fields,
        }
        write_json(tmp_path / f"{name}.json", content)
        return tmp_path

    return write


def test_parts_of_a_group_are_one_object(write, tmp_path):
    folder = write(
        shape("cat", square(10, 10, 20), group_id=1),
        shape("cat", square(50, 10, 10), group_id=1),
        shape("dog", square(10, 50, 20), group_id=1),
        shape("cat", square(60, 60, 10)),
        shape("cat", square(80, 60, 10)),
    )
    dataset = written(import_labelme(folder), tmp_path)
    assert names(dataset) == [(1, "cat"), (2, "dog")]
    assert objects(dataset)["a.jpg"] == [
        ("cat", [10, 10, 50, 20], 500),
        ("dog", [10, 50, 20, 20], 400),
        ("cat", [60, 60, 10, 10], 100),
        ("cat", [80, 60, 10, 10], 100),
    ]
    parts = dataset.content["annotations"][0]["segmentation"]
    assert parts == [flat(square(10, 10, 20)), flat(square(50, 10, 10))]


def test_a_mask_keeps_its_hole_and_joins_the_parts_of_its_group(write, tmp_path):
    mask = mask_with_hole()
    part = shape("cat", square(70, 10, 10), group_id=3)
    folder = write(part, mask_shape("cat", mask, group_id=3), mask_shape("dog", mask))
    cat, dog = written(import_labelme(folder), tmp_path).content["annotations"]
    np.testing.assert_array_equal(decoded(dog), mask)
    assert (dog["area"], dog["bbox"]) == (1900, [10, 20, 50, 40])
    assert (cat["area"], cat["bbox"]) == (2000, [10, 10, 70, 50])
    assert not decoded(cat)[30:40, 20:30].any()


def test_a_circle_has_its_area(write):
    folder = write(shape("cat", [[50, 40], [80, 40]], "circle"))
    (circle,) = import_labelme(folder).content["annotations"]
    assert circle["area"] == pytest.approx(np.pi * 30**2, rel=0.01)
    assert circle["bbox"] == pytest.approx([20, 10, 60, 60], abs=0.2)


def test_rectangles_alone_are_boxes_and_among_masks_need_a_decision(write, tmp_path):
    rectangle = shape("cat", [[30, 40], [10, 20]], "rectangle")
    dataset = written(import_labelme(write(rectangle)), tmp_path)
    assert objects(dataset)["a.jpg"] == [("cat", [10, 20, 20, 20], 400)]
    assert "segmentation" not in dataset.content["annotations"][0]
    folder = write(rectangle, shape("cat", square(50, 50, 10)))
    (tmp_path / "imported.json").unlink()
    with pytest.raises(ValueError, match=r"a\.json, shape 1: --boxes-only"):
        import_labelme(folder)
    masks = import_labelme(folder, options=ImportOptions(boxes_as_masks=True))
    assert [a["area"] for a in masks.content["annotations"]] == [400, 100]


def test_points_lines_and_labels_to_ignore_are_left_out_and_said(write):
    folder = write(
        shape("cat", square(10, 10, 20)),
        shape("cat", [[1, 1], [5, 5]], "linestrip"),
        shape("cat", [[2, 2], [6, 6]], "linestrip"),
        shape("cat", [[5, 5]], "point"),
        shape("__ignore__", square(0, 0, 9)),
    )
    dataset = import_labelme(folder)
    assert len(dataset.content["annotations"]) == 1
    said = dataset.summary()
    assert "2 shapes of the type linestrip, which has no area, left out" in said
    assert "a.json, shape 2" in said
    assert "1 shapes called __ignore__ left out" in said


@pytest.mark.parametrize("kind", ["oriented_rectangle", "rotation"])
def test_rotated_rectangles_are_refused_or_enclosed(write, kind):
    folder = write(shape("cat", [[50, 20], [70, 40], [50, 60], [30, 40]], kind))
    with pytest.raises(ValueError, match=r"shape 1: a rotated box.*--enclose-rotated"):
        import_labelme(folder)
    dataset = import_labelme(folder, options=ImportOptions(enclose_rotated=True))
    assert objects(dataset)["a.jpg"] == [("cat", [30, 20, 40, 40], 1600)]


def test_paths_with_backslashes_and_folders_of_another_machine_are_found(write, tmp_path):
    (tmp_path / "json").mkdir()
    cat = shape("cat", square(10, 10, 20))
    for name, image in {"json/a": "..\\a.jpg", "b": "C:\\photos\\b.jpg", "c": None}.items():
        write(cat, name=name, image=image)
    add_images(tmp_path, "b.jpg", "c.png")
    dataset = import_labelme(tmp_path, images=tmp_path)
    assert set(objects(dataset)) == {"a.jpg", "b.jpg", "c.png"}


def test_an_image_that_is_missing_is_named_with_a_hint(write, tmp_path):
    folder = write(shape("cat", square(10, 10, 20)), image="b.jpg", name="b", imageData="aGk=")
    add_images(tmp_path, "deep/b.jpg")
    with pytest.raises(ValueError, match=r"'b\.jpg' was not found .*'deep/b\.jpg'.*'imageData'"):
        import_labelme(folder)


def test_a_polygon_beyond_the_image_is_clipped_and_said(write, tmp_path):
    folder = write(shape("cat", square(-30, 10, 50)), shape("cat", square(1e8, 10, 5)))
    dataset = written(import_labelme(folder), tmp_path)
    assert objects(dataset)["a.jpg"] == [("cat", [0, 10, 20, 50], 1000)]
    assert "2 polygons clipped to their image" in dataset.summary()
    assert "1 flat polygons, or polygons outside of their image, left out" in dataset.summary()


def test_parts_without_area_are_left_out_and_said(write, tmp_path):
    flat_part = shape("cat", [[1, 1], [5, 1], [9, 1]], group_id=1)
    speck = shape("cat", [[1.1, 1.1], [1.2, 1.1], [1.2, 1.2]])
    folder = write(shape("cat", square(10, 10, 20), group_id=1), flat_part, speck)
    dataset = written(import_labelme(folder), tmp_path)
    assert [a["segmentation"] for a in dataset.content["annotations"]] == [
        [flat(square(10, 10, 20))]
    ]
    assert [note.partition(", first")[0] for note in dataset.notes] == [
        "1 flat polygons, or polygons outside of their image, left out",
        "1 masks that cover no pixel left out",
    ]


def test_given_classes_decide_the_order_and_other_labels_are_refused(write, tmp_path):
    classes = tmp_path / "labels.txt"
    classes.write_text("__ignore__\n_background_\nfox\ncat\n")
    folder = write(shape("cat", square(10, 10, 20)))
    assert names(import_labelme(folder, classes=classes)) == [(1, "fox"), (2, "cat")]
    with pytest.raises(ValueError, match=r"shape 1: the category 'cats'.*did you mean 'cat'"):
        import_labelme(write(shape("cats", square(10, 10, 20))), classes=classes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (shape("cat", [[1, 1], [5, 5]]), "a polygon needs three points"),
        (shape("cat", [[1, 1], [5, float("nan")], [9, 9]]), "'points' must be pairs of finite"),
        (shape("cat", [[1, 1], [5, "5"], [9, 9]]), "'points' must be pairs of finite"),
        (shape("cat", [[1, 1], [5, True], [9, 9]]), "'points' must be pairs of finite"),
        (shape("cat", [[1, 1], [5], [9, 9]]), "'points' must be pairs of finite"),
        (shape("cat", None), "'points' must be pairs of finite"),
        (shape(5, square(1, 1, 5)), "must be an object with a label"),
        (shape("cat", square(1, 1, 5), group_id=[1]), "'group_id' must be"),
        (shape("cat", square(1, 1, 5), "cuboid"), "a cuboid with 4 points cannot be imported"),
        (shape("cat", [[1, 1], [5, 5]], "mask", mask="no base64"), "must be a PNG in base64"),
        (shape("cat", [[1, 1], [5, 5]], "mask"), "must be a PNG in base64"),
        (mask_shape("cat", mask_with_hole()) | {"points": [[1, 1], [5, 5]]}, "is 50 x 40"),
        (
            mask_shape("cat", mask_with_hole()) | {"points": [[80, 1], [129, 40]]},
            "beyond the image",
        ),
        ("cat", "must be an object with a label"),
    ],
)
def test_a_wrong_shape_is_named(write, wrong, message):
    with pytest.raises(ValueError, match=r"a\.json, shape 2: ") as error:
        import_labelme(write(shape("cat", square(10, 10, 20)), wrong))
    assert message in str(error.value)


def test_another_size_than_that_of_the_file_is_refused(write):
    with pytest.raises(ValueError, match=r"is 100 x 80 .* the annotations are of 80 x 100"):
        import_labelme(write(shape("cat", square(1, 1, 5)), imageHeight=W, imageWidth=H))


def test_files_that_are_no_annotations_are_said_or_refused(write, tmp_path):
    folder = write(shape("cat", square(10, 10, 20)))
    write_json(tmp_path / "settings.json", {"color": 1})
    assert "1 JSON files without shapes left out" in import_labelme(folder).summary()
    (tmp_path / "broken.json").write_text(json.dumps([1])[:-1])
    with pytest.raises(ValueError, match=r"broken\.json is not valid JSON"):
        import_labelme(folder)

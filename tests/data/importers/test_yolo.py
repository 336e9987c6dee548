"""YOLO: layouts, boxes, polygons, rotated boxes, and lines that are refused by file and number."""

import numpy as np
import pytest
from PIL import Image

from d2_seesaw.data.importers import ImportOptions, import_yolo
from tests.data.importers.sources import (
    H,
    W,
    add_images,
    flat,
    names,
    objects,
    polygon_area,
    square,
    written,
)

YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: no\n  2: fox\n"
CAT_BOX = "0 0.2 0.25 0.2 0.25\n"  # 20 x 20 pixels from (10, 10)


@pytest.fixture
def write(tmp_path):
    """Write a dataset of Ultralytics with the given label files; return its YAML file."""

    def write(labels, yaml=YAML, more=("negative.jpg",)):
        stems = [f"images/train/{name}.jpg" for name in labels]
        add_images(tmp_path, *stems, *(f"images/train/{name}" for name in more))
        for name, text in labels.items():
            path = tmp_path / f"labels/train/{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "data.yaml").write_text(yaml)
        return tmp_path / "data.yaml"

    return write


def line(label, points):
    return f"{label} {' '.join(str(v) for v in (np.array(points) / [W, H]).ravel())}\n"


def rotated(x, y, w, h, degrees):
    """Corners of a box of w x h around (x, y), turned."""
    turn = np.radians(degrees)
    axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2 @ axes + [x, y]


def test_boxes_keep_counts_names_and_areas(write, tmp_path):
    yaml = write({"a": CAT_BOX + "2 0.5 0.5 1 1\n", "b": "1 0.05 0.05 0.1 0.1\n"})
    dataset = written(import_yolo(yaml), tmp_path)
    assert names(dataset) == [(1, "cat"), (2, "no"), (3, "fox")]
    assert objects(dataset) == {
        "a.jpg": [("cat", [10, 10, 20, 20], 400), ("fox", [0, 0, W, H], W * H)],
        "b.jpg": [("no", [0, 0, 10, 8], 80)],
        "negative.jpg": [],
    }
    assert dataset.notes == []


def test_polygons_keep_their_points_and_area(write, tmp_path):
    triangle, quad = [[10, 8], [90, 8], [50, 72]], square(10, 10, 30)
    yaml = write({"a": line(1, triangle) + line(0, quad)})
    dataset = written(import_yolo(yaml), tmp_path)
    of_triangle, of_quad = dataset.content["annotations"]
    assert of_triangle["segmentation"] == [pytest.approx(flat(triangle))]
    assert of_triangle["bbox"] == pytest.approx([10, 8, 80, 64])
    assert of_triangle["area"] == pytest.approx(polygon_area(triangle), abs=80)
    assert of_quad["area"] == 900


def test_rotated_boxes_are_refused_or_enclosed_and_said(write, tmp_path):
    box = rotated(50, 40, 40, 20, 30)
    yaml = write({"a": line(0, box) + line(1, rotated(30, 30, 20, 10, 0))})
    with pytest.raises(ValueError, match=r"a\.txt, line 1: a rotated box.*--enclose-rotated"):
        import_yolo(yaml)
    dataset = import_yolo(yaml, options=ImportOptions(enclose_rotated=True))
    low, high = box.min(axis=0), box.max(axis=0)
    (first, second), _ = objects(written(dataset, tmp_path)).values()
    assert first[1] == pytest.approx([*low, *(high - low)])
    assert second[1] == pytest.approx([20, 25, 20, 10])
    assert "2 rotated boxes replaced" in dataset.summary()
    as_polygons = import_yolo(yaml, polygons=True)
    assert as_polygons.content["annotations"][0]["area"] == pytest.approx(800, abs=20)


@pytest.mark.parametrize(
    "shape",
    [square(10, 10, 40), [[10, 10], [60, 15], [70, 60], [5, 50]]],
    ids=["upright", "no right angles"],
)
def test_other_polygons_of_four_points_are_masks(write, shape):
    dataset = import_yolo(write({"a": line(0, shape)}))
    assert dataset.content["annotations"][0]["segmentation"] == [pytest.approx(flat(shape))]


def test_keypoints_are_left_out_and_said(write, tmp_path):
    pose = CAT_BOX.strip() + " 0.1 0.1 2 0.2 0.2 2\n"
    dataset = import_yolo(write({"a": pose}, yaml=f"{YAML}kpt_shape: [2, 3]\n"))
    assert objects(written(dataset, tmp_path))["a.jpg"] == [("cat", [10, 10, 20, 20], 400)]
    assert "keypoints" in dataset.notes[0]
    with pytest.raises(ValueError, match="must be fractions from 0 to 1, got 2"):
        import_yolo(write({"a": pose}))


def test_coordinates_that_were_rounded_beyond_1_are_clipped(write, tmp_path):
    points = np.array([[50, 40], [W * 1.004, 40], [W * 1.004, H * 1.004]])
    dataset = written(import_yolo(write({"a": line(0, points)})), tmp_path)
    assert dataset.content["annotations"][0]["bbox"] == pytest.approx([50, 40, 50, 40])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3 0.5 0.5 0.1 0.1", "the class index 3 is not among the 3 names"),
        ("0.5 0.5 0.5 0.1 0.1", "the class index 0.5 is not among"),
        ("-1 0.5 0.5 0.1 0.1", "the class index -1 is not among"),
        ("0 nan 0.5 0.1 0.1", "must be finite numbers, got '0 nan"),
        ("0 0.5 0.5 inf 0.1", "must be finite numbers"),
        ("cat 0.5 0.5 0.1 0.1", "must be finite numbers, got 'cat"),
        ("0 0.5 0.5 -0.1 0.1", "must be fractions from 0 to 1, got -0.1"),
        ("0 50 40 20 20", "must be fractions from 0 to 1, got 50"),
        ("0 0.1 0.1 0.5 0.1 0.5 1.2", "must be fractions from 0 to 1, got 1.2"),
        ("0 0.5 0.5 0.1 0.1 0.9", "got 6 numbers"),
        ("0 0.5 0.5", "got 3 numbers"),
        ("0", "got 1 numbers"),
    ],
)
def test_a_wrong_line_is_named(write, text, message):
    with pytest.raises(ValueError, match=r"a\.txt, line 2: ") as error:
        import_yolo(write({"a": f"{CAT_BOX}{text}\n"}))
    assert message in str(error.value)


def test_repeated_lines_and_empty_boxes_are_left_out_and_counted(write):
    text = CAT_BOX + "\n" + CAT_BOX + "1 0.5 0.5 0 0.1\n"
    yaml = write({"a": text, "orphan": ""})
    (yaml.parent / "images/train/orphan.jpg").unlink()
    dataset = import_yolo(yaml)
    assert len(dataset.content["annotations"]) == 1
    assert [note.partition(", first")[0] for note in dataset.notes] == [
        "1 lines that repeat another one left out",
        "1 boxes without an area in their image left out",
        "1 label files without an image left out",
    ]


def test_masks_and_boxes_in_one_dataset_need_a_decision(write, tmp_path):
    yaml = write({"a": CAT_BOX + line(1, [[10, 8], [90, 8], [50, 72]])})
    with pytest.raises(ValueError, match=r"1 objects have a mask and 1 only a box.*a\.txt, line 1"):
        import_yolo(yaml)
    boxes = import_yolo(yaml, options=ImportOptions(boxes_only=True))
    assert [a["area"] for a in written(boxes, tmp_path).content["annotations"]] == [400, 5120]
    masks = import_yolo(yaml, options=ImportOptions(boxes_as_masks=True))
    box, _ = written(masks, tmp_path).content["annotations"]
    assert box["segmentation"] == [pytest.approx(flat(square(10, 10, 20)))]


@pytest.mark.parametrize("root", ["..", "."])
def test_the_folders_of_roboflow_are_found(tmp_path, root):
    add_images(tmp_path, "train/images/a.jpg")
    (tmp_path / "train/labels").mkdir()
    (tmp_path / "train/labels/a.txt").write_text(CAT_BOX)
    yaml = tmp_path / "data.yaml"
    yaml.write_text(f"train: {root}/train/images\nnc: 1\nnames: ['cat']\n")
    assert objects(import_yolo(yaml))["a.jpg"] == [("cat", [10, 10, 20, 20], 400)]


def test_a_list_of_images_and_several_folders_are_read(write):
    yaml = write({"a": CAT_BOX, "b": CAT_BOX})
    (yaml.parent / "some.txt").write_text("./images/train/b.jpg\n")
    add_images(yaml.parent, "images/more/c.jpg")
    text = yaml.read_text().replace("images/train", "[some.txt, images/more]")
    yaml.write_text(text)
    files = [image["file_name"] for image in import_yolo(yaml).content["images"]]
    assert files == ["images/train/b.jpg", "images/more/c.jpg"]


def test_a_folder_of_labels_takes_names_from_a_file(tmp_path):
    add_images(tmp_path, "images/part/a.jpg")
    (tmp_path / "labels/part").mkdir(parents=True)
    (tmp_path / "labels/part/a.txt").write_text(CAT_BOX)
    with pytest.raises(ValueError, match="--classes"):
        import_yolo(tmp_path)
    (tmp_path / "classes.txt").write_text("\ufeffcat\ndog\n")
    expected = {"part/a.jpg": [("cat", [10, 10, 20, 20], 400)]}
    assert objects(import_yolo(tmp_path)) == expected
    given = import_yolo(
        tmp_path / "labels", images=tmp_path / "images", classes=tmp_path / "classes.txt"
    )
    assert objects(given) == expected


def test_labels_beside_their_images_are_read(tmp_path):
    """The layout of Darknet, which CVAT exports as "YOLO 1.1"."""
    add_images(tmp_path, "obj_train_data/a.jpg")
    (tmp_path / "obj_train_data/a.txt").write_text(CAT_BOX)
    (tmp_path / "obj.names").write_text("cat\n")
    (tmp_path / "train.txt").write_text("data/obj_train_data/a.jpg\n")
    dataset = import_yolo(tmp_path)
    assert objects(dataset) == {"obj_train_data/a.jpg": [("cat", [10, 10, 20, 20], 400)]}
    assert dataset.notes == []


def test_sizes_are_those_of_the_image_turned_by_its_exif_data(write):
    yaml = write({"a": CAT_BOX})
    exif = Image.Exif()
    exif[0x0112] = 6
    add_images(yaml.parent, "images/train/a.jpg", exif=exif)
    image = import_yolo(yaml).content["images"][0]
    assert (image["width"], image["height"]) == (H, W)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images/train\n", "'names' must be a list"),
        ("train: images/train\nnames: [cat, cat]\n", "has the name 'cat' twice"),
        ("val: images/train\nnames: [cat]\n", "has no split 'train'.*'val'"),
        ("train: nowhere\nnames: [cat]\n", "names nowhere, but .* does not exist"),
        ("names: [\n", "is not valid YAML"),
        ("- cat\n", "must be a mapping"),
        ("train: images/train\nnames: [cat]\nkpt_shape: x\n", "'kpt_shape' must be two"),
    ],
)
def test_a_wrong_yaml_file_is_one_error(write, yaml, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        import_yolo(write({"a": CAT_BOX}, yaml=yaml))


def test_images_without_any_label_file_are_an_error(write):
    yaml = write({"a": CAT_BOX})
    (yaml.parent / "labels/train/a.txt").unlink()
    with pytest.raises(ValueError, match="none of the 2 images has a label file"):
        import_yolo(yaml)

"""Pascal VOC: boxes from 1, difficult objects, masks by the order of the objects, unsafe XML."""

import numpy as np
import pytest
from PIL import Image

from d2_seesaw.data.importers import ImportOptions, import_voc
from tests.data.importers.sources import (
    H,
    W,
    add_images,
    decoded,
    mask_with_hole,
    names,
    objects,
    written,
)


def voc_object(name, box, more=""):
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    bndbox = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
    return (
        f"<object><name>{name}</name><pose>Left</pose><truncated>1</truncated>{more}"
        f"<bndbox>{bndbox}</bndbox></object>"
    )


CAT = voc_object("cat", (11, 21, 60, 60), "<difficult>0</difficult>")
DOG = voc_object("dog", (71, 1, 100, 80))


@pytest.fixture
def write(tmp_path):
    """Write one XML file and its image in the folders of the development kit."""

    def write(*objects, stem="a", size=(W, H), image=None, head=""):
        add_images(tmp_path, f"JPEGImages/{image or f'{stem}.jpg'}")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / f"Annotations/{stem}.xml").write_text(
            f"{head}<annotation><folder>VOC2012</folder><filename>{stem}.jpg</filename>"
            f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
            f"<segmented>0</segmented>{''.join(objects)}</annotation>"
        )
        return tmp_path

    return write


def write_masks(folder, indices, mode="P", stem="a"):
    """Write SegmentationObject as palette image, or with the colors of VOC."""
    (folder / "SegmentationObject").mkdir(exist_ok=True)
    image = Image.fromarray(indices.astype(np.uint8))
    palette = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]  # as the development kit colors 0 to 3
    palette += [0, 0, 128] * (255 - 4) + [224, 224, 192] * 1
    image.putpalette(palette)
    image.convert(mode).save(folder / f"SegmentationObject/{stem}.png")


def test_boxes_count_from_1_and_include_the_last_pixel(write, tmp_path):
    whole = voc_object("fox", (1, 1, W, H))
    dataset = written(import_voc(write(DOG, CAT, whole)), tmp_path)
    assert names(dataset) == [(1, "cat"), (2, "dog"), (3, "fox")]
    assert objects(dataset)["a.jpg"] == [
        ("dog", [70, 0, 30, 80], 2400),
        ("cat", [10, 20, 50, 40], 2000),
        ("fox", [0, 0, W, H], W * H),
    ]


def test_edges_that_count_from_0_are_read_on_request_and_suspected(write):
    folder = write(voc_object("cat", (0, 20, 50, 60)), voc_object("cat", (10, 20, 60, 60)))
    assert "1 boxes begin before pixel 1" in import_voc(folder).summary()
    dataset = import_voc(folder, zero_based=True)
    expected = [("cat", [0, 20, 50, 40], 2000), ("cat", [10, 20, 50, 40], 2000)]
    assert objects(dataset)["a.jpg"] == expected
    assert dataset.notes == []


def test_difficult_objects_are_ignored_in_evaluation_and_parts_are_no_objects(write, tmp_path):
    more = (
        "<difficult>1</difficult><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    )
    difficult = voc_object("dog", (71, 1, 100, 80), more)
    dataset = written(import_voc(write(CAT, difficult)), tmp_path)
    cat, dog = dataset.content["annotations"]
    assert (cat.get("ignore"), dog["ignore"], dog["iscrowd"]) == (None, 1, 0)
    assert dog["bbox"] == [70, 0, 30, 80]


@pytest.mark.parametrize("mode", ["P", "RGB"])
def test_masks_belong_to_the_objects_in_their_order(write, tmp_path, mode):
    cat, dog = mask_with_hole(), np.zeros((H, W), np.uint8)
    dog[0:30, 70:100] = dog[50:80, 70:100] = 1  # two parts
    indices = cat + 2 * dog
    indices[20, 10:60] = 255  # border
    folder = write(CAT, DOG)
    write_masks(folder, np.where(indices == 255, 0, indices) if mode == "RGB" else indices, mode)
    dataset = written(import_voc(folder), tmp_path)
    found = [decoded(a) for a in dataset.content["annotations"]]
    np.testing.assert_array_equal(found[0], indices == 1)
    np.testing.assert_array_equal(found[1], dog)
    areas = [a["area"] for a in dataset.content["annotations"]]
    assert areas == [int((indices == 1).sum()), 1800]


def test_masks_in_another_order_or_number_are_refused(write):
    cat, dog = mask_with_hole(), np.zeros((H, W), np.uint8)
    dog[:, 70:] = 1
    folder = write(CAT, DOG)
    write_masks(folder, 2 * cat + dog)
    with pytest.raises(ValueError, match=r"a\.xml, object 1: its mask covers .* in the order"):
        import_voc(folder)
    write_masks(folder, cat)
    with pytest.raises(ValueError, match=r"has the objects \[1\], its XML file 1 to 2"):
        import_voc(folder)
    boxes = import_voc(folder, options=ImportOptions(boxes_only=True))
    assert [a["area"] for a in boxes.content["annotations"]] == [2000, 2400]
    write_masks(folder, (cat + 2 * dog)[:-1])
    with pytest.raises(ValueError, match="is 100 x 79"):
        import_voc(folder)


@pytest.mark.parametrize(
    ("more", "corners"),
    [
        # CVAT: 20 x 10 pixels around (30, 25), turned by 90 degrees
        (
            "<attributes><attribute><name>rotation</name><value>90.0</value></attribute>"
            "</attributes><bndbox><xmin>21</xmin><ymin>21</ymin><xmax>40</xmax><ymax>30</ymax>"
            "</bndbox>",
            [25, 15, 10, 20],
        ),
        # roLabelImg: the same
        (
            "<robndbox><cx>30</cx><cy>25</cy><w>20</w><h>10</h><angle>1.5707963</angle></robndbox>",
            [25, 15, 10, 20],
        ),
    ],
)
def test_rotated_boxes_are_refused_or_enclosed(write, more, corners):
    folder = write(f"<object><name>cat</name>{more}</object>")
    with pytest.raises(ValueError, match=r"object 1: a rotated box.*--enclose-rotated"):
        import_voc(folder)
    dataset = import_voc(folder, options=ImportOptions(enclose_rotated=True))
    ((_, box, _),) = objects(dataset)["a.jpg"]
    assert box == pytest.approx(corners, abs=1e-5)
    assert "1 rotated boxes replaced" in dataset.summary()


def test_a_split_selects_files_and_classes_decide_the_order(write, tmp_path):
    write(DOG, stem="b")
    folder = write(CAT)
    for name, line in {
        "Main/train": "a",
        "Main/cat_train": "b  1",
        "Segmentation/val": "b",
    }.items():
        path = folder / f"ImageSets/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{line}\n")
    assert set(objects(import_voc(folder, split="train"))) == {"a.jpg"}
    assert set(objects(import_voc(folder, split="cat_train"))) == {"b.jpg"}
    classes = tmp_path / "names.txt"
    classes.write_text("dog\ncat\n")
    dataset = import_voc(folder, split="Segmentation/val", classes=classes)
    assert names(dataset) == [(1, "dog"), (2, "cat")]
    assert set(objects(dataset)) == {"b.jpg"}
    with pytest.raises(FileNotFoundError, match=r"test\.txt"):
        import_voc(folder, split="test")


def test_xml_files_beside_images_and_files_without_a_size_are_read(tmp_path, write):
    folder = write(CAT, size=(0, 0))
    for file in ("Annotations/a.xml", "JPEGImages/a.jpg"):
        (folder / file).rename(folder / file.split("/")[1])
    for name in ("Annotations", "JPEGImages"):
        (folder / name).rmdir()
    assert objects(import_voc(folder))["a.jpg"] == [("cat", [10, 20, 50, 40], 2000)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (voc_object("cat", (11, 21, 5, 60)), "the box ends before it begins"),
        (voc_object("cat", (11, 21, "nan", 60)), "<xmax> must be a finite number, got 'nan'"),
        (voc_object("cat", (11, 21, "", 60)), "<xmax> must be a finite number"),
        (voc_object("", (1, 2, 3, 4)), "it has no name"),
        (voc_object("cat", (1, 2, 3, 4), "<difficult>x</difficult>"), "<difficult> must be 0 or 1"),
        ("<object><name>cat</name></object>", "it has no box"),
    ],
)
def test_a_wrong_object_is_named(write, wrong, message):
    with pytest.raises(ValueError, match=r"a\.xml, object 2: ") as error:
        import_voc(write(CAT, wrong))
    assert message in str(error.value)


def test_another_size_than_that_of_the_file_is_refused(write):
    with pytest.raises(ValueError, match=r"a\.xml: .* is 100 x 80 .* annotations are of 80 x 100"):
        import_voc(write(CAT, size=(H, W)))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "bbbb">]>', "declares XML entities"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>', "declares XML entities"),
        ("<annotation>", "is not valid XML"),
    ],
)
def test_unsafe_or_broken_xml_is_refused(write, head, message):
    with pytest.raises(ValueError, match=message):
        import_voc(write(CAT, head=head))


def test_a_missing_image_or_folder_is_named(write, tmp_path):
    folder = write(CAT, image="other.jpg")
    with pytest.raises(ValueError, match=r"a\.xml: its image 'a\.jpg' was not found"):
        import_voc(folder)
    with pytest.raises(ValueError, match="there are no XML files"):
        import_voc(tmp_path / "JPEGImages")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        import_voc(tmp_path / "nowhere")

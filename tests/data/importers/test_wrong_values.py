"""Wrong values in every place of an export: one error, or a file that check passes."""

import copy
import json
import random
from functools import partial
from xml.sax.saxutils import escape

import pytest

from d2_seesaw.data import check_dataset
from d2_seesaw.data.importers import (
    ImportOptions,
    import_coco,
    import_labelme,
    import_voc,
    import_yolo,
)
from tests.data.importers.sources import H, W, add_images, flat, mask_with_hole, png_base64, square
from tests.data.own_data import uncompressed

NAN, INFINITY = float("nan"), float("inf")
VALUES = [
    *(None, True, False, 0, 1, -1, 1.5, 10**9, 10**400, 1e300, NAN, INFINITY, -INFINITY),
    *("", "0", "1", "nan", "a\0b", "../../a.jpg", "/a.jpg", "\ud800", "ä", "x" * 300),
    *([], [[]], [1], [[1, 2]], [None] * 4, [NAN] * 4, [[NAN] * 6], [["1"] * 6], [[[1, 2]]]),
    *({}, {"counts": [1]}, {"size": [H, W], "counts": "abc"}, {"size": [0, 0], "counts": []}),
    {"size": [H, W], "counts": [-5, H * W + 5]},
]
LABELME = {
    "shapes": [
        {"label": "cat", "points": square(5, 5, 20), "shape_type": "polygon", "group_id": 1},
        {"label": "cat", "points": [[30, 5], [50, 9]], "shape_type": "rectangle", "group_id": None},
        {"label": "dog", "points": [[50, 40], [60, 40]], "shape_type": "circle"},
        {
            "label": "dog",
            "points": [[10, 20], [59, 59]],
            "shape_type": "mask",
            "mask": png_base64(mask_with_hole()[20:60, 10:60]),
        },
    ],
    "imagePath": "a.jpg",
    "imageWidth": W,
    "imageHeight": H,
}
_KNOWN = {
    "image_id": 1,
    "iscrowd": 0,
    "ignore": 0,
    "attributes": {"occluded": False, "rotation": 5.0},
}
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": W, "height": H, "neg_category_ids": [2]}],
    "categories": [{"id": 1, "name": "cat", "supercategory": "x"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {**_KNOWN, "id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": []},
        {**_KNOWN, "id": 2, "category_id": 2, "segmentation": [flat(square(5, 5, 20))]},
        {
            **_KNOWN,
            "id": 3,
            "category_id": 2,
            "segmentation": {**uncompressed(mask_with_hole()), "size": [H, W]},
        },
    ],
}
VOC = [
    *("annotation", "filename", "size/width", "size/height", "object/name", "object/difficult"),
    *(f"object/bndbox/{tag}" for tag in ("xmin", "ymin", "xmax", "ymax")),
]
OPTIONS = ImportOptions(enclose_rotated=True, boxes_as_masks=True)


def places(value, path=()):
    """Yield the path of every value of a document."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(len(value), 5)):
            yield from places(value[key], (*path, key))


def replaced(document, path, value):
    if not path:
        return value
    changed = copy.deepcopy(document)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return changed


def wrong_json(document, path, value):
    return json.dumps(replaced(document, path, value))


def with_wrong_json(document):
    """Return a function per text. By default most of the texts are not needed."""
    return [partial(wrong_json, document, p, v) for p in places(document) for v in VALUES]


def with_wrong_fields():
    line = ["0", "0.5", "0.5", "0.1", "0.1"]
    polygon = ["1", "0.1", "0.1", "0.5", "0.1", "0.5", "0.5"]
    for fields in (line, polygon):
        for place in range(len(fields)):
            for value in VALUES:
                yield partial(" ".join, [*fields[:place], str(value), *fields[place + 1 :]])


def with_wrong_tags():
    given = dict(zip(VOC[1:], ("a.jpg", W, H, "cat", 0, 1, 2, 30, 40), strict=True))
    for wrong in VOC:
        for value in VALUES:
            v = given | {wrong: escape(str(value))}
            size = f"<size><width>{v[VOC[2]]}</width><height>{v[VOC[3]]}</height></size>"
            box = "".join(f"<{t[14:]}>{v[t]}</{t[14:]}>" for t in VOC[6:])
            yield partial(
                str,
                f"<annotation>{v.get('annotation', '')}<filename>{v[VOC[1]]}</filename>{size}"
                f"<object><name>{v[VOC[4]]}</name><difficult>{v[VOC[5]]}</difficult><bndbox>{box}</bndbox>"
                "</object></annotation>",
            )


FORMATS = {
    "labelme": (import_labelme, "a.json", with_wrong_json(LABELME)),
    "coco": (import_coco, "a.json", with_wrong_json(COCO)),
    "voc": (import_voc, "a.xml", list(with_wrong_tags())),
    "yolo": (import_yolo, "a.txt", list(with_wrong_fields())),
}


def refused_or_sound(name, text, folder):
    """Import one text; return whether it was refused."""
    importer, file_name, _ = FORMATS[name]
    (folder / file_name).write_bytes(text.encode(errors="surrogatepass"))
    try:
        dataset = importer(folder, options=OPTIONS)
        dataset.write(folder / "out/train.out")
    except (ValueError, OSError) as error:
        return "\n" not in str(error)
    check = check_dataset(folder / "out/train.out", dataset.image_root, progress=False)
    assert check.number_of_errors == 0, f"{text}: {check.text()}"
    return False


def some_texts(name):
    return [text() for text in random.Random(0).sample(FORMATS[name][2], 60)]


@pytest.fixture
def folder(tmp_path):
    add_images(tmp_path, "a.jpg")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_value_is_refused_or_gives_a_file_that_check_passes(name, folder):
    refused = [refused_or_sound(name, text, folder) for text in some_texts(name)]
    assert {True, False} == set(refused)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe{\x00", b"\x00" * 50, b"\x89PNG\r\n", b"[" * 100_000, b"<a>" * 100_000],
    ids=["empty", "utf-16", "zeros", "png", "deep json", "deep xml"],
)
def test_a_file_of_another_kind_is_one_error(name, content, folder):
    importer, file_name, _ = FORMATS[name]
    (folder / file_name).write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.|has no objects that can be imported") as error:
        importer(folder)
    assert len(str(error.value)) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_no_wrong_value_gives_a_file_that_check_refuses(name, folder):
    for text in FORMATS[name][2]:
        refused_or_sound(name, text(), folder)

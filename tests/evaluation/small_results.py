"""Four images of 96 x 80 with ten objects of three categories, and results that repeat them."""

import copy
import json

import numpy as np
from pycocotools import mask as mask_utils

WIDTH, HEIGHT = 96, 80
BOXES = {1: [5, 5, 20, 20], 2: [40, 10, 30, 24], 3: [10, 45, 40, 30]}
NAMES = {1: "cat", 2: "dog", 3: "emu"}


def polygon(box):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def encoded(box):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    x, y, w, h = box
    mask[y : y + h, x : x + w] = 1
    rle = mask_utils.encode(mask)
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def annotations(ids=None, names=None):
    """Return annotations in COCO's format.

    Args:
        ids: New id of each of the categories 1, 2 and 3.
        names: New name of each of them.
    """
    ids = ids or {i: i for i in BOXES}
    pairs = [(image, category) for image in range(1, 5) for category in BOXES][:10]
    return {
        "images": [
            {"id": i, "file_name": f"{i:06}.jpg", "width": WIDTH, "height": HEIGHT}
            for i in range(1, 5)
        ],
        "categories": [{"id": ids[i], "name": (names or NAMES)[i]} for i in BOXES],
        "annotations": [
            {"id": number, "image_id": image, "category_id": ids[category], "iscrowd": 0}
            | {"bbox": BOXES[category], "area": BOXES[category][2] * BOXES[category][3]}
            | {"segmentation": polygon(BOXES[category])}
            for number, (image, category) in enumerate(pairs, start=1)
        ],
    }


def results(score=0.9):
    """Return the objects of ``annotations`` as detections, with boxes and masks."""
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"]}
        | {"score": score, "segmentation": encoded(a["bbox"])}
        for a in annotations()["annotations"]
    ]


def changed(number=3, **fields):
    """Return the results with other fields in one of them."""
    found = copy.deepcopy(results())
    found[number].update(fields)
    return found


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path

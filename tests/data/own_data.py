"""Small long-tailed COCO dataset with unusual ids, for tests that read or break it."""

import copy
import json

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from d2_seesaw.data.annotations.coco import parse_text

H, W = 24, 32
IDS = (7, 40, 1000)
NAMES = ("kerb", "drain", "hydrant")


def square(x, y, side):
    return [float(v) for v in (x, y, x + side, y, x + side, y + side, x, y + side)]


def mask_of(x, y, side):
    mask = np.zeros((H, W), np.uint8)
    mask[y : y + side, x : x + side] = 1
    return mask


def uncompressed(mask):
    counts, value = [0], 0
    for pixel in mask.flatten(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": [H, W], "counts": counts}


def compressed(mask):
    rle = mask_utils.encode(np.asfortranarray(mask))
    return {"size": [H, W], "counts": rle["counts"].decode()}


def annotation(annotation_id, image_id, category_id, x=4, y=4, side=8, segmentation=None):
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, side, side],
        "area": side * side,
        "iscrowd": 0,
        "segmentation": segmentation or [square(x, y, side)],
    }


def content():
    """Return four images: category 7 is in three of them, 40 in two, 1000 in one."""
    images = [
        {"id": i, "file_name": f"part/{i}.png", "height": H, "width": W} for i in (12, 3, 5, 90)
    ]
    annotations = [
        annotation(1, 3, 7),
        annotation(2, 3, 7, x=16),
        annotation(3, 5, 7, segmentation=compressed(mask_of(4, 4, 8))),
        annotation(4, 12, 7, segmentation=uncompressed(mask_of(4, 4, 8))),
        annotation(5, 5, 40, x=10, y=2, side=12),
        annotation(6, 12, 40, x=0, y=0, side=5),
        annotation(7, 90, 1000, x=20, y=12, side=10),
    ]
    categories = [{"id": i, "name": n} for i, n in zip(IDS[::-1], NAMES[::-1], strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def parsed(data=None, **options):
    """Parse the data as a file; see ``ParsedFile``."""
    return parse_text(
        json.dumps(content() if data is None else data).encode(), "train.json", **options
    )


def table(data=None):
    return parsed(data).table


def write(folder, data=None, name="train.json"):
    """Write the annotation file, and an image for each entry that has no file yet."""
    data = content() if data is None else copy.deepcopy(data)
    rng = np.random.default_rng(0)
    for image in data["images"]:
        path = folder / "images" / image["file_name"]
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (H, W, 3), np.uint8)).save(path)
    (folder / name).write_text(json.dumps(data))
    return folder / name

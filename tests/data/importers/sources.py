"""Small exports of annotation tools, and the claims that hold for everything imported from them."""

import base64
import io
import json

import numpy as np
import shapely
from PIL import Image
from pycocotools import mask as mask_utils

from d2_seesaw.data import check_dataset, load_longtail_json
from d2_seesaw.data.importers import ImportedDataset

H, W = 80, 100


def add_images(folder, *names, size=(W, H), **options):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 120, 60)).save(path, **options)


def square(x, y, side):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def flat(points):
    return [float(number) for point in points for number in point]


def mask_with_hole():
    """Return 40 x 50 pixels without 10 x 10 of them, 1,900 pixels from (10, 20)."""
    mask = np.zeros((H, W), np.uint8)
    mask[20:60, 10:60] = 1
    mask[30:40, 20:30] = 0
    return mask


def png_base64(mask):
    with io.BytesIO() as file:
        Image.fromarray(mask.astype(np.uint8) * 255).convert("1").save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def polygon_area(points):
    return shapely.Polygon(points).area


def decoded(annotation):
    """Return the mask ``(H, W)`` of an annotation with a run-length encoding."""
    return mask_utils.decode(annotation["segmentation"])


def objects(dataset: ImportedDataset):
    """Return category name, box and area of each annotation, by file name."""
    names = {c["id"]: c["name"] for c in dataset.content["categories"]}
    found = {image["file_name"]: [] for image in dataset.content["images"]}
    files = {image["id"]: image["file_name"] for image in dataset.content["images"]}
    for a in dataset.content["annotations"]:
        entry = (names[a["category_id"]], [round(v, 6) for v in a["bbox"]], a["area"])
        found[files[a["image_id"]]].append(entry)
    return found


def names(dataset: ImportedDataset):
    return [(category["id"], category["name"]) for category in dataset.content["categories"]]


def written(dataset: ImportedDataset, folder):
    """Write the dataset; check that checking passes it and loading reads all of it."""
    json_file = folder / "imported.json"
    dataset.write(json_file)
    check = check_dataset(json_file, dataset.image_root, progress=False)
    assert check.number_of_errors == 0, check.text()
    records = load_longtail_json(json_file, dataset.image_root)
    assert sum(len(r["annotations"]) for r in records) == len(dataset.content["annotations"])
    return dataset

"""Generator of an annotation file with the size of LVIS v1, to time dataset loading.

    python benchmarks/longtail_json.py lvis_size.json
    python benchmarks/longtail_json.py small.json --annotations 20000

Real LVIS v1 has 1,270,141 training annotations in 100,170 images and 1,203 categories, in a
1.1 GB file. The generated file has the same numbers, a long tail of categories and polygons of 8 to
128 points with two decimals, drawn from a pool of 4,096. No images are generated.
"""

import argparse
import json
from pathlib import Path

import numpy as np

ANNOTATIONS, IMAGES, CATEGORIES = 1_270_141, 100_170, 1_203
_POLYGONS = 4096


def _polygons(rng: np.random.Generator) -> list[str]:
    """Return ``segmentation``, ``area`` and ``bbox`` of ellipses as JSON text."""
    texts = []
    for points in np.exp(rng.uniform(np.log(8), np.log(128), _POLYGONS)).astype(int):
        angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
        radii = np.exp(rng.uniform(np.log(4), np.log(110), 2))
        wobble = rng.uniform(0.8, 1.2, (points, 1))
        center = rng.uniform([115, 115], [525, 365])
        outline = np.column_stack([np.cos(angles), np.sin(angles)]) * radii * wobble + center
        outline = np.round(np.clip(outline, 0, [640, 480]), 2)
        low, high = outline.min(axis=0), outline.max(axis=0)
        x, y = outline.T
        area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        fields = {
            "segmentation": [outline.reshape(-1).tolist()],
            "area": round(float(area), 2),
            "bbox": np.round([*low, *(high - low)], 2).tolist(),
        }
        texts.append(json.dumps(fields)[1:-1])
    return texts


def write_longtail_json(path: Path, annotations: int, *, seed: int = 0) -> None:
    """Write annotations in LVIS format, with a proportional number of images and all categories."""
    rng = np.random.default_rng(seed)
    images = max(1, round(annotations * IMAGES / ANNOTATIONS))
    share = 1 / np.arange(1, CATEGORIES + 1) ** 1.3
    category = rng.choice(CATEGORIES, annotations, p=share / share.sum()) + 1
    image = rng.integers(1, images + 1, annotations)
    polygon = rng.integers(_POLYGONS, size=annotations)
    texts = _polygons(rng)
    category_records = [{"id": i + 1, "name": f"category {i + 1}"} for i in range(CATEGORIES)]
    image_records = [
        {
            "id": i + 1,
            "width": 640,
            "height": 480,
            "coco_url": f"http://images.invalid/train2017/{i + 1:012d}.jpg",
            "neg_category_ids": [1 + i % CATEGORIES],
            "not_exhaustive_category_ids": [],
        }
        for i in range(images)
    ]
    with open(path, "w") as file:
        file.write(f'{{"categories": {json.dumps(category_records)},\n')
        file.write(f'"images": {json.dumps(image_records)},\n"annotations": [')
        for i in range(annotations):
            file.write(
                f'{"," if i else ""}\n{{"id": {i + 1}, "image_id": {image[i]}, '
                f'"category_id": {category[i]}, {texts[polygon[i]]}}}'
            )
        file.write("]}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--annotations", type=int, default=ANNOTATIONS)
    arguments = parser.parse_args()
    write_longtail_json(arguments.path, arguments.annotations)
    print(f"{arguments.path}: {arguments.path.stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()

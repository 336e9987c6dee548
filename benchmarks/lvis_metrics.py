"""Time and memory of LVIS metrics: our engine and lvis-api, on generated data in LVIS v1's shape.

    python benchmarks/lvis_metrics.py
    python benchmarks/lvis_metrics.py --images 19809 --reference-images 2000

1,203 categories of falling frequency; positive, negative and non-exhaustive sets of each image;
and 300 detections an image. Every engine runs in a process of its own and gets the same
detections, ours as arrays and the other as dicts. Printed are its seconds, and the peak of memory
above what the process held before, with the annotations and detections loaded. The ratio is of the
time per image where the two ran on different numbers of images: lvis-api is proportional to it.
"""

import argparse
import multiprocessing
import resource
import time
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from d2_seesaw.evaluation.detection_columns import DetectionColumns, MaskColumns
from d2_seesaw.evaluation.lvis_api import lvis_from_dict
from d2_seesaw.evaluation.lvis_scoring import ENGINES, LVISScoring

K, HEIGHT, WIDTH = 1203, 480, 640


def generate(images: int, detections: int, masks: bool) -> tuple[dict[str, Any], DetectionColumns]:
    """An annotation file and detections, half of them near an object."""
    rng = np.random.default_rng(0)
    weight = 1 / np.arange(1, K + 1) ** 1.1
    categories = [{"id": k, "frequency": "fcr"[(k > 405) + (k > 866)]} for k in range(1, K + 1)]
    data: dict[str, Any] = {"images": [], "categories": categories, "annotations": []}
    parts = []
    for image_id in range(1, images + 1):
        order = 1 + rng.choice(K, 24, replace=False, p=weight / weight.sum())
        data["images"].append(
            {"id": image_id, "height": HEIGHT, "width": WIDTH}
            | {"neg_category_ids": order[8:].tolist()}
            | {"not_exhaustive_category_ids": order[6:9].tolist()}
        )
        objects = rng.choice(order[:8], 12)
        boxes = random_boxes(rng, len(objects))
        for category, box in zip(objects.tolist(), boxes.tolist(), strict=True):
            x, y, w, h = box
            data["annotations"].append(
                {"id": len(data["annotations"]) + 1, "image_id": image_id, "bbox": box}
                | {"category_id": category, "area": w * h}
                | {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
            )
        parts.append(detect(rng, image_id, order, objects, boxes, detections, masks))
    return data, DetectionColumns.concatenate(parts)


def random_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    """Left, top, width, height of whole pixels, from small to large."""
    size = np.exp(rng.uniform(np.log(8), np.log(300), (number, 2))).round()
    return np.column_stack([(rng.random((number, 2)) * ((WIDTH, HEIGHT) - size)).round(), size])


def detect(
    rng: np.random.Generator,
    image_id: int,
    order: np.ndarray,
    objects: np.ndarray,
    boxes: np.ndarray,
    number: int,
    masks: bool,
) -> DetectionColumns:
    """Detections of an image: near its objects, of its known categories, and of any category."""
    near = rng.integers(0, len(objects), number // 5)
    moved = boxes[near]
    moved[:, :2] = (moved[:, :2] + rng.normal(0, 0.1, (len(near), 2)) * moved[:, 2:]).clip(0)
    rest = number - len(near)
    others = np.where(rng.random(rest) < 0.1, rng.choice(order, rest), rng.integers(1, K + 1, rest))
    found = np.concatenate([moved, random_boxes(rng, rest)])
    rles = None
    if masks:
        x, y, w, h = found.T
        corners = np.column_stack([x, y, x + w, y, x + w, y + h, x, y + h]).tolist()
        rles = MaskColumns.from_rles(mask_utils.frPyObjects(corners, HEIGHT, WIDTH))
    return DetectionColumns(
        np.full(number, image_id),
        np.concatenate([objects[near], others]),
        rng.random(number).astype(np.float32),
        boxes=found.astype(np.float32),
        masks=rles,
    )


def measure(engine: str, task: str, images: int, detections: int) -> tuple[float, float, float]:
    """Seconds, added GB at the peak, and AP; in this process, which should be a new one."""
    data, columns = generate(images, detections, task == "segm")
    ground_truth = lvis_from_dict(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    scores = LVISScoring(engine).scores(ground_truth, columns, task)
    seconds = time.perf_counter() - start
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return seconds, added / 2**20, scores.metrics["AP"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000, help="19,809 is all of LVIS v1 val")
    parser.add_argument("--reference-images", type=int, help="0: do not run lvis-api")
    parser.add_argument("--detections", type=int, default=300, help="of each image")
    parser.add_argument("--tasks", nargs="+", choices=("bbox", "segm"), default=("bbox", "segm"))
    args = parser.parse_args()
    # lvis-api needs more than 17 GB for all of LVIS, so it is not run there unless asked for.
    reference = min(args.images, 2000) if args.reference_images is None else args.reference_images
    numbers = dict(zip(ENGINES, (args.images, reference), strict=True))
    print("| task | engine | images | seconds | added GB | AP |\n|---|---|---|---|---|---|")
    for task in args.tasks:
        per_image = {}
        for engine, images in numbers.items():
            if not images:
                continue
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, added, ap = pool.apply(measure, (engine, task, images, args.detections))
            per_image[engine] = seconds / images, added / images
            row = f"{images} | {seconds:.2f} | {added:.2f} | {ap:.6f} |"
            print(f"| {task} | {engine} | {row}", flush=True)
        if len(per_image) == len(ENGINES):
            faster, smaller = np.divide(per_image["lvis"], per_image["sparse"])
            print(f"| {task} | lvis / sparse, per image | | {faster:.0f} | {smaller:.1f} | |")


if __name__ == "__main__":
    main()

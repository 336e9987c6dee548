"""Time and memory of LVIS metrics: this project's engine and lvis-api, on generated data.

    python benchmarks/lvis_metrics.py
    python benchmarks/lvis_metrics.py --images 19809 --reference-parts 6

The data have LVIS v1's statistics: 1,203 categories of decreasing frequency; positive, negative and
non-exhaustive sets of each image; and 300 detections per image. Each engine runs in its own process
and gets the same detections, this project's as arrays and lvis-api as dicts. The output is the time
in seconds and the growth of peak memory after annotations and detections were loaded.

lvis-api needs about 20 GB for all of LVIS. ``--reference-parts`` runs it on one part of the
categories after the other. Scores and total time stay the same; the memory is that of one part.
"""

import argparse
import ctypes
import functools
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from lvis import LVIS, LVISEval, LVISResults
from pycocotools import mask as mask_utils

from d2_seesaw.data.rle import MaskColumns
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import LVISScores, scores_of_curves
from d2_seesaw.evaluation.lvis.official import lvis_from_dict, working_lvis
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.scoring import LVISScoring

K, HEIGHT, WIDTH = 1203, 480, 640


def generate(images: int, detections: int, masks: bool) -> tuple[dict[str, Any], Detections]:
    """Generate an annotation file and detections, half of them near an object."""
    rng = np.random.default_rng(0)
    weight = 1 / np.arange(1, K + 1) ** 1.1
    categories = [{"id": k, "frequency": "fcr"[(k > 405) + (k > 866)]} for k in range(1, K + 1)]
    data: dict[str, Any] = {"images": [], "categories": categories, "annotations": []}
    parts = []
    for image_id in range(1, images + 1):
        order = 1 + rng.choice(K, 24, replace=False, p=weight / weight.sum())
        data["images"].append(
            {
                "id": image_id,
                "file_name": f"{image_id:012d}.jpg",
                "height": HEIGHT,
                "width": WIDTH,
            }
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
    return data, Detections.concatenate(parts)


def random_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    """Draw boxes (left, top, width, height) in whole pixels, from small to large."""
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
) -> Detections:
    """Draw detections of an image: near objects, of its known categories and of any category."""
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
    return Detections(
        np.full(number, image_id),
        np.concatenate([objects[near], others]),
        rng.random(number).astype(np.float32),
        boxes=found.astype(np.float32),
        masks=rles,
    )


class Cost(NamedTuple):
    """Cost and result of a run: seconds, growth of peak memory in GB, and AP by category id."""

    seconds: float
    gigabytes: float
    category_ap: dict[int, float]


def measured(score: Callable[[], LVISScores]) -> Cost:
    """Run ``score`` and measure it; call this once per process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    scores = score()
    seconds = time.perf_counter() - start
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    ap = dict(zip(scores.category_ids, scores.category_ap.tolist(), strict=True))
    return Cost(seconds, added / 2**20, ap)


def sparse_cost(data: dict[str, Any], detections: Detections, task: str) -> Cost:
    """Measure this project's engine."""
    ground_truth = GroundTruthColumns.from_dataset(data)
    return measured(lambda: LVISScoring().score_task(ground_truth, detections, task))


def reference_cost(
    data: dict[str, Any], detections: Detections, task: str, part: int, parts: int
) -> Cost:
    """Measure lvis-api on every ``parts``-th category, starting at index ``part``."""
    ids = {c["id"] for c in data["categories"][part::parts]}
    chosen = {
        "images": data["images"],
        "categories": [c for c in data["categories"] if c["id"] in ids],
        "annotations": [a for a in data["annotations"] if a["category_id"] in ids],
    }
    ground_truth = lvis_from_dict(chosen)
    mine = np.flatnonzero(np.isin(detections.category_ids, list(ids)))
    results = list(detections.take(mine).results(task))
    return measured(lambda: reference_scores(ground_truth, results, task))


def reference_scores(ground_truth: LVIS, results: list[dict[str, Any]], task: str) -> LVISScores:
    """Return lvis-api's scores. The only change is a NumPy that still has ``float``."""
    with working_lvis():
        evaluation = LVISEval(ground_truth, LVISResults(ground_truth, results), task)
        evaluation.run()
    curves = (evaluation.eval["precision"], evaluation.eval["recall"])
    return scores_of_curves(*curves, evaluation.params.cat_ids, {})


def in_new_process(function: Callable[[], Cost]) -> Cost:
    """Run a function in a fork, which shares the data and has its own peak memory."""
    # Otherwise the fork could reuse memory that was freed before, without it being counted.
    ctypes.CDLL(None).malloc_trim(0)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(function()))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        sys.exit(f"the process of the engine ended with {process.exitcode}")


def compare(data: dict[str, Any], detections: Detections, task: str, parts: int) -> None:
    """Print one row per engine and their ratio."""
    images = len(data["images"])
    ours = in_new_process(functools.partial(sparse_cost, data, detections, task))
    print_row(task, "sparse", images, ours)
    if not parts:
        return
    costs = []
    for part in range(parts):
        run = functools.partial(reference_cost, data, detections, task, part, parts)
        costs.append(in_new_process(run))
        print(f"part {part + 1} of {parts}: {costs[-1].seconds:.0f} s", file=sys.stderr, flush=True)
    reference = Cost(
        sum(c.seconds for c in costs),
        max(c.gigabytes for c in costs),
        {k: ap for c in costs for k, ap in c.category_ap.items()},
    )
    print_row(task, f"lvis-api in {parts} parts" if parts > 1 else "lvis-api", images, reference)
    ids = sorted(ours.category_ap)
    ap = np.array([[c.category_ap[k] for k in ids] for c in (ours, reference)])
    same = np.isnan(ap[0]) == np.isnan(ap[1])
    difference = np.nanmax(np.abs(ap[0] - ap[1])) if same.all() else np.inf
    ratios = (
        f"{reference.seconds / ours.seconds:.1f} | {reference.gigabytes / ours.gigabytes:.1f} | "
        f"largest difference {difference:.0e}"
    )
    print(f"| {task} | lvis-api / sparse | | {ratios} |", flush=True)


def print_row(task: str, engine: str, images: int, cost: Cost) -> None:
    """Print a row of the table, with the mean AP."""
    ap = np.nanmean(list(cost.category_ap.values()))
    row = f"{images:,} | {cost.seconds:.2f} | {cost.gigabytes:.2f} | {ap:.6f}"
    print(f"| {task} | {engine} | {row} |", flush=True)


def main() -> None:
    """Generate data, measure both engines and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=int, default=2000, help="19,809 is all of LVIS v1 val")
    add("--detections", type=int, default=300, help="per image")
    add("--tasks", nargs="+", choices=TASKS, default=TASKS)
    add("--reference-parts", type=int, default=1, help="0: do not run lvis-api")
    args = parser.parse_args()
    print("| task | engine | images | seconds | added GB | AP |\n|---|---|---|---|---|---|")
    for task in args.tasks:
        data, detections = generate(args.images, args.detections, masks=task == "segm")
        compare(data, detections, task, args.reference_parts)


if __name__ == "__main__":
    main()

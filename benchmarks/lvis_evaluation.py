"""Time, memory and file sizes of a complete LongTailLVISEvaluator run, on generated data.

    python benchmarks/lvis_evaluation.py
    python benchmarks/lvis_evaluation.py --images 19809

The annotations come from ``lvis_metrics.py``: 1,203 categories with LVIS v1's statistics. Every
image has 300 detections with boxes and 28 x 28 masks, as a model returns them. A new process passes
them to ``process``, image by image, and calls ``evaluate`` once, with both tasks and all files. The
reported memory is the peak of the whole process so far, including Python, torch and annotations.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances, ROIMasks
from lvis_metrics import HEIGHT, WIDTH, detect, generate
from mask_rle import draw

from d2_seesaw.evaluation import LongTailLVISEvaluator
from d2_seesaw.report import write_evaluation_report

NAME = "lvis_evaluation_benchmark"


def write_annotations(folder: Path, images: int) -> None:
    """Write the annotation file, and the objects as arrays from which detections are drawn."""
    data, _ = generate(images, 0, masks=False)
    (folder / "annotations.json").write_text(json.dumps(data))
    objects = data["annotations"]
    np.savez(
        folder / "objects.npz",
        boxes=np.array([o["bbox"] for o in objects]).reshape(images, -1, 4),
        categories=np.array([o["category_id"] for o in objects]).reshape(images, -1),
        absent=np.array([image["neg_category_ids"] for image in data["images"]]),
    )


def measure(folder: Path, images: int, detections: int) -> None:
    """Evaluate in this process, which must be a new one, and print time and memory."""
    start = time.perf_counter()
    MetadataCatalog.get(NAME).set(json_file=str(folder / "annotations.json"))
    evaluator = LongTailLVISEvaluator(
        NAME, distributed=False, output_dir=str(folder / "out"), report=write_evaluation_report
    )
    report("construct", time.perf_counter() - start)

    rng = np.random.default_rng(1)
    torch.manual_seed(1)
    objects = dict(np.load(folder / "objects.npz"))
    masks = draw(detections, (HEIGHT, WIDTH), (8, 300))[0][:, 0]
    seconds = 0.0
    for image in range(images):
        boxes, categories = objects["boxes"][image], objects["categories"][image]
        known = np.concatenate([np.unique(categories), objects["absent"][image]])
        found = detect(rng, image + 1, known, categories, boxes, detections, masks=False)
        instances = Instances((HEIGHT, WIDTH), scores=torch.from_numpy(found.scores))
        corners = torch.tensor(found.boxes)
        corners[:, 2:] += corners[:, :2]
        instances.pred_boxes = Boxes(corners)
        instances.pred_classes = torch.from_numpy(found.category_ids) - 1
        instances.pred_masks = ROIMasks(masks[torch.randperm(detections)])
        start = time.perf_counter()
        evaluator.process([{"image_id": image + 1}], [{"instances": instances}])
        seconds += time.perf_counter() - start
    report("process", seconds)

    start = time.perf_counter()
    results = evaluator.evaluate()
    report("evaluate", time.perf_counter() - start)
    for file in sorted((folder / "out").iterdir()):
        print(f"{file.name}: {file.stat().st_size / 1e6:,.1f} MB")
    print({task: round(scores["AP"], 6) for task, scores in results.items()}, flush=True)


def report(step: str, seconds: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{step}: {seconds:.1f} s, peak so far {peak:.2f} GB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000, help="19,809 is all of LVIS v1 val")
    parser.add_argument("--detections", type=int, default=300, help="per image")
    args = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for step, arguments in (
            (write_annotations, (Path(folder), args.images)),
            (measure, (Path(folder), args.images, args.detections)),
        ):
            with processes.Pool(1) as pool:
                pool.apply(step, arguments)


if __name__ == "__main__":
    main()

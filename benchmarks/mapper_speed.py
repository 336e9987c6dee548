"""Time of training mappers on records like those of LVIS, and images a second of a loader.

    python benchmarks/mapper_speed.py
    python benchmarks/mapper_speed.py --loader

Each candidate maps the same 640 x 480 JPEG files with 12 objects of one to three polygons, as many
as LVIS v1 has for an image, in one thread, with the augmentations of LVIS training: a short edge of
640 to 800 pixels and a flip. Candidates take turns image by image with the same random numbers. The
output is the median over images of the time, and of the ratio to Detectron2's mapper with Pillow.

``--loader`` also times epochs of ``build_train_loader`` with two processes.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode
from timing import add_device_options, quartiles, write_json

from d2_seesaw.data import (
    BitMaskDatasetMapper,
    InstanceDatasetMapper,
    OpenCVResizeShortestEdge,
    RandomSampling,
    build_train_loader,
)

HEIGHT, WIDTH = 480, 640
LENGTHS = (640, 672, 704, 736, 768, 800)
BASELINE = "Detectron2"


def make_records(folder: Path, number: int, objects: int = 12) -> list[dict[str, Any]]:
    """Write pictures with edges, gradients and noise, and return their records."""
    rng = np.random.default_rng(0)
    records = []
    for index in range(number):
        canvas = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (WIDTH, HEIGHT))
        annotations = [_draw_object(canvas, rng) for _ in range(objects)]
        noise = rng.normal(0, 6, canvas.shape)
        path = folder / f"{index:06d}.jpg"
        cv2.imwrite(str(path), np.clip(canvas + noise, 0, 255).astype(np.uint8))
        size = {"height": HEIGHT, "width": WIDTH}
        records.append(
            {"file_name": str(path), "image_id": index, **size, "annotations": annotations}
        )
    return records


def _draw_object(canvas: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Draw an object of one to three polygons; return its annotation."""
    radius = 10 ** rng.uniform(0.8, 2)
    center = rng.uniform(0, 1, 2) * (WIDTH, HEIGHT)
    polygons = []
    for part in range(rng.choice([1, 2, 3], p=[0.8, 0.15, 0.05])):
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(8, 60))))
        spokes = radius * rng.uniform(0.6, 1, angles.size)
        points = (
            center + part * radius + np.stack([np.cos(angles), np.sin(angles)], 1) * spokes[:, None]
        )
        points = points.clip(0, (WIDTH - 1, HEIGHT - 1))
        cv2.fillPoly(canvas, [points.round().astype(np.int32)], rng.integers(0, 256, 3).tolist())
        polygons.append(points.round(2).ravel().tolist())
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    low, high = points.min(0), points.max(0)
    return {
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": int(rng.integers(0, 1203)),
        "segmentation": polygons,
    }


def _options(resize: T.Augmentation) -> dict[str, Any]:
    return {
        "is_train": True,
        "augmentations": [resize, T.RandomFlip(horizontal=True)],
        "image_format": "BGR",
        "use_instance_mask": True,
    }


def mappers() -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    """Return the candidates by name."""
    pillow = _options(T.ResizeShortestEdge(LENGTHS, 1333, "choice"))
    opencv = _options(OpenCVResizeShortestEdge(LENGTHS, 1333))
    return {
        BASELINE: DatasetMapper(**pillow),
        "polygons, Pillow": InstanceDatasetMapper(**pillow),
        "polygons, OpenCV": InstanceDatasetMapper(**opencv),
        "masks as in mmdet, OpenCV": BitMaskDatasetMapper(**opencv),
    }


def time_mappers(records: list[dict[str, Any]], rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of each candidate and image."""
    candidates = mappers()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for record in records:  # a first look at every file and function
        for mapper in candidates.values():
            mapper(record)
    for seed in range(rounds):
        for record in records:
            for name, mapper in candidates.items():
                np.random.seed(seed)
                random.seed(seed)
                start = time.perf_counter()
                mapper(record)
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def images_per_second(records: list[dict[str, Any]], mapper: Any, images: int) -> float:
    """Return the images a second that a loader with two processes delivers."""
    loader = build_train_loader(
        dataset=records, sampling=RandomSampling(), mapper=mapper, total_batch_size=8, num_workers=2
    )
    batches = iter(loader)
    for _ in range(4):  # the processes have started, and their queues are full
        next(batches)
    start = time.perf_counter()
    for _ in range(images // 8):
        next(batches)
    return images // 8 * 8 / (time.perf_counter() - start)


def main() -> None:
    """Time the mappers and, on request, the loader."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loader", action="store_true", help="also time a loader")
    add_device_options(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        records = make_records(Path(folder), args.images)
        times = time_mappers(records, args.rounds)
        for name, values in times.items():
            pairs = zip(values, times[BASELINE], strict=True)
            ratio = quartiles(a / b for a, b in pairs)
            milliseconds = statistics.median(values)
            rows.append({"mapper": name, "milliseconds": milliseconds, "ratio": ratio})
            print(
                f"{name}: {milliseconds:.1f} ms, ratio {ratio['median']:.2f} "
                f"({ratio['low']:.2f} to {ratio['high']:.2f})"
            )
        if args.loader:
            for name, mapper in mappers().items():
                speed = images_per_second(records, mapper, 8 * args.images)
                rows.append({"loader": name, "images_per_second": speed})
                print(f"{name}: {speed:.1f} images a second with two processes")
    write_json(args.json, "mapper_speed", args.device, rows)


if __name__ == "__main__":
    main()

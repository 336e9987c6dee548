"""Annotations and runs of two methods with three seeds each, in files."""

import json

import numpy as np

from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.files import save_columns

IMAGES, SIZE = 60, 100
_GROUPS = "rrrr" + 11 * "f"


def annotations_and_runs(folder, *, names="ab", seeds=3):
    """Write annotations and runs; return the file and the folder of the runs.

    Rare categories are in 3 images each, frequent ones in about 12. The second method is better.
    """
    rng = np.random.default_rng(0)
    chance = np.where(np.array(list(_GROUPS)) == "r", 0, 0.2)
    present = rng.random((IMAGES, len(_GROUPS))) < chance
    for rare in range(4):
        present[3 * rare : 3 * rare + 3, rare] = True
    pairs = np.repeat(np.argwhere(present), 1 + rng.integers(0, 2, present.sum()), axis=0)
    boxes = np.column_stack(
        [rng.integers(0, 60, (len(pairs), 2)), rng.integers(8, 40, (len(pairs), 2))]
    )
    data = {
        "images": [
            {"id": i, "height": SIZE, "width": SIZE, "file_name": f"{i}.jpg"}
            | {"neg_category_ids": list(range(1, 6)), "not_exhaustive_category_ids": []}
            for i in range(IMAGES)
        ],
        "categories": [
            {"id": i, "name": f"class {i}", "frequency": g} for i, g in enumerate(_GROUPS, start=1)
        ],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c + 1, "bbox": box, "area": box[2] * box[3]}
            for n, ((i, c), box) in enumerate(zip(pairs.tolist(), boxes.tolist(), strict=True), 1)
        ],
    }
    path = folder / "val.json"
    path.write_text(json.dumps(data))
    for method, name in enumerate(names):
        for seed in range(1, seeds + 1):
            (folder / f"{name}_{seed}").mkdir()
            found = _detections(np.random.default_rng([method, seed]), pairs, boxes, method)
            save_columns(str(folder / f"{name}_{seed}" / "instances_predictions.npz"), found)
    return path, folder


def _detections(rng, pairs, boxes, method):
    moved = boxes + rng.normal(0, 3.0 - method, boxes.shape)
    number = 3 * len(pairs)
    wrong = np.column_stack([rng.integers(0, 60, (number, 2)), rng.integers(8, 40, (number, 2))])
    return Detections(
        image_ids=np.concatenate([pairs[:, 0], rng.integers(0, IMAGES, number)]),
        category_ids=1 + np.concatenate([pairs[:, 1], rng.integers(0, len(_GROUPS), number)]),
        scores=np.concatenate([rng.random(len(pairs)), rng.random(number) ** 2]).astype(np.float32),
        boxes=np.concatenate([moved.clip(min=[0, 0, 1, 1]), wrong]).astype(np.float32),
    )

"""File of score thresholds beside a checkpoint, such as ``model_final.thresholds.json``.

The file names the checkpoint by its hash, and the split on which the thresholds were chosen. It
holds the operating points of each category, from which any rule selects thresholds.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from d2_seesaw.evaluation.analysis.operating_points import BEST_F1, OperatingPoints
from d2_seesaw.evaluation.analysis.threshold_analysis import TaskThresholds
from d2_seesaw.utils.files import file_hash, write_text

_FORMAT, _VERSION = "d2_seesaw.thresholds", 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitThresholds:
    """Thresholds of an evaluation.

    Attributes:
        dataset: Name of the evaluated dataset, or of its annotation file.
        ground_truth: Fingerprint of the annotations.
        images: Number of images.
        tasks: Operating points by task, "bbox" and "segm".
        sha256: Hash of the checkpoint, of thresholds that were read; otherwise None.
    """

    dataset: str
    ground_truth: str
    images: int
    tasks: dict[str, TaskThresholds]
    sha256: str | None = field(default=None, compare=False)


def thresholds_path(checkpoint: str | PathLike[str], *, tta: bool = False) -> Path:
    """Return the path of the thresholds of a checkpoint.

    ``model.pth`` has ``model.thresholds.json``, and a checkpoint of another kind keeps its suffix:
    ``model.safetensors.thresholds.json``. So both may lie in one folder.

    Args:
        checkpoint: Path of the checkpoint.
        tta: Whether they are for test-time augmentation, whose scores differ.
    """
    checkpoint = Path(checkpoint)
    name = checkpoint.stem if checkpoint.suffix == ".pth" else checkpoint.name
    return checkpoint.with_name(f"{name}{'_tta' * tta}.thresholds.json")


def write_thresholds(
    checkpoint: str | PathLike[str],
    thresholds: SplitThresholds,
    *,
    tta: bool = False,
    sha256: str | None = None,
) -> Path:
    """Write the thresholds of a checkpoint beside it and return their path.

    The same checkpoint and evaluation give the same file.

    Args:
        checkpoint: Path of the checkpoint.
        thresholds: Its thresholds.
        tta: Whether they are for test-time augmentation.
        sha256: Hash of the checkpoint, if it is known already.

    Raises:
        OSError: the checkpoint cannot be read, or the file cannot be written.
    """
    path = thresholds_path(checkpoint, tta=tta)
    data = {
        "format": _FORMAT,
        "version": _VERSION,
        "checkpoint": {"file": Path(checkpoint).name, "sha256": sha256 or file_hash(checkpoint)},
        "tta": tta,
        "split": {
            "dataset": thresholds.dataset,
            "ground_truth": thresholds.ground_truth,
            "images": thresholds.images,
        },
        "iou": 0.5,
        "tasks": {task: _task_data(found) for task, found in thresholds.tasks.items()},
    }
    text = json.dumps(data, allow_nan=False, separators=(",", ":")) + "\n"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
    return path


def write_thresholds_if_possible(
    checkpoint: str | PathLike[str],
    thresholds: SplitThresholds,
    *,
    tta: bool = False,
    sha256: str | None = None,
) -> None:
    """Write the thresholds of a checkpoint beside it, or log why this is not possible."""
    if "://" in str(checkpoint):
        logger.info("Score thresholds are not written beside %s, which is a URL", checkpoint)
        return
    try:
        path = write_thresholds(checkpoint, thresholds, tta=tta, sha256=sha256)
    except OSError as error:
        logger.warning("Score thresholds are not written: %s", error)
        return
    logger.info("Score thresholds, for d2-seesaw predict --threshold best-f1: %s", path)


def read_thresholds(checkpoint: str | PathLike[str], *, tta: bool = False) -> SplitThresholds:
    """Read the thresholds of a checkpoint.

    Raises:
        ValueError: there are none, they belong to another checkpoint, or the file is damaged. The
            message names the command that writes them.
    """
    path = thresholds_path(checkpoint, tta=tta)
    option = " --tta" * tta
    remedy = (
        f"An evaluation writes them: d2-seesaw train --config-file CONFIG --eval-only{option} "
        f"train.init_checkpoint={checkpoint}, or from its saved detections: d2-seesaw evaluate "
        f"RESULTS --annotations FILE --thresholds-of {checkpoint}{option}"
    )
    if not path.is_file():
        raise ValueError(f"there are no score thresholds of {checkpoint}, {path}. {remedy}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        is_ours = data["format"] == _FORMAT and data["version"] == _VERSION
        expected = data["checkpoint"]["sha256"]
        split = data["split"]
        found = SplitThresholds(
            dataset=str(split["dataset"]),
            ground_truth=str(split["ground_truth"]),
            images=int(split["images"]),
            tasks={str(task): _task_of(d) for task, d in data["tasks"].items()},
            sha256=expected,
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a file of score thresholds: {error!r}") from error
    if not is_ours or not found.tasks:
        raise ValueError(f"{path} is not a file of score thresholds of version {_VERSION}")
    if file_hash(checkpoint) != expected:
        raise ValueError(
            f"{path} belongs to another checkpoint than {checkpoint}: its hash differs. {remedy}"
        )
    return found


def drop_stale_thresholds(checkpoint: str | PathLike[str]) -> None:
    """Remove thresholds of another checkpoint, and log the command that writes the right ones."""
    try:
        read_thresholds(checkpoint)
    except ValueError as error:
        path = thresholds_path(checkpoint)
        if path.is_file():
            path.unlink()
            logger.warning("Removed score thresholds that cannot be used: %s", error)
        else:
            logger.info("Score thresholds are not written: %s", error)


def _task_data(found: TaskThresholds) -> dict[str, Any]:
    best = found.select(BEST_F1)
    categories = [
        {
            "id": category_id,
            "name": name,
            "frequency": frequency,
            "threshold": value if math.isfinite(value) else None,
            "chosen_on": origin,
            **_points_data(points),
        }
        for category_id, name, frequency, value, origin, points in zip(
            found.category_ids,
            found.names,
            found.frequencies,
            best.values.tolist(),
            best.origins,
            found.points,
            strict=True,
        )
    ]
    return {
        "rule": str(BEST_F1),
        "F1_cross_fitted": None if math.isnan(found.f1) else found.f1,
        "fewest_objects": found.fewest_objects,
        "categories": categories,
        "pools": {name: _points_data(points) for name, points in found.pools.items()},
    }


def _points_data(points: OperatingPoints) -> dict[str, Any]:
    rows = zip(
        points.thresholds.tolist(), points.right.tolist(), points.detections.tolist(), strict=True
    )
    return {"objects": points.objects, "points": [list(row) for row in rows]}


def _task_of(data: Mapping[str, Any]) -> TaskThresholds:
    categories, f1 = data["categories"], data["F1_cross_fitted"]
    pools = {str(name): _points_of(pool) for name, pool in data["pools"].items()}
    if "all" not in pools:
        raise ValueError("it lacks the pool of all categories")
    return TaskThresholds(
        category_ids=[c["id"] for c in categories],
        names=[str(c["name"]) for c in categories],
        frequencies=[str(c["frequency"]) for c in categories],
        points=[_points_of(c) for c in categories],
        pools=pools,
        fewest_objects=int(data["fewest_objects"]),
        f1=math.nan if f1 is None else float(f1),
    )


def _points_of(data: Mapping[str, Any]) -> OperatingPoints:
    rows = np.array(data["points"], dtype=np.float64).reshape(-1, 3)
    if not np.isfinite(rows).all():
        raise ValueError("a threshold is not a finite number")
    counts = rows[:, 1:].astype(np.int64)
    objects = int(data["objects"])
    if not ((counts > 0).all() and (counts[:, 0] <= counts[:, 1]).all() and objects >= 0):
        raise ValueError("the counts of an operating point are impossible")
    return OperatingPoints(rows[:, 0], counts[:, 0], counts[:, 1], objects)

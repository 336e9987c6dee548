"""Tables of results: AP of every category beside what the data say about it, and scores as text.

``n/a`` stands for what has no ground truth.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from tabulate import tabulate

from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.evaluation.lvis.metrics import LVISScores
from d2_seesaw.evaluation.lvis.rules import METRICS
from d2_seesaw.utils.files import write_text

# Of semantic segmentation, as far as an evaluator has them.
SEGMENTATION_METRICS = (
    *("mIoU", "fwIoU", "mACC", "pACC"),
    *(f"mIoU{group}" for group in GROUPS),
    *(f"mACC{group}" for group in GROUPS),
    "mBoundaryIoU",
)

logger = logging.getLogger(__name__)


def format_score(value: float) -> str:
    """Three decimals as Detectron2's tables, or ``n/a``."""
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def text_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Detectron2's layout. Texts are printed as they are given."""
    return tabulate(list(rows), headers, tablefmt="pipe", stralign="center", disable_numparse=True)


def group_counts_text(result: Mapping[str, float]) -> str:
    """How many categories of each frequency group had ground truth: ``r: 3/4, c: 7/7, f: 9/9``.

    Empty if ``result``, the metrics of one task, does not say.
    """
    counts = [
        f"{g}: {result[f'evaluated-{g}']:.0f}/{result[f'categories-{g}']:.0f}"
        for g in GROUPS
        if f"evaluated-{g}" in result
    ]
    return ", ".join(counts)


def print_longtail_results(results: Mapping[str, Mapping[str, float]]) -> None:
    """Log one row of metrics per task, and how many categories each frequency group had to score.

    Args:
        results: Metrics by task, as ``LongTailLVISEvaluator``, ``LongTailSemSegEvaluator`` or an
            evaluator of Detectron2 returns them. Tasks with neither an AP nor a mIoU, such as box
            proposals, have no row.
    """
    detection = {task: result for task, result in results.items() if "AP" in result}
    segmentation = {task: result for task, result in results.items() if "mIoU" in result}
    if not detection and not segmentation:
        logger.info("No results of detection or segmentation to show.")
        return
    known = [m for m in SEGMENTATION_METRICS if any(m in r for r in segmentation.values())]
    tables = [
        _task_table(tasks, metrics)
        for tasks, metrics in ((detection, METRICS), (segmentation, known))
        if tasks
    ]
    tasks = detection | segmentation
    counts = {task: text for task, r in tasks.items() if (text := group_counts_text(r))}
    lines = [f"{task}: categories with ground truth: {text}" for task, text in counts.items()]
    logger.info("\n".join(["Long-tail results:", *tables, *lines]))


def _task_table(tasks: Mapping[str, Mapping[str, float]], metrics: Sequence[str]) -> str:
    rows = [
        [task, *(format_score(result.get(m, math.nan)) for m in metrics)]
        for task, result in tasks.items()
    ]
    return text_table(["task", *metrics], rows)


def drop_absent(results: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """``results`` without the metrics that are ``nan``.

    For Detectron2's ``EvalHook``, whose ``metrics.json`` would otherwise hold ``NaN``, which is not
    JSON, and whose TensorBoard would show a chart with no points.
    """
    return {
        task: {name: value for name, value in result.items() if not math.isnan(value)}
        for task, result in results.items()
    }


@dataclass(frozen=True)
class CategoryResult:
    """One row of the per-category files.

    Attributes:
        category_id: The id in the annotation file.
        name: Its name, or the id as text.
        frequency: "r", "c" or "f", or "n/a" if nobody knows.
        train_images: Training images that show it, if known.
        gt_images: Images of the evaluated split that show one of these.
        gt_instances: Objects of it in the evaluated split, without those to be ignored, as crowds.
        AP: In percent, ``nan`` without ground truth.
        AP50: The same at IoU 0.5.
        AR: Recall in percent, averaged over the IoU thresholds.
    """

    category_id: int
    name: str
    frequency: str
    train_images: int | None
    gt_images: int
    gt_instances: int
    AP: float
    AP50: float
    AR: float


def category_results(
    table: AnnotationTable, scores: LVISScores, train_images: Mapping[int, int]
) -> list[CategoryResult]:
    """One row per category, in order of the id.

    Args:
        table: The evaluated annotations. The ``image_count`` of an LVIS category is that of
            the training split, also in the files of other splits.
        scores: Their evaluation.
        train_images: Training images by category id, where the annotations have no ``image_count``.
    """
    pairs = np.column_stack([table.category, table.image])[~table.ignored]
    instances, images = (Counter(p[:, 0].tolist()) for p in (pairs, np.unique(pairs, axis=0)))
    index_of = {category["id"]: index for index, category in enumerate(table.categories)}
    rows = []
    columns = (scores.category_ap, scores.category_ap50, scores.category_ar)
    for category_id, ap, ap50, ar in zip(scores.category_ids, *columns, strict=True):
        index = index_of[category_id]
        category = table.categories[index]
        rows.append(
            CategoryResult(
                category_id=category_id,
                name=category["name"],
                frequency=category["frequency"],
                train_images=category.get("image_count", train_images.get(category_id)),
                gt_images=images[index],
                gt_instances=instances[index],
                AP=float(ap),
                AP50=float(ap50),
                AR=float(ar),
            )
        )
    return rows


def group_counts(rows: Sequence[Any], score: str = "AP") -> dict[str, float]:
    """Per frequency group, the categories that were scored and all there are.

    ``rows`` have a ``frequency``, and in ``score`` a number that is ``nan`` without ground truth.

    The dash in the names keeps them out of Detectron2's ``print_csv_format``, and floats are what
    its ``EvalHook`` takes.
    """
    total = Counter(row.frequency for row in rows)
    scored = Counter(row.frequency for row in rows if not math.isnan(getattr(row, score)))
    return {
        **{f"evaluated-{group}": float(scored[group]) for group in GROUPS},
        **{f"categories-{group}": float(total[group]) for group in GROUPS},
    }


def write_category_results(rows: Sequence[Any], folder: str, task: str) -> None:
    """Write ``per_category_<task>.csv`` and ``.json``; what is absent is empty, or null.

    ``rows`` are at least one, of one dataclass, whose fields are the columns.
    """
    records = [_without_nan(asdict(row)) for row in rows]
    table = io.StringIO()
    writer = csv.DictWriter(table, [f.name for f in fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    path = os.path.join(folder, f"per_category_{task}")
    write_text(f"{path}.csv", table.getvalue())
    write_text(f"{path}.json", json.dumps(records, indent=1))


def category_table(rows: Iterable[CategoryResult]) -> str:
    """The rows as text, the categories with most training images first."""
    by_training_images = sorted(rows, key=lambda row: -(row.train_images or 0))
    return text_table(
        ["category", "group", "train images", "objects", "AP", "AP50", "AR"],
        [
            [
                row.name,
                row.frequency,
                "n/a" if row.train_images is None else row.train_images,
                row.gt_instances,
                format_score(row.AP),
                format_score(row.AP50),
                format_score(row.AR),
            ]
            for row in by_training_images
        ],
    )


def _without_nan(record: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()}

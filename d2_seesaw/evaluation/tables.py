"""Tables of results: one row for each category, and metrics as text.

``n/a`` stands for a score without ground truth.
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
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, get_type_hints

import msgspec
import numpy as np
from tabulate import tabulate

from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.evaluation.lvis.metrics import LVISScores
from d2_seesaw.evaluation.lvis.rules import AP_METRICS, AR_METRICS
from d2_seesaw.utils.files import write_text
from d2_seesaw.utils.text import escape_formula

# Metrics of semantic segmentation; an evaluator may have only some of them.
SEGMENTATION_METRICS = (
    *("mIoU", "fwIoU", "mACC", "pACC"),
    *(f"mIoU{group}" for group in GROUPS),
    *(f"mACC{group}" for group in GROUPS),
    "mBoundaryIoU",
)

CLASSIFICATION_METRICS = (
    *("accuracy", "mean_class_accuracy"),
    *("accuracy_many", "accuracy_medium", "accuracy_few"),
)
"""Metrics of image classification."""

logger = logging.getLogger(__name__)


def format_score(value: float) -> str:
    """Return a score with three decimals, as in Detectron2's tables, or ``n/a`` for ``nan``."""
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def text_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Detectron2's layout. Text is printed as given."""
    return tabulate(list(rows), headers, tablefmt="pipe", stralign="center", disable_numparse=True)


def metric_tables(result: Mapping[str, float]) -> str:
    """Return a table of the AP metrics of one task, and one of its AR metrics."""
    return "\n".join(
        text_table(metrics, [[format_score(result[m]) for m in metrics]])
        for metrics in (AP_METRICS, AR_METRICS)
    )


def group_counts_text(result: Mapping[str, float], groups: Sequence[str] = GROUPS) -> str:
    """Return how many categories of each group had ground truth: ``r: 3/4, c: 7/7, f: 9/9``.

    The text is empty if ``result``, the metrics of one task, has no counts of these groups.
    """
    counts = [
        f"{g}: {result[f'evaluated-{g}']:.0f}/{result[f'categories-{g}']:.0f}"
        for g in groups
        if f"evaluated-{g}" in result
    ]
    return ", ".join(counts)


def print_longtail_results(results: Mapping[str, Mapping[str, float]]) -> None:
    """Log a row of each kind of metric per task, and the number of scored categories in each group.

    Args:
        results: Metrics by task, as returned by ``LongTailLVISEvaluator``,
            ``LongTailSemSegEvaluator``, ``LongTailClassificationEvaluator`` or an evaluator of
            Detectron2. Tasks without AP, mIoU and accuracy, such as box proposals, have no row.
    """
    detection = {task: result for task, result in results.items() if "AP" in result}
    segmentation = {task: result for task, result in results.items() if "mIoU" in result}
    images = {task: result for task, result in results.items() if "accuracy" in result}
    if not detection and not segmentation and not images:
        logger.info("No results of detection, segmentation or classification to show.")
        return
    known = [m for m in SEGMENTATION_METRICS if any(m in r for r in segmentation.values())]
    with_recall = {task: result for task, result in detection.items() if "AR" in result}
    tables = [
        _task_table(tasks, metrics)
        for tasks, metrics in (
            (detection, AP_METRICS),
            (with_recall, AR_METRICS),
            (segmentation, known),
            (images, CLASSIFICATION_METRICS),
        )
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
    """Return ``results`` without the metrics that are ``nan``.

    This is for Detectron2's ``EvalHook``: its ``metrics.json`` would hold ``NaN``, which is not
    JSON, and its TensorBoard would show empty charts.
    """
    return {
        task: {name: value for name, value in result.items() if not math.isnan(value)}
        for task, result in results.items()
    }


@dataclass(frozen=True)
class Column:
    """Presentation of one field of a result row in logs and on pages.

    Attributes:
        title: Heading of the column.
        kind: "text", "group", "count", "score" or "threshold".
        source: For scores of categories, the field of ``LVISScores`` that holds them.
        logged: Whether the table in the log has the column.
    """

    title: str
    kind: str
    source: str = ""
    logged: bool = True


@cache
def columns_of(row_type: type) -> dict[str, Column]:
    """Return the columns of a dataclass of result rows, by the name of the field."""
    hints = get_type_hints(row_type, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


@dataclass(frozen=True)
class CategoryResult:
    """One row of the per-category files. Logs and pages show its columns in this order.

    Attributes:
        category_id: The id in the annotation file.
        name: The name of the category, or the id as text.
        frequency: "r", "c" or "f", or "n/a" if unknown.
        train_images: Number of training images with the category, if known.
        gt_images: Number of images of the evaluated split with the category.
        gt_instances: Number of objects in the evaluated split, without ignored ones such as crowds.
        AP: In percent, ``nan`` without ground truth.
        AP50: AP at IoU 0.5.
        AR: Recall in percent, averaged over the IoU thresholds.
    """

    category_id: Annotated[int, Column("id", "text", logged=False)]
    name: Annotated[str, Column("category", "text")]
    frequency: Annotated[str, Column("group", "group")]
    train_images: Annotated[int | None, Column("training images", "count")]
    gt_images: Annotated[int, Column("evaluated images", "count", logged=False)]
    gt_instances: Annotated[int, Column("evaluated objects", "count")]
    AP: Annotated[float, Column("AP", "score", "category_ap")]
    AP50: Annotated[float, Column("AP50", "score", "category_ap50")]
    AR: Annotated[float, Column("AR", "score", "category_ar")]


CATEGORY_SCORES = {n: c.source for n, c in columns_of(CategoryResult).items() if c.kind == "score"}
"""The scores of a :class:`CategoryResult`, each with its field of ``LVISScores``."""


def category_results(
    table: AnnotationTable, scores: LVISScores, train_images: Mapping[int, int]
) -> list[CategoryResult]:
    """Return one row per category, in order of the id.

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
    for position, category_id in enumerate(scores.category_ids):
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
                **{
                    name: float(getattr(scores, source)[position])
                    for name, source in CATEGORY_SCORES.items()
                },
            )
        )
    return rows


def most_frequent_first(rows: Iterable[CategoryResult]) -> list[CategoryResult]:
    """Sort categories by their training images, in descending order."""
    return sorted(rows, key=lambda row: -(row.train_images or 0))


def group_counts(rows: Sequence[Any], score: str = "AP") -> dict[str, float]:
    """Count the scored categories and all categories of each frequency group.

    The dash in the names hides them from Detectron2's ``print_csv_format``. The counts are floats,
    because its ``EvalHook`` accepts nothing else.

    Args:
        rows: Results with a ``frequency``.
        score: Name of their score, which is ``nan`` without ground truth.
    """
    total = Counter(row.frequency for row in rows)
    scored = Counter(row.frequency for row in rows if not math.isnan(getattr(row, score)))
    return {
        **{f"evaluated-{group}": float(scored[group]) for group in GROUPS},
        **{f"categories-{group}": float(total[group]) for group in GROUPS},
    }


def write_category_results(
    rows: Sequence[Any], folder: str, task: str, *, name: str = "per_category"
) -> None:
    """Write ``<name>_<task>.csv`` and ``.json``. Missing values are empty, or null.

    In the CSV file, text that a spreadsheet would run as a formula gets an apostrophe in front, see
    :func:`~d2_seesaw.utils.text.escape_formula`.

    Args:
        rows: At least one instance of a dataclass whose fields are the columns.
        folder: An existing folder.
        task: Part of the file names.
        name: Start of the file names.
    """
    names = [field.name for field in fields(rows[0])]
    records = [_without_nan({name: getattr(row, name) for name in names}) for row in rows]
    cells = [list(records[0]), *(list(record.values()) for record in records)]
    path = os.path.join(folder, f"{name}_{task}")
    write_csv(f"{path}.csv", cells)
    write_text(f"{path}.json", msgspec.json.format(json.dumps(records), indent=1))


def write_metrics(metrics: Mapping[str, float], folder: str, task: str) -> None:
    """Write ``metrics_<task>.json``, an object with the value of each metric. ``nan`` is null.

    Args:
        metrics: Metrics by name, in percent, and counts.
        folder: An existing folder.
        task: Part of the file name.
    """
    text = json.dumps(_without_nan(dict(metrics)), indent=1)
    write_text(os.path.join(folder, f"metrics_{task}.json"), f"{text}\n")


def write_csv(path: str | os.PathLike[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as a CSV file. Text that a spreadsheet would run gets an apostrophe in front."""
    cells = [list(row) for row in rows]
    texts = [(row, i, v) for row in cells for i, v in enumerate(row) if isinstance(v, str)]
    for row, i, text in texts:
        row[i] = escape_formula(text)
    # csv quotes a carriage return, which would end the row in some programs, in this mode alone.
    returns = any("\r" in text for _, _, text in texts)
    quoting = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    table = io.StringIO()
    csv.writer(table, lineterminator="\n", quoting=quoting).writerows(cells)
    write_text(path, table.getvalue())


def row_table(rows: Sequence[Any]) -> str:
    """Return result rows as text, with the columns that are logged.

    Args:
        rows: At least one instance of a dataclass with :class:`Column` annotations.
    """
    columns = {name: c for name, c in columns_of(type(rows[0])).items() if c.logged}
    return text_table(
        [column.title for column in columns.values()],
        [[_cell_text(getattr(row, name), c) for name, c in columns.items()] for row in rows],
    )


def _cell_text(value: Any, column: Column) -> object:
    if column.kind == "score":
        return format_score(value)
    return "n/a" if value is None else value


def _without_nan(record: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()}

"""Results as text, with ``n/a`` for what has no ground truth."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, cast

from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from d2_seesaw.evaluation.lvis.annotations import FREQUENCIES
from d2_seesaw.evaluation.lvis.lvis_scores import METRICS

# Of semantic segmentation, as far as an evaluator has them.
SEGMENTATION_METRICS = (
    *("mIoU", "fwIoU", "mACC", "pACC"),
    *(f"mIoU{group}" for group in FREQUENCIES),
    *(f"mACC{group}" for group in FREQUENCIES),
    "mBoundaryIoU",
)

logger = logging.getLogger(__name__)


def format_score(value: float) -> str:
    """Three decimals as Detectron2's tables, or ``n/a``."""
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def text_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Detectron2's layout. Texts are printed as they are given."""
    return tabulate(list(rows), headers, tablefmt="pipe", stralign="center", disable_numparse=True)


def write_text(path: str, text: str) -> None:
    """Write ``text`` where Detectron2 can: also beyond the local file system."""
    with cast("IO[str]", PathManager.open(path, "w")) as file:
        file.write(text)


def group_counts_text(result: Mapping[str, float]) -> str:
    """How many categories of each frequency group had ground truth: ``r: 3/4, c: 7/7, f: 9/9``.

    Empty if ``result``, the metrics of one task, does not say.
    """
    counts = [
        f"{g}: {result[f'evaluated-{g}']:.0f}/{result[f'categories-{g}']:.0f}"
        for g in FREQUENCIES
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

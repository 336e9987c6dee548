"""Runs the official ``lvis`` package (https://github.com/lvis-dataset/lvis-api) on any NumPy.

``lvis`` 0.5.3, the newest release, reads ``np.float`` in ``lvis/eval.py``. NumPy 1.24 removed that
name, so the package fails in ``accumulate``, after all inference is done. Here it sees the old name
while it runs; NumPy itself is never changed, and a release without the fault works as well.
"""

from __future__ import annotations

import importlib
import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from d2_seesaw.data.annotations.table import AnnotationTable
from d2_seesaw.data.frequency import GROUPS, UNKNOWN_FREQUENCY
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import LVISScores, scores_of_curves
from d2_seesaw.evaluation.lvis.rules import TASKS
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.utils.progress import Progress

if TYPE_CHECKING:
    from lvis import LVIS, LVISEval

_INSTALL = "pip install lvis pycocotools"
_LVIS_LOCK = threading.RLock()  # the patched name is global: one thread evaluates at a time


class _NumpyWithFloat:
    """NumPy with the one name that ``lvis`` needs and NumPy has removed."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@contextmanager
def working_lvis() -> Iterator[None]:
    """Let ``lvis`` run on any NumPy, and quietly, inside the ``with`` block. May be nested."""
    lvis_eval: Any = importlib.import_module("lvis.eval")
    logger = logging.getLogger("lvis")
    with _LVIS_LOCK:
        level, numpy_seen = logger.level, getattr(lvis_eval, "np", None)
        logger.setLevel(logging.ERROR)  # it warns of "results in correct format" on every call
        if numpy_seen is not None:
            lvis_eval.np = _NumpyWithFloat()
        try:
            yield
        finally:
            logger.setLevel(level)
            if numpy_seen is not None:
                lvis_eval.np = numpy_seen


def lvis_from_table(table: AnnotationTable) -> LVIS:
    """Return an ``lvis.LVIS`` of annotations in LVIS format."""
    columns = {
        "id": table.annotation_id.tolist(),
        "image_id": [table.images[image]["id"] for image in table.image.tolist()],
        "category_id": [table.categories[c]["id"] for c in table.category.tolist()],
        "bbox": table.box.tolist(),
        "area": table.area.tolist(),
        "ignore": table.ignored.astype(int).tolist(),
        "segmentation": [table.segmentation(row) for row in range(len(table.image))],
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    sections = {"images": table.images, "categories": table.categories, "annotations": rows}
    return lvis_from_dict(sections)


def lvis_from_dict(dataset: dict[str, Any]) -> LVIS:
    """Return an ``lvis.LVIS`` of ``dataset``, without the file that its constructor asks for."""
    from lvis import LVIS

    class InMemoryLVIS(LVIS):
        def _load_json(self, path: Any) -> dict[str, Any]:
            return path

    return InMemoryLVIS(dataset)


def evaluate_detections(
    ground_truth: LVIS,
    detections: Detections,
    task: str,
    *,
    max_dets_per_image: int | None = 300,
    class_agnostic: bool = False,
) -> LVISScores:
    """Score ``detections`` with the ``lvis`` package.

    Args:
        ground_truth: the annotations, federated sets included.
        detections: with the category ids of ``ground_truth``. Without any, categories with ground
            truth score 0.
        task: "bbox" or "segm".
        max_dets_per_image: detections kept per image, over all categories, by the task's score;
            all if None.
        class_agnostic: whether a detection may match an object of any category.
    """
    from lvis import LVISEval, LVISResults

    no_limit = -1
    limit = no_limit if max_dets_per_image is None else max_dets_per_image
    with working_lvis():
        results = LVISResults(
            ground_truth, _lvis_input(ground_truth, detections, task), max_dets=limit
        )
        evaluation: Any = LVISEval(ground_truth, results, task)
        if class_agnostic:
            evaluation.params.use_cats = 0
            evaluation._get_gt_dt = partial(_all_of_image, evaluation)
        evaluation.params.img_count_lbl = [*GROUPS, UNKNOWN_FREQUENCY]
        _evaluate_showing_progress(evaluation)
        evaluation.accumulate()
        if not class_agnostic:  # with one category its summary of the groups is an IndexError
            evaluation.summarize()
    return _scores(evaluation)


def _evaluate_showing_progress(evaluation: Any) -> None:
    params = evaluation.params
    pairs = len(params.img_ids) * (len(params.cat_ids) if params.use_cats else 1)
    work = {"total": pairs * (1 + len(params.area_rng)), "unit": "pair"}
    with Progress(f"evaluating {params.iou_type}", **work) as progress:

        def counted(step: Callable[..., Any], *args: Any) -> Any:
            progress.update()
            return step(*args)

        evaluation.compute_iou = partial(counted, evaluation.compute_iou)
        evaluation.evaluate_img = partial(counted, evaluation.evaluate_img)
        evaluation.evaluate()


def _all_of_image(evaluation: LVISEval, image_id: int, _: int) -> tuple[list[Any], list[Any]]:
    """Return objects and detections of all categories, of which ``lvis`` 0.5.3 finds none."""
    objects, detections = (
        [a for i in evaluation.params.cat_ids for a in by_pair.get((image_id, i), ())]
        for by_pair in (evaluation._gts, evaluation._dts)
    )
    return objects, detections


def _lvis_input(ground_truth: LVIS, detections: Detections, task: str) -> list[dict[str, Any]]:
    """Return dicts that ``lvis`` may write into, never an empty list."""
    if len(detections):
        return list(detections.results(task))
    # lvis raises IndexError on an empty list. It drops a detection of an unknown category.
    image_id = next(iter(ground_truth.imgs))
    rle = {"size": [1, 1], "counts": "1"}
    empty: dict[str, Any] = {"segmentation": rle} if task == "segm" else {"bbox": [0, 0, 0, 0]}
    unknown_category = min(ground_truth.cats) - 1
    return [{"image_id": image_id, "category_id": unknown_category, "score": 0.0, **empty}]


def _scores(evaluation: LVISEval) -> LVISScores:
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    if not evaluation.params.use_cats:
        return scores_of_curves(precision, recall, [], {})
    groups = {g: np.array(evaluation.freq_groups[i], int) for i, g in enumerate(GROUPS)}
    scores = scores_of_curves(precision, recall, evaluation.params.cat_ids, groups)
    limit = f"@{evaluation.params.max_dets}"
    own = {name.removesuffix(limit): 100 * v for name, v in evaluation.get_results().items()}
    own = {name: float(value) if value >= 0 else math.nan for name, value in own.items()}
    return replace(scores, metrics=scores.metrics | own)


def probe_lvis() -> None:
    """Evaluate two made-up detections, to find a broken installation before inference.

    Raises:
        ImportError: ``lvis`` or ``pycocotools`` is missing.
        RuntimeError: they fail, or compute wrong numbers.
    """
    probe(lambda truth, *results: evaluate_detections(lvis_from_table(truth.table), *results))


def probe(evaluate: Callable[[GroundTruthColumns, Detections, str], LVISScores]) -> None:
    """Probe a function that evaluates detections in a task, see :func:`probe_lvis`."""
    try:
        import lvis  # noqa: F401
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        raise ImportError(f"LVIS evaluation needs lvis and pycocotools: {_INSTALL}") from error

    # A rare object is found, a frequent one is missed, and there is no common one.
    expected = {"AP": 50.0, "APr": 100.0, "APc": math.nan, "APf": 0.0}
    detections = Detections.from_results(
        [_made_up_object(1, [0, 0, 4, 4]), _made_up_object(3, [4, 4, 4, 4])]
    )
    for task in TASKS:
        try:
            truth = GroundTruthColumns.from_dataset(_made_up_dataset())
            scores = evaluate(truth, detections, task)
        except Exception as error:
            problem = f"fails with {type(error).__name__}: {error}"
            raise RuntimeError(_broken_installation(task, problem)) from error
        found = {metric: scores.metrics[metric] for metric in expected}
        if not np.allclose(list(found.values()), list(expected.values()), equal_nan=True):
            problem = f"computes {found} where {expected} is right"
            raise RuntimeError(_broken_installation(task, problem))


def _made_up_dataset() -> dict[str, Any]:
    image = {"id": 1, "height": 8, "width": 8}
    federated = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    objects = [_made_up_object(1, [0, 0, 4, 4]), _made_up_object(3, [0, 4, 4, 4])]
    return {
        "images": [{**image, **federated}],
        "categories": [{"id": i, "frequency": f} for i, f in enumerate("rcf", start=1)],
        "annotations": [{**o, "id": i} for i, o in enumerate(objects, start=1)],
    }


def _made_up_object(category_id: int, bbox: list[int]) -> dict[str, Any]:
    from pycocotools import mask as mask_utils

    x, y, w, h = bbox
    mask = np.zeros((8, 8), dtype=np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    rle: Any = mask_utils.encode(mask)
    return {
        "image_id": 1,
        "category_id": category_id,
        "bbox": bbox,
        "area": w * h,
        "segmentation": {"size": [8, 8], "counts": rle["counts"].decode()},
        "score": 0.9,
    }


def _broken_installation(task: str, problem: str) -> str:
    versions = ", ".join(f"{p} {version(p)}" for p in ("lvis", "pycocotools", "numpy"))
    return (
        f"The installed packages cannot evaluate LVIS: on two made-up detections, task {task!r} "
        f"{problem} ({versions}). Try: pip install --force-reinstall --no-deps lvis pycocotools"
    )

"""LVIS metrics of a Detectron2 model, with the long tail made visible."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

from detectron2.evaluation.lvis_evaluation import LVISEvaluator
from detectron2.structures import Instances

from d2_seesaw.evaluation.lvis_api import (
    METRICS,
    LVISScores,
    evaluate_detections,
    probe_lvis,
)
from d2_seesaw.evaluation.lvis_format import (
    annotation_file,
    category_of_class,
    check_lvis_format,
    replace_zero_annotation_id,
)
from d2_seesaw.evaluation.mask_rle import add_segmentations, without_roi_masks
from d2_seesaw.evaluation.mask_scores import MASK_SCORE, add_mask_scores, results_of_task
from d2_seesaw.evaluation.per_category import (
    CategoryResult,
    category_results,
    category_table,
    group_counts,
    write_category_results,
)
from d2_seesaw.evaluation.rank_agreement import failing_together
from d2_seesaw.evaluation.result_table import (
    format_score,
    group_counts_text,
    text_table,
    write_text,
)

TASKS = ("bbox", "segm")
_LONGEST_LOGGED_TABLE = 30


class LongTailLVISEvaluator(LVISEvaluator):
    """Detectron2's ``LVISEvaluator`` that runs on today's NumPy and says what it could not measure.

    It collects, gathers and saves predictions as its base class does. Beyond that:

    - A dataset or installation that cannot be evaluated is refused on construction, on all ranks.
    - A metric without ground truth is ``nan``, shown as ``n/a``, instead of -100.
    - No predictions at all score 0 instead of ``nan``.
    - Masks are ranked, and limited per image, by their own scores where the model has
      ``mask_scores``. ``lvis_instances_results.json``, in which "score" is the box's, then holds
      them as "mask_score", and ``lvis_instances_results_segm.json`` is for an evaluation of masks
      by others: there "score" is the mask's.
    - ``per_category_<task>.csv`` and ``.json`` in ``output_dir`` hold the AP of every category.

    ``evaluate`` returns ``{task: {metric: percent}}`` with Detectron2's nine metrics, and for each
    group g of r, c and f how many categories were ``evaluated-g`` of all ``categories-g``.

    Args:
        dataset_name: A registered dataset with a ``json_file`` in the LVIS format.
        tasks: Any of "bbox" and "segm"; by default those that the predictions allow.
        distributed: Whether to gather predictions from all ranks; then all ranks construct it.
        output_dir: Folder for everything it writes; nothing is written if None.
        max_dets_per_image: Detections that count per image; LVIS's own limit is 300.
    """

    takes_roi_masks = True
    """Models may leave masks on their boxes: Detectron2's ``ROIMasks`` as ``pred_masks``."""

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = 300,
    ) -> None:
        with failing_together(distributed):
            _check_options(tasks, max_dets_per_image)
            probe_lvis()
            json_file = annotation_file(dataset_name)
            try:
                super().__init__(
                    dataset_name,
                    tuple(tasks) if tasks else None,
                    distributed,
                    output_dir,
                    max_dets_per_image=max_dets_per_image,
                )
            except KeyError as error:
                raise ValueError(f"{json_file} is no LVIS file: it lacks {error}") from error
            except (AssertionError, ValueError) as error:
                raise ValueError(f"{json_file} is no LVIS file: {error}") from error
            self._max_dets = max_dets_per_image
            self._check_dataset(json_file)
            self._category_ids = self._category_id_of_class()
        self.reset()

    def _check_dataset(self, json_file: str) -> None:
        dataset = self._lvis_api.dataset
        check_lvis_format(dataset, json_file, with_masks="segm" in (self._tasks or TASKS))
        if replace_zero_annotation_id(dataset):
            self._lvis_api._create_index()
            self._logger.warning(
                f"{json_file} has an annotation with id 0, which lvis would count as never found. "
                "It is evaluated under another id."
            )

    def _category_id_of_class(self) -> dict[int, int]:
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        num_classes = len(self._metadata.get("thing_classes") or [])
        return category_of_class(self._lvis_api.get_cat_ids(), mapping, num_classes or None)

    def reset(self) -> None:
        """Forget all predictions."""
        super().reset()
        self._saw_masks = False

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Collect predictions; what could not be evaluated in the end is refused at once.

        Args:
            inputs: One dict per image, with its "image_id".
            outputs: One dict per image, with its "instances".
        """
        for image, output in zip(inputs, outputs, strict=True):
            if "instances" in output:
                self._check_prediction(image["image_id"], output["instances"])
        seen = len(self._predictions)
        super().process(inputs, without_roi_masks(outputs))
        add_segmentations(self._predictions[seen:], outputs)
        add_mask_scores(self._predictions[seen:], outputs)

    def _check_prediction(self, image_id: Any, instances: Instances) -> None:
        if image_id not in self._lvis_api.imgs:
            raise ValueError(
                f"Image id {image_id!r} is not in the annotations, whose ids start as "
                f"{list(self._lvis_api.imgs)[:3]}: do loader and evaluator name one dataset?"
            )
        has_masks = instances.has("pred_masks")
        self._saw_masks |= has_masks
        if len(instances) and not has_masks and "segm" in (self._tasks or ()):
            raise ValueError("Task 'segm' needs masks, the model has none: pass tasks=('bbox',)")
        unknown = set(instances.pred_classes.tolist()) - self._category_ids.keys()
        if unknown:
            raise ValueError(
                f"The model predicts class {max(unknown)}, but the dataset has "
                f"{len(self._category_ids)} classes: set the model's num_classes to that"
            )

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Metrics by task on the main process, ``{}`` on the others."""
        return super().evaluate() or {}

    def _eval_predictions(self, predictions: list[dict[str, Any]]) -> None:
        found = itertools.chain.from_iterable(p["instances"] for p in predictions)
        detections = [{**d, "category_id": self._category_ids[d["category_id"]]} for d in found]
        if self._output_dir:
            _save(detections, self._output_dir)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        # A model with masks that found nothing is not seen in the detections.
        inferred = TASKS if self._saw_masks else self._tasks_from_predictions(detections)
        for task in sorted(self._tasks or inferred):
            self._logger.info(f"Evaluating {len(detections)} detections, task {task} ...")
            scores = evaluate_detections(
                self._lvis_api, detections, task, max_dets_per_image=self._max_dets
            )
            rows = category_results(self._lvis_api, scores, self._train_images())
            self._results[task] = {**scores.metrics, **group_counts(rows)}
            self._report(task, scores, rows)

    def _train_images(self) -> dict[int, int]:
        """Training images by category id, in Detectron2's form of the metadata."""
        counts = self._metadata.get("class_image_count") or []
        return {count["id"]: count["image_count"] for count in counts}

    def _report(self, task: str, scores: LVISScores, rows: list[CategoryResult]) -> None:
        table = text_table(METRICS, [[format_score(scores.metrics[m]) for m in METRICS]])
        counts = group_counts_text(self._results[task])
        self._logger.info(f"Results for {task}:\n{table}\nCategories with ground truth: {counts}")
        if len(rows) <= _LONGEST_LOGGED_TABLE:
            self._logger.info(f"AP of each category for {task}:\n{category_table(rows)}")
        if self._output_dir:
            write_category_results(rows, self._output_dir, task)


def _save(detections: list[dict[str, Any]], folder: str) -> None:
    write_text(os.path.join(folder, "lvis_instances_results.json"), json.dumps(detections))
    if any(MASK_SCORE in d for d in detections):
        masks = json.dumps(results_of_task(detections, "segm"))
        write_text(os.path.join(folder, "lvis_instances_results_segm.json"), masks)


def _check_options(tasks: Sequence[str] | None, max_dets_per_image: int) -> None:
    unknown = [task for task in tasks or () if task not in TASKS]
    if unknown:
        raise ValueError(f"tasks must be among {TASKS}, got {unknown}")
    if max_dets_per_image < 1:
        raise ValueError(f"max_dets_per_image must be at least 1, got {max_dets_per_image}")

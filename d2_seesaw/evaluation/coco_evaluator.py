"""COCO metrics for models whose masks have their own scores."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm

from d2_seesaw.data.class_names import NameMapping, compare_names
from d2_seesaw.evaluation.earlier_files import remove_files
from d2_seesaw.evaluation.predictions.detections import Detections, in_classes_of
from d2_seesaw.evaluation.predictions.gather import DetectionLog, gather_detections
from d2_seesaw.evaluation.predictions.validation import check_numbers
from d2_seesaw.utils.files import write_text

_RESULTS, _MASK_RESULTS = "coco_instances_results.json", "coco_instances_results_segm.json"


class MaskScoringCOCOEvaluator(COCOEvaluator):
    """Detectron2's ``COCOEvaluator`` that ranks masks by ``mask_scores`` if a model has them.

    The base class has one score per detection and would rank masks by the score of their boxes.
    Everything else, and the results of other models, are as in the base class. Its arguments are
    those of the base class.

    With mask scores, ``coco_instances_results.json`` has the score of the box as "score" and also
    has "mask_score". ``coco_instances_results_segm.json`` is for evaluating masks with other tools:
    its "score" is the score of the mask. With ``tasks=("segm",)`` only the second file is written.

    Detections are kept and gathered as arrays. They become dicts on the main process, for scoring.
    """

    takes_roi_masks = True
    """Models may leave masks on their boxes: Detectron2's ``ROIMasks`` as ``pred_masks``."""

    _classes: NameMapping | None = None

    def set_class_names(self, names: Sequence[str], source: str = "the model") -> None:
        """Map the classes of the model to those of the dataset, by name.

        Predictions of classes that the dataset lacks are dropped.

        Args:
            names: Names of the model's classes, in their order.
            source: Source of the names, for messages.

        Raises:
            ValueError: the dataset has names that the model lacks.
        """
        own = self._metadata.get("thing_classes")
        if own:
            target = f"dataset {self._metadata.name!r}"
            mapping = compare_names(names, own, source=source, target=target)
            mapping.log()
            self._classes = mapping if mapping.message else None

    def reset(self) -> None:
        """Drop all predictions."""
        super().reset()
        self._found = DetectionLog()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Collect predictions.

        Args:
            inputs: One dict per image, with its "image_id".
            outputs: One dict per image, with its "instances", "proposals" or both.
        """
        for image, output in zip(inputs, outputs, strict=True):
            prediction = {"image_id": image["image_id"]}
            if "instances" in output:
                # Category ids are class indices here; the base class maps them.
                instances = output["instances"].to("cpu")
                if self._classes is not None:
                    instances = in_classes_of(instances, self._classes.targets)
                found = Detections.from_instances(instances, image["image_id"])
                check_numbers(found)
                self._found.append(found)
                prediction["instances"] = len(instances)  # replaced by dicts in `evaluate`
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to("cpu")
            if len(prediction) > 1:
                self._predictions.append(prediction)

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, dict[str, float]]:
        """Return metrics by task on the main process, ``{}`` on the others.

        Args:
            img_ids: Ids of the images to evaluate on; all images if None.
        """
        self._gathered, images = self._found.columns(), self._predictions
        own = self._distributed, self._predictions
        if self._distributed:
            comm.synchronize()
            self._gathered = gather_detections(self._gathered)
            gathered: Any = comm.gather(images, dst=0)
            images = list(itertools.chain.from_iterable(gathered))
            if not comm.is_main_process():
                return {}
        # The base class evaluates dicts of one process.
        self._distributed, self._predictions = False, [dict(image) for image in images]
        results = self._gathered.results()
        for image in self._predictions:
            if "instances" in image:
                image["instances"] = list(itertools.islice(results, image["instances"]))
        try:
            return super().evaluate(img_ids)
        finally:
            self._distributed, self._predictions = own

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: list[int] | None = None
    ) -> None:
        found = self._gathered
        if self._output_dir:  # of an earlier evaluation, which may have had other files
            remove_files(self._output_dir, (_RESULTS, _MASK_RESULTS))
        if found.mask_scores is None:
            super()._eval_predictions(predictions, img_ids)
            return
        tasks, folder = self._tasks, self._output_dir
        wanted = set(tasks or self._tasks_from_predictions(itertools.islice(found.results(), 1)))
        try:
            if others := tuple(wanted - {"segm"}):
                self._tasks = others
                super()._eval_predictions(predictions, img_ids)
            if "segm" in wanted:
                self._tasks, self._output_dir = ("segm",), None
                masks = list(found.results("segm"))
                super()._eval_predictions([{"instances": masks}], img_ids)
                if folder:
                    path = os.path.join(folder, _MASK_RESULTS)
                    write_text(path, json.dumps(masks))
        finally:
            self._tasks, self._output_dir = tasks, folder

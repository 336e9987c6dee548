"""COCO metrics of a model whose masks have scores of their own."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

from detectron2.evaluation import COCOEvaluator

from d2_seesaw.data.rle import (
    MASK_SCORE,
    add_mask_scores,
    add_segmentations,
    results_of_task,
    without_roi_masks,
)
from d2_seesaw.utils.files import write_text


class MaskScoringCOCOEvaluator(COCOEvaluator):
    """Detectron2's ``COCOEvaluator``, which ranks masks by ``mask_scores`` where a model has them.

    Boxes, and everything of other models, are as in the base class, which knows one score and would
    rank masks by that of their boxes. ``coco_instances_results.json``, in which "score" is the
    box's, then holds "mask_score" too, and ``coco_instances_results_segm.json`` is for an
    evaluation of masks by others: there "score" is the mask's. The arguments are those of the base
    class. With ``tasks=("segm",)`` there is the second file alone.
    """

    takes_roi_masks = True
    """Models may leave masks on their boxes: Detectron2's ``ROIMasks`` as ``pred_masks``."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Collect predictions.

        Args:
            inputs: One dict per image, with its "image_id".
            outputs: One dict per image, with its "instances" or "proposals".
        """
        seen = len(self._predictions)
        super().process(inputs, without_roi_masks(outputs))
        add_segmentations(self._predictions[seen:], outputs)
        add_mask_scores(self._predictions[seen:], outputs)

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: list[int] | None = None
    ) -> None:
        found = list(itertools.chain.from_iterable(p["instances"] for p in predictions))
        if not any(MASK_SCORE in d for d in found):
            super()._eval_predictions(predictions, img_ids)
            return
        tasks, folder = self._tasks, self._output_dir
        wanted = set(tasks or self._tasks_from_predictions(found))
        try:
            # The base class writes category ids into what it is given, hence copies.
            if others := tuple(wanted - {"segm"}):
                self._tasks = others
                super()._eval_predictions([{"instances": [dict(d) for d in found]}], img_ids)
            if "segm" in wanted:
                self._tasks, self._output_dir = ("segm",), None
                masks = results_of_task(found, "segm")
                super()._eval_predictions([{"instances": masks}], img_ids)
                if folder:
                    path = os.path.join(folder, "coco_instances_results_segm.json")
                    write_text(path, json.dumps(masks))
        finally:
            self._tasks, self._output_dir = tasks, folder

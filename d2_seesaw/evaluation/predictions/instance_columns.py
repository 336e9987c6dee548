"""A model's output for one image as columns of detections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from detectron2.structures import BoxMode, Instances, ROIMasks

from d2_seesaw.evaluation.predictions.detections import DetectionColumns, MaskColumns
from d2_seesaw.evaluation.predictions.masks import encode_masks


def instance_columns(
    instances: Instances, image_id: Any, category_of_class: Mapping[int, int]
) -> DetectionColumns:
    """The detections of one image.

    Args:
        instances: On the CPU, with ``pred_boxes``, ``scores`` and ``pred_classes``, and where the
            model has them ``mask_scores`` and ``pred_masks``, of the whole image or on the boxes
            (``ROIMasks``).
        image_id: Id of the image in the annotation file.
        category_of_class: Id of the category in the file, by the class index of the model.
    """
    boxes: Any = instances.pred_boxes.tensor.numpy()
    has_own_scores = instances.has("mask_scores")
    return DetectionColumns(
        image_ids=np.array([image_id] * len(instances)),
        category_ids=np.array([category_of_class[c] for c in instances.pred_classes.tolist()]),
        scores=instances.scores.numpy(),
        boxes=cast("np.ndarray", BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)),
        mask_scores=instances.mask_scores.numpy() if has_own_scores else None,
        masks=MaskColumns.from_rles(mask_rles(instances)) if instances.has("pred_masks") else None,
    )


def mask_rles(instances: Instances) -> list[dict[str, Any]]:
    """Each of ``pred_masks`` in COCO's compressed run-length encoding."""
    from pycocotools import mask as mask_utils

    masks = instances.pred_masks
    if isinstance(masks, ROIMasks):
        return encode_masks(masks.tensor, instances.pred_boxes, instances.image_size)
    rles: list[Any] = [mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
    return rles

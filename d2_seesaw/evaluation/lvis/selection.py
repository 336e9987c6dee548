"""Selection of the detections that LVIS scores.

A pair is an image and a category. Only pairs with detections are represented: of the 24 million
pairs of LVIS v1's validation set, 99 % have none.

Shapes in this module:
    N: all detections
    D: detections that are scored
    I: images
    K: categories
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from d2_seesaw.data.rle import MaskColumns
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns, index_of
from d2_seesaw.evaluation.lvis.mask_overlaps import mask_areas
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.predictions.ordering import descending_keys, stable_order

_LARGEST_TABLE = 2**26  # pairs of a byte each; LVIS v1's validation set has 24 million
_VERIFIED, _OPEN = np.uint8(1), np.uint8(2)


@dataclass(frozen=True)
class ScoredDetections:
    """Detections that are scored, sorted by pair and then by descending score.

    Attributes:
        rows: ``(D,)`` rows in the ``Detections``.
        pairs: ``(D,)`` keys of the pairs, ascending; the image index if categories are ignored.
        scores: ``(D,)`` scores.
        areas: ``(D,)`` areas of the boxes or masks in pixels.
        in_open_pair: ``(D,)`` whether the category is not annotated exhaustively in the image.
    """

    rows: np.ndarray
    pairs: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    in_open_pair: np.ndarray

    def take(self, places: np.ndarray) -> ScoredDetections:
        """Return some of them, whose places are ascending."""
        return ScoredDetections(*(getattr(self, f.name)[places] for f in fields(self)))


def scored_detections(
    ground_truth: GroundTruthColumns,
    detections: Detections,
    task: str,
    *,
    limits: DetectionLimits,
    class_agnostic: bool,
    verified_only: bool = True,
) -> ScoredDetections:
    """Keep the detections within the limits that have a positive area and a verified category.

    Args:
        ground_truth: The annotations.
        detections: Detections in images of the annotations.
        task: "bbox" or "segm".
        limits: Limits on the number of detections.
        class_agnostic: Whether all categories of an image are one pair.
        verified_only: Whether to drop detections of categories that were not verified in the image.
            Detections of categories that the annotations do not list are always dropped.

    Raises:
        ValueError: the annotations do not list the image of a detection.
    """
    rows = limits.rows(detections, task)
    images = _image_indices(ground_truth, detections.image_ids[rows])
    categories = index_of(detections.category_ids[rows], ground_truth.category_ids)
    known = np.flatnonzero(categories >= 0)
    if len(known) < len(rows):
        rows, images, categories = rows[known], images[known], categories[known]
    pairs = categories * len(ground_truth.image_ids) + images
    del categories  # with other arrays below, a large share of the memory of an evaluation
    state = _state_of_pairs(ground_truth, pairs)
    if verified_only:
        kept = np.flatnonzero((state & _VERIFIED).astype(bool) | ground_truth.exhaustive[images])
        rows, images, pairs, state = (x[kept] for x in (rows, images, pairs, state))
    areas = _areas(detections, task, rows)
    kept = np.flatnonzero((areas > 0) & (areas < np.inf))
    if len(kept) < len(rows):
        rows, images, pairs, state, areas = (x[kept] for x in (rows, images, pairs, state, areas))
    del kept
    scores = detections.scores_of(task)[rows]
    # Stable, as in lvis: equal scores are sorted by category, then by position.
    keys = [descending_keys(scores), pairs]
    if class_agnostic:
        categories = (pairs // max(len(ground_truth.image_ids), 1)).astype(np.int32)
        pairs = images.astype(np.int32)
        keys = [categories, keys[0], pairs]
        del categories
    del images
    order = stable_order(*keys)
    del keys
    rows = rows[order]
    pairs = pairs[order].astype(np.int64, copy=False)
    scores, areas, state = scores[order], areas[order], state[order]
    return ScoredDetections(rows, pairs, scores, areas, (state & _OPEN).astype(bool))


def _image_indices(ground_truth: GroundTruthColumns, image_ids: np.ndarray) -> np.ndarray:
    images = index_of(image_ids, ground_truth.image_ids)
    unknown = np.flatnonzero(images < 0)
    if len(unknown):
        raise ValueError(
            f"Image id {image_ids[unknown[0]].item()!r} of a detection is not in the annotations, "
            f"whose ids start as {ground_truth.image_ids[:3].tolist()}"
        )
    return images


def _state_of_pairs(ground_truth: GroundTruthColumns, pairs: np.ndarray) -> np.ndarray:
    """Return for each pair whether its category is verified and whether it is open, as bits."""
    number = len(ground_truth.image_ids) * len(ground_truth.category_ids)
    sets = ((_VERIFIED, ground_truth.verified_pairs), (_OPEN, ground_truth.open_pairs))
    if number <= _LARGEST_TABLE:
        # A look-up in a table is several times as fast as a search.
        table = np.zeros(number, dtype=np.uint8)
        for bit, keys in sets:
            table[keys] |= bit
        return table[pairs]
    state = np.zeros(len(pairs), dtype=np.uint8)
    for bit, keys in sets:
        state[np.isin(pairs, keys)] |= bit
    return state


def _areas(detections: Detections, task: str, rows: np.ndarray) -> np.ndarray:
    if not len(rows):
        return np.zeros(0)
    if task == "segm":
        return mask_areas(masks_of(detections), rows)
    areas = boxes_of(detections)[rows, 2].astype(float)
    areas *= boxes_of(detections)[rows, 3]
    return areas


def boxes_of(detections: Detections) -> np.ndarray:
    """Return the boxes, or raise a ``ValueError`` if there are none."""
    if detections.boxes is None:
        raise ValueError("Task 'bbox' needs detections with boxes, these have none")
    return detections.boxes


def masks_of(detections: Detections) -> MaskColumns:
    """Return the masks, or raise a ``ValueError`` if there are none."""
    if detections.masks is None:
        raise ValueError("Task 'segm' needs detections with masks, these have none")
    return detections.masks

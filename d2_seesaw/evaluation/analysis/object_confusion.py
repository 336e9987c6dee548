"""Which categories swallow which: the detection with the highest score names the object it lies on.

NMS works class by class, so a box comes with several classes, and only the best of them is what the
model takes the object for. AP does not show that: there each category is ranked on its own.

LVIS's annotations are federated: for most categories nobody looked whether they are in an image. A
detection of such a category is not scored by LVIS, but it names the object here, for that is how a
frequent category swallows a rare one. It may be right as well: an object that is labelled "mug"
where nobody looked for "cup" may be both. So a confusion is what the model says, and not in every
case a mistake.

Shapes in this module:
    N: detections that may name an object
    G: objects
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from d2_seesaw.evaluation.analysis import Confusion
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns, index_of
from d2_seesaw.evaluation.lvis.matching import overlaps, scored_detections
from d2_seesaw.evaluation.lvis.metrics import ignored_objects
from d2_seesaw.evaluation.predictions.detections import DetectionColumns
from d2_seesaw.evaluation.predictions.limits import DetectionLimits


@dataclass(frozen=True)
class ObjectNames:
    """What the model takes each object for.

    Attributes:
        categories: ``(G,)`` index of the category that names it, -1 if nothing does.
        rows: ``(G,)`` row of the detection that does, -1 if none.
        counts: ``(G,)`` whether the object counts; others are to be ignored.
    """

    categories: np.ndarray
    rows: np.ndarray
    counts: np.ndarray


def object_names(
    ground_truth: GroundTruthColumns,
    detections: DetectionColumns,
    task: str,
    *,
    limits: DetectionLimits,
) -> ObjectNames:
    """What names each object.

    A detection lies on the object with which it has the highest IoU, if that is at least 0.5: so
    the detection of a neighbour does not name an object. Of equal IoUs an object of the detection's
    own category goes first, then the last by category and place in the file. On an object that is
    ignored it names nothing. Boxes are compared where the detections have them, in "segm" too, for
    there are many more pairs than LVIS compares; masks otherwise.

    Args:
        ground_truth: The annotations.
        detections: Of its images. Those of a category that it does not know name nothing.
        task: "bbox" or "segm", whose scores rank. Of equal scores the lower category is first, then
            what came first.
        limits: Detections that count.
    """
    if detections.boxes is not None:
        detections, task = replace(detections, scores=detections.scores_of(task)), "bbox"
    found = scored_detections(
        ground_truth, detections, task, limits=limits, class_agnostic=True, verified_only=False
    )
    edges = overlaps(ground_truth, detections, found, task, class_agnostic=True)
    of_edges = detections.category_ids[found.rows[edges.detections]]
    categories = index_of(of_edges, ground_truth.category_ids)
    is_own = categories == ground_truth.categories[edges.objects]
    # Stable: what is equal stays in the order of the edges, the later object last.
    order = np.lexsort((is_own, edges.ious, edges.detections))
    is_best = np.diff(edges.detections[order], append=-1) != 0
    best = order[is_best]
    # Detections of an image stand from the highest score on, so the first on an object names it.
    objects, first = np.unique(edges.objects[best], return_index=True)
    names = best[first]
    named, rows = np.full((2, len(ground_truth.categories)), -1)
    named[objects] = categories[names]
    rows[objects] = found.rows[edges.detections[names]]
    return ObjectNames(named, rows, ~ignored_objects(ground_truth)[:, 0])


def object_confusions(ground_truth: GroundTruthColumns, names: ObjectNames) -> list[Confusion]:
    """What the objects of each category are taken for.

    Returns:
        Sorted by category and predicted category, the missed objects of a category last. Those of a
        category sum up to its objects that count.
    """
    category_ids: list[int] = ground_truth.category_ids.tolist()
    missed = len(category_ids)
    named = np.where(names.categories < 0, missed, names.categories)
    keys = ground_truth.categories * (missed + 1) + named
    keys, numbers = np.unique(keys[names.counts], return_counts=True)
    return [
        Confusion(
            category_ids[key // (missed + 1)],
            (*category_ids, None)[key % (missed + 1)],
            number,
        )
        for key, number in zip(keys.tolist(), numbers.tolist(), strict=True)
    ]

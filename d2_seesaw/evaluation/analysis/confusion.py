"""Who is taken for whom: the detection with the highest score names the object it lies on.

NMS works class by class, so a box comes with several classes, and only the best of them is what the
model takes the object for. AP does not show that: there each category is ranked on its own.

LVIS's annotations are federated: for most categories nobody looked whether they are in an image. A
detection of such a category is not scored by LVIS, but it names the object here, for that is how a
frequent category swallows a rare one. It may be right as well: an object that is labelled "mug"
where nobody looked for "cup" may be both. So a confusion is what the model says, and not in every
case a mistake.

Shapes in this module:
    N: detections that may name an object, or objects that something names
    G: objects
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.evaluation.analysis import Confusion, ConfusionExample, LongTailAnalysis
from d2_seesaw.evaluation.lvis.annotations import UNKNOWN_FREQUENCY
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns, index_of
from d2_seesaw.evaluation.lvis.matching import overlaps, scored_detections
from d2_seesaw.evaluation.lvis.metrics import ignored_objects
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.tables import CategoryResult

RIGHT, MISSED = "right", "missed"

_PAIRS = 24
_RARE_PAIRS = 16  # common categories have more objects, and would leave no place for the rare ones
_OF_A_PAIR = 2
_MISSED = 8


@dataclass(frozen=True)
class ObjectLabels:
    """What the model takes each object for.

    Attributes:
        categories: ``(G,)`` index of the category that names it, -1 if nothing does.
        rows: ``(G,)`` row of the detection that does, -1 if none.
        counts: ``(G,)`` whether the object counts; others are to be ignored.
    """

    categories: np.ndarray
    rows: np.ndarray
    counts: np.ndarray


def label_objects(
    ground_truth: GroundTruthColumns,
    detections: Detections,
    task: str,
    *,
    limits: DetectionLimits,
) -> ObjectLabels:
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
    return ObjectLabels(named, rows, ~ignored_objects(ground_truth)[:, 0])


def object_confusions(ground_truth: GroundTruthColumns, names: ObjectLabels) -> list[Confusion]:
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


@dataclass(frozen=True)
class TailConfusion:
    """Objects of a category that the model takes for one with more training images.

    Attributes:
        category: What the objects are.
        by: What the model takes them for.
        objects: How many it takes for that.
        of: Objects of the category, all that count.
    """

    category: CategoryResult
    by: CategoryResult
    objects: int
    of: int

    @property
    def share(self) -> float:
        """In (0, 1]."""
        return self.objects / self.of


def group_outcomes(analysis: LongTailAnalysis) -> dict[str, dict[str, int]]:
    """Numbers of objects by the frequency group of their category, and by what names them.

    Returns:
        For "r", "c" and "f", and for "n/a" where there are categories of unknown frequency, how
        many objects are "right", how many are named as another category of the group "r", "c",
        "f" or "n/a", which may be their own group, and how many are "missed".
    """
    groups = {category.category_id: category.frequency for category in analysis.categories}
    outcomes = (RIGHT, *GROUPS, UNKNOWN_FREQUENCY, MISSED)
    true_groups: tuple[str, ...] = GROUPS
    if UNKNOWN_FREQUENCY in groups.values():
        true_groups = (*GROUPS, UNKNOWN_FREQUENCY)
    counts: dict[str, dict[str, int]]
    counts = {group: dict.fromkeys(outcomes, 0) for group in true_groups}
    for confusion in analysis.confusions:
        outcome = RIGHT
        if confusion.predicted_id is None:
            outcome = MISSED
        elif confusion.predicted_id != confusion.category_id:
            outcome = groups[confusion.predicted_id]
        counts[groups[confusion.category_id]][outcome] += confusion.objects
    return counts


def confusions_with_more_frequent(analysis: LongTailAnalysis) -> list[TailConfusion]:
    """Every pair of a category and a more frequent one that the model takes its objects for.

    More frequent is the one with more training images; where these are not known of both, the one
    of the more frequent group. Pairs that neither orders are not listed.

    Returns:
        Those with most objects first; of as many, those with the larger share of the category; then
        in order of the ids.
    """
    categories = {category.category_id: category for category in analysis.categories}
    of: Counter[int] = Counter()
    for confusion in analysis.confusions:
        of[confusion.category_id] += confusion.objects
    pairs = [
        TailConfusion(
            categories[c.category_id], categories[c.predicted_id], c.objects, of[c.category_id]
        )
        for c in analysis.confusions
        if c.predicted_id is not None
        and _is_more_frequent(categories[c.predicted_id], categories[c.category_id])
    ]
    return sorted(
        pairs,
        key=lambda s: (-s.objects, -s.share, s.category.category_id, s.by.category_id),
    )


def _is_more_frequent(one: CategoryResult, other: CategoryResult) -> bool:
    if one.train_images is not None and other.train_images is not None:
        return one.train_images > other.train_images
    if UNKNOWN_FREQUENCY in (one.frequency, other.frequency):
        return False
    return GROUPS.index(one.frequency) > GROUPS.index(other.frequency)


def confusion_examples(
    analysis: LongTailAnalysis,
    ground_truth: GroundTruthColumns,
    detections: Detections,
    names: ObjectLabels,
) -> list[ConfusionExample]:
    """Examples of ``confusions_with_more_frequent``, and of objects of rare categories missed.

    The same evaluation has the same examples, whatever the order of detections without ties.

    Args:
        analysis: With all but the examples.
        ground_truth: The annotations.
        detections: Of its images.
        names: What names the objects.

    Returns:
        At most 56. First of up to 24 pairs, in the order of ``confusions_with_more_frequent``, 16
        of rare categories at most before those of common ones, two objects each: those with the
        highest scores of the detection that names them; of equal scores the first in the file. Then
        8 missed objects of rare categories, the largest first.
    """
    named, scores = _named_objects(detections, names, analysis.task)
    kind = np.column_stack([ground_truth.categories, names.categories])[named]
    examples = []
    for pair in _pairs_to_show(confusions_with_more_frequent(analysis)):
        ids = np.array([pair.category.category_id, pair.by.category_id])
        is_pair = (kind == index_of(ids, ground_truth.category_ids)).all(axis=1)
        for place in np.flatnonzero(is_pair)[:_OF_A_PAIR].tolist():
            row = int(names.rows[named[place]])
            examples.append(
                ConfusionExample(
                    category_id=pair.category.category_id,
                    predicted_id=pair.by.category_id,
                    **_place(ground_truth, int(named[place])),
                    predicted_box=_predicted_box(detections, row),
                    score=float(scores[place]),
                )
            )
    category_ids = ground_truth.category_ids.tolist()
    for row in _missed_objects(ground_truth, names):
        examples.append(
            ConfusionExample(
                category_id=category_ids[ground_truth.categories[row]],
                predicted_id=None,
                **_place(ground_truth, row),
                predicted_box=None,
                score=None,
            )
        )
    return examples


def _pairs_to_show(pairs: list[TailConfusion]) -> list[TailConfusion]:
    rare, common = ([p for p in pairs if p.category.frequency == g] for g in "rc")
    return [*rare[:_RARE_PAIRS], *common][:_PAIRS]


def _named_objects(
    detections: Detections, names: ObjectLabels, task: str
) -> tuple[np.ndarray, np.ndarray]:
    """``(N,)`` rows of the objects that count and are named, and scores, the highest first."""
    named = np.flatnonzero(names.counts & (names.rows >= 0))
    scores = detections.scores_of(task)[names.rows[named]]
    order = np.argsort(-scores, kind="stable")
    return named[order], scores[order]


def _missed_objects(ground_truth: GroundTruthColumns, names: ObjectLabels) -> list[int]:
    is_rare = np.isin(ground_truth.categories, ground_truth.groups["r"])
    missed = np.flatnonzero(names.counts & (names.rows < 0) & is_rare)
    order = np.argsort(-ground_truth.areas[missed], kind="stable")
    return missed[order[:_MISSED]].tolist()


def _place(ground_truth: GroundTruthColumns, row: int) -> dict[str, Any]:
    return {
        "image_id": ground_truth.image_ids[ground_truth.images[row]].item(),
        "box": ground_truth.boxes[row].tolist(),
    }


def _predicted_box(detections: Detections, row: int) -> list[float] | None:
    """That of the detection, or the one around its mask."""
    if detections.boxes is not None:
        return detections.boxes[row].tolist()
    if detections.masks is None:
        return None
    from pycocotools import mask as mask_utils

    rles: Any = detections.masks.rles(np.array([row]))
    return mask_utils.toBbox(rles)[0].tolist()

"""Confusions between categories: each object gets the label of its highest-scoring detection.

NMS works within classes, so one box can carry several labels. Only the label with the highest score
is the model's answer. AP does not show this, because it ranks each category on its own.

LVIS annotations are federated: in most images, most categories were not verified. LVIS does not
score detections of such a category, but they label objects here, because this is how a rare
category is confused with a frequent one. The label may be correct: an object that is annotated as
"mug" in an image where "cup" was not verified may be both. So a confusion is not always an error.

Shapes in this module:
    D: detections that count
    N: objects with a label
    G: objects
    K: categories
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from d2_seesaw.data.frequency import GROUPS
from d2_seesaw.evaluation.analysis import Confusion, ConfusionExample, LongTailAnalysis
from d2_seesaw.evaluation.analysis.calibration import detection_outcomes
from d2_seesaw.evaluation.lvis.annotations import UNKNOWN_FREQUENCY
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns, index_of
from d2_seesaw.evaluation.lvis.metrics import MatchedDetections, ignored_objects
from d2_seesaw.evaluation.lvis.overlaps import overlaps
from d2_seesaw.evaluation.lvis.selection import scored_detections
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.tables import CategoryResult

RIGHT, MISSED = "right", "missed"

_PAIRS = 24
_RARE_PAIRS = 16  # without a quota, common categories, which have more objects, would take all
_OF_A_PAIR = 2
_MISSED = 8


@dataclass(frozen=True)
class ObjectLabels:
    """Predicted label of each object.

    Attributes:
        categories: ``(G,)`` index of the predicted category, -1 without a label.
        rows: ``(G,)`` row of the detection with that label, -1 without a label.
        counts: ``(G,)`` whether the object counts; ignored objects do not.
        background: ``(K,)`` number of false detections of each category that overlap no object.
    """

    categories: np.ndarray
    rows: np.ndarray
    counts: np.ndarray
    background: np.ndarray


@dataclass(frozen=True)
class Assignment:
    """Object to which each detection belongs, of any category.

    A detection belongs to the object with which it has the highest IoU, if that is at least 0.5, so
    the detection of a neighbor does not label an object. Among equal IoUs, an object of the
    detection's own category is preferred, then the last by category and position in the file. IoUs
    are box IoUs if the detections have boxes, also for "segm", because there are many more pairs
    than LVIS compares; if a box has no area, masks are compared as masks. A right mask whose box
    overlaps no object belongs to the object that it covers, see :meth:`with_right_masks`.

    Attributes:
        ground_truth: The annotations.
        detections: Detections in its images. Unknown categories are ignored.
        scores: ``(D,)`` scores of those that count. Those of an image are consecutive, in
            descending order of score; equal scores are sorted by category, then by position.
        scored_rows: ``(D,)`` their rows.
        in_open_pair: ``(D,)`` whether the category is not annotated exhaustively in the image.
        assigned: Those of the D that belong to an object, ascending.
        objects: Rows of these objects.
    """

    ground_truth: GroundTruthColumns
    detections: Detections
    scores: np.ndarray
    scored_rows: np.ndarray
    in_open_pair: np.ndarray
    assigned: np.ndarray
    objects: np.ndarray

    @classmethod
    def of_detections(
        cls,
        ground_truth: GroundTruthColumns,
        detections: Detections,
        task: str,
        *,
        limits: DetectionLimits,
    ) -> Assignment:
        """Assign detections to objects.

        Args:
            ground_truth: The annotations.
            detections: Detections in its images.
            task: "bbox" or "segm": selects the scores that rank detections.
            limits: Detections that count.
        """
        if cls.uses_boxes(detections, task):
            detections, task = replace(detections, scores=detections.scores_of(task)), "bbox"
        found = scored_detections(
            ground_truth, detections, task, limits=limits, class_agnostic=True, verified_only=False
        )
        edges = overlaps(ground_truth, detections, found, task, class_agnostic=True)
        edge_category_ids = detections.category_ids[found.rows[edges.detections]]
        categories = index_of(edge_category_ids, ground_truth.category_ids)
        is_own = categories == ground_truth.categories[edges.objects]
        # lexsort is stable: equal edges keep their order, the later object last.
        order = np.lexsort((is_own, edges.ious, edges.detections))
        is_best = np.diff(edges.detections[order], append=-1) != 0
        best = order[is_best]
        # Not all of what was found, which would be a large share of the memory of an evaluation.
        rows = found.rows.astype(np.int32 if len(detections) < 2**31 else np.int64)
        own = found.scores, rows, found.in_open_pair
        return cls(ground_truth, detections, *own, edges.detections[best], edges.objects[best])

    @staticmethod
    def uses_boxes(detections: Detections, task: str) -> bool:
        """Return whether the detections are compared by their boxes."""
        boxes = detections.boxes
        return boxes is not None and (task == "bbox" or bool((boxes[:, 2:] > 0).all()))

    def with_right_masks(self, detections: Detections, matched: MatchedDetections) -> Assignment:
        """Assign right masks whose boxes overlap no object to the object that they cover best.

        So they are not taken for false detections, and their objects not for missed ones.

        Args:
            detections: The detections, with masks.
            matched: Their matches for "segm".
        """
        belongs = np.zeros(len(detections), bool)
        belongs[self.rows] = True
        places = np.flatnonzero(detection_outcomes(matched)[0])
        places = places[~belongs[matched.scored.rows[places]]]
        if not len(places):
            return self
        some = matched.scored.take(places)
        edges = overlaps(self.ground_truth, detections, some, "segm", class_agnostic=False)
        order = np.lexsort((edges.ious, edges.detections))
        best = order[np.diff(edges.detections[order], append=-1) != 0]
        position = np.zeros(len(detections), np.int64)
        position[self.scored_rows] = np.arange(len(self.scored_rows))
        assigned = np.r_[self.assigned, position[some.rows[edges.detections[best]]]]
        order = np.argsort(assigned, kind="stable")
        objects = np.r_[self.objects, edges.objects[best]]
        return replace(self, assigned=assigned[order], objects=objects[order])

    @property
    def rows(self) -> np.ndarray:
        """Return the rows of the detections that belong to an object."""
        return self.scored_rows[self.assigned]

    def labels(self, thresholds: np.ndarray | None = None) -> ObjectLabels:
        """Give each object the label of the highest-scoring detection that belongs to it.

        A detection that belongs to an ignored object labels nothing.

        Args:
            thresholds: ``(K,)`` lowest scores of detections to use; all are used if None.
        """
        truth = self.ground_truth
        kept = np.ones(len(self.scores), bool)
        if thresholds is not None:
            category_ids = self.detections.category_ids[self.scored_rows]
            kept = self.scores >= thresholds[index_of(category_ids, truth.category_ids)]
        there = kept[self.assigned]
        # The detections of an image are sorted by score, so the first on an object labels it.
        objects, first = np.unique(self.objects[there], return_index=True)
        chosen = self.rows[there][first]
        predicted, rows = np.full((2, len(truth.categories)), -1)
        predicted[objects] = index_of(self.detections.category_ids[chosen], truth.category_ids)
        rows[objects] = chosen
        kept[self.assigned] = False
        return ObjectLabels(
            categories=predicted,
            rows=rows,
            counts=~ignored_objects(truth)[:, 0],
            background=self._false_detections(kept),
        )

    def _false_detections(self, chosen: np.ndarray) -> np.ndarray:
        """Return ``(K,)`` numbers of the chosen detections that LVIS counts as wrong."""
        truth = self.ground_truth
        rows = self.scored_rows[chosen & ~self.in_open_pair]
        images = index_of(self.detections.image_ids[rows], truth.image_ids)
        categories = index_of(self.detections.category_ids[rows], truth.category_ids)
        pairs = categories * len(truth.image_ids) + images
        verified = truth.exhaustive[images] | np.isin(pairs, truth.verified_pairs)
        return np.bincount(categories[verified], minlength=len(truth.category_ids))


def object_confusions(ground_truth: GroundTruthColumns, labels: ObjectLabels) -> list[Confusion]:
    """Count the objects of each category by their predicted label.

    Returns:
        Counts sorted by category and predicted category, missed objects last. The counts of a
        category add up to its objects that count.
    """
    category_ids: list[int] = ground_truth.category_ids.tolist()
    missed = len(category_ids)
    predicted = np.where(labels.categories < 0, missed, labels.categories)
    keys = ground_truth.categories * (missed + 1) + predicted
    keys, numbers = np.unique(keys[labels.counts], return_counts=True)
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
    """Objects of a category that are labeled as a category with more training images.

    Attributes:
        category: Annotated category of the objects.
        predicted: Category of their label.
        objects: Number of objects with that label.
        total: Number of objects of the category that count.
    """

    category: CategoryResult
    predicted: CategoryResult
    objects: int
    total: int

    @property
    def share(self) -> float:
        """Return the share of the objects with that label, in (0, 1]."""
        return self.objects / self.total


def group_outcomes(analysis: LongTailAnalysis) -> dict[str, dict[str, int]]:
    """Count objects by the frequency group of their category, and by their outcome.

    Returns:
        For "r", "c" and "f", and for "n/a" if there are categories of unknown frequency, the
        number of objects with each outcome: "right" for the correct label; "r", "c", "f" or "n/a"
        for the label of another category of that group; "missed" without a label.
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
    """List the confusions of categories with more frequent ones.

    The category with more training images is more frequent; if these are not known for both, the
    one in the more frequent group. Pairs that neither rule can order are left out.

    Returns:
        Confusions sorted by their number of objects and their share, both in descending order, and
        then by the ids.
    """
    categories = {category.category_id: category for category in analysis.categories}
    total: Counter[int] = Counter()
    for confusion in analysis.confusions:
        total[confusion.category_id] += confusion.objects
    pairs = [
        TailConfusion(
            categories[c.category_id], categories[c.predicted_id], c.objects, total[c.category_id]
        )
        for c in analysis.confusions
        if c.predicted_id is not None
        and _is_more_frequent(categories[c.predicted_id], categories[c.category_id])
    ]
    return sorted(
        pairs,
        key=lambda s: (-s.objects, -s.share, s.category.category_id, s.predicted.category_id),
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
    labels: ObjectLabels,
) -> list[ConfusionExample]:
    """Select examples of ``confusions_with_more_frequent`` and of missed rare objects.

    Without ties, the selection does not depend on the order of the detections.

    Args:
        analysis: The analysis without its examples.
        ground_truth: The annotations.
        detections: Detections in its images.
        labels: Labels of the objects.

    Returns:
        At most 56 examples. First come two objects of each of up to 24 pairs, in the order of
        ``confusions_with_more_frequent``: at most 16 pairs of rare categories, then those of common
        ones. Of a pair, the objects with the highest scores are selected; among equal scores, the
        first in the file. Then come the 8 largest missed objects of rare categories.
    """
    labeled, scores = _labeled_objects(detections, labels, analysis.task)
    kind = np.column_stack([ground_truth.categories, labels.categories])[labeled]
    examples = []
    for pair in _pairs_to_show(confusions_with_more_frequent(analysis)):
        ids = np.array([pair.category.category_id, pair.predicted.category_id])
        is_pair = (kind == index_of(ids, ground_truth.category_ids)).all(axis=1)
        for place in np.flatnonzero(is_pair)[:_OF_A_PAIR].tolist():
            row = int(labels.rows[labeled[place]])
            examples.append(
                ConfusionExample(
                    category_id=pair.category.category_id,
                    predicted_id=pair.predicted.category_id,
                    **_place(ground_truth, int(labeled[place])),
                    predicted_box=_predicted_box(detections, row),
                    score=float(scores[place]),
                )
            )
    category_ids = ground_truth.category_ids.tolist()
    for row in _missed_objects(ground_truth, labels):
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


def _labeled_objects(
    detections: Detections, labels: ObjectLabels, task: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(N,)`` rows of the objects that count, and their scores in descending order."""
    labeled = np.flatnonzero(labels.counts & (labels.rows >= 0))
    scores = detections.scores_of(task)[labels.rows[labeled]]
    order = np.argsort(-scores, kind="stable")
    return labeled[order], scores[order]


def _missed_objects(ground_truth: GroundTruthColumns, labels: ObjectLabels) -> list[int]:
    is_rare = np.isin(ground_truth.categories, ground_truth.groups["r"])
    missed = np.flatnonzero(labels.counts & (labels.rows < 0) & is_rare)
    order = np.argsort(-ground_truth.areas[missed], kind="stable")
    return missed[order[:_MISSED]].tolist()


def _place(ground_truth: GroundTruthColumns, row: int) -> dict[str, Any]:
    return {
        "image_id": ground_truth.image_ids[ground_truth.images[row]].item(),
        "box": ground_truth.boxes[row].tolist(),
    }


def _predicted_box(detections: Detections, row: int) -> list[float] | None:
    """Return the box of a detection, or the bounding box of its mask."""
    if detections.boxes is not None:
        return detections.boxes[row].tolist()
    if detections.masks is None:
        return None
    from pycocotools import mask as mask_utils

    rles: Any = detections.masks.rles(np.array([row]))
    return mask_utils.toBbox(rles)[0].tolist()

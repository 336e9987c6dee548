"""Score thresholds of categories: best F1, or a wanted precision or recall.

Detections and objects count by the rules of LVIS at IoU 0.5, for objects of any size.

Shapes in this module:
    D: detections that count
    G: objects that count
    I: images
    K: categories
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from d2_seesaw.evaluation.analysis.calibration import detection_outcomes
from d2_seesaw.evaluation.analysis.operating_points import OperatingPoints, ThresholdRule
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import MatchedDetections, ignored_objects

FOLDS = 5
"""Number of parts of the images for cross-fitting."""

FEWEST_OBJECTS = 3
"""Objects that a category or group needs for a threshold of its own.

Chosen by the F1 on other images. For detectors of 20 generated categories, of which 3 to 25 % of
the images were used to choose, a threshold of its own was better than that of the group from 1
object on (+2 to +8 points). In simulations, the best number was 1 or 2 if the scores of categories
of a group differ, and 10 if they are alike. 3 is within 0.8 points of the best in all of them. The
threshold of the group was better than that of all categories in nearly all of them.
"""

OWN, ALL = "own", "all"


@dataclass(frozen=True)
class Outcomes:
    """Detections and objects that count at IoU 0.5, for objects of any size.

    Attributes:
        scores: ``(D,)``, descending within a category.
        categories: ``(D,)`` index of the category of each detection, ascending.
        images: ``(D,)`` index of its image.
        right: ``(D,)`` whether it finds an object.
        object_categories: ``(G,)`` index of the category of each object.
        object_images: ``(G,)`` index of its image.
        groups: Indices of the categories of each frequency group.
        number: Number of categories.
    """

    scores: np.ndarray
    categories: np.ndarray
    images: np.ndarray
    right: np.ndarray
    object_categories: np.ndarray
    object_images: np.ndarray
    groups: Mapping[str, np.ndarray]
    number: int

    @classmethod
    def of_matches(cls, ground_truth: GroundTruthColumns, matched: MatchedDetections) -> Outcomes:
        """Return the outcomes of detections that were matched within categories."""
        right, counted = detection_outcomes(matched)
        counted = np.flatnonzero(counted)
        scores = matched.scored.scores[counted].astype(np.float64)
        categories = matched.categories[counted]
        order = np.lexsort((-scores, categories))
        counted = counted[order]
        objects = ~ignored_objects(ground_truth)[:, 0]
        return cls(
            scores=scores[order],
            categories=categories[order],
            images=matched.scored.pairs[counted] % len(ground_truth.image_ids),
            right=right[counted],
            object_categories=ground_truth.categories[objects],
            object_images=ground_truth.images[objects],
            groups=ground_truth.groups,
            number=len(ground_truth.category_ids),
        )

    def in_images(self, chosen: np.ndarray) -> Outcomes:
        """Return the outcomes in the images for which ``(I,)`` ``chosen`` is true."""
        kept, objects = chosen[self.images], chosen[self.object_images]
        return replace(
            self,
            scores=self.scores[kept],
            categories=self.categories[kept],
            images=self.images[kept],
            right=self.right[kept],
            object_categories=self.object_categories[objects],
            object_images=self.object_images[objects],
        )

    @property
    def objects(self) -> np.ndarray:
        """Return the ``(K,)`` numbers of objects."""
        return np.bincount(self.object_categories, minlength=self.number)

    def points(self) -> list[OperatingPoints]:
        """Return the points that rules can select of each category."""
        bounds = np.searchsorted(self.categories, np.arange(self.number + 1)).tolist()
        objects = self.objects.tolist()
        return [
            OperatingPoints.of_scores(self.scores[a:b], self.right[a:b], n).best()
            for a, b, n in zip(bounds[:-1], bounds[1:], objects, strict=True)
        ]

    def pooled_points(self) -> dict[str, OperatingPoints]:
        """Return the same with one threshold for all categories of a group, or for all."""
        order = np.argsort(-self.scores, kind="stable")
        scores, right, categories = (x[order] for x in (self.scores, self.right, self.categories))
        objects, found = self.objects, {}
        for group, members in {**self.groups, ALL: np.arange(self.number)}.items():
            rows = np.isin(categories, members)
            number = int(objects[members].sum())
            found[group] = OperatingPoints.of_scores(scores[rows], right[rows], number).best()
        return found

    def counts(self, thresholds: np.ndarray) -> Counts:
        """Return the counts with ``(K,)`` thresholds."""
        kept = self.scores >= thresholds[self.categories]
        numbers = np.bincount(self.categories[kept], minlength=self.number)
        right = np.bincount(self.categories[kept & self.right], minlength=self.number)
        return Counts(right, numbers, self.objects)


@dataclass(frozen=True)
class Counts:
    """Counts of each category at its threshold.

    Attributes:
        right: ``(K,)`` detections that find an object.
        detections: ``(K,)`` detections that count.
        objects: ``(K,)`` objects.
    """

    right: np.ndarray
    detections: np.ndarray
    objects: np.ndarray

    def __add__(self, other: Counts) -> Counts:
        """Return the sums."""
        return Counts(
            self.right + other.right,
            self.detections + other.detections,
            self.objects + other.objects,
        )

    @property
    def precision(self) -> np.ndarray:
        """Return ``(K,)`` precision in percent, ``nan`` without detections."""
        return _percent(self.right, self.detections)

    @property
    def recall(self) -> np.ndarray:
        """Return ``(K,)`` recall in percent, ``nan`` without objects."""
        return _percent(self.right, self.objects)

    @property
    def f1(self) -> np.ndarray:
        """Return ``(K,)`` F1 in percent, ``nan`` without objects."""
        return _percent(2 * self.right, np.where(self.objects, self.detections + self.objects, 0))


@dataclass(frozen=True)
class Thresholds:
    """Threshold of each category by one rule.

    Attributes:
        values: ``(K,)`` thresholds; infinite if no detection of any category is right.
        origins: Set on which each threshold was chosen: "own" for the category, "r", "c" or "f" for
            its frequency group, "all" for all categories.
        reached: Whether the set reaches the target of the rule.
    """

    values: np.ndarray
    origins: list[str]
    reached: list[bool]


def select_thresholds(
    rule: ThresholdRule,
    points: Sequence[OperatingPoints],
    pools: Mapping[str, OperatingPoints],
    groups: Mapping[str, np.ndarray],
    *,
    fewest_objects: int = FEWEST_OBJECTS,
) -> Thresholds:
    """Select the threshold of each category.

    A category with fewer than ``fewest_objects`` objects, or without a right detection, gets the
    threshold of its group. If the group has too few as well, it gets that of all categories.

    Args:
        rule: Selects the thresholds.
        points: Points of each category.
        pools: Points of each group, and of "all".
        groups: Indices of the categories of each group.
        fewest_objects: Objects that a category or group needs.
    """
    K = len(points)
    if rule.kind == "score":
        return Thresholds(np.full(K, rule.target), [ALL] * K, [True] * K)
    chosen: list[tuple[float, str, bool]] = [(math.inf, ALL, False)] * K
    sets = [(ALL, pools[ALL], list(range(K)))]
    sets += [(group, pools[group], members.tolist()) for group, members in groups.items()]
    sets += [(OWN, own, [k]) for k, own in enumerate(points)]
    for origin, own, members in sets:
        has_enough = origin == ALL or own.objects >= fewest_objects
        found = own.select(rule) if has_enough else None
        if found is None:
            continue
        at, reached = found
        for k in members:
            chosen[k] = (float(own.thresholds[at]), origin, reached)
    values, origins, all_reached = zip(*chosen, strict=True) if chosen else ((), (), ())
    return Thresholds(np.array(values, float), list(origins), list(all_reached))


def fit_thresholds(
    outcomes: Outcomes, rule: ThresholdRule, *, fewest_objects: int = FEWEST_OBJECTS
) -> Thresholds:
    """Select the threshold of each category on outcomes, see :func:`select_thresholds`."""
    return select_thresholds(
        rule,
        outcomes.points(),
        outcomes.pooled_points(),
        outcomes.groups,
        fewest_objects=fewest_objects,
    )


def cross_fitted_counts(
    outcomes: Outcomes,
    rules: Sequence[ThresholdRule],
    folds: np.ndarray,
    *,
    fewest_objects: int = FEWEST_OBJECTS,
) -> list[Counts]:
    """Return counts at thresholds that were not chosen on the images in which they count.

    For each fold, thresholds are selected on the images of the others. The counts are summed.

    Args:
        outcomes: Detections and objects.
        rules: Each selects thresholds.
        folds: ``(I,)`` fold of each image.
        fewest_objects: As for :func:`select_thresholds`, in the images of the other folds.

    Returns:
        Counts for each rule.
    """
    none = np.zeros(outcomes.number, dtype=np.int64)
    totals = [Counts(none, none, none)] * len(rules)
    for fold in np.unique(folds):
        others, held_out = outcomes.in_images(folds != fold), outcomes.in_images(folds == fold)
        points, pools = others.points(), others.pooled_points()
        options = {"groups": outcomes.groups, "fewest_objects": fewest_objects}
        for i, rule in enumerate(rules):
            fitted = select_thresholds(rule, points, pools, **options)
            totals[i] += held_out.counts(fitted.values)
    return totals


def image_folds(image_ids: np.ndarray, outcomes: Outcomes, *, number: int = FOLDS) -> np.ndarray:
    """Divide the images so that the objects of each category are spread over all folds.

    Images of the rarest category are distributed first, each to the fold that has the fewest images
    of that category so far, then those of the next one (iterative stratification, Sechidis et al.
    2011, https://doi.org/10.1007/978-3-642-23808-6_10). Images of equal rank are taken in the order
    of a hash of their id, so that the result does not depend on the order of a file.

    Args:
        image_ids: ``(I,)`` ids.
        outcomes: Their objects.
        number: Number of folds.

    Returns:
        ``(I,)`` folds, from 0.
    """
    hashes = [hashlib.sha256(str(i).encode()).digest() for i in image_ids.tolist()]
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    pairs = np.unique(
        np.column_stack([outcomes.object_images, outcomes.object_categories]), axis=0
    ).reshape(-1, 2)
    categories = np.split(pairs[:, 1], np.searchsorted(pairs[:, 0], np.arange(1, len(hashes))))
    frequency = np.bincount(pairs[:, 1], minlength=outcomes.number)
    rank = np.lexsort((np.arange(outcomes.number), frequency)).argsort()
    rarest = [int(rank[own].min()) if len(own) else outcomes.number for own in categories]
    of_category = np.zeros((number, outcomes.number + 1), dtype=np.int64)
    sizes = np.zeros(number, dtype=np.int64)
    by_rank = np.append(np.argsort(rank), outcomes.number)
    folds = np.zeros(len(hashes), dtype=np.int64)
    for image in sorted(order, key=rarest.__getitem__):
        wanted = of_category[:, by_rank[rarest[image]]]
        fold = int(np.lexsort((sizes, wanted))[0])
        folds[image] = fold
        of_category[fold, categories[image]] += 1
        if not len(categories[image]):
            of_category[fold, -1] += 1
        sizes[fold] += 1
    return folds


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(100.0 * part, whole, out=np.full(len(part), np.nan), where=whole > 0)

"""Score thresholds of categories: best F1, or a wanted precision or recall.

Detections and objects count by the rules of LVIS at IoU 0.5, for objects of any size.

Shapes in this module:
    D: detections that count
    F: folds of images
    G: objects that count
    I: images
    K: categories
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from d2_seesaw.evaluation.analysis.calibration import detection_outcomes
from d2_seesaw.evaluation.analysis.operating_points import (
    OperatingPoints,
    Ranking,
    ThresholdRule,
)
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

    def object_counts(self, kept: np.ndarray | None = None) -> np.ndarray:
        """Return the ``(K,)`` numbers of objects, of all or of ``(G,)`` kept ones."""
        categories = self.object_categories if kept is None else self.object_categories[kept]
        return np.bincount(categories, minlength=self.number)

    def counts(self, thresholds: np.ndarray, folds: np.ndarray | None = None) -> Counts:
        """Return the counts with thresholds of the categories.

        Args:
            thresholds: ``(K,)``, or with ``folds`` ``(F, K)``.
            folds: ``(I,)`` fold of each image in [0, F), which has thresholds of its own.
        """
        at = self.categories if folds is None else (folds[self.images], self.categories)
        kept = self.scores >= thresholds[at]
        numbers = np.bincount(self.categories[kept], minlength=self.number)
        right = np.bincount(self.categories[kept & self.right], minlength=self.number)
        return Counts(right, numbers, self.object_counts())


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


class ThresholdFit:
    """Selection of thresholds on outcomes, or on those in some of the images.

    Args:
        outcomes: Detections and objects.
        fewest_objects: Objects that a category or group needs for a threshold of its own.
    """

    def __init__(self, outcomes: Outcomes, *, fewest_objects: int = FEWEST_OBJECTS) -> None:
        self._outcomes, self._fewest_objects = outcomes, fewest_objects
        K = outcomes.number
        by_score = np.argsort(-outcomes.scores, kind="stable")
        group = np.full(K, len(outcomes.groups))
        for place, members in enumerate(outcomes.groups.values()):
            group[members] = place
        group_of = group[outcomes.categories[by_score]]
        by_group = by_score[np.argsort(group_of.astype(np.int8), kind="stable")]
        self._names = [*outcomes.groups, ALL]
        self._group = group
        # Of the categories, of the groups and those without one, and of all together.
        self._orders = (slice(None), by_group, by_score)
        every = np.zeros(K, dtype=np.int64)
        self._rankings = [
            Ranking.of_sets(
                outcomes.scores[order],
                sets[outcomes.categories[order]],
                outcomes.right[order],
                number,
            )
            for order, sets, number in zip(
                self._orders,
                (np.arange(K), group, every),
                (K, len(outcomes.groups) + 1, 1),
                strict=True,
            )
        ]

    def points(
        self, chosen: np.ndarray | None = None
    ) -> tuple[list[OperatingPoints], dict[str, OperatingPoints]]:
        """Return the points of each category, and those of each group and of "all".

        Args:
            chosen: ``(I,)`` which images count; all if None.
        """
        outcomes = self._outcomes
        kept = None if chosen is None else chosen[outcomes.images]
        objects = outcomes.object_counts(None if chosen is None else chosen[outcomes.object_images])
        of_groups = np.bincount(self._group, objects, minlength=len(self._names))
        categories, groups, everything = (
            ranking.points(numbers.astype(np.int64), None if kept is None else kept[order])
            for ranking, order, numbers in zip(
                self._rankings,
                self._orders,
                (objects, of_groups, objects.sum(keepdims=True)),
                strict=True,
            )
        )
        return categories, dict(zip(self._names, [*groups[:-1], *everything], strict=True))

    def select(
        self, rules: Sequence[ThresholdRule], chosen: np.ndarray | None = None
    ) -> list[Thresholds]:
        """Select the threshold of each category, see :func:`select_thresholds`.

        Args:
            rules: Each selects thresholds.
            chosen: ``(I,)`` which images count; all if None.
        """
        points, pools = self.points(chosen)
        options = {"groups": self._outcomes.groups, "fewest_objects": self._fewest_objects}
        return [select_thresholds(rule, points, pools, **options) for rule in rules]

    def cross_fitted_counts(
        self, rules: Sequence[ThresholdRule], folds: np.ndarray
    ) -> list[Counts]:
        """Return counts at thresholds that were not chosen on the images in which they count.

        For each fold, thresholds are selected on the images of the others. Without a right
        detection in these, there is no threshold, and a rule that finds one on all images has no
        counts: its detections are ``nan``.

        Args:
            rules: Each selects thresholds.
            folds: ``(I,)`` fold of each image, from 0.

        Returns:
            Counts for each rule.
        """
        number = int(folds.max(initial=0)) + 1
        of_folds = [self.select(rules, folds != fold) for fold in range(number)]
        found = []
        for on_all, *of_rule in zip(self.select(rules), *of_folds, strict=True):
            values = np.stack([chosen.values for chosen in of_rule])
            counts = self._outcomes.counts(values, folds)
            if np.isfinite(on_all.values).all() and not np.isfinite(values[folds]).all():
                unknown = np.full(self._outcomes.number, np.nan)
                counts = Counts(unknown, unknown, counts.objects)
            found.append(counts)
        return found


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

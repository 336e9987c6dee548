"""AP of each category in resampled images, from detections that are matched once.

Detections are matched image by image, so drawing images again changes no match: it changes how
often each detection and each object counts. A drawn image with weight 2 is an image and its copy.

Only what can change the AP is kept. A detection that is wrong at every IoU threshold enters through
the sum of the weights in front of a right detection, and not at all behind the last one of its
category.

Shapes in this module:
    D: detections that are scored
    S: detections that are right, or wrong, at some of the IoU thresholds only
    F: detections that are wrong at every threshold
    G: objects that count
    T: IoU thresholds
    K: categories
    I: images
    B: resamples
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.lvis.metrics import MatchedDetections, ignored_objects
from d2_seesaw.evaluation.lvis.rules import IOU_THRESHOLDS, RECALL_THRESHOLDS

_ELEMENTS_PER_BLOCK = 2**18  # a few arrays of a block fit into a processor's cache
_ALL_AREAS = 0


@dataclass(frozen=True)
class CountedObjects:
    """Objects that count, sorted by category.

    Attributes:
        images: ``(G,)`` index of the image of each object.
        bounds: ``(K + 1,)`` index of the first object of each category, and G.
    """

    images: np.ndarray
    bounds: np.ndarray

    @classmethod
    def from_arrays(
        cls, images: np.ndarray, categories: np.ndarray, num_categories: int
    ) -> CountedObjects:
        """Sort objects, given the indices of their images and categories."""
        order = np.argsort(categories, kind="stable")
        bounds = np.searchsorted(categories[order], np.arange(num_categories + 1))
        return cls(images[order], bounds)

    @classmethod
    def from_ground_truth(cls, ground_truth: GroundTruthColumns) -> CountedObjects:
        """Select the objects of all areas that are not ignored."""
        counts = ~ignored_objects(ground_truth)[:, _ALL_AREAS]
        return cls.from_arrays(
            ground_truth.images[counts],
            ground_truth.categories[counts],
            len(ground_truth.category_ids),
        )

    def numbers(self, weights: np.ndarray) -> np.ndarray:
        """Return the ``(B, K)`` numbers of objects under ``(B, I)`` weights of the images."""
        ends = _running_total(np.take(weights, self.images, axis=1))[:, self.bounds]
        return np.diff(ends, axis=1)

    def units_of_categories(self, units: np.ndarray) -> np.ndarray:
        """Return the ``(K,)`` numbers of units with an object of each category.

        Args:
            units: ``(I,)`` unit of each image: what is drawn as a whole.
        """
        found = units[self.images]
        return np.array(
            [
                len(np.unique(found[a:b]))
                for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True)
            ]
        )


@dataclass(frozen=True)
class RankedMatches:
    """Detections of one run that can change its AP, by category and then by descending score.

    Attributes:
        categories: ``(S,)`` category indices, ascending.
        images: ``(S,)`` image indices.
        right: ``(T, S)`` whether a detection is right.
        wrong: ``(T, S)`` whether a detection is wrong.
        wrong_images: ``(F,)`` image index of each detection that is wrong at every threshold.
        wrong_before: ``(2, S)`` number of rows of ``wrong_images`` in front of each detection, and
            in front of its category.
    """

    categories: np.ndarray
    images: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    wrong_images: np.ndarray
    wrong_before: np.ndarray

    @classmethod
    def from_matches(cls, matched: MatchedDetections, num_images: int) -> RankedMatches:
        """Rank matched detections of objects of all areas, as the evaluation does.

        Args:
            matched: The result of ``match_detections`` with categories.
            num_images: I.
        """
        scored, matches = matched.scored, matched.matches
        found = np.zeros((len(scored.scores), len(IOU_THRESHOLDS)), dtype=bool)
        found[matches.detections] = matches.found[..., _ALL_AREAS]
        wrong = np.repeat(~matched.never_wrong[:, _ALL_AREAS, None], found.shape[1], axis=1)
        wrong[matches.detections] &= ~(found[matches.detections] | matches.ignored[..., _ALL_AREAS])
        images = scored.pairs - matched.categories * num_images
        return cls.from_arrays(matched.categories, images, scored.scores, found, wrong)

    @classmethod
    def from_arrays(
        cls,
        categories: np.ndarray,
        images: np.ndarray,
        scores: np.ndarray,
        right: np.ndarray,
        wrong: np.ndarray,
    ) -> RankedMatches:
        """Rank detections. Of equal scores, the earlier one comes first.

        Args:
            categories: ``(D,)`` category indices.
            images: ``(D,)`` image indices.
            scores: ``(D,)`` scores.
            right: ``(D, T)`` whether a detection is right.
            wrong: ``(D, T)`` whether a detection is wrong. Others are ignored.
        """
        order = np.lexsort((-scores, categories))
        is_right = np.any(right[order], axis=1)
        # The cut: nothing behind the last right detection of a category changes its AP.
        last = np.full(int(categories.max(initial=-1)) + 1, -1)
        np.maximum.at(last, categories[order[is_right]], np.flatnonzero(is_right))
        kept = np.arange(len(order)) <= last[categories[order]]
        order, is_right = order[kept], is_right[kept]
        always = wrong[order].all(axis=1)
        sometimes = is_right | (wrong[order].any(axis=1) & ~always)
        chosen, before = order[sometimes], np.cumsum(always)[sometimes]
        of_category = categories[chosen]
        starts = np.searchsorted(categories[order[always]], of_category)
        return cls(
            categories=of_category,
            images=images[chosen].astype(np.int32),
            right=np.ascontiguousarray(right[chosen].T),
            wrong=np.ascontiguousarray(wrong[chosen].T),
            wrong_images=images[order[always]].astype(np.int32),
            wrong_before=np.stack([before, starts]),
        )

    def average_precision(self, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """Compute the AP of each category in resampled images, in percent.

        It is the AP of the evaluation on images that are copied as often as their weight says, but
        for rounding. In an image that counts twice, equal scores of one category are ranked as if
        the copies were neighbors.

        Args:
            weights: ``(B, I)`` int32, how often each image counts.
            objects: ``(B, K)`` numbers of objects under these weights.

        Returns:
            ``(B, K)``, ``nan`` for a category without objects.
        """
        ap = np.where(objects > 0, 0.0, np.nan)
        at_once = max(1, _ELEMENTS_PER_BLOCK // max(1, len(self.images), len(self.wrong_images)))
        for start in range(0, len(weights), at_once):
            block = slice(start, start + at_once)
            self._add_precision(weights[block], objects[block], ap[block])
        return ap * (100 / (len(IOU_THRESHOLDS) * len(RECALL_THRESHOLDS)))

    def _add_precision(self, weights: np.ndarray, objects: np.ndarray, total: np.ndarray) -> None:
        """Add the precision at all thresholds to ``(B, K)`` sums."""
        always = _running_total(np.take(weights, self.wrong_images, axis=1))
        always_wrong = np.subtract(*(np.take(always, n, axis=1) for n in self.wrong_before))
        weight = np.take(weights, self.images, axis=1)
        for at in self._thresholds:
            if not len(at.rows):
                continue
            right = _running_total(np.take(weight, at.rows, axis=1))
            found = right[:, 1:] - np.repeat(right[:, at.starts], at.sizes, axis=1)
            wrong = _running_total(np.take(weight, at.wrong, axis=1))
            others = np.take(wrong, at.wrong_before, axis=1)
            others -= np.repeat(np.take(wrong, at.wrong_starts, axis=1), at.sizes, axis=1)
            others += np.take(always_wrong, at.rows, axis=1)
            precision = found / (others + found + np.spacing(1))
            # Categories are kept apart by adding more to the earlier ones: the maximum runs from
            # the right.
            precision += at.apart
            best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1] - at.apart
            number = np.maximum(objects[:, at.categories], 1)
            reached = _recalls_reached(found / np.repeat(number, at.sizes, axis=1))
            newly = reached.copy()
            newly[:, 1:] -= reached[:, :-1]
            newly[:, at.starts] = reached[:, at.starts]
            best *= newly
            total[:, at.categories] += np.add.reduceat(best, at.starts, axis=1)

    @cached_property
    def _thresholds(self) -> list[_Threshold]:
        return [
            _Threshold.of(self.categories, right, wrong)
            for right, wrong in zip(self.right, self.wrong, strict=True)
        ]


@dataclass(frozen=True)
class _Threshold:
    """Rows at one IoU threshold. R is the number of right ones, C that of their categories.

    Attributes:
        rows: ``(R,)`` right rows.
        wrong: wrong rows.
        categories: ``(C,)`` categories with a right row.
        starts: ``(C,)`` index in ``rows`` of the first one of each.
        sizes: ``(C,)`` number of right rows of each.
        wrong_before: ``(R,)`` number of wrong rows in front of each right one.
        wrong_starts: ``(C,)`` number of wrong rows in front of each category.
        apart: ``(R,)`` even numbers, smaller for later categories.
    """

    rows: np.ndarray
    wrong: np.ndarray
    categories: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    wrong_before: np.ndarray
    wrong_starts: np.ndarray
    apart: np.ndarray

    @classmethod
    def of(cls, category: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> _Threshold:
        """Index the rows, given the ``(S,)`` category of each and whether it is right or wrong."""
        rows, wrong_rows = np.flatnonzero(right), np.flatnonzero(wrong)
        categories, starts, sizes = np.unique(category[rows], return_index=True, return_counts=True)
        return cls(
            rows=rows,
            wrong=wrong_rows,
            categories=categories,
            starts=starts,
            sizes=sizes,
            wrong_before=np.searchsorted(wrong_rows, rows),
            wrong_starts=np.searchsorted(category[wrong_rows], categories),
            apart=2.0 * np.repeat(np.arange(len(sizes))[::-1], sizes),
        )


def _running_total(values: np.ndarray) -> np.ndarray:
    """Return ``(B, N + 1)`` sums of the first 0 to N of ``(B, N)`` values."""
    total = np.zeros((len(values), values.shape[1] + 1), dtype=values.dtype)
    np.cumsum(values, axis=1, out=total[:, 1:])
    return total


def _recalls_reached(recall: np.ndarray) -> np.ndarray:
    """Return how many of the recall thresholds, which are 0.01 apart, each recall reaches."""
    nearest = np.rint(recall * (len(RECALL_THRESHOLDS) - 1)).astype(np.int32)
    return nearest + (np.take(RECALL_THRESHOLDS, nearest) <= recall)


def resample_weights(units: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw units of images with replacement, as many as there are.

    Args:
        units: ``(I,)`` unit of each image, from 0: the image itself, or a group that is drawn as a
            whole.
        resamples: B.
        rng: Source of the random numbers.

    Returns:
        ``(B, I)`` int32 weights: how often each image is drawn.
    """
    number = int(units.max(initial=-1)) + 1
    drawn = [
        np.bincount(rng.integers(number, size=number), minlength=number) for _ in range(resamples)
    ]
    return np.stack(drawn).astype(np.int32)[:, units]

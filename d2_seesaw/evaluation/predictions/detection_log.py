"""The detections of a model, collected image by image."""

from __future__ import annotations

import itertools

import numpy as np

from d2_seesaw.evaluation.predictions.detections import DetectionColumns
from d2_seesaw.evaluation.predictions.limits import DetectionLimits


class DetectionLog:
    """Takes the detections of one image after the other and keeps them as a few arrays.

    Args:
        per_category: Detections of a category over all images that count in a task, or None for
            all of them. The log forgets the rest whenever it has grown to twice of what counted
            when it last looked, and in the end.
        images_per_block: How many images are joined at once.
    """

    def __init__(self, *, per_category: int | None = None, images_per_block: int = 50) -> None:
        self._limits = DetectionLimits(per_image=None, per_category=per_category)
        self._images_per_block = images_per_block
        self._blocks: list[DetectionColumns] = []
        self._images: list[DetectionColumns] = []
        self._last_count = 0

    def __len__(self) -> int:
        return sum(len(part) for part in (*self._blocks, *self._images))

    def append(self, detections: DetectionColumns) -> None:
        """Add those of an image."""
        self._images.append(detections)
        if len(self._images) == self._images_per_block:
            self._close_block()
            if len(self) >= 2 * self._last_count:
                self._forget_what_does_not_count()

    def columns(self) -> DetectionColumns:
        """All that were added and count, in order."""
        self._close_block()
        self._forget_what_does_not_count()
        self._blocks = [DetectionColumns.concatenate(self._blocks, consume=True)]
        return self._blocks[0]

    def _close_block(self) -> None:
        self._blocks.append(DetectionColumns.concatenate(self._images, consume=True))
        self._images = []

    def _forget_what_does_not_count(self) -> None:
        # Exact: what has enough rivals now, better ones or equal ones before it, keeps them.
        if self._limits.per_category is None:
            return
        counts = self._limits.rows_of_any_task(_without_shapes(self._blocks))
        ends = list(itertools.accumulate(len(block) for block in self._blocks))
        for i, (start, end) in enumerate(itertools.pairwise([0, *ends])):
            rows = counts[slice(*np.searchsorted(counts, (start, end)))]
            if len(rows) < end - start:
                self._blocks[i] = self._blocks[i].take(rows - start)
        self._last_count = len(counts)


def _without_shapes(parts: list[DetectionColumns]) -> DetectionColumns:
    """Ids and scores of all parts."""
    return DetectionColumns.concatenate(
        [
            DetectionColumns(p.image_ids, p.category_ids, p.scores, mask_scores=p.mask_scores)
            for p in parts
        ]
    )

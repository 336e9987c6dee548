"""Anchors that fit the boxes of a dataset, and the overlap that they reach exactly.

Each level of the feature pyramid has one size and all aspect ratios. The best anchor of a box is
found on the grid on which the anchors are placed, so the overlap is the one of the training.

Shapes in this module:
    M: boxes
    L: levels
    R: aspect ratios
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

_DIVISIBILITY = 32  # the sides of a batch are padded to its multiples
_LEAST_GAIN = 0.02  # of the score, to leave the default anchors or use five aspect ratios
_MOST_LOST = 0.005  # of the boxes at an IoU of 0.5, compared with the default anchors
_STEPS = (0.5, 0.75, 1.0)  # between the sizes of two levels, in octaves
_FEWEST_BOXES_OF_FIVE = 500
_LEAST_SIDE = 1.0  # pixels; a narrower box has no reliable aspect ratio
_MOST_ELONGATED = 5.0  # octaves: height / width from 1/32 to 32


@dataclass(frozen=True)
class Boxes:
    """Boxes in the pixels of the resized images.

    Attributes:
        xywh: ``(M, 4)`` left, top, width and height.
        image_sizes: ``(M, 2)`` width and height of their images.
    """

    xywh: np.ndarray
    image_sizes: np.ndarray


@dataclass(frozen=True)
class Anchors:
    """Anchors of a feature pyramid.

    Attributes:
        sizes: L roots of the areas, in pixels.
        aspect_ratios: R ratios of height to width.
        strides: L distances of the anchors, in pixels.
    """

    sizes: Sequence[float]
    aspect_ratios: Sequence[float]
    strides: Sequence[int]


@dataclass(frozen=True)
class Reach:
    """Overlap of boxes with their best anchors.

    Attributes:
        at_50: share of boxes with an IoU of at least 0.5.
        at_70: share of boxes with an IoU of at least 0.7, which are positive in any case.
        mean: mean IoU.
    """

    at_50: float
    at_70: float
    mean: float

    @property
    def score(self) -> float:
        """Mean of the three."""
        return (self.at_50 + self.at_70 + self.mean) / 3

    def __str__(self) -> str:
        return f"{100 * self.at_50:.0f} % with an IoU of 0.5 and {100 * self.at_70:.0f} % with 0.7"


def best_overlaps(boxes: Boxes, anchors: Anchors) -> np.ndarray:
    """Return ``(M,)`` IoU of each box with the best of all anchors of its image.

    For anchors of one shape the overlap falls with the distance along each axis, so only the
    nearest position of the grid is compared. The positions of a level are the multiples of its
    stride within the padded image, as those of Detectron2's generator with an offset of 0.
    """
    size, half = boxes.xywh[:, 2:], boxes.xywh[:, 2:] / 2
    center = boxes.xywh[:, :2] + half
    padded = np.ceil(boxes.image_sizes / _DIVISIBILITY) * _DIVISIBILITY
    best = np.zeros(len(size))
    for anchor_size, stride in zip(anchors.sizes, anchors.strides, strict=True):
        last = np.ceil(padded / stride) - 1
        position = np.clip(np.round(center / stride), 0, last) * stride
        for ratio in anchors.aspect_ratios:
            width = anchor_size / np.sqrt(ratio)
            shape = np.array([width, width * ratio])
            high = np.minimum(center + half, position + shape / 2)
            low = np.maximum(center - half, position - shape / 2)
            shared = np.clip(high - low, 0, None).prod(axis=1)
            union = size.prod(axis=1) + shape.prod() - shared
            best = np.maximum(best, shared / union)
    return best


def reach(boxes: Boxes, anchors: Anchors) -> Reach:
    """Return what share of the boxes the anchors reach."""
    overlaps = best_overlaps(boxes, anchors)
    return Reach(
        at_50=float((overlaps >= 0.5).mean()),
        at_70=float((overlaps >= 0.7).mean()),
        mean=float(overlaps.mean()),
    )


def fit_anchors(
    boxes: Boxes, default: Anchors, *, five_ratios: bool = True, keep_ratios: bool = False
) -> Anchors:
    """Return the anchors of some candidates that reach the boxes best.

    Candidates for the sizes are the default ones, geometric sequences from several smallest sizes,
    and the quantiles and k-means of the boxes' sizes; for the aspect ratios, the default ones and
    the k-means of the boxes' ratios. The default is kept unless another one is clearly better, and
    reaches no fewer boxes with an IoU of 0.5. Boxes of less than a pixel are left out.

    Args:
        boxes: at least one box.
        default: anchors of the base config; their strides are kept.
        five_ratios: whether there may be five aspect ratios, where they are clearly better than
            the number of the default anchors.
        keep_ratios: keep the aspect ratios of the default anchors, and fit the sizes alone.
    """
    kept = boxes.xywh[:, 2:].min(axis=1) >= _LEAST_SIDE
    if not kept.any():
        return default
    boxes = Boxes(boxes.xywh[kept], boxes.image_sizes[kept])
    candidates = _candidates(boxes, default, keep_ratios=keep_ratios)
    reached = [(reach(boxes, anchors), anchors) for anchors in candidates]
    least = reached[0][0].at_50 - _MOST_LOST
    scored = [(found.score, anchors) for found, anchors in reached if found.at_50 >= least]
    score, best = max(scored, key=lambda pair: pair[0])
    if five_ratios and not keep_ratios and len(boxes.xywh) >= _FEWEST_BOXES_OF_FIVE:
        five = replace(best, aspect_ratios=_ratios(boxes, 5))
        score_of_five = reach(boxes, five).score
        if score_of_five > score + _LEAST_GAIN:
            score, best = score_of_five, five
    return best if score > scored[0][0] + _LEAST_GAIN else default


def _candidates(boxes: Boxes, default: Anchors, *, keep_ratios: bool) -> Iterator[Anchors]:
    """Yield the default anchors first."""
    L = len(default.strides)
    logs = np.log2(np.sqrt(boxes.xywh[:, 2] * boxes.xywh[:, 3]))
    smallest = np.arange(np.floor(logs.min()), np.ceil(logs.max()) + 0.1, 0.25)
    sequences = [2 ** (first + step * np.arange(L)) for step in _STEPS for first in smallest]
    quantiles = 2 ** np.quantile(logs, (np.arange(L) + 0.5) / L)
    of_boxes = [quantiles, 2 ** k_means(logs, L), *sequences]
    every_size = [default.sizes, *([round(float(s), 1) for s in sizes] for sizes in of_boxes)]
    every_ratio = [default.aspect_ratios]
    if not keep_ratios:
        every_ratio.append(_ratios(boxes, len(default.aspect_ratios)))
    for sizes in every_size:
        for ratios in every_ratio:
            yield Anchors(sizes, ratios, default.strides)


def _ratios(boxes: Boxes, number: int) -> list[float]:
    logs = np.log2(boxes.xywh[:, 3] / boxes.xywh[:, 2])
    centers = k_means(np.clip(logs, -_MOST_ELONGATED, _MOST_ELONGATED), number)
    return [round(float(ratio), 2) for ratio in 2**centers]


def k_means(values: np.ndarray, k: int) -> np.ndarray:
    """Return ``(k,)`` ascending centers of ``(M,)`` numbers, by Lloyd's algorithm from quantiles.

    A center without a number keeps its place, so equal numbers give equal centers.
    """
    values = np.sort(values)
    centers = np.quantile(values, (np.arange(k) + 0.5) / k)
    for _ in range(100):
        bounds = np.searchsorted(values, (centers[1:] + centers[:-1]) / 2)
        parts = np.split(values, bounds)
        moved = np.array([p.mean() if len(p) else c for p, c in zip(parts, centers, strict=True)])
        if np.allclose(moved, centers):
            break
        centers = np.sort(moved)
    return centers

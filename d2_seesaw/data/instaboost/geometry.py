"""Geometry of InstaBoost: groups of instances and their random transforms.

Coordinates are those of COCO's polygons and boxes: pixel i covers ``[i, i + 1]``, and its center is
at ``i + 0.5``.

Shapes in this module:
    N: boxes
    P: points
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Jitter:
    """Ranges of the random transform of a group.

    Attributes:
        scale: smallest and largest factor.
        shift: largest shift along an axis, as a fraction of the group's size along it.
        angle: largest rotation in either direction, in whole degrees.
        border: distance to an edge of the image, in pixels. Closer groups may be cut off there, so
            they only grow, only move outward along that axis, and do not rotate.
    """

    scale: tuple[float, float]
    shift: float
    angle: int
    border: float


@dataclass(frozen=True)
class Similarity:
    """Similarity transform ``x -> center + shift + scale * R(angle) (x - center)``.

    The angle is in degrees, clockwise because y points down.
    """

    center: tuple[float, float]
    scale: float = 1.0
    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)

    def matrix(self) -> np.ndarray:
        """Return the ``(2, 3)`` float64 matrix ``[A b]`` of ``x -> A x + b``."""
        cos, sin = np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))
        A = self.scale * np.array([[cos, -sin], [sin, cos]])
        b = np.add(self.center, self.shift) - A @ self.center
        return np.column_stack([A, b])


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Transform ``(P, 2)`` points by a ``(2, 3)`` matrix."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def warp_window(
    pixels: np.ndarray,
    matrix: np.ndarray,
    origin: tuple[int, int],
    target: tuple[int, int, int, int],
    *,
    interpolation: int,
) -> np.ndarray:
    """Warp a window of an image into another window of it.

    Args:
        pixels: ``(h, w)`` or ``(h, w, 3)`` uint8, the source window.
        matrix: ``(2, 3)``, from source to target in coordinates of the whole image.
        origin: x and y of the source window's first pixel in the image.
        target: x0, y0, x1, y1 of the target window in the image, in whole pixels.
        interpolation: OpenCV's flag. Masks are 0 outside the source; images repeat their edge.

    Returns:
        ``(y1 - y0, x1 - x0)`` or the same with 3 channels, uint8.
    """
    x0, y0, x1, y1 = target
    # From pixel indices to coordinates of pixel centers, and back.
    from_center = np.add(origin, 0.5)
    A, b = matrix[:, :2], matrix[:, 2]
    indices = np.column_stack([A, A @ from_center + b - (x0 + 0.5, y0 + 0.5)])
    border = cv2.BORDER_CONSTANT if pixels.ndim == 2 else cv2.BORDER_REPLICATE
    size = (x1 - x0, y1 - y0)
    return cv2.warpAffine(pixels, indices, size, flags=interpolation, borderMode=border)


def overlapping_groups(boxes: np.ndarray) -> list[list[int]]:
    """Return the connected components of overlapping boxes; boxes that only touch do not overlap.

    Args:
        boxes: ``(N, 4)`` x0, y0, x1, y1.

    Returns:
        Ascending indices of each group's members; groups in the order of their first member.
    """
    begins_before_end = (boxes[:, None, :2] < boxes[None, :, 2:]).all(axis=2)
    overlaps = np.logical_and(begins_before_end, begins_before_end.T)
    grouped = np.zeros(len(boxes), bool)
    groups = []
    for first in range(len(boxes)):
        if grouped[first]:
            continue
        group, newest = np.zeros((2, len(boxes)), bool)
        newest[first] = True
        while newest.any():
            group |= newest
            newest = overlaps[newest].any(axis=0) & ~group
        grouped |= group
        groups.append(np.flatnonzero(group).tolist())
    return groups


def draw_similarity(
    box: np.ndarray, image_size: tuple[int, int], jitter: Jitter, rng: np.random.Generator
) -> Similarity:
    """Draw the transform of a group, with the border rule of InstaBoost's released code.

    Args:
        box: ``(4,)`` x0, y0, x1, y1 around the group.
        image_size: height and width.
        jitter: the ranges.
        rng: source of the random numbers; the same number is drawn in all cases.
    """
    limits = np.floor(np.multiply(jitter.shift, box[2:] - box[:2])).astype(int)
    scale = rng.uniform(*jitter.scale)
    shift = rng.integers(-limits, limits + 1)
    angle = int(rng.integers(-jitter.angle, jitter.angle + 1))
    at_start = np.less(box[:2], jitter.border)
    at_end = np.greater(box[2:], np.subtract(image_size[::-1], jitter.border))
    if at_start.any() or at_end.any():
        scale, angle = max(scale, 1.0), 0
    # A group at both edges of an axis does not move along it.
    shift = np.where(at_start, np.minimum(shift, 0), shift)
    shift = np.where(at_end, np.maximum(shift, 0), shift)
    x, y = (box[:2] + box[2:]) / 2
    return Similarity((float(x), float(y)), scale, angle, (float(shift[0]), float(shift[1])))

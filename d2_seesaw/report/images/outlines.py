"""Outlines of masks as SVG paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

_FINER = 2  # outlines run along the edges of pixels, not through their centers
_LARGEST = 1e6
_MOST_RINGS = 50


def outlines(segmentation: Any, tolerance: float = 0.5) -> list[np.ndarray]:
    """Return the outlines of a mask. Holes run the other way round, for the fill rule "nonzero".

    Args:
        segmentation: Polygons, whose union is the mask, or a run-length encoding.
        tolerance: Largest distance of a simplified outline, in pixels. Of an encoding with more
            than 50 outlines, the largest are kept.

    Returns:
        ``(P, 2)`` points x, y of each outline, in pixels of the image.
    """
    if isinstance(segmentation, Mapping):
        return _of_mask(segmentation, tolerance)
    rings = [np.asarray(polygon, np.float32).reshape(-1, 2) for polygon in segmentation]
    rings = [np.clip(ring, -_LARGEST, _LARGEST) for ring in rings if np.isfinite(ring).all()]
    return [
        ring[:: -1 if cv2.contourArea(ring, oriented=True) < 0 else 1]
        for ring in (_simplified(ring, tolerance / 2) for ring in rings)
        if len(ring) > 2
    ]


def _of_mask(rle: Mapping[str, Any], tolerance: float) -> list[np.ndarray]:
    encoded: Any = dict(rle)
    left, top, width, height = (int(v) for v in coco_mask.toBbox(encoded))
    if not width or not height:
        return []
    decoded: Any = coco_mask.decode(encoded)
    crop = np.ascontiguousarray(decoded[top : top + height, left : left + width])
    fine = crop.repeat(_FINER, 0).repeat(_FINER, 1)
    found, _ = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    shift = np.array([left, top])
    if len(found) > _MOST_RINGS:  # of a mask that is noise
        found = sorted(found, key=cv2.contourArea, reverse=True)[:_MOST_RINGS]
    rings = [_simplified(ring[:, 0], _FINER * tolerance) for ring in found]
    return [(ring + 0.5) / _FINER + shift for ring in rings if len(ring) > 2]


def _simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    simple = cv2.approxPolyDP(ring[:, None], tolerance, True)[:, 0]
    return simple if len(simple) > 2 else ring  # a mask of few pixels keeps its outline


def svg_path(rings: Sequence[np.ndarray]) -> str:
    """Return the ``d`` of an SVG path, with one decimal."""
    return "".join(
        "M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in ring.tolist()) + "Z" for ring in rings
    )


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

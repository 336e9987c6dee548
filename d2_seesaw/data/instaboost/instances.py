"""Annotations of moving instances: masks cropped to windows; moved boxes, polygons and RLEs.

Masks are cropped to the window they need, because whole canvases would dominate the run time with
hundreds of instances.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from detectron2.data.transforms import CropTransform
from detectron2.structures import BoxMode
from pycocotools import mask as mask_utils

from d2_seesaw.data.instaboost.geometry import transform_points, warp_window

Annotation = dict[str, Any]
"""An annotation in Detectron2's format: ``bbox``, ``bbox_mode``, ``segmentation`` and more."""

_rle: Any = mask_utils  # its type hints lack polygons and RLEs from JSON


@dataclass(frozen=True)
class MaskWindow:
    """A mask inside a window of an image.

    Attributes:
        x: column of the window's left edge in the image.
        y: row of its top edge.
        mask: ``(h, w)`` uint8, 0 or 1; 0 outside the window.
    """

    x: int
    y: int
    mask: np.ndarray

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """Corners x0, y0, x1, y1 of the window."""
        h, w = self.mask.shape
        return self.x, self.y, self.x + w, self.y + h

    def part_of(self, canvas: np.ndarray) -> np.ndarray:
        """Return a view of the window in an ``(H, W, ...)`` canvas."""
        x0, y0, x1, y1 = self.bounds
        return canvas[y0:y1, x0:x1]

    def tight_box(self) -> list[float]:
        """Return the tight box x0, y0, x1, y1 of the mask."""
        columns, rows = np.flatnonzero(self.mask.any(0)), np.flatnonzero(self.mask.any(1))
        corners = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        return [float(c + o) for c, o in zip(corners, (self.x, self.y) * 2, strict=True)]


_Moved = tuple[Any, list[float], MaskWindow]
"""A segmentation, its tight box x0, y0, x1, y1, and its mask."""


def union_window(windows: list[MaskWindow]) -> MaskWindow:
    """Merge the masks into one window."""
    bounds = np.array([window.bounds for window in windows])
    (x0, y0), (x1, y1) = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
    union = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for w in windows:
        part = MaskWindow(w.x - x0, w.y - y0, w.mask).part_of(union)
        np.maximum(part, w.mask, out=part)
    return MaskWindow(int(x0), int(y0), union)


def annotation_box(annotation: Annotation) -> list[float]:
    """Return the box as x0, y0, x1, y1, for any ``bbox_mode``."""
    box: Any = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    return box


def mask_of(annotation: Annotation, image_size: tuple[int, int]) -> MaskWindow:
    """Return the instance's mask.

    Args:
        annotation: with polygons or an RLE, compressed or not, as ``segmentation``.
        image_size: height and width.

    Raises:
        ValueError: the segmentation is missing, has another type, or is for another image size.
    """
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        return _draw_polygons(_as_points(segmentation), image_size)
    if not isinstance(segmentation, dict):
        raise ValueError(
            "to move an instance, its segmentation must be a list of polygons or an RLE dict, got "
            f"{type(segmentation).__name__}"
        )
    if tuple(segmentation["size"]) != tuple(image_size):
        raise ValueError(
            f"the RLE has size {tuple(segmentation['size'])}, but its image has {image_size}"
        )
    if isinstance(segmentation["counts"], list):
        segmentation = _rle.frPyObjects(segmentation, *image_size)
    x, y, w, h = _rle.toBbox(segmentation).astype(int).tolist()
    return MaskWindow(x, y, _rle.decode(segmentation)[y : y + h, x : x + w])


def move_annotation(
    annotation: Annotation, window: MaskWindow, matrix: np.ndarray, image_size: tuple[int, int]
) -> tuple[Annotation, MaskWindow] | None:
    """Transform an annotation.

    Polygon vertices are transformed, and polygons are clipped to the image. RLEs are warped with
    nearest-neighbor interpolation. The new box is the tight box of the polygons or of the mask.
    Keypoints are transformed. All other fields are kept.

    Args:
        annotation: not changed.
        window: its mask.
        matrix: ``(2, 3)``, from ``Similarity.matrix``.
        image_size: height and width.

    Returns:
        The new annotation, in the same formats (RLE compressed), and its mask; None if no pixel of
        it is inside the image.
    """
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        result = _move_polygons(segmentation, matrix, image_size)
    else:
        result = _move_rle(segmentation, window, matrix, image_size)
    if result is None:
        return None
    segmentation, box, moved = result
    box = BoxMode.convert(box, BoxMode.XYXY_ABS, annotation["bbox_mode"])
    new = {**annotation, "bbox": box, "segmentation": segmentation}
    if "keypoints" in annotation:
        keypoints = np.array(annotation["keypoints"], float).reshape(-1, 3)
        keypoints[:, :2] = transform_points(matrix, keypoints[:, :2])
        new["keypoints"] = keypoints.reshape(-1).tolist()
    return new, moved


def _as_points(polygons: list[Any]) -> list[np.ndarray]:
    return [np.asarray(polygon, float).reshape(-1, 2) for polygon in polygons]


def _pixels_around(points: np.ndarray, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the integer bounding box x0, y0, x1, y1 of ``(P, 2)`` points, clipped to the image."""
    limits = np.array(image_size[::-1])
    low = np.clip(np.floor(points.min(axis=0)).astype(int), 0, limits)
    high = np.clip(np.ceil(points.max(axis=0)).astype(int), low, limits)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _draw_polygons(polygons: list[np.ndarray], image_size: tuple[int, int]) -> MaskWindow:
    x0, y0, x1, y1 = _pixels_around(np.concatenate(polygons), image_size)
    # COCO rasterizes on a grid of 1/5 pixel. A shift by whole pixels may round a coordinate between
    # two grid points differently, so that pixels at the edge may differ from a whole canvas.
    h, w = y1 - y0, x1 - x0
    if h * w == 0:
        return MaskWindow(x0, y0, np.zeros((h, w), np.uint8))
    flat = [(polygon - (x0, y0)).reshape(-1).tolist() for polygon in polygons]
    rle = _rle.merge(_rle.frPyObjects(flat, h, w))
    return MaskWindow(x0, y0, _rle.decode(rle))


def _move_polygons(
    polygons: list[Any], matrix: np.ndarray, image_size: tuple[int, int]
) -> _Moved | None:
    h, w = image_size
    moved = [transform_points(matrix, polygon) for polygon in _as_points(polygons)]
    points = np.concatenate(moved)
    if (points < 0).any() or (points > (w, h)).any():
        moved = CropTransform(0, 0, w, h).apply_polygons(moved)
    if not moved:
        return None
    window = _draw_polygons(moved, image_size)
    if not window.mask.any():
        return None
    points = np.concatenate(moved)
    box = [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
    return [polygon.reshape(-1).tolist() for polygon in moved], box, window


def _move_rle(rle: Annotation, window: MaskWindow, matrix: np.ndarray, image_size: tuple[int, int]):
    x0, y0, x1, y1 = window.bounds
    corners = transform_points(matrix, np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]], float))
    target = _pixels_around(corners, image_size)
    if 0 in window.mask.shape or target[0] == target[2] or target[1] == target[3]:
        return None
    mask = warp_window(
        np.ascontiguousarray(window.mask),
        matrix,
        (x0, y0),
        target,
        interpolation=cv2.INTER_NEAREST,
    )
    if not mask.any():
        return None
    moved = MaskWindow(target[0], target[1], mask)
    canvas = np.zeros(image_size, np.uint8, order="F")
    moved.part_of(canvas)[:] = mask
    new = _rle.encode(canvas)
    if isinstance(rle["counts"], str):  # as in JSON
        new["counts"] = new["counts"].decode("ascii")
    return new, moved.tight_box(), moved

"""Boxes and masks of all annotations of an image, transformed together.

Detectron2 transforms annotation by annotation and polygon by polygon, which takes most of the time
of its mapper once resizing is fast.

Shapes in this module:
    N: objects of an image
    h, w: height and width of the image as stored
    H, W: height and width after the transforms
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import cv2
import detectron2.data.transforms as T
import numpy as np
import pycocotools.mask as mask_utils
import torch
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from fvcore.transforms.transform import CropTransform, HFlipTransform, VFlipTransform

from d2_seesaw.data.rle import run_lengths
from d2_seesaw.data.transforms import OpenCVResizeTransform

_CORNERS = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
_KEPT_LABELS = (T.NoOpTransform, T.ColorTransform, T.PILColorTransform, T.BlendTransform)
"""Transforms that leave a label map as it is."""


def boxes_and_classes(
    annotations: Sequence[Mapping[str, Any]], transforms: T.TransformList, size: tuple[int, int]
) -> Instances | None:
    """Return ``Instances`` with ``gt_boxes`` and ``gt_classes``.

    Args:
        annotations: in Detectron2's format, without crowds.
        transforms: of the image.
        size: ``(H, W)``.

    Returns:
        None if there are no annotations, keypoints, or boxes of another kind than corners, or a
        corner with width and height.
    """
    modes = [annotation["bbox_mode"] for annotation in annotations]
    if not annotations or any("keypoints" in annotation for annotation in annotations):
        return None
    if any(mode not in _CORNERS for mode in modes):
        return None
    boxes = np.array([annotation["bbox"] for annotation in annotations], np.float64)
    if boxes.shape != (len(annotations), 4):
        return None
    boxes[:, 2:] += boxes[:, :2] * (np.array(modes) == BoxMode.XYWH_ABS)[:, None]
    H, W = size
    transformed: Any = transforms.apply_box(boxes)
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.from_numpy(np.clip(transformed, 0, (W, H, W, H))))
    instances.gt_classes = torch.tensor(
        [int(annotation["category_id"]) for annotation in annotations]
    )
    return instances


def polygon_masks(
    annotations: Sequence[Mapping[str, Any]], transforms: T.TransformList
) -> PolygonMasks | None:
    """Return the transformed polygons of N annotations.

    Returns:
        None if a segmentation is not a list of polygons, or if a transform of polygons is not one
        of their points, such as a crop.
    """
    polygons_of = [annotation.get("segmentation") for annotation in annotations]
    if not all(isinstance(polygons, list) and polygons for polygons in polygons_of):
        return None
    if any(type(t).apply_polygons is not T.Transform.apply_polygons for t in transforms.transforms):
        return None
    flat = list(chain.from_iterable(polygons_of))  # pyright: ignore[reportArgumentType]
    lengths = [len(polygon) for polygon in flat]
    if any(length % 2 for length in lengths):
        return None
    points = np.fromiter(chain.from_iterable(flat), np.float64, sum(lengths)).reshape(-1, 2)
    moved: Any = transforms.apply_coords(points)
    numbers = np.asarray(moved).reshape(-1)
    ends = np.cumsum([0, *lengths]).tolist()
    parts = iter([numbers[first:last] for first, last in pairwise(ends)])
    return PolygonMasks([[next(parts) for _ in polygons] for polygons in polygons_of])  # pyright: ignore[reportOptionalIterable]


def bit_masks(
    rles: Sequence[Mapping[str, Any]], transforms: T.TransformList, size: tuple[int, int]
) -> tuple[BitMasks, np.ndarray] | None:
    """Return N masks, transformed like label maps, and which of them are not empty.

    Only the pixels of the objects are computed. Transforms of labels that choose a row and a column
    of the stored image for each row and column of the result leave nothing else to compute.

    Args:
        rles: compressed encodings.
        transforms: of the image.
        size: ``(h, w)``.

    Returns:
        The masks and ``(N,)`` bool, which PyTorch would take longer to find than to make the masks;
        None if a transform is of another kind, or a mask of another size.
    """
    lines = _source_lines(transforms.transforms, size)
    if lines is None or any(tuple(rle["size"]) != tuple(size) for rle in rles):
        return None
    rows, columns = lines
    masks = np.zeros((len(rles), len(rows), len(columns)), bool)
    filled = np.zeros(len(rles), bool)
    extents = np.asarray(mask_utils.toBbox(list(rles)), np.int64).reshape(-1, 4)  # pyright: ignore[reportArgumentType]
    for i, (x, y, width, height) in enumerate(extents.tolist()):
        row, column = _within(rows, y, height), _within(columns, x, width)
        if row.stop > row.start and column.stop > column.start:
            part = _columns_of(rles[i], x, width)[columns[column] - x]
            part = cv2.transpose(part).take(rows[row], axis=0)
            masks[i, row, column] = part
            filled[i] = part.any()
    return BitMasks(torch.from_numpy(masks)), filled


def _source_lines(
    transforms: Iterable[T.Transform], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the row of an ``(h, w)`` label map that each row shows afterwards, and the columns."""
    h, w = size
    rows, columns = np.arange(h, dtype=np.float32)[:, None], np.arange(w, dtype=np.float32)[None]
    for t in transforms:
        if type(t) is OpenCVResizeTransform:
            if (t.h, t.w) != (rows.size, columns.size):
                return None
            rows = OpenCVResizeTransform(t.h, 1, t.new_h, 1).apply_segmentation(rows)
            columns = OpenCVResizeTransform(1, t.w, 1, t.new_w).apply_segmentation(columns)
        elif type(t) is HFlipTransform:
            columns = columns[:, ::-1]
        elif type(t) is VFlipTransform:
            rows = rows[::-1]
        elif type(t) is CropTransform:
            rows = rows[t.y0 : t.y0 + t.h]  # pyright: ignore[reportAttributeAccessIssue]
            columns = columns[:, t.x0 : t.x0 + t.w]  # pyright: ignore[reportAttributeAccessIssue]
        elif type(t) not in _KEPT_LABELS:
            return None
    return rows.ravel().astype(np.intp), columns.ravel().astype(np.intp)


def _within(lines: np.ndarray, start: int, length: int) -> slice:
    """Return the range of ascending or descending ``lines`` from ``start`` on."""
    places = np.flatnonzero((lines >= start) & (lines < start + length))
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def _columns_of(rle: Mapping[str, Any], x: int, width: int) -> np.ndarray:
    """Decode columns of a mask, of which those before ``x`` are empty: ``(width, h)`` uint8."""
    h = rle["size"][0]
    ends = np.cumsum(run_lengths(rle["counts"])) - x * h
    lengths = np.diff(ends.clip(0, width * h), prepend=0)
    values = (np.arange(len(lengths)) % 2).astype(np.uint8)
    return np.repeat(values, lengths).reshape(width, h)

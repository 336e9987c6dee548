"""Formats of boxes, recognized by the masks of the boxes or by the sizes of the images.

Shapes in this module:
    N: boxes
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from d2_seesaw.data.annotations.mask_geometry import (
    ROWS_AT_ONCE,
    MaskGeometry,
    mask_geometry,
)
from d2_seesaw.data.annotations.table import AnnotationTable

_LEAST_IOU = 0.75
_PIXELS = 2.0  # boxes that differ by less were rounded
_LEAST_SHARE = 0.8  # of the boxes that do not fit: they fit in the other format
_LEAST_BEYOND = 3  # boxes that reach beyond their image are no accident
_SHARE_BEYOND = {"x1, y1, x2, y2": 0.2, "center x, center y, width, height": 0.05}
_SHARE_INSIDE = 0.97

_LEAST_MISFITS = 0.25  # of a sample; half of all boxes must not fit

SAMPLED_BLOCKS = 48
"""Blocks of rows, 98,304 annotations in all, by which large files are judged first."""

FILE_FORMAT = "x, y, width, height"
"""The format that annotation files have."""


def _of_corners(box: np.ndarray) -> np.ndarray:
    return box


def _of_file(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1)


def _of_center(box: np.ndarray) -> np.ndarray:
    half = box[:, 2:] / 2
    return np.concatenate([box[:, :2] - half, box[:, :2] + half], axis=1)


_CORNERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    FILE_FORMAT: _of_file,
    "x1, y1, x2, y2": _of_corners,
    "center x, center y, width, height": _of_center,
    "y, x, height, width": lambda box: _of_file(box[:, [1, 0, 3, 2]]),
    "y1, x1, y2, x2": lambda box: box[:, [1, 0, 3, 2]],
}
_SCALES = {"": None, ", as shares of the image from 0 to 1": 1, ", in percent of the image": 100}


@dataclass(frozen=True)
class BoxFormat:
    """A format that the boxes of a file have instead of ``FILE_FORMAT``.

    Attributes:
        name: The format.
        fitting: ``(N,)`` boxes that the format explains, and ``FILE_FORMAT`` does not.
        judged: Number of boxes from which it was recognized.
        reason: The evidence.
    """

    name: str
    fitting: np.ndarray
    judged: int
    reason: str


def box_overlaps(corners: np.ndarray, extents: np.ndarray) -> np.ndarray:
    """Return the ``(N,)`` IoU of boxes, ``(N, 4)`` left, top, right and bottom; 0 of NaN."""
    low = np.maximum(corners[:, :2], extents[:, :2])
    high = np.minimum(corners[:, 2:], extents[:, 2:])
    with np.errstate(all="ignore"):
        shared = np.clip(high - low, 0, None).prod(axis=1)
        both = sum(np.clip(b[:, 2:] - b[:, :2], 0, None).prod(axis=1) for b in (corners, extents))
        return np.nan_to_num(shared / (both - shared), posinf=0.0)


def box_fits(
    box: np.ndarray, extent: np.ndarray, size: np.ndarray, *, least_iou: float = _LEAST_IOU
) -> np.ndarray:
    """Return ``(N,)`` whether boxes are the extents of their masks, except for rounding.

    Args:
        box: ``(N, 4)`` left, top, width and height.
        extent: ``(N, 4)`` left, top, right and bottom of the masks. Either the mask or its part in
            the image can be enclosed.
        size: ``(N, 2)`` width and height of the images.
        least_iou: an IoU that counts as a fit.
    """
    return _fits(_of_file(box), extent, size, least_iou)


def _fits(corners: np.ndarray, extent: np.ndarray, size: np.ndarray, iou: float) -> np.ndarray:
    found = _close(corners, extent)
    rest = np.flatnonzero(~found)  # few of them in most files
    if len(rest):
        corners, extent, size = corners[rest], extent[rest], size[rest]
        inside = np.fmin(np.fmax(extent, 0), np.tile(size, 2))
        fits = _close(corners, inside)
        for target in (extent, inside):
            fits |= box_overlaps(corners, target) >= iou
        found[rest] = fits & np.isfinite(extent).all(axis=1)
    return found


def _close(corners: np.ndarray, extent: np.ndarray) -> np.ndarray:
    close = np.ones(len(corners), bool)
    with np.errstate(invalid="ignore", over="ignore"):
        for side in range(4):  # faster than a reduction of so short an axis
            close &= np.abs(corners[:, side] - extent[:, side]) <= _PIXELS
    return close


def fitting_format(box: np.ndarray, extent: np.ndarray, size: np.ndarray) -> str | None:
    """Return the other format in which a single box, ``(4,)``, fits its mask, if there is one."""
    fits = _fits_by_format(box[None], extent[None], size[None])
    return next((name for name, found in fits.items() if found[0]), None)


def _fits_by_format(box: np.ndarray, extent: np.ndarray, size: np.ndarray) -> dict[str, np.ndarray]:
    """Return ``(N,)`` fits for each format but that of the file."""
    found = {}
    for scale, whole in _SCALES.items():
        scaled = box if whole is None else box * np.tile(size, 2) / whole
        for layout, corners in _CORNERS.items():
            if (layout, whole) != (FILE_FORMAT, None):
                found[layout + scale] = _fits(corners(scaled), extent, size, _LEAST_IOU)
    return found


def recognize_format(box: np.ndarray, extent: np.ndarray, size: np.ndarray) -> BoxFormat | None:
    """Recognize boxes that have another format than x, y, width and height.

    With masks, more than half of the boxes must not fit their masks, and four fifths of these must
    fit in the other format. Without masks, boxes must reach beyond the images in the format of the
    file, and nearly none in the other one. Boxes within the first pixel are shares of the image.

    Args:
        box: ``(N, 4)``.
        extent: ``(N, 4)`` left, top, right and bottom of the masks, NaN without a mask.
        size: ``(N, 2)`` width and height of the images.
    """
    usable = np.isfinite(box.sum(axis=1) + size.sum(axis=1))
    masked = usable & np.isfinite(extent[:, 0])
    shares = _are_shares(box[usable], size[usable])
    if masked.any() and not (shares and _are_shares(extent[masked], size[masked])):
        return _by_masks(box, extent, size, masked)
    if not shares:
        layout = _by_images(box[usable], size[usable])
        if layout is None:
            return None
        beyond = int((_of_file(box[usable])[:, 2:] > size[usable] + 1).any(axis=1).sum())
        reason = f"such boxes are inside the images, which {beyond:,} are not as {FILE_FORMAT}"
        return BoxFormat(layout, usable, int(usable.sum()), reason)
    scale = list(_SCALES)[1]
    layout = _by_images(box[usable] * np.tile(size[usable], 2), size[usable]) or FILE_FORMAT
    return BoxFormat(layout + scale, usable, int(usable.sum()), "no coordinate is above 1")


def box_format(table: AnnotationTable, masks: MaskGeometry | None = None) -> BoxFormat | None:
    """Recognize the format of the boxes of single objects, see :func:`recognize_format`.

    Args:
        table: the annotations.
        masks: their masks, if they are known already.

    Large files with masks are first judged by a sample, see :func:`sampled_blocks`.
    """
    single = ~table.crowd & (table.image >= 0)
    if blocks := sampled_blocks(single & table.has_segmentation):
        some = mask_geometry(table, blocks) if masks is None else masks
        rows = (np.array(blocks)[:, None] * ROWS_AT_ONCE + np.arange(ROWS_AT_ONCE)).ravel()
        rows = rows[rows < len(single)]
        rows = rows[single[rows]]
        if not _may_differ(table.box[rows], some.extent[rows], table.image_sizes[rows]):
            return None
    masks = mask_geometry(table) if masks is None else masks
    found = recognize_format(table.box[single], masks.extent[single], table.image_sizes[single])
    if found is None:
        return None
    fitting = np.zeros(len(single), bool)
    fitting[single] = found.fitting
    return replace(found, fitting=fitting)


def sampled_blocks(rows: np.ndarray) -> list[int]:
    """Return blocks of ``ROWS_AT_ONCE`` rows that represent many, spread evenly over a file.

    Args:
        rows: ``(A,)`` whether a row is to be represented.

    Returns:
        At most ``SAMPLED_BLOCKS`` of the blocks with such rows; empty if the file has not more, or
        there are no such rows.
    """
    starts = np.arange(0, len(rows), ROWS_AT_ONCE)
    if len(starts) <= SAMPLED_BLOCKS:
        return []
    blocks = np.flatnonzero(np.logical_or.reduceat(rows, starts))
    if len(blocks) > SAMPLED_BLOCKS:
        blocks = blocks[np.arange(SAMPLED_BLOCKS) * len(blocks) // SAMPLED_BLOCKS]
    return blocks.tolist()


def _may_differ(box: np.ndarray, extent: np.ndarray, size: np.ndarray) -> bool:
    """Return whether a sample is anywhere near what :func:`recognize_format` looks for."""
    usable = np.isfinite(box.sum(axis=1) + size.sum(axis=1))
    box, extent, size = box[usable], extent[usable], size[usable]
    if _are_shares(box, size):
        return True
    masked = np.isfinite(extent[:, 0])
    if not masked.any():
        return True
    misfits = ~box_fits(box[masked], extent[masked], size[masked])
    return bool(misfits.mean() > _LEAST_MISFITS)


def _are_shares(box: np.ndarray, size: np.ndarray) -> bool:
    """Return whether all coordinates are between 0 and 1, and not all of them are 0."""
    if not len(box) or size.max(initial=0) <= 2:
        return False
    return bool(box.min() >= -0.01 and 0 < box.max() <= 1.01)


def _by_masks(
    box: np.ndarray, extent: np.ndarray, size: np.ndarray, masked: np.ndarray
) -> BoxFormat | None:
    other = masked.copy()
    other[masked] = ~box_fits(box[masked], extent[masked], size[masked])
    number = int(other.sum())
    if number <= masked.sum() / 2:
        return None
    fits = _fits_by_format(box[other], extent[other], size[other])
    name = max(fits, key=lambda name: fits[name].sum())
    if fits[name].sum() < _LEAST_SHARE * number:
        return None
    fitting = np.zeros(len(box), bool)
    fitting[other] = fits[name]
    return BoxFormat(name, fitting, int(masked.sum()), "such boxes enclose their masks")


def _by_images(box: np.ndarray, size: np.ndarray) -> str | None:
    beyond = (_of_file(box)[:, 2:] > size + 1).any(axis=1)
    if beyond.sum() < _LEAST_BEYOND:
        return None
    for name, share in _SHARE_BEYOND.items():
        corners = _CORNERS[name](box)
        inside = (corners >= -1).all(axis=1) & (corners[:, 2:] <= size + 1).all(axis=1)
        inside &= (corners[:, 2:] >= corners[:, :2]).all(axis=1)
        if beyond.mean() >= share and inside.mean() >= _SHARE_INSIDE:
            return name
    return None

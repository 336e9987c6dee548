"""Encoding of the masks that a model predicts on boxes, without pasting them into images.

Detectron2 pastes each predicted mask into an image of its own (``paste_masks_in_image``) and
encodes that image. For 300 masks of 800 x 1333 pixels these images take 320 MB, and all but the
boxes is zero. ``encode_masks`` pastes each mask into the window of its box only and shifts the runs
to their place in the image. The result is identical to the byte. Interpolation along one axis and
then along the other is faster than ``grid_sample`` but rounds differently, so pixels close to the
threshold are computed again with ``grid_sample``.

Shapes in this module:
    N: masks
    M: edge of a mask on its box
    H, W: image
    h, w: window of one box
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances, ROIMasks
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from d2_seesaw.data.rle.conversion import encode_bitmap
from d2_seesaw.data.rle.device_windows import DeviceLines, changes_on_device
from d2_seesaw.data.rle.kernels import compiled_functions

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_MASKS_AT_ONCE = 32  # bounds the memory of the interpolation weights
_PIXELS_AT_ONCE = 2**22  # of windows in memory together


def encode_instances(instances: Instances, *, on_device: bool = False) -> list[dict[str, Any]]:
    """Encode ``pred_masks``, which are masks of the image or masks on boxes (``ROIMasks``).

    Args:
        instances: Instances with ``pred_masks``, and with ``pred_boxes`` for masks on boxes.
        on_device: As for :func:`encode_masks`.
    """
    masks = instances.pred_masks
    if isinstance(masks, ROIMasks):
        return encode_masks(
            masks.tensor, instances.pred_boxes, instances.image_size, on_device=on_device
        )
    return [encode_bitmap(mask) for mask in masks]


def encode_masks(
    masks: Tensor,
    boxes: Tensor | Boxes,
    image_size: tuple[int, int],
    *,
    threshold: float = 0.5,
    on_device: bool = False,
) -> list[dict[str, Any]]:
    """Encode masks on boxes as masks of the image.

    The result is that of Detectron2's paste on the CPU and pycocotools' encoder. Inputs of any
    device and dtype are computed in float32. A box without a pixel in the image, which
    Detectron2 refuses to paste, has an empty mask.

    Args:
        masks: ``(N, 1, M, M)`` or ``(N, M, M)`` probabilities.
        boxes: ``(N, 4)`` corners x0, y0, x1, y1 in pixels, inside or outside of the image.
        image_size: ``(H, W)``.
        threshold: Lowest probability of a pixel of the mask; not negative.
        on_device: Whether to interpolate and to find the runs on the device of the masks instead of
            the CPU, with the same result.

    Returns:
        N encodings with compressed counts in bytes.

    Raises:
        ValueError: the shapes do not match, a coordinate is not finite, the threshold is negative.
    """
    probs, corners = _checked(masks, boxes, threshold)
    H, W = (int(edge) for edge in image_size)
    rles: list[dict[str, Any]] = []
    compiled = None if on_device else compiled_functions()
    for part in _blocks(corners, (H, W), by_pixels=on_device or compiled is not None):
        windows = _Windows.of(probs[part], corners[part], (H, W))
        if on_device:
            found = windows.changes_on_device(masks.device, threshold)
            runs = _runs(*found, windows, (H, W))
        elif compiled is None:
            changes = [windows.changes(i, threshold) for i in range(len(windows.masks))]
            numbers = np.array([len(each) for each in changes])
            runs = _runs(np.concatenate(changes), numbers, windows, (H, W))
        else:
            runs = _runs(*windows.all_changes(compiled, threshold), windows, (H, W))
        uncompressed: Any = [{"size": [H, W], "counts": r} for r in runs]
        rles += coco_mask.frPyObjects(uncompressed, H, W)
    return rles


def _blocks(corners: Floats, image_size: tuple[int, int], *, by_pixels: bool) -> Iterator[slice]:
    """Yield parts of the masks whose windows or weights are in memory together."""
    H, W = image_size
    pixels = np.full(len(corners), _PIXELS_AT_ONCE // _MASKS_AT_ONCE, np.int64)
    if by_pixels:
        low, high = corners[:, :2].clip(0, (W, H)), corners[:, 2:].clip(0, (W, H))
        pixels = (high - low).clip(0).astype(np.int64).prod(axis=1)
    ends = np.cumsum(pixels)
    start = 0
    while start < len(corners):
        done = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, done + _PIXELS_AT_ONCE, side="right"))
        yield slice(start, max(stop, start + 1))
        start = max(stop, start + 1)


def _checked(masks: Tensor, boxes: Tensor | Boxes, threshold: float) -> tuple[Floats, Floats]:
    boxes = boxes.tensor if isinstance(boxes, Boxes) else boxes
    N, M = len(masks), masks.shape[-1]
    if masks.shape not in ((N, M, M), (N, 1, M, M)):
        raise ValueError(f"masks must be (N, M, M) or (N, 1, M, M), got {tuple(masks.shape)}")
    if boxes.shape != (N, 4):
        raise ValueError(f"boxes must have shape ({N}, 4), got {tuple(boxes.shape)}")
    if not threshold >= 0:
        raise ValueError(f"threshold must not be negative, got {threshold}")
    probs = masks.detach().reshape(N, M, M).to("cpu", torch.float32).contiguous()
    corners = boxes.detach().to("cpu", torch.float32)
    if not corners.isfinite().all():
        raise ValueError(f"boxes must be finite, got {corners[~corners.isfinite().all(1)][0]}")
    return probs.numpy(), corners.numpy()


@dataclass(frozen=True)
class _Axis:
    """Sampling weights along one axis, for the lines of all windows.

    A window has one line for each of its pixels and a blank line, whose weights are zero.

    Args:
        start: ``(N,)`` first pixel of each window.
        length: ``(N,)`` number of pixels of each window.
        offset: ``(N + 1,)`` first line of each window.
        grid: ``(lines,)`` coordinate in the mask, from -1 to 1, as ``grid_sample`` takes it.
        cell: ``(lines,)`` cell of the mask before the line, from -1 to M - 1.
        weight: ``(lines,)`` weight of the cell after the line; the cell before has the rest.
        M: cells.
    """

    start: Ints
    length: Ints
    offset: Ints
    grid: Floats
    cell: Ints
    weight: Floats
    M: int

    @cached_property
    def weights(self) -> Floats:
        """``(lines, M)`` weight of each cell of the mask."""
        # One more cell at either end receives the weights outside of the mask.
        weights = np.zeros((len(self.cell), self.M + 2), np.float32)
        line, column = np.arange(len(self.cell)), self.cell + 1
        weights[line, column] = 1 - self.weight
        weights[line, column + 1] = self.weight
        return weights[:, 1:-1]

    @classmethod
    def of(cls, low: Floats, high: Floats, size: int, M: int, *, blank_first: bool) -> _Axis:
        """Compute the weights of boxes from ``low`` to ``high``."""
        start = np.clip(np.floor(low) - 1, 0, size).astype(np.int64)
        length = np.clip(np.ceil(high) + 1, start, size).astype(np.int64) - start
        offset = np.concatenate([[0], np.cumsum(length + 1)])
        window = np.repeat(np.arange(len(low)), length + 1)
        pixel = np.arange(offset[-1]) - offset[window] - int(blank_first)
        center = (start[window] + pixel).astype(np.float32) + np.float32(0.5)
        with np.errstate(all="ignore"):  # a box without extent gives nan, which is outside
            grid = (center - low[window]) / (high - low)[window] * 2 - 1
            cell = (grid + 1) * np.float32(M / 2) - np.float32(0.5)
        seen = (pixel >= 0) & (pixel < length[window]) & (cell >= -1) & (cell < M)
        cell = np.where(seen, cell, np.float32(-1))
        left = np.floor(cell)
        return cls(start, length, offset, grid, left.astype(np.int64), cell - left, M)


@dataclass(frozen=True)
class _Windows:
    """Masks and the windows of their boxes.

    A window is scanned column by column, as RLE scans an image. A blank column comes before the
    first one and a blank pixel below each column, so that each run ends in its column.

    Args:
        masks: ``(N, M, M)``, with zeros instead of masks that are not finite.
        given: ``(N, M, M)`` unchanged masks.
        tolerance: ``(N,)`` upper bound of the rounding error of the interpolation.
        x, y: Axes.
    """

    masks: Floats
    given: Floats
    tolerance: Floats
    x: _Axis
    y: _Axis

    @classmethod
    def of(cls, probs: Floats, corners: Floats, image_size: tuple[int, int]) -> _Windows:
        (H, W), M = image_size, probs.shape[-1]
        x0, y0, x1, y1 = np.ascontiguousarray(corners.T)
        peak = np.abs(probs).max(axis=(1, 2))
        finite = np.isfinite(peak)
        # Coordinates are rounded to M * 2^-24, products and sums to 2^-24. The few of these that
        # add up are less than 8 M.
        tolerance = np.where(finite, M * 2.0**-21 * np.maximum(peak, 1), np.inf)
        return cls(
            masks=probs if finite.all() else np.where(finite[:, None, None], probs, 0),
            given=probs,
            tolerance=tolerance.astype(np.float32),
            x=_Axis.of(x0, x1, W, M, blank_first=True),
            y=_Axis.of(y0, y1, H, M, blank_first=False),
        )

    def changes(self, i: int, threshold: float) -> Ints:
        """Return the positions at which the scan of window ``i`` enters or leaves the mask."""
        if not (self.x.length[i] and self.y.length[i]):
            return np.zeros(0, np.int64)
        x_weights = self.x.weights[self.x.offset[i] : self.x.offset[i + 1]]
        y_weights = self.y.weights[self.y.offset[i] : self.y.offset[i + 1]]
        values = x_weights @ (self.masks[i].T @ y_weights.T)  # (w + 1, h + 1)
        tolerance = self.tolerance[i]
        inside = (values >= np.float32(threshold) + tolerance).ravel()
        possible = (values >= np.float32(threshold) - tolerance).ravel()
        if np.count_nonzero(inside) != np.count_nonzero(possible):
            self._decide(i, np.flatnonzero(inside != possible), inside, threshold)
        return np.flatnonzero(inside[1:] != inside[:-1]) + 1

    def all_changes(self, compiled: ModuleType, threshold: float) -> tuple[Ints, Ints]:
        """Return what :meth:`changes` returns, of all windows together, and their numbers."""
        size = (self.x.length + 1) * (self.y.length + 1)
        bounds = np.concatenate([[0], np.cumsum(size)])
        pixels = np.empty(bounds[-1], np.uint8)
        undecided = compiled.fill_windows(
            self.masks,
            np.float32(threshold) - self.tolerance,
            np.float32(threshold) + self.tolerance,
            (self.x.cell, self.x.weight),
            (self.y.cell, self.y.weight),
            self.x.offset,
            self.y.offset,
            pixels,
        )
        for i in np.flatnonzero(undecided).tolist():
            window = pixels[bounds[i] : bounds[i + 1]]
            places = np.flatnonzero(window == compiled.UNDECIDED)
            window[places] = 0
            self._decide(i, places, window, threshold)
        return compiled.changes(pixels, bounds)

    def changes_on_device(self, device: torch.device, threshold: float) -> tuple[Ints, Ints]:
        """Return what :meth:`all_changes` returns, computed on a device."""
        bounds = np.cumsum((self.x.length + 1) * (self.y.length + 1))

        def decide(pixels: Ints) -> np.ndarray:
            inside = np.zeros(len(pixels), np.uint8)
            window = np.searchsorted(bounds, pixels, side="right")
            for i in np.unique(window).tolist():
                own = np.flatnonzero(window == i)
                start = bounds[i - 1] if i else 0
                column, row = np.divmod(pixels[own] - start, self.y.length[i] + 1)
                inside[own] = self._sampled(i, column, row, threshold)
            return inside

        low, high = (np.float32(threshold) + sign * self.tolerance for sign in (-1, 1))
        columns, rows = (
            DeviceLines(axis.cell, axis.weight, axis.offset, device) for axis in (self.x, self.y)
        )
        masks = torch.from_numpy(self.masks).to(device)
        return changes_on_device(masks, (low, high), columns, rows, decide)

    def _decide(self, i: int, pixels: Ints, inside: np.ndarray, threshold: float) -> None:
        """Set ``inside`` at ``pixels`` of window ``i``, in scan order, with ``grid_sample``."""
        column, row = np.divmod(pixels, self.y.length[i] + 1)
        real = (column > 0) & (row < self.y.length[i])
        inside[pixels[real]] = self._sampled(i, column[real], row[real], threshold)

    def _sampled(self, i: int, column: Ints, row: Ints, threshold: float) -> np.ndarray:
        """Return whether pixels of window ``i``, none of them blank, are inside."""
        x, y = self.x.grid[self.x.offset[i] + column], self.y.grid[self.y.offset[i] + row]
        grid = torch.from_numpy(np.stack([x, y], axis=-1))[None, None]
        mask = torch.from_numpy(self.given[i])[None, None]
        sampled = F.grid_sample(mask, grid, align_corners=False)
        return (sampled >= threshold).numpy().ravel()


def _runs(
    changes: Ints, numbers: Ints, windows: _Windows, image_size: tuple[int, int]
) -> list[NDArray[np.uint32]]:
    """Return the run lengths of each mask in the image, given its changes in its window.

    Args:
        changes: places in the windows, window after window.
        numbers: ``(N,)`` number of changes in each window.
        windows: the windows.
        image_size: ``(H, W)``.
    """
    H, W = image_size
    N = len(numbers)
    window = np.repeat(np.arange(N), numbers)
    column, row = np.divmod(changes, windows.y.length[window] + 1)
    place = (windows.x.start[window] + column - 1) * H + windows.y.start[window] + row
    # In a window as high as the image, a run may end where the run of the next column starts.
    joint = np.flatnonzero((place[1:] == place[:-1]) & (window[1:] == window[:-1]))
    kept = np.ones(len(place), bool)
    kept[joint] = kept[joint + 1] = False
    window, place = window[kept], place[kept]
    # For each mask: 0, its changes, the end of the image.
    number = np.bincount(window, minlength=N) + 2
    first = np.cumsum(number) - number
    ends = np.full(number.sum(), H * W)
    ends[first] = 0
    ends[np.arange(len(place)) + 2 * window + 1] = place
    lengths = np.diff(ends).astype(np.uint32)
    last = first + number - 2
    last -= (lengths[last] == 0) & (number > 2)  # the image ends inside the mask
    return [lengths[a : b + 1] for a, b in zip(first, last, strict=True)]

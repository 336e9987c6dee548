"""Run-length encoding (RLE) of masks that are known on their boxes, and the scores of masks.

Detectron2 pastes each mask into an image of its own (``paste_masks_in_image``) and encodes that. Of
300 masks of 800 x 1333 pixels, these are 320 MB, of which all but the boxes is zero. Here a mask
is pasted into the window of its box alone, and its runs are numbered as those of the image.

The result is the same to the byte. Interpolation along one axis and then the other is quicker than
``grid_sample`` and differs from it by rounding, so pixels that come that close to the threshold
are asked from ``grid_sample``.

Mask Scoring ranks masks by ``mask_scores`` and leaves the ``scores`` of boxes alone, so each task
has its own order of detections, and of too many in an image it keeps others.

Shapes in this module:
    N: masks
    M: edge of a mask on its box
    H, W: the image
    h, w: the window of one box
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, ROIMasks
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_MASKS_AT_ONCE = 32  # whose interpolation weights are in memory

MASK_SCORE = "mask_score"

# Of compressed run-length encodings.
_FIRST_CHARACTER = 48  # stands for 0
_MOST_CHARACTERS = 8  # of a number: images have fewer than 2**32 pixels
"""Key of the score of the mask in a detection, beside ``score`` of the box."""


def encode_masks(
    masks: Tensor, boxes: Tensor | Boxes, image_size: tuple[int, int], *, threshold: float = 0.5
) -> list[dict[str, Any]]:
    """RLE of each mask in the image, as Detectron2 pastes it on the CPU and pycocotools encodes it.

    Arithmetic is in float32 on the CPU, whatever the inputs are. A box that leaves no pixel in the
    image, which Detectron2 refuses to paste, has an empty mask.

    Args:
        masks: ``(N, 1, M, M)`` or ``(N, M, M)`` probabilities.
        boxes: ``(N, 4)`` corners x0, y0, x1, y1 in pixels of the image, anywhere.
        image_size: ``(H, W)``.
        threshold: A pixel is in the mask from this probability on; not negative.

    Returns:
        N dicts with "size", ``[H, W]``, and "counts", compressed bytes.

    Raises:
        ValueError: Shapes that do not fit, a coordinate that is not finite, a negative threshold.
    """
    probs, corners = _checked(masks, boxes, threshold)
    H, W = (int(edge) for edge in image_size)
    rles: list[dict[str, Any]] = []
    for start in range(0, len(probs), _MASKS_AT_ONCE):
        part = slice(start, start + _MASKS_AT_ONCE)
        windows = _Windows.of(probs[part], corners[part], (H, W))
        changes = [windows.changes(i, threshold) for i in range(len(windows.masks))]
        runs = _runs(changes, windows, (H, W))
        uncompressed: Any = [{"size": [H, W], "counts": r} for r in runs]
        rles += coco_mask.frPyObjects(uncompressed, H, W)
    return rles


def without_roi_masks(outputs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A model's outputs without those masks that are still on their boxes (``ROIMasks``).

    Detectron2's evaluators can collect them; :func:`add_segmentations` then adds the masks.
    """
    return [_without_masks(output) if _has_roi_masks(output) else output for output in outputs]


def add_segmentations(predictions: Iterable[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
    """Put masks that a model left on their boxes into the detections made from its outputs.

    Args:
        predictions: One dict per image, whose "instances" are detections in the COCO results
            format. Changed in place where the masks of the output are ``ROIMasks``.
        outputs: One dict per image, what the model returned.
    """
    for prediction, output in zip(predictions, outputs, strict=True):
        if _has_roi_masks(output):
            found = output["instances"]
            rles = encode_masks(found.pred_masks.tensor, found.pred_boxes, found.image_size)
            for detection, rle in zip(prediction["instances"], rles, strict=True):
                # JSON has no bytes.
                detection["segmentation"] = {**rle, "counts": rle["counts"].decode("utf-8")}


def _has_roi_masks(output: dict[str, Any]) -> bool:
    found = output.get("instances")
    return found is not None and found.has("pred_masks") and isinstance(found.pred_masks, ROIMasks)


def _without_masks(output: dict[str, Any]) -> dict[str, Any]:
    found = output["instances"][:]  # its own fields: the caller keeps the masks
    found.remove("pred_masks")
    return {**output, "instances": found}


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
    """Sampling along one axis: all windows' lines, one window after the other.

    A window has a line for each of its pixels and one more, whose weights are zero.

    Args:
        start: ``(N,)`` first pixel of each window.
        length: ``(N,)`` its pixels.
        offset: ``(N + 1,)`` its first line.
        grid: ``(lines,)`` coordinate in the mask, from -1 to 1, as ``grid_sample`` takes it.
        weights: ``(lines, M)`` share of each cell of the mask.
    """

    start: Ints
    length: Ints
    offset: Ints
    grid: Floats
    weights: Floats

    @classmethod
    def of(cls, low: Floats, high: Floats, size: int, M: int, *, blank_first: bool) -> "_Axis":
        """For boxes from ``low`` to ``high``; the blank line is each window's first or last."""
        start = np.clip(np.floor(low) - 1, 0, size).astype(np.int64)
        length = np.clip(np.ceil(high) + 1, start, size).astype(np.int64) - start
        offset = np.concatenate([[0], np.cumsum(length + 1)])
        window = np.repeat(np.arange(len(low)), length + 1)
        pixel = np.arange(offset[-1]) - offset[window] - int(blank_first)
        center = (start[window] + pixel).astype(np.float32) + np.float32(0.5)
        with np.errstate(all="ignore"):  # no extent: not a number, which is no place in the mask
            grid = (center - low[window]) / (high - low)[window] * 2 - 1
            cell = (grid + 1) * np.float32(M / 2) - np.float32(0.5)
        seen = (pixel >= 0) & (pixel < length[window]) & (cell >= -1) & (cell < M)
        cell = np.where(seen, cell, np.float32(-1))
        left = np.floor(cell)
        # A cell beyond either end takes what falls outside of the mask.
        weights = np.zeros((len(cell), M + 2), np.float32)
        line, column = np.arange(len(cell)), left.astype(np.int64) + 1
        weights[line, column] = 1 - (cell - left)
        weights[line, column + 1] = cell - left
        return cls(start, length, offset, grid, weights[:, 1:-1])


@dataclass(frozen=True)
class _Windows:
    """Masks and the windows of their boxes.

    A window is scanned as RLE scans an image, column by column. Before its first column and below
    each of its columns are pixels outside of the mask, so that each run ends in its column.

    Args:
        masks: ``(N, M, M)`` without what is not finite.
        given: ``(N, M, M)`` as they were given.
        tolerance: ``(N,)`` that rounding in the interpolation stays below.
        x, y: the axes.
    """

    masks: Floats
    given: Floats
    tolerance: Floats
    x: _Axis
    y: _Axis

    @classmethod
    def of(cls, probs: Floats, corners: Floats, image_size: tuple[int, int]) -> "_Windows":
        (H, W), M = image_size, probs.shape[-1]
        x0, y0, x1, y1 = np.ascontiguousarray(corners.T)
        peak = np.abs(probs).max(axis=(1, 2))
        finite = np.isfinite(peak)
        # Coordinates are rounded in units of M * 2^-24, products and sums in units of 2^-24; the
        # few of these that add up are less than 8 M.
        tolerance = np.where(finite, M * 2.0**-21 * np.maximum(peak, 1), np.inf)
        return cls(
            masks=probs if finite.all() else np.where(finite[:, None, None], probs, 0),
            given=probs,
            tolerance=tolerance.astype(np.float32),
            x=_Axis.of(x0, x1, W, M, blank_first=True),
            y=_Axis.of(y0, y1, H, M, blank_first=False),
        )

    def changes(self, i: int, threshold: float) -> Ints:
        """Where the scan of window ``i`` enters the mask, leaves it, enters it again, ..."""
        if not (self.x.length[i] and self.y.length[i]):
            return np.zeros(0, np.int64)
        of_x = self.x.weights[self.x.offset[i] : self.x.offset[i + 1]]
        of_y = self.y.weights[self.y.offset[i] : self.y.offset[i + 1]]
        values = of_x @ (self.masks[i].T @ of_y.T)  # (w + 1, h + 1)
        tolerance = self.tolerance[i]
        inside = (values >= np.float32(threshold) + tolerance).ravel()
        possible = (values >= np.float32(threshold) - tolerance).ravel()
        if np.count_nonzero(inside) != np.count_nonzero(possible):
            self._decide(i, np.flatnonzero(inside != possible), inside, threshold)
        return np.flatnonzero(inside[1:] != inside[:-1]) + 1

    def _decide(self, i: int, pixels: Ints, inside: NDArray[np.bool_], threshold: float) -> None:
        """Set ``inside`` at ``pixels`` of window ``i``, numbered as it is scanned, by the host."""
        column, row = np.divmod(pixels, self.y.length[i] + 1)
        real = (column > 0) & (row < self.y.length[i])
        column, row = self.x.offset[i] + column[real], self.y.offset[i] + row[real]
        grid = np.stack([self.x.grid[column], self.y.grid[row]], axis=-1)
        mask = torch.from_numpy(self.given[i])[None, None]
        sampled = F.grid_sample(mask, torch.from_numpy(grid)[None, None], align_corners=False)
        inside[pixels[real]] = (sampled >= threshold).numpy().ravel()


def _runs(
    changes: list[Ints], windows: _Windows, image_size: tuple[int, int]
) -> list[NDArray[np.uint32]]:
    """Lengths of the runs of each mask in the image, from its changes in its window."""
    H, W = image_size
    N = len(changes)
    window = np.repeat(np.arange(N), [len(c) for c in changes])
    column, row = np.divmod(np.concatenate(changes), windows.y.length[window] + 1)
    place = (windows.x.start[window] + column - 1) * H + windows.y.start[window] + row
    # A window as high as the image has runs that end where the next one, a column on, begins.
    joint = np.flatnonzero((place[1:] == place[:-1]) & (window[1:] == window[:-1]))
    kept = np.ones(len(place), bool)
    kept[joint] = kept[joint + 1] = False
    window, place = window[kept], place[kept]
    # Of each mask: 0, its changes, the end of the image.
    number = np.bincount(window, minlength=N) + 2
    first = np.cumsum(number) - number
    ends = np.full(number.sum(), H * W)
    ends[first] = 0
    ends[np.arange(len(place)) + 2 * window + 1] = place
    lengths = np.diff(ends).astype(np.uint32)
    last = first + number - 2
    last -= (lengths[last] == 0) & (number > 2)  # the image ends inside the mask
    return [lengths[a : b + 1] for a, b in zip(first, last, strict=True)]


def add_mask_scores(predictions: Iterable[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
    """Put the ``mask_scores`` of a model's outputs into the detections made from them.

    Args:
        predictions: One dict per image, whose "instances" are detections in the COCO results
            format. Changed in place where the model has mask scores.
        outputs: One dict per image, what the model returned.
    """
    for prediction, output in zip(predictions, outputs, strict=True):
        if "instances" in output and output["instances"].has("mask_scores"):
            scores = output["instances"].mask_scores.tolist()
            for detection, score in zip(prediction["instances"], scores, strict=True):
                detection[MASK_SCORE] = score


def results_of_task(detections: list[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    """Copies of ``detections`` with the one ``score`` that counts in ``task``.

    Args:
        detections: Dicts in the COCO results format, maybe with mask scores.
        task: "segm", whose score is that of the mask if there is one, or another.

    Returns:
        Dicts in the COCO results format, for "segm" without "bbox": given boxes, ``lvis`` and
        ``pycocotools`` would take their area for the area of the masks.
    """
    if task != "segm":
        return [{k: v for k, v in d.items() if k != MASK_SCORE} for d in detections]
    left_out = ("bbox", MASK_SCORE)
    return [
        {k: v for k, v in d.items() if k not in left_out} | {"score": d.get(MASK_SCORE, d["score"])}
        for d in detections
    ]


def compressed_rle(segmentation: Mapping[str, Any]) -> dict[str, Any]:
    """A run-length encoding with its ``counts`` as compressed text, whichever it had.

    Raises:
        KeyError, TypeError, ValueError: it has no valid ``size`` and ``counts``, or the counts do
            not add up to the size. pycocotools would read beyond their end.
    """
    height, width = size = segmentation["size"]
    if not all(isinstance(side, int) for side in size):
        raise TypeError(f"size must be two whole numbers, got {size!r}")
    counts = segmentation["counts"]
    if not isinstance(counts, list | str):
        raise TypeError(f"counts must be a list or text, got {counts!r}")
    runs = _run_lengths(counts) if isinstance(counts, str) else counts
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise ValueError(f"counts must add up to {height} x {width}, got {sum(runs)}")
    if isinstance(counts, list):
        uncompressed: Any = {"size": [height, width], "counts": counts}
        encoded: Any = coco_mask.frPyObjects(uncompressed, height, width)
        counts = encoded["counts"].decode()
    return {"size": [height, width], "counts": counts}


def _run_lengths(counts: str) -> list[int]:
    """Decompress COCO's text: five bits a character, differences to the run before the last."""
    bits = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - _FIRST_CHARACTER
    last = bits < 32  # of a number
    number = np.cumsum(last) - last
    start = np.flatnonzero(np.diff(number, prepend=-1))
    place = np.arange(len(bits)) - start[number]
    if not last[-1:].all() or not ((bits >= 0) & (bits < 64) & (place < _MOST_CHARACTERS)).all():
        raise ValueError(f"counts must be compressed run lengths, got {counts[:40]!r}")
    if not len(bits):
        return []
    runs = np.add.reduceat((bits & 31) << 5 * place, start)
    runs -= np.where(bits[last] & 16, 32 << 5 * place[last], 0)  # the sign
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs.tolist()

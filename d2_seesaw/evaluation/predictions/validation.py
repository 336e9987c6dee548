"""Validation of detections: every road to a score passes :func:`check_detections`.

A number that is not finite, an unknown id or a mask of another size would not stop the scoring. It
would give a wrong number: a model whose scores are all NaN has an AP of 100.

Shapes in this module:
    N: detections
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from d2_seesaw.data.annotations.box_formats import FILE_FORMAT, recognize_format
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns, index_of
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.entries import first_invalid_mask, text_of

logger = logging.getLogger(__name__)

_LARGEST = 1e9  # pixels: no coordinate is larger
_ROUNDING = 1e-6  # by which a probability in 16 or 32 bits may exceed 1
_SHOWN = 3
_MOST_JUDGED = 100_000  # boxes, from which another format is recognized
_COCO_IDS = tuple(category["id"] for category in COCO_CATEGORIES if category["isthing"])


def check_detections(
    detections: Detections,
    ground_truth: GroundTruthColumns,
    tasks: Sequence[str],
    *,
    any_scores: bool = False,
) -> None:
    """Check that detections can be scored against annotations.

    Boxes that look like another format than left, top, width and height are a warning.

    Args:
        detections: The detections.
        ground_truth: The annotations.
        tasks: Tasks to score. Masks are checked for "segm".
        any_scores: Whether finite scores outside of [0, 1] are allowed.

    Raises:
        ValueError: a score or box is not finite, a score is not in [0, 1], a box has a negative
            size, the annotations do not list an image or a category, or a mask has another size
            than its image. The message names the first such detection, and the likely reason.
    """
    if not len(detections):
        return
    check_columns(detections)
    check_numbers(detections, any_scores=any_scores)
    _check_image_ids(detections, ground_truth)
    _check_category_ids(detections, ground_truth)
    if "segm" in tasks:
        _check_mask_sizes(detections, ground_truth)
    if "bbox" in tasks and detections.boxes is not None:
        _warn_of_box_format(detections, ground_truth)


def check_columns(detections: Detections) -> None:
    """Check types and shapes of the columns.

    Raises:
        ValueError: a column has another type or shape.
    """
    number = detections.scores.size
    columns = {
        "image_ids": ("iuU", ()),
        "category_ids": ("iuU", ()),
        "scores": ("iuf", ()),
        "mask_scores": ("iuf", ()),
        "boxes": ("iuf", (4,)),
    }
    for name, (kinds, shape) in columns.items():
        column = getattr(detections, name)
        if column is None:
            continue
        if column.dtype.kind not in kinds or column.shape != (number, *shape):
            expected = "whole numbers or text" if "U" in kinds else "numbers"
            raise ValueError(
                f"{name} of {number} detections must be {expected} of shape "
                f"{(number, *shape)}, got {column.dtype} of shape {column.shape}"
            )
    keypoints, masks = detections.keypoints, cast("Any", detections.masks)
    if keypoints is not None and (keypoints.ndim != 2 or len(keypoints) != number):
        raise ValueError(f"keypoints of {number} detections have the shape {keypoints.shape}")
    if masks is None:
        return
    shapes = masks.sizes.shape, masks.lengths.shape
    kinds = {column.dtype.kind for column in (masks.sizes, masks.lengths, masks.counts)}
    if shapes != ((number, 2), (number,)) or not kinds <= set("iu") or masks.counts.itemsize > 1:
        raise ValueError(f"masks of {number} detections must have {number} sizes and lengths")
    total = masks.lengths.sum(dtype=np.int64)
    if (masks.lengths < 0).any() or masks.counts.shape != (total,):
        raise ValueError(f"the counts of masks have the shape {masks.counts.shape}, not {(total,)}")


def check_encodings(detections: Detections) -> None:
    """Check that masks from a file are valid run-length encodings. Those of a model are.

    Raises:
        ValueError: the counts of a mask are invalid, or do not add up to its size.
    """
    masks: Any = detections.masks
    if masks is None:
        return
    row = first_invalid_mask(masks)
    if row is not None:
        raise ValueError(
            f"{_named(detections, row)} has a run-length encoding that is invalid or does not add "
            f"up to its size, {text_of(masks.sizes[row].tolist())}"
        )


def check_numbers(detections: Detections, *, any_scores: bool = False) -> None:
    """Check scores and boxes.

    Raises:
        ValueError: a number is not finite, a score is not in [0, 1] although ``any_scores`` is
            False, or a box has a negative size.
    """
    for name in ("scores", "mask_scores"):
        scores = getattr(detections, name)
        if scores is None:
            continue
        field = name.removesuffix("s")
        _refuse(detections, ~np.isfinite(scores), scores, f"a {field} that is not finite")
        # Mask Scoring multiplies a score by a predicted IoU, which no function bounds.
        if name == "scores" and not any_scores:
            outside = (scores < 0) | (scores > 1 + _ROUNDING)
            _refuse(
                detections,
                outside,
                scores,
                f"a {field} outside of [0, 1]",
                hint="; scores of another range need --any-scores (any_scores=True)",
            )
    if detections.boxes is not None:
        boxes = detections.boxes
        # By column, which is several times as fast as a reduction of so short an axis.
        wrong = ~np.logical_and.reduce([np.abs(column) < _LARGEST for column in boxes.T])
        _refuse(detections, wrong, boxes, "a box that is not four finite numbers of pixels")
        negative = (boxes[:, 2] < 0) | (boxes[:, 3] < 0)
        hint = "; boxes are left, top, width, height"
        _refuse(detections, negative, boxes, "a box with a negative width or height", hint=hint)


def _refuse(
    detections: Detections, wrong: Any, values: np.ndarray, what: str, *, hint: str = ""
) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        first = int(rows[0])
        raise ValueError(
            f"{len(rows)} of {len(detections)} detections have {what}, the first is "
            f"{_named(detections, first)}: {values[first].tolist()}{hint}"
        )


def _named(detections: Detections, row: int) -> str:
    return f"detection {row} (image {detections.image_ids[row].item()!r})"


# Ids


def _check_image_ids(detections: Detections, ground_truth: GroundTruthColumns) -> None:
    given, known = detections.image_ids, ground_truth.image_ids
    unknown = ~_is_among(given, known)
    if unknown.any():
        reason = (
            _other_type(given, known, "image")
            or _shifted(given, known, "image")
            or _file_names(given, ground_truth.table.images)
            or "do the results belong to another split?"
        )
        raise ValueError(_unknown("Image", detections, given, known, unknown, reason))


def _check_category_ids(detections: Detections, ground_truth: GroundTruthColumns) -> None:
    given, known = detections.category_ids, ground_truth.category_ids
    unknown = ~_is_among(given, known)
    if unknown.any():
        reason = (
            _other_type(given, known, "category")
            or _shifted(given, known, "category")
            or _other_numbering(given, known)
            or "do the results belong to a model of other classes?"
        )
        raise ValueError(_unknown("Category", detections, given, known, unknown, reason))


def _is_among(given: np.ndarray, known: np.ndarray) -> np.ndarray:
    if (given.dtype.kind == "U") != (known.dtype.kind == "U"):
        return np.zeros(len(given), dtype=bool)
    if given.dtype == np.uint64:
        given = given.astype(np.int64)  # a comparison with int64 would round them
    return index_of(given, known) >= 0


def _unknown(
    kind: str,
    detections: Detections,
    given: np.ndarray,
    known: np.ndarray,
    unknown: np.ndarray,
    reason: str,
) -> str:
    first = int(np.flatnonzero(unknown)[0])
    return (
        f"{kind} id {given[first].item()!r} of a detection is not in the annotations, whose ids "
        f"start as {known[:_SHOWN].tolist()} (detection {first}, and {int(unknown.sum()) - 1} of "
        f"{len(detections) - 1} others): {reason}"
    )


def _other_type(given: np.ndarray, known: np.ndarray, kind: str) -> str:
    if (given.dtype.kind == "U") == (known.dtype.kind == "U"):
        return ""
    types = {True: "text", False: "numbers"}
    if not np.isin(given.astype(str), known.astype(str)).all():
        return ""
    return (
        f"the {kind} ids are {types[given.dtype.kind == 'U']} in the results and "
        f"{types[known.dtype.kind == 'U']} in the annotations"
    )


def _shifted(given: np.ndarray, known: np.ndarray, kind: str) -> str:
    if given.dtype.kind == "U" or known.dtype.kind == "U":
        return ""
    ids = np.unique(given).astype(object)  # Python's numbers, which do not overflow
    listed = set(known.tolist())
    for shift, text in ((1, "one less than"), (-1, "one more than")):
        if {i + shift for i in ids.tolist()} <= listed:
            return f"all {kind} ids are {text} the annotations'"
    return ""


def _other_numbering(given: np.ndarray, known: np.ndarray) -> str:
    if given.dtype.kind == "U" or known.dtype.kind == "U":
        return ""
    ids, number = set(given.tolist()), len(known)
    starts = [start for start in (0, 1) if ids <= set(range(start, start + number))]
    is_coco = tuple(known.tolist()) == _COCO_IDS
    if starts and is_coco:
        return (
            f"the results number COCO's 80 categories from {starts[-1]}, the annotations have "
            "COCO's own ids, which go up to 90 with gaps"
        )
    if starts:
        return (
            f"the results number the {number} categories from {starts[-1]} without gaps, the "
            "annotations have other ids"
        )
    if ids <= set(_COCO_IDS) and number == len(_COCO_IDS):
        return (
            "the results have COCO's own ids, which go up to 90 with gaps, the annotations number "
            f"the 80 categories from {known[0].item()}"
        )
    return ""


def _file_names(given: np.ndarray, images: Sequence[Mapping[str, Any]]) -> str:
    stems = {}
    for image in images:
        path = image.get("file_name") or image.get("coco_url") or ""
        base = os.path.basename(str(path).replace("\\", "/"))
        stem = os.path.splitext(base)[0]
        for name in (path, base, stem):
            stems[name] = image["id"]
        if stem.isdecimal():
            stems[int(stem)] = image["id"]
    used = np.unique(given).tolist()
    names = [os.path.basename(v.replace("\\", "/")) if isinstance(v, str) else v for v in used]
    if not all(name in stems for name in names):
        return ""
    return (
        f"the image ids are names of the image files; {used[0]!r} has the id {stems[names[0]]!r} "
        "in the annotations"
    )


# Boxes


def _warn_of_box_format(detections: Detections, ground_truth: GroundTruthColumns) -> None:
    rows = slice(None, None, max(1, len(detections) // _MOST_JUDGED))
    boxes: Any = detections.boxes
    boxes = boxes[rows].astype(float)
    images = index_of(detections.image_ids[rows], ground_truth.image_ids)
    sizes = ground_truth.image_sizes[images][:, ::-1].astype(float)
    sizes[sizes <= 0] = np.nan  # unknown
    found = recognize_format(boxes, np.full_like(boxes, np.nan), sizes)
    if found is not None:
        logger.warning(
            f"The boxes of the detections look like {found.name}, and are read as {FILE_FORMAT}: "
            f"{found.reason}"
        )


# Masks


def _check_mask_sizes(detections: Detections, ground_truth: GroundTruthColumns) -> None:
    masks = detections.masks
    if masks is None:
        return
    expected = ground_truth.image_sizes[index_of(detections.image_ids, ground_truth.image_ids)]
    wrong = (masks.sizes != expected).any(axis=1) & (masks.lengths > 0) & (expected > 0).all(axis=1)
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return
    first = int(rows[0])
    swapped = (masks.sizes[rows][:, ::-1] == expected[rows]).all()
    reason = ": width and height are swapped" if swapped else ""
    raise ValueError(
        f"{len(rows)} of {len(detections)} detections have a mask of another size than their image"
        f"{reason}. The mask of {_named(detections, first)} is "
        f"{text_of(masks.sizes[first].tolist())}, the annotations say "
        f"{text_of(expected[first].tolist())} (height x width)"
    )
